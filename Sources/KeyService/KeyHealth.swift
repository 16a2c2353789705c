internal import RemoteKMS

/// Decides whether the key that encrypts may go on: no calls, no clock, no locks.
///
/// Writing goes on through trouble for as long as it is likely that what is written can be read again: so long after
/// the last proof that the backend unwraps what we write. What the backend says of the key itself ends it at once.
struct KeyHealth {
    /// How long writing goes on without a proof.
    struct Limits {
        /// While the backend cannot be reached, or answers with a fault of its own.
        var rideThrough: Duration
        /// While it refuses us, or the set-up is wrong.
        var authGrace: Duration
    }

    /// What one observation met; nil means that it went well.
    struct Finding {
        /// Reading identity and version.
        var look: RemoteKMSError?
        /// Unwrapping the local KEK that encrypts.
        var proof: RemoteKMSError?
        /// Making a new local KEK, refusing a version and the like: told, but what encrypts goes on.
        var rotation: RemoteKMSError?

        /// The trouble that is told.
        var trouble: RemoteKMSError? { look ?? proof ?? rotation }
    }

    private let limits: Limits
    private var lastProof = Duration.zero
    private var isMisconfiguredSince: Duration?
    /// Why nothing is written any more; nil while it is.
    private(set) var stopped: RemoteKMSError?
    /// The trouble that was met last, the one that ends writing first.
    private(set) var trouble: RemoteKMSError?
    /// How long writing goes on if the trouble lasts, as of the last observation; nil if it has no limit.
    private(set) var writesStopIn: Duration?

    init(_ limits: Limits) { self.limits = limits }

    /// A local KEK was taken up at `now`, after its unwrap was proven.
    mutating func activated(at now: Duration) { observed(Finding(), at: now) }

    /// An observation of a key with a local KEK ended.
    mutating func observed(_ finding: Finding, at now: Duration) {
        if finding.proof == nil { lastProof = now }
        // The file of provider `local` unwraps from memory for ever, and a restart would lose what is written:
        // so here the trouble itself is timed.
        isMisconfiguredSince = finding.look?.code == .misconfigured ? isMisconfiguredSince ?? now : nil

        var bounds: [(error: RemoteKMSError, left: Duration)] = []
        for case let error? in [finding.look, finding.proof, finding.rotation]
        where error.code == .keyDisabled {
            bounds.append((error, .zero))
        }
        if let proof = finding.proof { bounds.append((proof, limit(of: proof.code) - (now - lastProof))) }
        if let look = finding.look, let since = isMisconfiguredSince {
            bounds.append((look, limits.authGrace - (now - since)))
        }
        let nearest = bounds.min { $0.left < $1.left }
        if let nearest, nearest.left <= .zero {
            stopped = nearest.error
        } else if finding.proof == nil {
            // Once stopped, only a proof lets it go on: not a change from one trouble to a milder one.
            stopped = nil
        }
        trouble = stopped ?? nearest?.error ?? finding.trouble
        writesStopIn = stopped == nil ? nearest?.left : .zero
    }

    /// How long writing goes on after the last proof, while proofs fail with `code`.
    private func limit(of code: RemoteKMSError.Code) -> Duration {
        switch code {
        case .deadlineExceeded, .unavailable, .throttled, .malformedReply: limits.rideThrough
        case .unauthenticated, .permissionDenied, .misconfigured: limits.authGrace
        // Said of the key itself, or of what new ciphertexts would carry: they could not be read again.
        case .keyDisabled, .keyNotFound, .invalidCiphertext: .zero
        }
    }
}
