/// What a ciphertext is.
public enum CiphertextFormat: String, Sendable, CaseIterable {
    /// Ours: sealed here under a local KEK, which travels in it, wrapped by the backend.
    case envelope
    /// What the peer plugin for the backend writes: the backend's own ciphertext of each key, byte for byte.
    ///
    /// One call of the backend for each, and no binding to the request: a swap between two known key_ids is not
    /// detected where the backend has no additional authenticated data.
    case compatible

    /// Bytes of the plaintexts that `compatible` takes and gives: keys of Kubernetes, and its health check.
    ///
    /// A local KEK, 72 bytes, can thus never be passed off as a plaintext.
    static let compatiblePlaintexts = [4, 16, 24, 32]
}
