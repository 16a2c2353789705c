private import COpenSSL
private import Glibc
public import SecureMemory

/// The public head of a sealed message, and everything that the message is bound to.
///
/// Making one hashes it; a writer keeps it for as long as its head does not change.
public struct BoundHeader: Sendable {
    /// The algorithms.
    public let suite: Suite
    /// The bytes that the message begins with.
    public let bytes: [UInt8]
    /// label, a zero byte, hash(header, context).
    let info: [UInt8]

    /// Binds messages that begin with `bytes` to `label`, which says what they are for, and to `context`, which the
    /// opener must know: it is not written.
    ///
    /// Throws `unavailable` where the loaded OpenSSL lacks the suite's digest.
    public init(
        _ bytes: [UInt8], suite: Suite, label: StaticString, context: Span<UInt8>
    ) throws(CryptoFailure) {
        let hash = try suite.digest.hash(bytes.span, context)
        var info = [UInt8]()
        info.reserveCapacity(label.utf8CodeUnitCount + 1 + hash.count)
        label.withUTF8Buffer { text in unsafe info.append(contentsOf: text) }
        info.append(0)
        info.append(contentsOf: hash)
        self.suite = suite
        self.bytes = bytes
        self.info = info
    }

    /// Whether `message` begins with this header.
    public func begins(_ message: Span<UInt8>) -> Bool {
        guard message.count >= bytes.count else { return false }
        return unsafe message.withUnsafeBytes { message in
            unsafe bytes.withUnsafeBytes { header in
                guard let start = message.baseAddress, let expected = header.baseAddress else { return true }
                return unsafe memcmp(start, expected, header.count) == 0
            }
        }
    }
}

/// Sealing that commits to its key: a message opens under one key only, and only with the header, context and label it
/// was sealed with.
///
/// A message is header, salt (32), commitment (32), ciphertext (as long as the plaintext), tag. The key of each message
/// and its commitment are derived with HKDF from the given key and the message's own random salt, so the number of
/// messages under one key is not bounded by a nonce.
public enum CommittingAEAD {
    /// Length of the keys that seal, for every suite.
    public static let keyCount = 32
    /// Length of the salt.
    public static let saltCount = 32
    /// Length of the commitment.
    public static let commitmentCount = 32

    /// Seals `plaintext`; the result begins with the header.
    ///
    /// A few microseconds.
    public static func seal(
        _ plaintext: borrowing SecretBytes, under key: borrowing SecretBytes, header: BoundHeader
    ) throws(CryptoFailure) -> [UInt8] {
        try seal(plaintext, under: key, header: header) { SecureMemory.fillRandom(&$0) }
    }

    /// Seals with a given salt, for test vectors: a salt must never be used twice under one key.
    package static func seal(
        _ plaintext: borrowing SecretBytes, under key: borrowing SecretBytes, header: BoundHeader,
        salt: [UInt8]
    ) throws(CryptoFailure) -> [UInt8] {
        precondition(salt.count == saltCount)
        return try seal(plaintext, under: key, header: header) { $0.copy(salt.span, toByteOffset: 0) }
    }

    private static func seal(
        _ plaintext: borrowing SecretBytes, under key: borrowing SecretBytes, header: BoundHeader,
        fillSalt: (inout MutableRawSpan) -> Void
    ) throws(CryptoFailure) -> [UInt8] {
        try check(key, header.suite)
        let layout = Layout(header, plaintextCount: plaintext.count)
        var failure: CryptoFailure?
        let message = unsafe [UInt8](unsafeUninitializedCapacity: layout.count) { buffer, count in
            unsafe buffer.initialize(repeating: 0)
            count = layout.count
            let message = UnsafeMutableRawBufferPointer(buffer)
            unsafe message.copyBytes(from: header.bytes)
            var salt = unsafe MutableRawSpan(_unsafeBytes: message[layout.salt])
            fillSalt(&salt)
            do throws(CryptoFailure) {
                unsafe try seal(plaintext, under: key, header: header, layout: layout, in: message)
            } catch { failure = error }
        }
        if let failure { throw failure }
        return message
    }

    /// Opens a message that begins with the header; the plaintext is decrypted straight into secret memory.
    ///
    /// Throws `notAuthentic` for every message that was not sealed so. A few microseconds.
    public static func open(
        _ message: Span<UInt8>, under key: borrowing SecretBytes, header: BoundHeader
    ) throws(CryptoFailure) -> SecretBytes {
        try check(key, header.suite)
        let plaintextCount = message.count - header.bytes.count - header.suite.overhead
        guard plaintextCount >= 0 else { throw .notAuthentic }
        let layout = Layout(header, plaintextCount: plaintextCount)
        let salt = message.extracting(layout.salt)
        let derived = try HKDF.derive(
            header.suite.digest, key: key, salt: salt, info: header.info.span,
            count: header.suite.derivedKeyCount + commitmentCount)
        return try SecretBytes(count: plaintextCount) { plaintext throws(CryptoFailure) in
            let isOpened = derived.withBytes { derived in
                unsafe derived.withUnsafeBytes { derived in
                    unsafe message.withUnsafeBytes { message in
                        unsafe plaintext.withUnsafeMutableBytes { plaintext in
                            unsafe open(
                                message, header: header, layout: layout, derived: derived, into: plaintext)
                        }
                    }
                }
            }
            guard isOpened else { throw .refusing() }
        }
    }

    // MARK: The construct over borrowed memory

    /// Where the parts of a message lie.
    private struct Layout {
        let salt, commitment, ciphertext, tag: Range<Int>
        /// Header, salt and commitment: what the AEAD authenticates beside the ciphertext.
        var associated: Range<Int> { 0..<commitment.upperBound }
        var count: Int { tag.upperBound }

        init(_ header: BoundHeader, plaintextCount: Int) {
            salt = header.bytes.count..<header.bytes.count + saltCount
            commitment = salt.upperBound..<salt.upperBound + commitmentCount
            ciphertext = commitment.upperBound..<commitment.upperBound + plaintextCount
            tag = ciphertext.upperBound..<ciphertext.upperBound + header.suite.tagCount
        }
    }

    private static func check(_ key: borrowing SecretBytes, _ suite: Suite) throws(CryptoFailure) {
        guard key.count == keyCount else { throw .wrongKeyLength(key.count) }
        guard suite.isAvailable else { throw .unavailable(suite.configurationName) }
        ERR_clear_error()
    }

    private static func seal(
        _ plaintext: borrowing SecretBytes, under key: borrowing SecretBytes, header: BoundHeader,
        layout: Layout,
        in message: UnsafeMutableRawBufferPointer
    ) throws(CryptoFailure) {
        let suite = header.suite
        let salt = unsafe Span<UInt8>(_unsafeBytes: message[layout.salt])
        let derived = try HKDF.derive(
            suite.digest, key: key, salt: salt, info: header.info.span,
            count: suite.derivedKeyCount + commitmentCount)
        let isSealed = derived.withBytes { derived in
            plaintext.withBytes { plaintext in
                unsafe derived.withUnsafeBytes { derived in
                    unsafe plaintext.withUnsafeBytes { plaintext in
                        let commitment = unsafe derived[suite.derivedKeyCount...]
                        unsafe UnsafeMutableRawBufferPointer(rebasing: message[layout.commitment])
                            .copyMemory(from: UnsafeRawBufferPointer(rebasing: commitment))
                        return unsafe encrypt(suite, derived, plaintext, layout: layout, in: message)
                    }
                }
            }
        }
        guard isSealed else { throw .draining("sealing") }
    }

    private static func encrypt(
        _ suite: Suite, _ derived: UnsafeRawBufferPointer, _ plaintext: UnsafeRawBufferPointer,
        layout: Layout,
        in message: UnsafeMutableRawBufferPointer
    ) -> Bool {
        guard let key = unsafe pointer(derived, at: 0), let start = message.baseAddress else { return false }
        let bytes = unsafe start.assumingMemoryBound(to: UInt8.self)
        let ciphertext = unsafe bytes + layout.ciphertext.lowerBound
        let tag = unsafe bytes + layout.tag.lowerBound
        let aad = unsafe UnsafeRawBufferPointer(rebasing: message[layout.associated])
        switch suite {
        case .aes256GCM, .sm4GCM:
            guard let cipher = unsafe gcm(suite) else { return false }
            return unsafe withZeros { nonce in
                unsafe GCM.seal(
                    cipher, key: key, nonce: nonce, aad: aad, plaintext: plaintext, ciphertext: ciphertext,
                    tag: tag)
            }
        case .sm4CTRHMACSM3:
            guard let cipher = unsafe Algorithms.loaded.sm4CTR else { return false }
            return unsafe withZeros { counter in
                unsafe CTR.apply(cipher, key: key, counter: counter, plaintext, into: ciphertext)
            } && authenticate(UnsafeRawBufferPointer(message), layout: layout, derived: derived, into: tag)
        }
    }

    private static func open(
        _ message: UnsafeRawBufferPointer, header: BoundHeader, layout: Layout,
        derived: UnsafeRawBufferPointer,
        into plaintext: UnsafeMutableRawBufferPointer
    ) -> Bool {
        let suite = header.suite
        // That the message begins with this very header needs no look: info holds the header's hash, and the associated
        // data is the message's own beginning.
        guard let start = unsafe pointer(message, at: 0), let key = unsafe pointer(derived, at: 0),
            unsafe CRYPTO_memcmp(
                key + suite.derivedKeyCount, start + layout.commitment.lowerBound, commitmentCount) == 0
        else { return false }
        let tag = unsafe start + layout.tag.lowerBound
        let ciphertext = unsafe UnsafeRawBufferPointer(rebasing: message[layout.ciphertext])
        // An empty plaintext still needs a place that OpenSSL may be shown.
        var nowhere: UInt8 = 0
        return unsafe withUnsafeMutablePointer(to: &nowhere) { nowhere in
            let output = unsafe plaintext.baseAddress?.assumingMemoryBound(to: UInt8.self) ?? nowhere
            switch suite {
            case .aes256GCM, .sm4GCM:
                guard let cipher = unsafe gcm(suite) else { return false }
                let aad = unsafe UnsafeRawBufferPointer(rebasing: message[layout.associated])
                return unsafe withZeros { nonce in
                    unsafe GCM.open(
                        cipher, key: key, nonce: nonce, aad: aad, ciphertext: ciphertext, tag: tag,
                        plaintext: output)
                }
            case .sm4CTRHMACSM3:
                guard let cipher = unsafe Algorithms.loaded.sm4CTR else { return false }
                let isAuthentic = unsafe withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 32) {
                    expected in
                    guard let place = expected.baseAddress else { return false }
                    return unsafe authenticate(message, layout: layout, derived: derived, into: place)
                        && CRYPTO_memcmp(place, tag, 32) == 0
                }
                return unsafe isAuthentic
                    && withZeros { counter in
                        unsafe CTR.apply(cipher, key: key, counter: counter, ciphertext, into: output)
                    }
            }
        }
    }

    /// HMAC-SM3 over the length of the associated data, the associated data, and the ciphertext, which follow each
    /// other in the message.
    private static func authenticate(
        _ message: UnsafeRawBufferPointer, layout: Layout, derived: UnsafeRawBufferPointer,
        into tag: UnsafeMutablePointer<UInt8>
    ) -> Bool {
        guard let hmac = HMAC(.sm3) else { return false }
        let length = UInt64(layout.associated.count).bigEndian
        return unsafe withUnsafeBytes(of: length) { length in
            unsafe hmac.tag(
                key: UnsafeRawBufferPointer(rebasing: derived[16..<48]), length,
                UnsafeRawBufferPointer(rebasing: message[..<layout.ciphertext.upperBound]),
                into: UnsafeMutableRawBufferPointer(start: tag, count: 32))
        }
    }

    private static func gcm(_ suite: Suite) -> OpaquePointer? {
        unsafe suite == .aes256GCM ? Algorithms.loaded.aes256GCM : Algorithms.loaded.sm4GCM
    }

    /// The nonce or first counter of every message: the key of a message is used once.
    private static func withZeros(_ body: (UnsafePointer<UInt8>) -> Bool) -> Bool {
        unsafe withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 16) { zeros in
            unsafe zeros.initialize(repeating: 0)
            guard let start = zeros.baseAddress else { return false }
            return unsafe body(UnsafePointer(start))
        }
    }

    private static func pointer(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> UnsafePointer<UInt8>? {
        unsafe bytes.baseAddress.map { unsafe ($0 + offset).assumingMemoryBound(to: UInt8.self) }
    }
}
