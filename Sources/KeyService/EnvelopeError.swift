public import EnvelopeCrypto

/// Why an envelope was not written or not opened.
public enum EnvelopeError: Error, Sendable, Equatable {
    /// The ciphertext does not begin as an envelope does: another plugin wrote it, or another format of ours.
    case notAnEnvelope
    /// It is an envelope, and this key is not configured to read any.
    case formatNotAccepted
    /// It begins as an envelope and then breaks the format: cut, extended or damaged.
    case malformed
    /// The envelope is not what the request says of it: other API, key_id or annotations.
    case requestMismatch
    /// It does not open under this key. Why is not told, on purpose.
    case cannotOpen
    /// A plaintext of this many bytes cannot be sealed; the limit depends on API, suite and wrapped key.
    case plaintextLength(Int, allowed: ClosedRange<Int>)
    /// A wrapped local KEK of this many bytes fits neither ciphertext nor annotation.
    case wrappedKeyLength(Int, allowed: ClosedRange<Int>)
    /// The cluster context has this many bytes, more than 255.
    case contextTooLong(Int)
    /// OpenSSL could not do it.
    case crypto(CryptoFailure)
}

extension EnvelopeError: CustomStringConvertible {
    /// One line, free of secrets: what is wrong and what to do.
    public var description: String {
        switch self {
        case .notAnEnvelope:
            "the ciphertext is not in Kmsward's envelope format: if another plugin wrote it, list its format for this key"
        case .formatNotAccepted:
            "the ciphertext is an envelope of Kmsward, and accept_formats of this key does not list envelope: add it"
        case .malformed:
            "the ciphertext is damaged: it breaks the envelope format; restore the object from a backup"
        case .requestMismatch:
            "the ciphertext does not belong to this request's API, key_id and annotations:"
                + " the stored object was altered; restore it from a backup"
        case .cannotOpen:
            "the ciphertext cannot be opened under this key: it is damaged, or was written with another key"
                + " or cluster_context"
        case .plaintextLength(let count, let allowed):
            "a plaintext of \(count) bytes cannot be sealed: \(allowed.lowerBound) to \(allowed.upperBound) bytes are"
        case .wrappedKeyLength(let count, let allowed):
            "the key-management service wraps the local KEK into \(count) bytes, which fits no ciphertext"
                + " (\(allowed.lowerBound) to \(allowed.upperBound)): use another kind of key"
        case .contextTooLong(let count): "cluster_context has \(count) bytes: at most 255 are allowed"
        case .crypto(let failure): "\(failure)"
        }
    }
}
