import SecureMemory
import Testing

@testable import EnvelopeCrypto

@Suite("Published vectors")
struct PrimitiveTests {
    @Test(
        "digests",
        arguments: [
            (
                DigestAlgorithm.sha256, Array("abc".utf8),
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
            ),
            (.sha256, [], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (
                .sha512, Array("abc".utf8),
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a"
                    + "2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
            ),
            // GB/T 32905-2016, appendix A
            (.sm3, Array("abc".utf8), "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"),
            (
                .sm3, Array(String(repeating: "abcd", count: 16).utf8),
                "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732"
            ),
        ])
    func digests(_ algorithm: DigestAlgorithm, _ message: [UInt8], _ expected: String) throws {
        #expect(try algorithm.hash(message.span) == hex(expected))
        #expect(algorithm.count == hex(expected).count)
        for cut in message.indices {
            let (head, tail) = (Array(message[..<cut]), Array(message[cut...]))
            #expect(try algorithm.hash(head.span, tail.span) == hex(expected))
        }
    }

    @Test("a digest of several pieces is that of their concatenation", arguments: DigestAlgorithm.allCases)
    func pieces(_ algorithm: DigestAlgorithm) throws {
        var digest = try Digest(algorithm)
        for piece in [[1, 2], [], [3], Array(repeating: 9, count: 300)] as [[UInt8]] {
            digest.update(piece.span)
        }
        let whole = [1, 2, 3] + [UInt8](repeating: 9, count: 300)
        let result = try digest.finish()
        #expect(try result == algorithm.hash(whole.span))
    }

    /// RFC 5869, appendix A, tests 1 to 3; and the same inputs with SHA-512 and SM3, from another implementation.
    static let hkdfVectors: [(DigestAlgorithm, String, String, String, String)] = [
        (
            .sha256, String(repeating: "0b", count: 22), "000102030405060708090a0b0c", "f0f1f2f3f4f5f6f7f8f9",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
        ),
        (
            .sha256, hexRange(0x00, 0x4f), hexRange(0x60, 0xaf), hexRange(0xb0, 0xff),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
                + "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
        ),
        (
            .sha256, String(repeating: "0b", count: 22), "", "",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
        ),
        (.sha512, hexRange(0x00, 0x1f), hexRange(0x20, 0x3f), hexRange(0xb0, 0xff), hkdfSHA512),
        (.sm3, hexRange(0x00, 0x1f), hexRange(0x20, 0x3f), hexRange(0xb0, 0xff), hkdfSM3),
    ]

    @Test("HKDF", arguments: hkdfVectors.indices)
    func hkdf(index: Int) throws {
        let (digest, key, salt, info, okm) = Self.hkdfVectors[index]
        let derived = try HKDF.derive(
            digest, key: secret(key), salt: hex(salt).span, info: hex(info).span, count: hex(okm).count)
        #expect(bytes(of: derived) == hex(okm))
    }

    struct GCMVector: Sendable {
        let suite: EnvelopeCrypto.Suite
        let key, nonce, plaintext, aad, ciphertext, tag: String
    }

    @Test(
        "AES-256-GCM and SM4-GCM",
        arguments: [
            // NIST CAVP, gcmEncryptExtIV256.rsp: IVlen 96, Taglen 128, the first of PTlen 0 and 128
            GCMVector(
                suite: .aes256GCM, key: "b52c505a37d78eda5dd34f20c22540ea1b58963cf8e5bf8ffa85f9f2492505b4",
                nonce: "516c33929df5a3284ff463d7", plaintext: "", aad: "", ciphertext: "",
                tag: "bdc1ac884d332457a1d2664f168c76f0"),
            GCMVector(
                suite: .aes256GCM, key: "92e11dcdaa866f5ce790fd24501f92509aacf4cb8b1339d50c9c1240935dd08b",
                nonce: "ac93a1a6145299bde902f21a", plaintext: "2d71bcfa914e4ac045b2aa60955fad24",
                aad: "1e0889016f67601c8ebea4943bc23ad6", ciphertext: "8995ae2e6df3dbf96fac7b7137bae67f",
                tag: "eca5aa77d51d4a0a14d9c51e1da474ab"),
            // RFC 8998, appendix A.1
            GCMVector(
                suite: .sm4GCM, key: "0123456789abcdeffedcba9876543210", nonce: "00001234567800000000abcd",
                plaintext: "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbccccccccccccccccdddddddddddddddd"
                    + "eeeeeeeeeeeeeeeeffffffffffffffffeeeeeeeeeeeeeeeeaaaaaaaaaaaaaaaa",
                aad: "feedfacedeadbeeffeedfacedeadbeefabaddad2",
                ciphertext: "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735"
                    + "d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d",
                tag: "83de3541e4c2b58177e065a9bf7b62ec"),
        ].filter { $0.suite.isAvailable })
    func gcm(_ vector: GCMVector) throws {
        let cipher = try unsafe #require(
            vector.suite == .aes256GCM ? Algorithms.loaded.aes256GCM : Algorithms.loaded.sm4GCM)
        let (key, nonce, plaintext) = (hex(vector.key), hex(vector.nonce), hex(vector.plaintext))
        let (aad, expected) = (hex(vector.aad), hex(vector.ciphertext))
        var ciphertext = [UInt8](repeating: 0, count: plaintext.count + 1)
        var tag = [UInt8](repeating: 0, count: 16)
        let isSealed = unsafe aad.withUnsafeBytes { aad in
            unsafe plaintext.withUnsafeBytes { plaintext in
                unsafe GCM.seal(
                    cipher, key: key, nonce: nonce, aad: aad, plaintext: plaintext, ciphertext: &ciphertext,
                    tag: &tag)
            }
        }
        #expect(isSealed)
        #expect(Array(ciphertext.dropLast()) == expected)
        #expect(tag == hex(vector.tag))
        var opened = [UInt8](repeating: 0, count: plaintext.count + 1)
        func open(_ tag: [UInt8]) -> Bool {
            unsafe aad.withUnsafeBytes { aad in
                unsafe expected.withUnsafeBytes { ciphertext in
                    unsafe GCM.open(
                        cipher, key: key, nonce: nonce, aad: aad, ciphertext: ciphertext, tag: tag,
                        plaintext: &opened)
                }
            }
        }
        #expect(open(tag))
        #expect(Array(opened.dropLast()) == plaintext)
        tag[15] ^= 1
        #expect(!open(tag))
    }

    @Test(
        "SM4-CTR",
        arguments: [
            // GB/T 32907-2016, appendix A: one block, as the key stream of that counter
            (
                "0123456789abcdeffedcba9876543210", "0123456789abcdeffedcba9876543210",
                "00000000000000000000000000000000", "681edf34d206965e86b3e94f536e4246"
            ),
            // draft-ribose-cfrg-sm4-10, appendix A.2.5.1
            (
                "0123456789abcdeffedcba9876543210", "000102030405060708090a0b0c0d0e0f",
                "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbccccccccccccccccdddddddddddddddd"
                    + "eeeeeeeeeeeeeeeeffffffffffffffffaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbb",
                "ac3236cb970cc20791364c395a1342d1a3cbc1878c6f30cd074cce385cdd70c7"
                    + "f234bc0e24c11980fd1286310ce37b926e02fcd0faa0baf38b2933851d824514"
            ),
        ])
    func sm4CTR(_ key: String, _ counter: String, _ plaintext: String, _ expected: String) throws {
        let cipher = try unsafe #require(Algorithms.loaded.sm4CTR)
        let (key, counter, plaintext) = (hex(key), hex(counter), hex(plaintext))
        var output = [UInt8](repeating: 0, count: plaintext.count)
        let isDone = unsafe plaintext.withUnsafeBytes {
            unsafe CTR.apply(cipher, key: key, counter: counter, $0, into: &output)
        }
        #expect(isDone)
        #expect(output == hex(expected))
    }

    @Test("HMAC-SM3")
    func hmacSM3() {
        // GM/T 0042-2015, appendix D.3, first example
        let key = (1...32).map { UInt8($0) }
        let half = Array("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq".utf8)
        var tag = [UInt8](repeating: 0, count: 32)
        let isDone = unsafe tag.withUnsafeMutableBytes { tag in
            unsafe key.withUnsafeBytes { key in
                unsafe half.withUnsafeBytes { half in
                    unsafe HMAC(.sm3)?.tag(key: key, half, half, into: tag)
                }
            }
        }
        #expect(isDone == true)
        #expect(tag == hex("ca05e144ed05d1857840d1f318a4a8669e559fc8391f414485bfdf7bb408963a"))
    }
}

@Suite("Suites")
struct SuiteTests {
    @Test("have the names and numbers that configuration and ciphertexts use")
    func names() {
        let expected: [(UInt8, String)] = [(1, "aes-256-gcm"), (2, "sm4-ctr-hmac-sm3"), (3, "sm4-gcm")]
        for (number, name) in expected {
            #expect(EnvelopeCrypto.Suite(rawValue: number)?.configurationName == name)
            #expect(EnvelopeCrypto.Suite(configurationName: name)?.rawValue == number)
        }
        #expect(EnvelopeCrypto.Suite(configurationName: "AES-256-GCM") == nil)
        #expect(EnvelopeCrypto.Suite(configurationName: "") == nil)
    }

    @Test("of OpenSSL 3.0 are there, and an absent algorithm leaves no error behind")
    func availability() {
        #expect(EnvelopeCrypto.Suite.aes256GCM.isAvailable)
        #expect(EnvelopeCrypto.Suite.sm4CTRHMACSM3.isAvailable)
        #expect(CryptoFailure.draining("nothing") == .openSSL(operation: "nothing", codes: []))
    }
}

// 80 bytes each, so that more than one block is expanded.
private let hkdfSHA512 =
    "c9327c9115bdd1c37de875a6276492b7a77a600369f54272d92fa3cd8909a40c8bc18a237b715b22"
    + "dd8806480da99a053383d23d81805a5612a6a207102e23c507af774340229281a943134411284e4c"
private let hkdfSM3 =
    "ae0ba82f474be7042a54cd5409235fc25ec97cfb3bca3bdd5a1d9eabbeb1dda230cc950674bd7b44"
    + "25cbdd1e7a48565f91b6549b5f9e90c8b4d8fb81ca0047efdeb50f67acb752f684be2c631921e301"
