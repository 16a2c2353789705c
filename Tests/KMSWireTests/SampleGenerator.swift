import KMSWire

/// SplitMix64: the same cases on every run.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }

    mutating func pick<T>(_ choices: [T]) -> T {
        choices[Int.random(in: 0..<choices.count, using: &self)]
    }

    mutating func bytes(_ count: Int) -> [UInt8] {
        var bytes: [UInt8] = []
        while bytes.count < count {
            let word = next()
            for shift in stride(from: 0, to: 64, by: 8) {
                bytes.append(UInt8(truncatingIfNeeded: word >> shift))
            }
        }
        return Array(bytes.prefix(count))
    }

    /// A length from 1 to `limit`: mostly small, at times around where a length takes another byte, rarely large.
    mutating func length(upTo limit: Int) -> Int {
        let edges = [1, 4, 32, 126, 127, 128, 129, 255, 256]
        let large = [1_023, 1_024, 16_383, 16_384, limit]
        let length =
            switch Int.random(in: 0..<64, using: &self) {
            case 0: pick(large)
            case 1..<16: pick(edges)
            default: Int.random(in: 1...64, using: &self)
            }
        return min(length, limit)
    }

    mutating func printable(upTo limit: Int) -> [UInt8] {
        var text = ""
        let wanted = length(upTo: limit)
        let alphabet = Array("abcXYZ019-./:_ äß€鍵🔑")
        while true {
            let next = text + String(pick(alphabet))
            guard next.utf8.count <= wanted else { return Array(text.isEmpty ? "k".utf8 : text.utf8) }
            text = next
        }
    }

    mutating func annotationKey() -> String {
        let labels = [
            "a", "version", "0", "x-1", "wrapped-kek", "kmsward", String(repeating: "m", count: 63),
        ]
        let count = Int.random(in: 2...3, using: &self)
        var key = ""
        for index in 0..<count { key += (index > 0 ? "." : "") + pick(labels) }
        return Int.random(in: 0..<8, using: &self) == 0 ? key + "." : key
    }

    mutating func annotations() -> [String: [UInt8]] {
        var annotations: [String: [UInt8]] = [:]
        for _ in 0..<Int.random(in: 0...4, using: &self) {
            annotations[annotationKey()] = bytes(Int.random(in: 0...300, using: &self))
        }
        return annotations
    }

    /// A message that the API server or a good plugin could send.
    mutating func sample(_ message: WireMessage) -> Sample {
        let v1 = Array("v1beta1".utf8)
        return switch message {
        case .v1VersionRequest: Sample(message, ["version": v1])
        case .v1VersionResponse:
            Sample(
                message,
                [
                    "version": v1, "runtime_name": printable(upTo: 256),
                    "runtime_version": Array("1.2.3".utf8),
                ])
        case .v1EncryptRequest:
            Sample(message, ["version": v1, "plain": bytes(length(upTo: 32_768))])
        case .v1EncryptResponse: Sample(message, ["cipher": bytes(length(upTo: 65_535))])
        case .v1DecryptRequest:
            Sample(message, ["version": v1, "cipher": bytes(length(upTo: 65_535))])
        case .v1DecryptResponse: Sample(message, ["plain": bytes(length(upTo: 32_768))])
        case .v2StatusRequest: Sample(message, [:])
        case .v2StatusResponse:
            Sample(
                message,
                [
                    "version": Array("v2beta1".utf8),
                    "healthz": Bool.random(using: &self) ? Array("ok".utf8) : printable(upTo: 300),
                    "key_id": printable(upTo: 1_024),
                ])
        case .v2EncryptRequest:
            Sample(message, ["plaintext": bytes(length(upTo: 32_768)), "uid": printable(upTo: 256)])
        case .v2EncryptResponse:
            Sample(
                message, ["ciphertext": bytes(length(upTo: 1_024)), "key_id": printable(upTo: 1_024)],
                annotations: annotations())
        case .v2DecryptRequest:
            Sample(
                message,
                [
                    "ciphertext": bytes(length(upTo: 1_024)), "uid": printable(upTo: 256),
                    "key_id": printable(upTo: 1_024),
                ],
                annotations: annotations())
        case .v2DecryptResponse: Sample(message, ["plaintext": bytes(length(upTo: 32_768))])
        }
    }

    /// A message that was damaged on its way, or made by someone who means harm.
    mutating func mutated(_ good: [UInt8]) -> [UInt8] {
        var bytes = good
        for _ in 0..<Int.random(in: 1...3, using: &self) {
            let place = Int.random(in: 0...bytes.count, using: &self)
            // Near the start there are more tags and lengths to hit.
            let early = Int.random(in: 0...min(bytes.count, 12), using: &self)
            switch Int.random(in: 0..<9, using: &self) {
            case 0: bytes = Array(bytes.prefix(place))
            case 1: bytes = Array(bytes.dropFirst(early))
            case 2: bytes.insert(UInt8.random(in: 0...255, using: &self), at: early)
            case 3 where early < bytes.count: bytes[early] = UInt8.random(in: 0...255, using: &self)
            case 4 where place < bytes.count: bytes[place] ^= 1 << UInt8.random(in: 0...7, using: &self)
            case 5: bytes += good
            case 6: bytes += unknownField()
            case 7: bytes = unknownField() + bytes
            case 8: bytes.insert(contentsOf: unknownField(), at: early)
            default: bytes += self.bytes(Int.random(in: 0...5, using: &self))
            }
        }
        return bytes
    }

    /// A field of any number and type, groups included, at times with integers longer than they need be.
    mutating func unknownField(depth: Int = 0) -> [UInt8] {
        let number = UInt64(pick([0, 1, 2, 3, 4, 5, 15, 16, 2_047, 536_870_911]))
        func tag(_ type: UInt64) -> [UInt8] { varint(number << 3 | type) }
        switch Int.random(in: 0..<7, using: &self) {
        case 0: return tag(0) + varint(next() >> UInt64.random(in: 0...63, using: &self))
        case 1: return tag(1) + bytes(8)
        case 2:
            let count = Int.random(in: 0...9, using: &self)
            return tag(2) + varint(UInt64(count), padding: Int.random(in: 0...2, using: &self)) + bytes(count)
        case 3 where depth < 4: return tag(3) + unknownField(depth: depth + 1) + tag(4)
        case 4: return tag(5) + bytes(4)
        case 5: return tag(4)
        default: return tag(UInt64.random(in: 6...7, using: &self))
        }
    }
}

/// A variable-length integer, with `padding` bytes that add nothing.
func varint(_ value: UInt64, padding: Int = 0) -> [UInt8] {
    var bytes: [UInt8] = []
    var rest = value
    repeat {
        bytes.append(UInt8(rest & 0x7f) | 0x80)
        rest >>= 7
    } while rest > 0
    bytes += [UInt8](repeating: 0x80, count: padding)
    bytes[bytes.count - 1] &= 0x7f
    return bytes
}

/// A length-delimited field.
func field(_ number: UInt64, _ value: [UInt8]) -> [UInt8] {
    varint(number << 3 | 2) + varint(UInt64(value.count)) + value
}

func field(_ number: UInt64, _ value: String) -> [UInt8] { field(number, Array(value.utf8)) }

func field(_ number: UInt64, count: Int) -> [UInt8] { field(number, [UInt8](repeating: 0x61, count: count)) }
