internal import SecureMemory

/// What a key-management service unwrapped, as the cache keeps it.
final class UnwrappedKey: Sendable {
    enum Content {
        /// The key of envelopes.
        case localKEK(LocalKEK)
        /// A plaintext of `compatible`.
        case plaintext(SharedSecret)
    }

    let content: Content

    init(_ content: Content) { self.content = content }

    /// Bytes of secret memory.
    var byteCount: Int {
        switch content {
        case .localKEK: LocalKEK.payloadCount
        case .plaintext(let secret): secret.bytes.count
        }
    }
}
