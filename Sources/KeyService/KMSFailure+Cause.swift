internal import RemoteKMS

extension KMSFailure {
    /// What the API server is told when the backend of key `key` failed.
    init(_ error: RemoteKMSError, key: String) {
        let code: Code =
            switch error.code {
            case .deadlineExceeded: .deadlineExceeded
            case .unavailable, .throttled, .malformedReply: .unavailable
            case .unauthenticated: .unauthenticated
            case .permissionDenied: .permissionDenied
            case .keyNotFound, .keyDisabled, .misconfigured: .failedPrecondition
            case .invalidCiphertext: .invalidArgument
            }
        self.init(error, as: code, key: key)
    }

    private init(_ error: RemoteKMSError, as code: Code, key: String) {
        self.init(code, "key \(key): \(error)", key: key, trouble: error.code.rawValue)
    }

    /// What Status and Encrypt answer while key `key` does not serve: their request is not at fault, nor are they late.
    init(refusing error: RemoteKMSError, key: String) {
        switch error.code {
        case .deadlineExceeded: self.init(error, as: .unavailable, key: key)
        case .invalidCiphertext: self.init(error, as: .failedPrecondition, key: key)
        case .unavailable, .throttled, .malformedReply, .unauthenticated, .permissionDenied, .keyNotFound,
            .keyDisabled, .misconfigured:
            self.init(error, key: key)
        }
    }

    /// What the API server is told when an envelope of key `key` was not written or read.
    init(_ error: EnvelopeError, key: String) {
        switch error {
        case .notAnEnvelope, .formatNotAccepted, .malformed, .requestMismatch, .plaintextLength:
            self.init(.invalidArgument, "key \(key): \(error)", key: key)
        case .cannotOpen: self = .damaged(key: key)
        case .wrappedKeyLength, .contextTooLong:
            self.init(.failedPrecondition, "key \(key): \(error)", key: key)
        case .crypto: self.init(.internal, "key \(key): \(error)", key: key)
        }
    }

    /// The one answer to every ciphertext that names a key of ours and does not open, so that nothing can be learned
    /// from how it fails.
    static func damaged(key: String) -> KMSFailure {
        KMSFailure(.invalidArgument, "key \(key): \(EnvelopeError.cannotOpen)", key: key)
    }
}
