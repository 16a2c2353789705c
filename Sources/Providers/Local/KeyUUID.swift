/// A random (version 4) UUID: what a key file, and each key version in it, is called for ever.
public struct KeyUUID: Sendable, Hashable {
    let high: UInt64
    let low: UInt64

    /// A new one, from the system's random generator.
    public init() {
        high = UInt64.random(in: .min ... .max) & 0xffff_ffff_ffff_0fff | 0x4000
        low = UInt64.random(in: .min ... .max) & 0x3fff_ffff_ffff_ffff | 0x8000_0000_0000_0000
    }

    init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// Reads the 16 bytes that begin at `offset`, big endian; the caller has checked that they are there.
    init(in bytes: [UInt8], at offset: Int) {
        func word(_ start: Int) -> UInt64 {
            bytes[start..<start + 8].reduce(0) { $0 << 8 | UInt64($1) }
        }
        self.init(high: word(offset), low: word(offset + 8))
    }

    /// The 16 bytes, big endian.
    var bytes: [UInt8] {
        [high, low].flatMap { word in
            stride(from: 56, through: 0, by: -8).map { UInt8(truncatingIfNeeded: word >> $0) }
        }
    }
}

extension KeyUUID: LosslessStringConvertible {
    /// Parses the canonical form: 36 characters, lower case; anything else is nil.
    public init?(_ description: String) {
        var nibbles: [UInt64] = []
        for (index, byte) in description.utf8.enumerated() {
            switch (index, byte) {
            case (8, UInt8(ascii: "-")), (13, UInt8(ascii: "-")), (18, UInt8(ascii: "-")),
                (23, UInt8(ascii: "-")):
                continue
            case (8, _), (13, _), (18, _), (23, _): return nil
            case (_, UInt8(ascii: "0")...UInt8(ascii: "9")): nibbles.append(UInt64(byte - UInt8(ascii: "0")))
            case (_, UInt8(ascii: "a")...UInt8(ascii: "f")):
                nibbles.append(UInt64(byte - UInt8(ascii: "a")) + 10)
            default: return nil
            }
        }
        guard nibbles.count == 32, description.utf8.count == 36 else { return nil }
        self.init(
            high: nibbles[..<16].reduce(0) { $0 << 4 | $1 }, low: nibbles[16...].reduce(0) { $0 << 4 | $1 })
    }

    /// The canonical form.
    public var description: String {
        var text = ""
        for (index, byte) in bytes.enumerated() {
            if [4, 6, 8, 10].contains(index) { text += "-" }
            text += byte < 16 ? "0" + String(byte, radix: 16) : String(byte, radix: 16)
        }
        return text
    }
}
