import KMSWire
import Testing

/// One malformed or overlong message and the error it must give.
struct Refusal: CustomTestStringConvertible {
    let name: String
    let message: WireMessage
    let bytes: [UInt8]
    let reason: WireError.Reason
    let field: Int?
    let offset: Int

    init(
        _ name: String, _ message: WireMessage, _ bytes: [UInt8], _ reason: WireError.Reason, field: Int?,
        at offset: Int = 0
    ) {
        self.name = name
        self.message = message
        self.bytes = bytes
        self.reason = reason
        self.field = field
        self.offset = offset
    }

    var testDescription: String { "\(name) (\(message.rawValue))" }
}

private let key = field(1, "k")

private func entry(_ key: String, _ value: String = "v") -> [UInt8] {
    field(4, field(1, key) + field(2, value))
}

private let decrypt = field(1, "c") + field(3, "id")  // seven bytes

@Suite("reading refuses with the field and the reason")
struct StrictReadingTests {
    static let malformed: [Refusal] = [
        Refusal("a tag cut off", .v2EncryptRequest, key + [0x80], .truncated, field: nil, at: 3),
        Refusal("a length cut off", .v2EncryptRequest, key + [0x12, 0x80], .truncated, field: 2, at: 3),
        Refusal("no length", .v2EncryptRequest, [0x0a], .truncated, field: 1),
        Refusal("a tag of six bytes", .v2EncryptRequest, varint(10, padding: 5), .varintTooLong, field: nil),
        Refusal(
            "a length of six bytes", .v2EncryptRequest, [0x0a] + varint(1, padding: 5) + [1], .varintTooLong,
            field: 1),
        Refusal(
            "field number 0", .v2EncryptRequest, key + [0x02, 0x00], .invalidFieldNumber, field: nil, at: 3),
        Refusal(
            "a tag of 33 bits", .v2EncryptRequest, [0x8a, 0x80, 0x80, 0x80, 0x10, 0], .invalidFieldNumber,
            field: nil),
        Refusal("wire type 6", .v2EncryptRequest, [0x0e], .invalidWireType, field: 1),
        Refusal("wire type 7", .v2StatusRequest, [0x7f], .invalidWireType, field: 15),
        Refusal("plaintext as a number", .v2EncryptRequest, [0x08, 0x01], .wrongWireType, field: 1),
        Refusal("plaintext as eight bytes", .v2EncryptRequest, [0x09] + key, .wrongWireType, field: 1),
        Refusal("plaintext as a group", .v2EncryptRequest, [0x0b, 0x0c], .wrongWireType, field: 1),
        Refusal("the end of no group", .v2EncryptRequest, [0x0c], .wrongWireType, field: 1),
        Refusal("plaintext as four bytes", .v2EncryptRequest, [0x0d] + key, .wrongWireType, field: 1),
        Refusal("a length beyond the end", .v2EncryptRequest, [0x0a, 2, 1], .lengthBeyondEnd, field: 1),
        Refusal(
            "a length of 2^35 - 1", .v2EncryptRequest, [0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f], .lengthBeyondEnd,
            field: 1),
        Refusal("an unknown field", .v2EncryptRequest, key + field(9, "x"), .unknownField, field: 9, at: 3),
        Refusal("any field of Status", .v2StatusRequest, field(1, ""), .unknownField, field: 1),
        Refusal("an unknown group", .v1EncryptRequest, [0x1b, 0x1c], .unknownField, field: 3),
        Refusal("uid not UTF-8", .v2EncryptRequest, key + field(2, [0xc3]), .invalidUTF8, field: 2, at: 3),
        Refusal(
            "uid an encoded surrogate", .v2EncryptRequest, field(2, [0xed, 0xa0, 0x80]), .invalidUTF8,
            field: 2),
        Refusal("key_id not UTF-8", .v2DecryptRequest, field(3, [0xff]), .invalidUTF8, field: 3),
        Refusal("version not UTF-8", .v1VersionRequest, field(1, [0x80]), .invalidUTF8, field: 1),
        Refusal("a map entry cut off", .v2DecryptRequest, field(4, [0x0a]), .truncated, field: 4, at: 2),
        Refusal(
            "a map entry's length beyond the entry", .v2DecryptRequest, field(4, [0x0a, 3, 0x61]) + decrypt,
            .lengthBeyondEnd, field: 4, at: 2),
        Refusal(
            "a map key as a number", .v2DecryptRequest, field(4, [0x08, 1]), .wrongWireType, field: 4, at: 2),
        Refusal(
            "a map entry with more", .v2DecryptRequest, field(4, field(3, "")), .unknownField, field: 4, at: 2
        ),
        Refusal("a map as a number", .v2DecryptRequest, [0x20, 1], .wrongWireType, field: 4),
        Refusal(
            "a map entry without a key", .v2DecryptRequest, field(4, field(2, "v")), .invalidAnnotationKey,
            field: 4),
        Refusal(
            "an empty map entry", .v2DecryptRequest, decrypt + [0x22, 0], .invalidAnnotationKey, field: 4,
            at: 7),
        Refusal(
            "an unknown group in a reply cut off", .v2DecryptResponse, [0x13, 0x08, 1], .truncated, field: 2),
        Refusal(
            "a group in a reply ended as another", .v2DecryptResponse, [0x13, 0x1c], .malformedGroup,
            field: 3, at: 1),
        Refusal("the end of no group in a reply", .v2DecryptResponse, [0x14], .malformedGroup, field: 2),
        Refusal(
            "groups in a reply 101 deep", .v2DecryptResponse,
            [UInt8](repeating: 0x13, count: 101) + [UInt8](repeating: 0x14, count: 101), .malformedGroup,
            field: 2, at: 100),
        Refusal(
            "a number of eleven bytes in a reply", .v2DecryptResponse, [0x10] + varint(1, padding: 10),
            .varintTooLong, field: 2),
        Refusal("four bytes in a reply cut off", .v2DecryptResponse, [0x15, 1, 2, 3], .truncated, field: 2),
        Refusal("eight bytes in a reply cut off", .v2DecryptResponse, [0x11, 1], .truncated, field: 2),
    ]

    static let invalid: [Refusal] = [
        Refusal("nothing", .v2EncryptRequest, [], .empty, field: 1),
        Refusal("nothing", .v1EncryptRequest, [], .empty, field: 2),
        Refusal("nothing", .v2DecryptRequest, [], .empty, field: 1),
        Refusal("nothing", .v1DecryptRequest, [], .empty, field: 2),
        Refusal(
            "plaintext of no bytes", .v2EncryptRequest, field(2, "u") + field(1, ""), .empty, field: 1, at: 3),
        Refusal("no key_id", .v2DecryptRequest, field(1, "c") + field(2, "u"), .empty, field: 3, at: 6),
        Refusal(
            "plaintext emptied by its last occurrence", .v2EncryptRequest, key + field(1, ""), .empty,
            field: 1, at: 3),
        Refusal("plaintext", .v2EncryptRequest, field(1, count: 32_769), .tooLong, field: 1),
        Refusal("plain", .v1EncryptRequest, field(2, count: 32_769), .tooLong, field: 2),
        Refusal("plaintext of 4 MiB", .v2EncryptRequest, field(1, count: 4 << 20), .tooLong, field: 1),
        Refusal(
            "an early overlong plaintext", .v2EncryptRequest, field(1, count: 32_769) + key, .tooLong,
            field: 1),
        Refusal("uid", .v2EncryptRequest, key + field(2, count: 257), .tooLong, field: 2, at: 3),
        Refusal("ciphertext", .v2DecryptRequest, field(1, count: 1_025), .tooLong, field: 1),
        Refusal("cipher", .v1DecryptRequest, field(2, count: 65_536), .tooLong, field: 2),
        Refusal("key_id", .v2DecryptRequest, field(3, count: 1_025), .tooLong, field: 3),
        Refusal("version", .v1VersionRequest, field(1, count: 257), .tooLong, field: 1),
        Refusal("version v2", .v1VersionRequest, field(1, "v2"), .unsupportedVersion, field: 1),
        Refusal(
            "version v1beta1 and a NUL", .v1EncryptRequest, field(1, "v1beta1\0"), .unsupportedVersion,
            field: 1),
        Refusal(
            "annotations of 32,769 bytes", .v2DecryptRequest,
            field(4, field(1, "a.b") + field(2, count: 32_766)), .tooLong, field: 4),
        Refusal(
            "annotations of 32,769 bytes in two entries", .v2DecryptRequest,
            entry("a.b") + field(4, field(1, "a.c") + field(2, count: 32_762)), .tooLong, field: 4, at: 10),
        Refusal("a reply's ciphertext", .v2EncryptResponse, field(1, count: 1_025), .tooLong, field: 1),
        Refusal("a reply's empty ciphertext", .v2EncryptResponse, field(2, "id"), .empty, field: 1, at: 4),
        Refusal("a reply without key_id", .v2EncryptResponse, field(1, "c"), .empty, field: 2, at: 3),
        Refusal("a healthy Status without key_id", .v2StatusResponse, field(2, "ok"), .empty, field: 3),
        Refusal("an empty plaintext reply", .v1DecryptResponse, [], .empty, field: 1),
    ]

    @Test("what is not protobuf, or not this message", arguments: malformed)
    func notThisMessage(_ refusal: Refusal) { expect(refusal) }

    @Test("what is protobuf but breaks the API's rules", arguments: invalid)
    func againstTheRules(_ refusal: Refusal) { expect(refusal) }

    private func expect(_ refusal: Refusal) {
        let error = #expect(throws: WireError.self) {
            _ = try ourSample(refusal.message, refusal.bytes)
        }
        #expect(error?.reason == refusal.reason)
        #expect(error?.message == refusal.message)
        #expect(error?.field == refusal.field)
        #expect(error?.offset == refusal.offset)
    }

    @Test(
        "text that could forge or hide a log line is refused",
        arguments: ["\n", "\r", "\0", "\u{1b}[2J", "\u{7f}", "\u{85}", "\u{2028}", "\u{202e}", "\u{feff}"])
    func unprintable(_ text: String) {
        for (message, number) in [
            (WireMessage.v2EncryptRequest, 2), (.v2DecryptRequest, 2), (.v2DecryptRequest, 3),
            (.v2StatusResponse, 3),
        ] {
            let error = #expect(throws: WireError.self) {
                _ = try ourSample(message, field(UInt64(number), "marker" + text))
            }
            #expect(error?.reason == .notPrintable)
            #expect(error?.field == number)
            #expect(error.map { "\($0)".contains("marker") } == false)
        }
    }

    @Test(
        "annotation keys follow the API server's rule",
        arguments: [
            ("a.b", true), ("10.0.0.1", true), ("a-b.c", true), ("a.b.", true),
            ("wrapped-kek.kmsward.internal", true),
            (String(repeating: "m", count: 63) + ".x", true),
            (Array(repeating: "abcdefghi", count: 25).joined(separator: ".") + ".xyz", true),
            ("com", false), ("", false), (".", false), ("a.", false), (".a.b", false), ("a..b", false),
            ("a.b..", false),
            ("A.b", false), ("a_b.c", false), ("a/b.c", false), ("*.a.b", false), ("a@b.c", false),
            ("-a.b", false),
            ("a-.b", false), ("ä.b", false), ("a.b\0", false), ("a b.c", false),
            (String(repeating: "m", count: 64) + ".x", false),
            (Array(repeating: "abcdefghi", count: 25).joined(separator: ".") + ".xyzz", false),
        ])
    func annotationKeys(_ key: String, _ isGood: Bool) {
        let bytes = decrypt + entry(key)
        if isGood {
            #expect((try? ourSample(.v2DecryptRequest, bytes))?.annotations == [key: [0x76]])
        } else {
            let error = #expect(throws: WireError.self) { _ = try ourSample(.v2DecryptRequest, bytes) }
            #expect(error?.reason == .invalidAnnotationKey)
        }
    }

    @Test(
        "errors are one line that names message, field, byte and rule",
        arguments: [
            (
                WireMessage.v2EncryptRequest, Encoded(field(1, count: 40_000)),
                "v2.EncryptRequest.plaintext (field 1) at byte 0: 40000 bytes, at most 32768 are accepted"
            ),
            (
                .v2EncryptRequest, Encoded(key + field(9, "x")),
                "v2.EncryptRequest, field 9 at byte 3: this message has no such field; is the caller made for a newer API?"
            ),
            (
                .v1DecryptRequest, Encoded([0xff]),
                "v1beta1.DecryptRequest at byte 0: the message ends within the field"
            ),
            (
                .v1EncryptRequest, Encoded(field(1, "v2")),
                "v1beta1.EncryptRequest.version (field 1) at byte 0: neither empty nor v1beta1, the only version of this service"
            ),
        ])
    func description(_ message: WireMessage, _ encoded: Encoded, _ text: String) {
        let error = #expect(throws: WireError.self) { _ = try ourSample(message, encoded.bytes) }
        #expect(error?.description == text)
    }
}

@Suite("reading accepts")
struct LenientReadingTests {
    /// Field lengths at their bounds.
    @Test(
        "fields as long as they may be",
        arguments: [
            (WireMessage.v2EncryptRequest, Encoded(field(1, count: 32_768) + field(2, count: 256))),
            (.v1EncryptRequest, Encoded(field(2, count: 32_768))),
            (.v1DecryptRequest, Encoded(field(2, count: 65_535))),
            (.v2DecryptRequest, Encoded(field(1, count: 1_024) + field(3, count: 1_024))),
            (.v2DecryptRequest, Encoded(decrypt + field(4, field(1, "a.b") + field(2, count: 32_765)))),
            (.v2EncryptResponse, Encoded(field(1, count: 1_024) + field(2, count: 1_024))),
            (.v1EncryptResponse, Encoded(field(1, count: 65_535))),
            (.v2DecryptResponse, Encoded(field(1, count: 32_768))),
        ])
    func bounds(_ message: WireMessage, _ encoded: Encoded) throws {
        let ours = try ourSample(message, encoded.bytes)
        #expect(try ours.line == referenceSample(message, encoded.bytes).line)
    }

    @Test(
        "a v1beta1 version that is absent, empty or v1beta1",
        arguments: [[], field(1, ""), field(1, "v1beta1")])
    func version(_ version: [UInt8]) throws {
        #expect(try ourSample(.v1VersionRequest, version).line == "{}")
        #expect(try ourSample(.v1EncryptRequest, version + field(2, "k"))["plain"] == [0x6b])
        #expect(try ourSample(.v1DecryptRequest, field(2, "c") + version)["cipher"] == [0x63])
    }

    @Test("of a field that occurs twice the last")
    func lastWins() throws {
        let bytes = field(1, "first") + field(2, "u1") + field(1, "last") + field(2, "u2")
        let read = try ourSample(.v2EncryptRequest, bytes)
        #expect(read.text("plaintext") == "last")
        #expect(read.text("uid") == "u2")
    }

    @Test("of an annotation that occurs twice the last, and within an entry too")
    func lastAnnotationWins() throws {
        let twice = field(4, field(1, "no.no") + field(2, "x") + field(2, "3") + field(1, "a.b"))
        let bytes = decrypt + entry("a.b", "1") + entry("c.d", "2") + twice
        #expect(try ourSample(.v2DecryptRequest, bytes).annotations == ["a.b": [0x33], "c.d": [0x32]])
        #expect(try referenceSample(.v2DecryptRequest, bytes).annotations == ["a.b": [0x33], "c.d": [0x32]])
    }

    @Test("an annotation without a value as an empty one")
    func missingValue() throws {
        let bytes = decrypt + field(4, field(1, "a.b"))
        #expect(try ourSample(.v2DecryptRequest, bytes).annotations == ["a.b": []])
    }

    @Test("annotations in any order, and hands them on sorted")
    func sorted() throws {
        let bytes = decrypt + entry("c.d") + entry("a.b") + entry("b.c")
        guard case .decrypt(let request) = try ourRequest(bytes, .v2Decrypt) else {
            Issue.record("not a Decrypt")
            return
        }
        #expect(request.annotations.map(\.key) == ["a.b", "b.c", "c.d"])
    }

    @Test("integers longer than they need be, up to five bytes")
    func paddedIntegers() throws {
        let bytes = varint(10, padding: 4) + varint(1, padding: 4) + [0x6b]
        #expect(try ourSample(.v2EncryptRequest, bytes)["plaintext"] == [0x6b])
        #expect(try referenceSample(.v2EncryptRequest, bytes)["plaintext"] == [0x6b])
    }

    @Test(
        "unknown fields of a reply, of every type",
        arguments: [
            field(9, "x"), [0x48] + varint(.max), [0x49] + [UInt8](repeating: 1, count: 8),
            [0x4d, 1, 2, 3, 4],
            [0x4b, 0x08, 1, 0x12, 1, 0x61, 0x53, 0x54, 0x4c],
            [UInt8](repeating: 0x13, count: 100) + [UInt8](repeating: 0x14, count: 100),
        ])
    func unknownFields(_ unknown: [UInt8]) throws {
        let bytes = unknown + field(1, "key") + unknown
        #expect(try ourSample(.v2DecryptResponse, bytes).text("plaintext") == "key")
    }

    @Test("a Status that tells of trouble, without key_id")
    func unhealthyStatus() throws {
        #expect(try ourSample(.v2StatusResponse, field(2, "no")).text("healthz") == "no")
        #expect(try ourSample(.v2StatusResponse, []) == Sample(.v2StatusResponse, [:]))
    }
}
