internal import EnvelopeCrypto
internal import SecureMemory

/// Answers the API server's v1 health check, Encrypt and Decrypt of `ping`, without touching a key of the ring.
///
/// The check comes every few seconds from every API server; it must cost no backend call, and its ciphertexts live
/// no longer than this process.
struct PingSeal: Sendable {
    private static let header: [UInt8] = [0xF5] + Array("kmsping".utf8) + [1]
    private static let text = Array("ping".utf8)

    private let key = SharedSecret(SecretBytes(randomCount: CommittingAEAD.keyCount))
    private let suite: Suite

    init(suite: Suite) { self.suite = suite }

    /// Whether a plaintext is the health check's: exactly the 4 bytes `ping`.
    static func isPing(_ plaintext: borrowing SecretBytes) -> Bool {
        plaintext.count == text.count
            && plaintext.withBytes { bytes in SecureMemory.isEqual(bytes, text.span) }
    }

    /// Whether a ciphertext was sealed so, by this process or another.
    static func hasHeader(_ ciphertext: [UInt8]) -> Bool { ciphertext.starts(with: header) }

    func seal(_ ping: borrowing SecretBytes) throws(CryptoFailure) -> [UInt8] {
        try CommittingAEAD.seal(ping, under: key.bytes, header: bound())
    }

    func open(_ ciphertext: [UInt8]) throws(CryptoFailure) -> SecretBytes {
        try CommittingAEAD.open(ciphertext.span, under: key.bytes, header: bound())
    }

    private func bound() throws(CryptoFailure) -> BoundHeader {
        let nothing: [UInt8] = []
        return try BoundHeader(Self.header, suite: suite, label: "kmsward/ping/1", context: nothing.span)
    }
}
