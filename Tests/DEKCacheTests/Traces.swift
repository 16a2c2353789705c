import Glibc

/// Random numbers that are the same in every run.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return z ^ z >> 31
    }
}

/// Streams of requests, as key numbers.
enum Traces {
    /// `count` requests round and round over `keys` keys: a LIST of everything, again and again.
    static func cycle(keys: Int, count: Int, from first: Int = 0) -> [Int] {
        (0..<count).map { first + $0 % keys }
    }

    /// `count` independent requests over `keys` keys, the n-th most popular with weight n^-exponent.
    static func zipf(
        keys: Int, exponent: Double, count: Int, seed: UInt64 = 1, from first: Int = 0
    ) -> [Int] {
        var sum = 0.0
        let upTo = (1...keys).map { rank in
            sum += pow(Double(rank), -exponent)
            return sum
        }
        var generator = SeededGenerator(seed: seed)
        return (0..<count).map { _ in
            let drawn = Double.random(in: 0..<sum, using: &generator)
            var (low, high) = (0, keys - 1)
            while low < high {
                let middle = (low + high) / 2
                if upTo[middle] > drawn { high = middle } else { low = middle + 1 }
            }
            return first + low
        }
    }

    /// A request of `b` after every `everyOther` of `a`.
    static func mix(_ a: [Int], _ b: [Int], everyOther: Int) -> [Int] {
        var mixed: [Int] = []
        var rest = b[...]
        for (index, key) in a.enumerated() {
            mixed.append(key)
            if (index + 1) % everyOther == 0, let next = rest.popFirst() { mixed.append(next) }
        }
        return mixed
    }
}
