/// Decides from what is seen of a key whether it may be used: no calls, no clock, no locks.
///
/// Writing goes on through trouble for as long as it is likely that what is written can be read again: so long after
/// the last proof. What the service says of the key itself ends it at once.
public struct KeyHealth: Sendable {
    /// How long writing goes on without a proof.
    public struct Limits: Sendable, Equatable {
        /// While the service cannot be reached, or answers with a fault of its own.
        public var rideThrough: Duration
        /// While it refuses us, or the set-up is wrong.
        public var authGrace: Duration
        /// While it knows no such key: where the key lives in a file of this host, that is its last word.
        public var missingKeyGrace: Duration
        /// After how long without a proof what was unwrapped is wiped.
        public var forgetAfter: Duration
        /// Whether what was unwrapped is wiped at once when writing has stopped since the service refuses us.
        public var forgetsWhenForbidden: Bool

        /// Limits for a key that lives in `storage`; what was unwrapped is kept for a day, or longer if writing may go on
        /// longer: what is written must be readable.
        public init(
            rideThrough: Duration, authGrace: Duration, storage: KeyStorage = .service,
            forgetsWhenForbidden: Bool = false
        ) {
            self.rideThrough = rideThrough
            self.forgetsWhenForbidden = forgetsWhenForbidden
            forgetAfter = max(.seconds(86_400), rideThrough, authGrace)
            self.authGrace = authGrace
            missingKeyGrace =
                switch storage {
                case .service: authGrace
                case .file: .zero
                }
        }
    }

    /// What one observation met; nil means that it went well, or was proven by requests meanwhile.
    public struct Finding: Sendable {
        /// Reading identity and version.
        public var look: RemoteKMSError?
        /// Wrapping something.
        public var encryption: RemoteKMSError?
        /// Unwrapping what is to be read again.
        public var proof: RemoteKMSError?
        /// Making a new local KEK, refusing a version and the like: told, but what encrypts goes on.
        public var rotation: RemoteKMSError?

        /// A finding; everything went well unless said.
        public init(
            look: RemoteKMSError? = nil, encryption: RemoteKMSError? = nil, proof: RemoteKMSError? = nil,
            rotation: RemoteKMSError? = nil
        ) {
            self.look = look
            self.encryption = encryption
            self.proof = proof
            self.rotation = rotation
        }

        /// Whether everything went well.
        public var isClean: Bool { trouble == nil }

        /// The trouble that is told.
        var trouble: RemoteKMSError? { look ?? encryption ?? proof ?? rotation }

        /// What the service says of the key itself, if it says that it may not be used.
        var denial: RemoteKMSError? {
            for case let error? in [look, encryption, proof, rotation] where error.code == .keyDisabled {
                return error
            }
            return nil
        }
    }

    private var limits: Limits
    private var lastEncryption = Duration.zero
    private var lastProof = Duration.zero
    private var isMisconfiguredSince: Duration?
    private var isDeniedSince: Duration?
    private var isRefusedSince: Duration?
    /// Why nothing is written any more; nil while it is.
    public private(set) var stopped: RemoteKMSError?
    /// Whether the service said so of the key or of its ciphertexts: no other limit undoes that, only a proof.
    private var isStoppedForGood = false
    private var last: (finding: Finding, at: Duration)?
    /// Whether the service did not wrap when it was last observed; what is sealed here goes on all the same.
    public var isRefusingToWrap: Bool { last?.finding.encryption != nil }
    /// The trouble that was met last, the one that ends writing first.
    public private(set) var trouble: RemoteKMSError?
    /// How long writing goes on if the trouble lasts, as of the last observation; nil if it has no limit.
    public private(set) var writesStopIn: Duration?
    /// Whether what was unwrapped with this key must be wiped: the service has said twice that the key may not be used, or has
    /// not been seen to decrypt for as long as that may be ridden out.
    public private(set) var mustForget = false

    /// How far apart the service must say twice that the key is disabled, to be believed for good.
    private static let denialConfirmedAfter = Duration.seconds(30)

    init(_ limits: Limits) { self.limits = limits }

    /// Other limits hold from now on; a key that has stopped because its time was over goes on if, by them, it would not have
    /// been over at the last observation.
    mutating func setLimits(_ limits: Limits) {
        self.limits = limits
        guard stopped != nil, !isStoppedForGood, let last else { return }
        guard let nearest = nearest(last.finding, at: last.at), nearest.left > .zero else { return }
        stopped = nil
        trouble = nearest.error
        writesStopIn = nearest.left
    }

    /// A local KEK was taken up at `now`, after its unwrap was proven.
    mutating func activated(at now: Duration) { observed(Finding(), at: now) }

    /// An observation ended.
    mutating func observed(_ finding: Finding, at now: Duration) {
        if finding.encryption == nil { lastEncryption = now }
        if finding.proof == nil { lastProof = now }
        // The file of provider `local` unwraps from memory for ever, and a restart would lose what is written:
        // so here the trouble itself is timed.
        isMisconfiguredSince = finding.look?.code == .misconfigured ? isMisconfiguredSince ?? now : nil
        // Said once, it stands until the key is seen to serve: another trouble in between takes nothing back.
        if finding.denial != nil {
            isDeniedSince = isDeniedSince ?? now
        } else if finding.look == nil && finding.encryption == nil && finding.proof == nil {
            isDeniedSince = nil
        }

        if finding.encryption == nil && finding.proof == nil {
            isRefusedSince = nil
        } else if finding.encryption?.code.isRefusal == true || finding.proof?.code.isRefusal == true {
            isRefusedSince = isRefusedSince ?? now
        }

        last = (finding, now)
        let nearest = nearest(finding, at: now)
        if let nearest, nearest.left <= .zero {
            stopped = nearest.error
            isStoppedForGood =
                isStoppedForGood || finding.denial != nil
                || [finding.encryption, finding.proof].contains { $0?.code == .invalidCiphertext }
        } else if finding.proof == nil && finding.encryption == nil {
            // Once stopped, only proofs let it go on: not a change from one trouble to a milder one.
            stopped = nil
            isStoppedForGood = false
        }
        trouble = stopped ?? nearest?.error ?? finding.trouble
        writesStopIn = stopped == nil ? nearest?.left : .zero
        let isDenialConfirmed =
            finding.denial != nil && isDeniedSince.map { now - $0 >= Self.denialConfirmedAfter } == true
        let isForbidden =
            // Not if it is Encrypt alone that is forbidden: what may be unwrapped anew is not worth wiping.
            limits.forgetsWhenForbidden && stopped?.code.isForbidding == true
            && finding.proof?.code.isForbidding == true
        mustForget =
            isDenialConfirmed || isForbidden
            || finding.proof != nil && now - lastProof >= limits.forgetAfter
    }

    /// What ends writing first if `finding`, made at `now`, lasts, and how long it leaves.
    private func nearest(
        _ finding: Finding, at now: Duration
    ) -> (error: RemoteKMSError, left: Duration)? {
        var bounds: [(error: RemoteKMSError, left: Duration)] = []
        if let denial = finding.denial { bounds.append((denial, .zero)) }
        if let proof = finding.proof {
            bounds.append((proof, left(after: proof.code, since: lastProof, at: now)))
        }
        if let encryption = finding.encryption {
            bounds.append((encryption, left(after: encryption.code, since: lastEncryption, at: now)))
        }
        if let look = finding.look, let since = isMisconfiguredSince {
            bounds.append((look, limits.authGrace - (now - since)))
        }
        return bounds.min { $0.left < $1.left }
    }

    /// How long writing goes on from `now` while proofs fail with `code`.
    ///
    /// A refusal has its own time from when it began: an outage before it, ridden through, must not use that up.
    private func left(
        after code: RemoteKMSError.Code, since proof: Duration, at now: Duration
    ) -> Duration {
        let unproven = now - proof
        switch code {
        case .deadlineExceeded, .unavailable, .throttled, .malformedReply:
            return limits.rideThrough - unproven
        case .unauthenticated, .permissionDenied, .misconfigured, .keyNotFound:
            let grace = code == .keyNotFound ? limits.missingKeyGrace : limits.authGrace
            guard grace > .zero else { return .zero }
            return min(
                max(limits.rideThrough, grace) - unproven, grace - (now - (isRefusedSince ?? now)))
        // Said of the key itself, or of what new ciphertexts would carry: they could not be read again.
        case .keyDisabled, .invalidCiphertext: return .zero
        }
    }
}

extension RemoteKMSError.Code {
    /// Whether the service is there and will not serve us.
    fileprivate var isRefusal: Bool {
        switch self {
        case .unauthenticated, .permissionDenied, .misconfigured, .keyNotFound: true
        case .deadlineExceeded, .unavailable, .throttled, .malformedReply, .keyDisabled, .invalidCiphertext:
            false
        }
    }

    /// Whether it is the service's own word that we may not use the key, and no mistake of a set-up.
    public var isForbidding: Bool { [.unauthenticated, .permissionDenied, .keyNotFound].contains(self) }
}
