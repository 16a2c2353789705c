internal import SecureMemory

/// Base64 with padding, from and into memory that is wiped; no table is looked up by a secret.
enum Base64 {
    /// A document of ours with `secret` in base64 between two public texts.
    static func encode(_ secret: RawSpan, between before: String, and after: String) -> SecretBytes {
        let before = Array(before.utf8)
        let after = Array(after.utf8)
        let length = (secret.byteCount + 2) / 3 * 4
        return SecretBytes(count: before.count + length + after.count) { cell in
            cell.copy(before.span, toByteOffset: 0)
            var target = before.count
            func put(_ sextet: UInt32) {
                cell.storeBytes(of: character(Int32(sextet & 63)), toByteOffset: target, as: UInt8.self)
                target += 1
            }
            var source = 0
            while source < secret.byteCount {
                let here = min(3, secret.byteCount - source)
                var group: UInt32 = 0
                for index in 0..<3 {
                    group = group << 8 | (index < here ? UInt32(secret.byte(at: source + index)) : 0)
                }
                for index in 0..<4 {
                    if index <= here {
                        put(group >> UInt32(18 - 6 * index))
                    } else {
                        cell.storeBytes(of: UInt8(ascii: "="), toByteOffset: target, as: UInt8.self)
                        target += 1
                    }
                }
                source += here
            }
            cell.copy(after.span, toByteOffset: target)
        }
    }

    /// What a JSON string carries; nil unless it is canonical base64.
    static func decode(_ value: JSON, in bytes: RawSpan) -> SecretBytes? {
        guard case .string(let range) = value else { return nil }
        var length = 0
        var padding = 0
        var isSound = true
        JSON.forEachByte(of: range, in: bytes) { byte in
            length += 1
            if byte == UInt8(ascii: "=") { padding += 1 } else if padding > 0 { isSound = false }
        }
        guard isSound, length % 4 == 0, padding <= 2 else { return nil }
        let decoded = SecretBytes(count: length / 4 * 3 - padding) { cell in
            var pending: UInt32 = 0
            var bits: UInt32 = 0
            var target = 0
            JSON.forEachByte(of: range, in: bytes) { byte in
                guard byte != UInt8(ascii: "=") else { return }
                let sextet = sextet(byte)
                if sextet < 0 { isSound = false }
                pending = pending << 6 | UInt32(sextet & 63)
                bits += 6
                guard bits >= 8 else { return }
                bits -= 8
                cell.storeBytes(
                    of: UInt8(truncatingIfNeeded: pending >> bits), toByteOffset: target, as: UInt8.self)
                target += 1
            }
            // The bits that are left over say nothing, or there would be two spellings.
            if pending & (1 << bits - 1) != 0 { isSound = false }
        }
        guard isSound else { return nil }
        return decoded
    }

    /// The character of 0..<64, by arithmetic alone.
    private static func character(_ sextet: Int32) -> UInt8 {
        var shift: Int32 = 65
        shift += (25 - sextet) >> 8 & 6
        shift -= (51 - sextet) >> 8 & 75
        shift -= (61 - sextet) >> 8 & 15
        shift += (62 - sextet) >> 8 & 3
        return UInt8(truncatingIfNeeded: sextet + shift)
    }

    /// 0..<64 of a character, or -1, by arithmetic alone.
    private static func sextet(_ character: UInt8) -> Int32 {
        let byte = Int32(character)
        var value: Int32 = -1
        value += ((64 - byte) & (byte - 91)) >> 8 & (byte - 64)
        value += ((96 - byte) & (byte - 123)) >> 8 & (byte - 70)
        value += ((47 - byte) & (byte - 58)) >> 8 & (byte + 5)
        value += ((42 - byte) & (byte - 44)) >> 8 & 63
        value += ((46 - byte) & (byte - 48)) >> 8 & 64
        return value
    }
}
