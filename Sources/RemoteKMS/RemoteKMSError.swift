/// Why a key-management service did not do what was asked: one code per failure class, and one line for the operator.
public struct RemoteKMSError: Error, Equatable {
    /// The failure class.
    ///
    /// Each says what the plugin does about it.
    public enum Code: String, Sendable, CaseIterable {
        /// No answer in time.
        case deadlineExceeded
        /// Cannot be reached, or answered with a fault of its own.
        case unavailable
        /// Asked to slow down.
        case throttled
        /// The credentials are missing, wrong or expired.
        case unauthenticated
        /// The credentials are good but not for this key.
        case permissionDenied
        /// There is no such key.
        case keyNotFound
        /// The KMS says of the key itself that it is disabled, pending deletion or destroyed.
        case keyDisabled
        /// The wrapped bytes are not ours, or damaged.
        case invalidCiphertext
        /// The KMS answered something that this plugin does not understand.
        case malformedReply
        /// The plugin's own set-up is wrong: a missing file, an unusable value.
        case misconfigured
    }

    /// The failure class.
    public let code: Code
    /// One line: what failed, for which key, why; the same words as long as it fails for the same reason.
    ///
    /// No secret, no token, no URL with a query.
    public let summary: String
    /// One line: what to do about it; empty where there is nothing to do but wait.
    public let remedy: String
    /// What tells this failure from the next of its kind: the service's name of the call, a time.
    public let reference: String?
    /// How long the service asks to be left alone (`throttled`, `unavailable`), where it says so.
    public let retryAfter: Duration?

    /// An error.
    public init(
        _ code: Code, _ summary: String, remedy: String = "", reference: String? = nil,
        retryAfter: Duration? = nil
    ) {
        self.code = code
        self.summary = summary
        self.remedy = remedy
        self.reference = reference
        self.retryAfter = retryAfter
    }
}

extension RemoteKMSError.Code {
    /// Whether the same call may well succeed a moment later.
    var isTransient: Bool {
        switch self {
        case .deadlineExceeded, .unavailable, .throttled, .malformedReply: true
        case .unauthenticated, .permissionDenied, .keyNotFound, .keyDisabled, .invalidCiphertext,
            .misconfigured:
            false
        }
    }
}

extension RemoteKMSError {
    /// `summary (reference)`, on one line.
    public var message: String { reference.map { "\(summary) (\($0))" } ?? summary }

    /// Whether both fail for the same reason, so that whoever was told of one need not be told of the other.
    public func isSameTrouble(as other: RemoteKMSError) -> Bool {
        // A backend that is left alone is told of in the words of what it failed with.
        (code == other.code || code.isTransient && other.code.isTransient)
            && summary == other.summary && remedy == other.remedy
    }
}

extension RemoteKMSError: CustomStringConvertible {
    /// `summary (reference): remedy`, on one line.
    public var description: String { remedy.isEmpty ? message : "\(message): \(remedy)" }
}
