internal import Events
internal import GRPCEngine
internal import KMSWire
internal import KeyService

extension StatusCode {
    /// The gRPC status of a failure of the key service.
    init(_ code: KMSFailure.Code) {
        self =
            switch code {
            case .invalidArgument: .invalidArgument
            case .failedPrecondition: .failedPrecondition
            case .unavailable: .unavailable
            case .permissionDenied: .permissionDenied
            case .unauthenticated: .unauthenticated
            case .resourceExhausted: .resourceExhausted
            case .deadlineExceeded: .deadlineExceeded
            case .cancelled: .cancelled
            case .internal: .internal
            }
    }
}

extension Event {
    /// A call that failed with this status.
    init(_ code: StatusCode) {
        self =
            switch code {
            case .invalidArgument: .callInvalid
            case .unavailable: .callUnavailable
            case .deadlineExceeded: .callTimedOut
            case .unauthenticated: .callUnauthenticated
            case .permissionDenied: .callDenied
            case .failedPrecondition: .callKeyUnusable
            case .resourceExhausted: .callRefusedBusy
            // No call of ours fails with the others.
            case .ok, .cancelled, .unknown, .notFound, .alreadyExists, .aborted, .outOfRange, .unimplemented,
                .internal, .dataLoss:
                .callDefect
            }
    }
}

extension CallFailure {
    init(_ failure: KMSFailure) { self.init(StatusCode(failure.code), failure.message) }

    /// A request that breaks the API.
    init(refused error: WireError) { self.init(.invalidArgument, error.description) }

    /// A reply that breaks the API.
    init(unsendable error: WireError) {
        self.init(.internal, "the plugin's own reply breaks the KMS API: \(error)")
    }
}

extension KMSAPI {
    /// As in metrics and logs.
    var name: String {
        switch self {
        case .v1beta1: "v1beta1"
        case .v2: "v2"
        }
    }
}

extension KMSMethod {
    /// As in metrics and logs.
    var name: String {
        switch self {
        case .v1Version: "version"
        case .v2Status: "status"
        case .v1Encrypt, .v2Encrypt: "encrypt"
        case .v1Decrypt, .v2Decrypt: "decrypt"
        }
    }
}
