import SecureMemory
import Testing

@testable import JDCloudProvider

@Suite("Answers and base64")
struct ReadingTests {
    @Test(
        "JSON is read, escapes included",
        arguments: [
            (#"{"a":"b"}"#, "b"), (#" { "a" : "b" , "c":[1,-2.5e3,true,false,null,{}]} "#, "b"),
            (#"{"a":""}"#, ""),
            (#"{"a":"\"\\\/\b\f\n\r\t"}"#, "\"\\/\u{8}\u{C}\n\r\t"),
            (#"{"a":"\u003d\u4e2D\ud83D\uDE00"}"#, "=中😀"),
            (#"{"a":"中😀"}"#, "中😀"), (#"{"\u0061":"x"}"#, "x"),
        ])
    func strings(_ document: String, _ expected: String) throws {
        let bytes = Array(document.utf8)
        let value = try unsafe JSON(parsing: bytes.span.bytes)
        let text = unsafe value["a"]?.text(in: bytes.span.bytes)
        #expect(text == expected)
        let copy = unsafe value["a"]?.secret(in: bytes.span.bytes)
        guard let copy else {
            Issue.record("no secret")
            return
        }
        let isSame = copy.isEqual(to: secret(expected))
        #expect(isSame)
    }

    @Test(
        "what is no JSON is refused",
        arguments: [
            "", " ", "{", "}", "[1,]", "[1 2]", "{\"a\"}", "{\"a\":}", "{a:1}", "{'a':1}", "{\"a\":1,}",
            "nul", "tru", "+1", "01",
            "1.", ".5", "1e", "-", "--1", "0x1", "NaN", "\"", "\"\\\"", "\"\\x\"", "\"\\u12\"", "\"\\u12G4\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"", "\"\\udc00\"", "\"a\nb\"", "1 2", "{\"a\":1,\"a\":2}",
            "{\"a\":1,\"\\u0061\":2}",
            String(repeating: "[", count: 17) + String(repeating: "]", count: 17),
            "[" + String(repeating: "1,", count: 10_000) + "1]",
        ])
    func refused(_ document: String) {
        #expect(throws: JSON.Malformed.self) { _ = try unsafe JSON(parsing: Array(document.utf8).span.bytes) }
    }

    @Test("bytes that are no UTF-8 are refused")
    func notUTF8() {
        #expect(throws: JSON.Malformed.self) {
            _ = try unsafe JSON(parsing: ([0x22, 0xFF, 0x22] as [UInt8]).span.bytes)
        }
    }

    @Test("numbers are integers or nothing")
    func numbers() throws {
        for (text, expected) in [
            ("0", 0), ("-7", -7), ("9223372036854775807", .max), ("9223372036854775808", nil), ("1.0", nil),
            ("1e3", nil),
        ] as [(String, Int64?)] {
            #expect(try unsafe JSON(parsing: Array(text.utf8).span.bytes).integer == expected)
        }
    }

    /// RFC 4648, section 10, and every character of the alphabet.
    static let vectors: [([UInt8], String)] =
        [
            ([], ""), (Array("f".utf8), "Zg=="), (Array("fo".utf8), "Zm8="), (Array("foo".utf8), "Zm9v"),
            (Array("foob".utf8), "Zm9vYg=="), (Array("fooba".utf8), "Zm9vYmE="),
            (Array("foobar".utf8), "Zm9vYmFy"),
            (
                [
                    0, 16, 131, 16, 81, 135, 32, 146, 139, 48, 211, 143, 65, 20, 147, 81, 85, 151, 97, 150,
                    155, 113, 215, 159,
                    130, 24, 163, 146, 89, 167, 162, 154, 171, 178, 219, 175, 195, 28, 179, 211, 93, 183, 227,
                    158, 187, 243,
                    223, 191,
                ],
                "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
            ),
        ]

    @Test("base64 is written and read back", arguments: vectors)
    func base64(_ bytes: [UInt8], _ text: String) throws {
        let encoded = unsafe Base64.encode(bytes.span.bytes, between: "<", and: ">")
        let isSame = encoded.isEqual(to: secret("<\(text)>"))
        #expect(isSame)
        // As some JSON writers put it.
        for form in [text, text.map { $0 == "=" ? "\\u003d" : $0 == "/" ? "\\/" : String($0) }.joined()] {
            #expect(try decode(form) == bytes)
        }
    }

    @Test(
        "base64 has one spelling",
        arguments: [
            "Zg", "Zg=", "Zg===", "Z", "Zh==", "Zm9=", "Zm8", "Zm9v ", " Zm9v", "Zm9v\\n", "Zm-v", "Zm_v",
            "Zg==Zg==", "=Zg=", "====",
            "Zm9\\u00e9", "%%%%",
        ])
    func oneSpelling(_ text: String) throws { #expect(try decode(text) == nil) }

    private func decode(_ text: String) throws -> [UInt8]? {
        let document = Array("\"\(text)\"".utf8)
        let value = try unsafe JSON(parsing: document.span.bytes)
        guard let decoded = unsafe Base64.decode(value, in: document.span.bytes) else { return nil }
        return decoded.withBytes { span in span.byteOffsets.map { span.byte(at: $0) } }
    }
}
