/// How often keys were asked for lately, about: a count-min sketch of 4-bit counters that forgets by halving.
///
/// It rarely tells too much. After every `sample` requests all counters are halved, so that what was popular once makes
/// room in a bounded number of requests. 8 to 16 bytes for each entry of the cache.
struct FrequencySketch {
    /// The most it counts up to.
    static let maximum: UInt64 = 15

    /// 16 counters in each word; a key has one in each of four words.
    private var words: [UInt64]
    private let shift: UInt64
    private let sample: Int
    private var increments = 0

    init(capacity: Int, sample: Int) {
        let bits = max(3, Int.bitWidth - (capacity - 1).leadingZeroBitCount)
        words = [UInt64](repeating: 0, count: 1 << bits)
        shift = UInt64(64 - bits)
        self.sample = sample
    }

    /// Bytes of memory.
    var byteCount: Int { words.count * 8 }

    /// What is counted for that fingerprint, 0 to 15.
    func count(_ fingerprint: UInt64) -> UInt64 {
        let (hash, step) = Self.hashes(fingerprint)
        var lowest = Self.maximum
        for row in 0..<4 as Range<UInt64> {
            let (word, offset) = place(hash &+ row &* step, row)
            lowest = min(lowest, words[word] >> offset & 0xF)
        }
        return lowest
    }

    /// Counts one request.
    mutating func increment(_ fingerprint: UInt64) {
        let (hash, step) = Self.hashes(fingerprint)
        var isCounted = false
        for row in 0..<4 as Range<UInt64> {
            let (word, offset) = place(hash &+ row &* step, row)
            guard words[word] >> offset & 0xF < Self.maximum else { continue }
            words[word] &+= 1 << offset
            isCounted = true
        }
        guard isCounted else { return }
        increments += 1
        guard increments >= sample else { return }
        for index in words.indices { words[index] = words[index] >> 1 & 0x7777_7777_7777_7777 }
        increments /= 2
    }

    /// Two hashes that the rows' are made of.
    private static func hashes(_ fingerprint: UInt64) -> (hash: UInt64, step: UInt64) {
        let product = fingerprint &* 0x9E37_79B9_7F4A_7C15
        let hash = (product ^ product >> 32) &* 0xD6E8_FEB8_6659_FD93
        return (hash, (hash ^ hash >> 32) &* 0xC2B2_AE3D_27D4_EB4F | 1)
    }

    /// The word and the position in it of a key's counter in one row.
    private func place(_ hash: UInt64, _ row: UInt64) -> (word: Int, offset: UInt64) {
        // The top bits are mixed best; two others choose among the four counters that the row has in a word.
        (Int(truncatingIfNeeded: hash >> shift), (row << 2 | (hash >> 20) & 3) << 2)
    }
}
