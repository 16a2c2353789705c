import Testing

@testable import Configuration

/// The same bytes in every run, so that a failure can be repeated.
private struct Sequence64: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}

@Suite struct HostileInputTests {
    /// What must hold for every input whatever.
    private func check(_ bytes: [UInt8]) {
        let (settings, diagnostics) = Settings.parse(bytes: bytes, name: "f")
        #expect((settings == nil) == diagnostics.contains { $0.severity == .error }, "\(bytes)")
        let places = diagnostics.compactMap(\.position.mark)
        #expect(places.count == diagnostics.count)
        #expect(places == places.sorted(), "\(bytes)")
        #expect(places.allSatisfy { $0.line >= 1 && $0.column >= 1 }, "\(bytes)")
        #expect(
            !diagnostics.contains { $0.description.unicodeScalars.contains(where: \.breaksLine) }, "\(bytes)")
        if let settings {
            let again = Settings.parse(bytes: Array(settings.yaml().utf8), name: "f").settings
            #expect(again == settings, "\(bytes)")
        }
    }

    @Test("random bytes are refused or read, and never trap", arguments: 0..<8)
    func randomBytes(_ seed: Int) {
        var generator = Sequence64(state: UInt64(seed))
        let alphabet = Array(" \n\t:-[]{},&*!|>'\"%@`#?~\\0123456789abkeysnamlocfi".utf8)
        for round in 0..<250 {
            let count = Int.random(in: 0...200, using: &generator)
            check(
                (0..<count).map { _ in
                    round.isMultiple(of: 2)
                        ? UInt8.random(in: 0...255, using: &generator)
                        : alphabet[Int.random(in: 0..<alphabet.count, using: &generator)]
                })
        }
    }

    @Test("damaged files are refused or read, and never trap", arguments: 0..<8)
    func damagedFiles(_ seed: Int) throws {
        var generator = Sequence64(state: UInt64(seed) &+ 1000)
        let samples = [everything, try repositoryFile("ops/kmsward.yaml"), try settings(everything).yaml()]
        for round in 0..<90 {
            var bytes = Array(samples[round % samples.count].utf8)
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                let start = Int.random(in: 0..<bytes.count, using: &generator)
                let end = min(bytes.count, start + Int.random(in: 0...12, using: &generator))
                switch Int.random(in: 0..<4, using: &generator) {
                case 0: bytes[start] = UInt8.random(in: 0...255, using: &generator)
                case 1: bytes.removeSubrange(start..<end)
                case 2:
                    bytes.insert(
                        contentsOf: bytes[start..<end], at: Int.random(in: 0..<start + 1, using: &generator))
                default: bytes.removeSubrange(end...)
                }
                if bytes.isEmpty { bytes = [0x20] }
            }
            check(bytes)
        }
    }

    @Test("every beginning of a file is refused or read, and never traps")
    func everyPrefix() {
        let bytes = Array(everything.utf8)
        for count in 0..<bytes.count { check(Array(bytes[..<count])) }
    }

    private func line(_ bytes: [UInt8]) -> String? {
        let diagnostics = Settings.parse(bytes: bytes, name: "f").diagnostics
        return diagnostics.count == 1 ? diagnostics[0].description : "\(diagnostics.count) diagnostics"
    }

    struct Excess: Sendable, CustomTestStringConvertible {
        var bytes: [UInt8]
        var line: String
        // Not the bytes: a megabyte of them would be written into the log.
        var testDescription: String { "\(bytes.count) bytes" }

        init(_ bytes: [UInt8], _ line: String) {
            self.bytes = bytes
            self.line = line
        }
    }

    static let excesses: [Excess] = [
        Excess(
            [UInt8](repeating: 0x23, count: (1 << 20) + 1),
            "f:1:1: error: the file is larger than 1048576 bytes; a configuration file needs a few thousand"),
        Excess([UInt8](repeating: 0x5B, count: 1 << 20), "f:1:17: error: nested deeper than 16 levels"),
        Excess(
            Array("a: [\(String(repeating: "1,", count: 20_000))".utf8),
            "f:1:19999: error: more than 10000 values in one file"),
        Excess(
            [0xFF, 0xFE, 0x6B, 0x00],
            "f:1:1: error: not valid UTF-8 (invalid leading UTF-8 octet); save the file as UTF-8"),
        Excess(
            Array("é: é\nx: ".utf8) + [0xC3, 0x28],
            "f:2:4: error: not valid UTF-8 (invalid trailing UTF-8 octet); save the file as UTF-8"),
    ]

    @Test("what is too large, too deep, too much or no text is refused by one line", arguments: excesses)
    func limits(_ excess: Excess) {
        #expect(line(excess.bytes) == excess.line)
    }
}
