// KeyService: Version, Status, Encrypt and Decrypt of both APIs in plain Swift: the key ring, key_id, and the
// ciphertext format. No C module, no socket.

public import KMSWire
public import RemoteKMS

/// Answers the KMS API.
///
/// `KeyService` is the implementation; tests of the rooms above bring their own.
public protocol KMSServing: Sendable {
    /// Answers one validated request, at the latest at `deadline`.
    ///
    /// `keyID` is for the log: it becomes the key_id that an Encrypt or a Decrypt goes by, once one of ours was found to
    /// answer for it, whether the request then succeeds or fails.
    func perform(
        _ request: consuming KMSRequest, deadline: Deadline, keyID: inout String
    ) async throws(KMSFailure) -> KMSReply
}

/// Why a KMS request was not answered: a code that maps one to one to a gRPC status, and one line.
public struct KMSFailure: Error, Sendable, Equatable {
    /// What kind of failure; the cases are the gRPC status codes the plugin uses.
    public enum Code: String, Sendable, CaseIterable {
        /// The request itself is wrong: malformed, foreign or damaged ciphertext.
        case invalidArgument
        /// The key is disabled, or the plugin's set-up forbids it.
        case failedPrecondition
        /// The backend does not answer; retrying may help.
        case unavailable
        /// The backend refuses our credentials for this key.
        case permissionDenied
        /// The backend does not know our credentials.
        case unauthenticated
        /// Too much at once.
        case resourceExhausted
        /// No answer in time.
        case deadlineExceeded
        /// The caller gave up.
        case cancelled
        /// A defect of the plugin.
        case `internal`
    }

    /// The kind of failure.
    public let code: Code
    /// One line, free of secrets: what failed, for which key, why, what to do.
    public let message: String
    /// Name of the key concerned; empty if it is none's failure.
    public let key: String
    /// The code of the trouble of that key's backend; empty if it had none.
    public let trouble: String

    /// A failure.
    public init(_ code: Code, _ message: String, key: String = "", trouble: String = "") {
        self.code = code
        self.message = message
        self.key = key
        self.trouble = trouble
    }
}
