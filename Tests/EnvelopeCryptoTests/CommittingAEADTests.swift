import SecureMemory
import Testing

@testable import EnvelopeCrypto

private let suites = EnvelopeCrypto.Suite.allCases.filter(\.isAvailable)

@Suite("Committing AEAD")
struct CommittingAEADTests {
    private static let label: StaticString = "kmsward/test/1"
    private static let head: [UInt8] = Array("a public header".utf8)

    private func header(
        _ suite: EnvelopeCrypto.Suite, _ bytes: [UInt8] = head, label: StaticString = label,
        context: [UInt8] = [1, 2, 3]
    ) throws -> BoundHeader {
        try BoundHeader(bytes, suite: suite, label: label, context: context.span)
    }

    /// The plaintext, or why there is none.
    private func open(
        _ message: [UInt8], _ key: borrowing SecretBytes, _ header: BoundHeader
    ) -> Result<[UInt8], CryptoFailure> {
        do throws(CryptoFailure) {
            return .success(bytes(of: try CommittingAEAD.open(message.span, under: key, header: header)))
        } catch {
            return .failure(error)
        }
    }

    @Test("opens what it sealed, of any length", arguments: suites, [0, 1, 15, 16, 17, 32, 72, 4096, 65_535])
    func roundTrip(suite: EnvelopeCrypto.Suite, count: Int) throws {
        let key = SecretBytes(randomCount: 32)
        let header = try header(suite)
        let plaintext = SecretBytes(randomCount: count)
        let message = try CommittingAEAD.seal(plaintext, under: key, header: header)
        #expect(message.count == Self.head.count + suite.overhead + count)
        #expect(message.starts(with: Self.head))
        let expected = bytes(of: plaintext)
        #expect(open(message, key, header) == .success(expected))
        let again = try CommittingAEAD.seal(plaintext, under: key, header: header)
        #expect(again != message)
    }

    @Test("no byte of a message can change", arguments: suites)
    func everyByte(suite: EnvelopeCrypto.Suite) throws {
        let key = SecretBytes(randomCount: 32)
        let header = try header(suite)
        let message = try CommittingAEAD.seal(SecretBytes(randomCount: 32), under: key, header: header)
        for index in message.indices {
            for bit in 0..<8 {
                var altered = message
                altered[index] ^= 1 << UInt8(bit)
                #expect(open(altered, key, header) == .failure(.notAuthentic), "bit \(bit) of byte \(index)")
            }
        }
    }

    @Test("no byte of the header can change, though it is changed on both sides", arguments: suites)
    func everyHeaderByte(suite: EnvelopeCrypto.Suite) throws {
        let key = SecretBytes(randomCount: 32)
        let message = try CommittingAEAD.seal(SecretBytes(randomCount: 32), under: key, header: header(suite))
        for index in Self.head.indices {
            var altered = Self.head
            altered[index] ^= 1
            let moved = altered + message[Self.head.count...]
            #expect(open(moved, key, try header(suite, altered)) == .failure(.notAuthentic))
        }
    }

    @Test("what is cut or extended is refused", arguments: suites)
    func lengths(suite: EnvelopeCrypto.Suite) throws {
        let key = SecretBytes(randomCount: 32)
        let header = try header(suite)
        let message = try CommittingAEAD.seal(SecretBytes(randomCount: 32), under: key, header: header)
        for count in message.indices {
            #expect(
                open(Array(message.prefix(count)), key, header) == .failure(.notAuthentic), "\(count) bytes")
        }
        #expect(open(message + [0], key, header) == .failure(.notAuthentic))
    }

    @Test(
        "another key, label, context or boundary between header and context opens nothing", arguments: suites)
    func bindings(suite: EnvelopeCrypto.Suite) throws {
        let key = SecretBytes(randomCount: 32)
        let message = try CommittingAEAD.seal(SecretBytes(randomCount: 32), under: key, header: header(suite))
        #expect(open(message, SecretBytes(randomCount: 32), try header(suite)) == .failure(.notAuthentic))
        #expect(open(message, key, try header(suite, label: "kmsward/test/2")) == .failure(.notAuthentic))
        for context in [[], [1, 2], [1, 2, 4], [1, 2, 3, 0]] as [[UInt8]] {
            #expect(open(message, key, try header(suite, context: context)) == .failure(.notAuthentic))
        }
        let shorter = try header(suite, Self.head.dropLast(), context: Self.head.suffix(1) + [1, 2, 3])
        #expect(open(message, key, shorter) == .failure(.notAuthentic))
    }

    @Test("a commitment that is not the key's is refused though the tag be right", arguments: suites)
    func commitment(suite: EnvelopeCrypto.Suite) throws {
        // A forger who holds the key can make a tag over any commitment; the opener must not be satisfied with that.
        let key = SecretBytes(randomCount: 32)
        let header = try header(suite)
        let message = try CommittingAEAD.seal(SecretBytes(randomCount: 32), under: key, header: header)
        let at = Self.head.count + CommittingAEAD.saltCount
        let derived = try HKDF.derive(
            suite.digest, key: key, salt: message[Self.head.count..<at].span, info: header.info.span,
            count: suite.derivedKeyCount + 32)
        var forged = message
        forged[at] ^= 1
        let tagAt = message.count - suite.tagCount
        try unsafe forged.withUnsafeMutableBytes { forged in
            let cipher = unsafe suite == .aes256GCM ? Algorithms.loaded.aes256GCM : Algorithms.loaded.sm4GCM
            let start = try unsafe #require(forged.baseAddress).assumingMemoryBound(to: UInt8.self)
            let aad = unsafe UnsafeRawBufferPointer(rebasing: forged[..<(at + 32)])
            let isForged = derived.withBytes { derived in
                unsafe derived.withUnsafeBytes { derived in
                    guard let keys = unsafe derived.baseAddress?.assumingMemoryBound(to: UInt8.self) else {
                        return false
                    }
                    if suite == .sm4CTRHMACSM3 {
                        let length = UInt64(at + 32).bigEndian
                        return unsafe withUnsafeBytes(of: length) { length in
                            unsafe HMAC(.sm3)?.tag(
                                key: UnsafeRawBufferPointer(rebasing: derived[16..<48]), length,
                                UnsafeRawBufferPointer(rebasing: forged[..<tagAt]),
                                into: UnsafeMutableRawBufferPointer(rebasing: forged[tagAt...])) == true
                        }
                    }
                    guard let cipher = unsafe cipher else { return false }
                    // GCM: decrypting by encrypting gives the plaintext; sealing that again gives the tag.
                    var plaintext = [UInt8](repeating: 0, count: 32)
                    let zeros = [UInt8](repeating: 0, count: 12)
                    var unused = [UInt8](repeating: 0, count: 16)
                    let ciphertext = unsafe UnsafeRawBufferPointer(rebasing: forged[(at + 32)..<tagAt])
                    return unsafe GCM.seal(
                        cipher, key: keys, nonce: zeros, aad: aad, plaintext: ciphertext,
                        ciphertext: &plaintext,
                        tag: &unused)
                        && plaintext.withUnsafeBytes { plaintext in
                            unsafe GCM.seal(
                                cipher, key: keys, nonce: zeros, aad: aad, plaintext: plaintext,
                                ciphertext: start + at + 32, tag: start + tagAt)
                        }
                }
            }
            #expect(isForged)
        }
        #expect(open(forged, key, header) == .failure(.notAuthentic))
    }

    @Test("a failed opening leaves no error for the next call to find", arguments: suites)
    func errorQueue(suite: EnvelopeCrypto.Suite) throws {
        let key = SecretBytes(randomCount: 32)
        let header = try header(suite)
        var message = try CommittingAEAD.seal(SecretBytes(randomCount: 32), under: key, header: header)
        message[message.count - 1] ^= 1
        #expect(open(message, key, header) == .failure(.notAuthentic))
        #expect(CryptoFailure.draining("nothing") == .openSSL(operation: "nothing", codes: []))
    }

    @Test("a key of another length is refused", arguments: [0, 16, 31, 33])
    func keyLength(count: Int) throws {
        let header = try header(.aes256GCM)
        #expect(throws: CryptoFailure.wrongKeyLength(count)) {
            try CommittingAEAD.seal(
                SecretBytes(randomCount: 32), under: SecretBytes(randomCount: count), header: header)
        }
    }

    @Test("many tasks seal and open at once")
    func concurrent() async throws {
        try await withThrowingTaskGroup(of: Bool.self) { group in
            for task in 0..<8 {
                group.addTask {
                    let suite = suites[task % suites.count]
                    let header = try header(suite)
                    let key = SecretBytes(randomCount: 32)
                    for _ in 0..<200 {
                        let plaintext = SecretBytes(randomCount: 32)
                        let message = try CommittingAEAD.seal(plaintext, under: key, header: header)
                        let opened = try CommittingAEAD.open(message.span, under: key, header: header)
                        guard opened.isEqual(to: plaintext) else { return false }
                    }
                    return true
                }
            }
            for try await isRight in group { #expect(isRight) }
        }
    }
}

func hex(_ text: String) -> [UInt8] {
    let digits = text.utf8.map { UInt8(Character(UnicodeScalar($0)).hexDigitValue ?? 0) }
    return stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
}

/// The bytes from `first` to `last`, in hexadecimal.
func hexRange(_ first: UInt8, _ last: UInt8) -> String {
    (first...last).map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
}

/// A secret of the given hexadecimal digits; of test data only.
func secret(_ text: String) -> SecretBytes {
    let bytes = hex(text)
    return SecretBytes(count: bytes.count) { $0.copy(bytes.span, toByteOffset: 0) }
}

/// The bytes of a secret; of test data only.
func bytes(of secret: borrowing SecretBytes) -> [UInt8] {
    secret.withBytes { span in unsafe span.withUnsafeBytes { unsafe Array($0) } }
}
