// GRPCEngine: unary gRPC over libgrpc's C-core, server and client, on one owned thread that is also a serial executor.
// It knows no KMS word. Connections come in as file descriptors; messages go out and in as bytes that are wiped.

/// gRPC status codes, as on the wire.
public enum StatusCode: Int, Sendable, CaseIterable {
    /// Success.
    case ok = 0
    /// The caller gave up.
    case cancelled = 1
    /// Not classified.
    case unknown = 2
    /// The request is wrong whatever the state of the system.
    case invalidArgument = 3
    /// Too late.
    case deadlineExceeded = 4
    /// There is no such thing.
    case notFound = 5
    /// It exists already.
    case alreadyExists = 6
    /// Known, but not allowed.
    case permissionDenied = 7
    /// Too much at once.
    case resourceExhausted = 8
    /// The system is in a state that forbids it; retrying does not help.
    case failedPrecondition = 9
    /// Aborted.
    case aborted = 10
    /// Out of range.
    case outOfRange = 11
    /// No such method.
    case unimplemented = 12
    /// A defect of the server.
    case `internal` = 13
    /// Not now; retrying may help.
    case unavailable = 14
    /// Data is gone.
    case dataLoss = 15
    /// Who is calling is not known.
    case unauthenticated = 16

    /// The name in the gRPC specification, `INVALID_ARGUMENT`.
    public var name: String {
        switch self {
        case .ok: "OK"
        case .cancelled: "CANCELLED"
        case .unknown: "UNKNOWN"
        case .invalidArgument: "INVALID_ARGUMENT"
        case .deadlineExceeded: "DEADLINE_EXCEEDED"
        case .notFound: "NOT_FOUND"
        case .alreadyExists: "ALREADY_EXISTS"
        case .permissionDenied: "PERMISSION_DENIED"
        case .resourceExhausted: "RESOURCE_EXHAUSTED"
        case .failedPrecondition: "FAILED_PRECONDITION"
        case .aborted: "ABORTED"
        case .outOfRange: "OUT_OF_RANGE"
        case .unimplemented: "UNIMPLEMENTED"
        case .internal: "INTERNAL"
        case .unavailable: "UNAVAILABLE"
        case .dataLoss: "DATA_LOSS"
        case .unauthenticated: "UNAUTHENTICATED"
        }
    }
}

/// How a call fails: a status code and one line for the caller.
public struct CallFailure: Error, Sendable, Equatable {
    /// The status code; never `.ok`.
    public let code: StatusCode
    /// One line, no secret.
    public let message: String

    /// A failure.
    public init(_ code: StatusCode, _ message: String) {
        self.code = code
        self.message = message
    }
}

/// One call as it reaches a handler.
public struct IncomingCall: ~Copyable, Sendable {
    /// Index of the method in the list the server was made with.
    public let method: Int
    /// When the caller stops waiting; nil if it set no deadline.
    public let deadline: ContinuousClock.Instant?
    /// The request message.
    public let message: MessageBytes

    init(method: Int, deadline: ContinuousClock.Instant?, message: consuming MessageBytes) {
        self.method = method
        self.deadline = deadline
        self.message = message
    }
}

/// Serves unary calls.
///
/// Runs in tasks on the engine's thread: never block; cancellation of the task means that the caller has gone
/// or its deadline has passed.
public protocol CallHandler: Sendable {
    /// Answers one call, or fails it with a status.
    func serve(_ call: consuming IncomingCall) async throws(CallFailure) -> ReplyBytes
}
