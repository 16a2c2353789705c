internal import CoreMetrics
public import DEKCache
public import EnvelopeCrypto
public import RemoteKMS

/// One configured key.
public struct KeySettings: Sendable {
    /// The operator's name for it; in logs, metrics and errors.
    public var name: String
    /// Where it lives.
    public var provider: any Provider
    /// What it seals with; what it opens is said by each ciphertext.
    public var suite: Suite
    /// What it writes.
    public var writeFormat: CiphertextFormat
    /// What it reads; the format is told by the bytes, never by trying.
    public var acceptFormats: Set<CiphertextFormat>
    /// Part of key_id that only the shared configuration sets: raised to let a former key version come back.
    public var epoch: UInt32
    /// F parts of other identities whose ciphertexts are this key's, 22 characters each.
    public var acceptIdentities: [String]
    /// Whole key_ids written by other plugins whose ciphertexts are this key's.
    public var adoptKeyIDs: [String]
    /// Age at which a new local KEK is made.
    public var localKEKMaximumAge: Duration
    /// Number of sealed messages after which a new local KEK is made; checked at each observation.
    public var localKEKMaximumUses: UInt64
    /// How long Encrypt and Status go on after the last proof that the key decrypts, while its backend does not answer; by
    /// default as befits the format that is written.
    public var rideThrough: Duration
    /// The same while the backend refuses us, or the set-up is wrong.
    public var authGrace: Duration
    /// Whether what was unwrapped is wiped when that time is over and the backend still refuses us.
    public var forgetsWhenForbidden: Bool
    /// How its backend is called; by default as befits where the key lives.
    public var limits: RemoteKMSClient.Limits
    /// Slows its calls down; shared with the other keys behind the same endpoint and credential; nil where nothing throttles.
    public var limiter: ThrottleLimiter?
    /// What one call to its backend costs; only told.
    public var callPrice: Double?

    /// A key.
    public init(
        name: String, provider: any Provider, suite: Suite,
        writeFormat: CiphertextFormat = .envelope, acceptFormats: Set<CiphertextFormat>? = nil,
        epoch: UInt32 = 0,
        acceptIdentities: [String] = [],
        adoptKeyIDs: [String] = [], localKEKMaximumAge: Duration = .seconds(30 * 86_400),
        localKEKMaximumUses: UInt64 = 1 << 32, rideThrough: Duration? = nil,
        authGrace: Duration = .seconds(15 * 60), forgetsWhenForbidden: Bool = false,
        limits: RemoteKMSClient.Limits? = nil, limiter: ThrottleLimiter? = nil, callPrice: Double? = nil
    ) {
        self.name = name
        self.provider = provider
        self.suite = suite
        self.epoch = epoch
        self.acceptIdentities = acceptIdentities
        self.adoptKeyIDs = adoptKeyIDs
        self.localKEKMaximumAge = localKEKMaximumAge
        self.localKEKMaximumUses = localKEKMaximumUses
        self.writeFormat = writeFormat
        self.acceptFormats = acceptFormats ?? [writeFormat]
        self.rideThrough = rideThrough ?? Self.usualRideThrough(writeFormat)
        self.authGrace = authGrace
        self.forgetsWhenForbidden = forgetsWhenForbidden
        self.limits = limits ?? (provider.storage == .file ? .local : .init())
        self.limiter = limiter
        self.callPrice = callPrice
    }
}

extension KeySettings {
    /// With envelopes everything goes on in an outage; with `compatible` no write does, which API servers should soon see.
    public static func usualRideThrough(_ format: CiphertextFormat) -> Duration {
        switch format {
        case .envelope: .seconds(86_400)
        case .compatible: .seconds(120)
        }
    }
}

extension KeySettings {
    /// Whether both make the same key, reached on the same way: nothing need be made anew.
    func isSame(as other: KeySettings) -> Bool {
        isSameWriter(as: other) && acceptFormats == other.acceptFormats
            && acceptIdentities == other.acceptIdentities && adoptKeyIDs == other.adoptKeyIDs
            && localKEKMaximumAge == other.localKEKMaximumAge
            && localKEKMaximumUses == other.localKEKMaximumUses && rideThrough == other.rideThrough
            && authGrace == other.authGrace && forgetsWhenForbidden == other.forgetsWhenForbidden
            && callPrice == other.callPrice
    }

    /// Whether both write the same by the same calls: all else may change without a proof, in an outage too.
    func isSameWriter(as other: KeySettings) -> Bool {
        isSameClient(as: other) && suite == other.suite && writeFormat == other.writeFormat
            && epoch == other.epoch
    }

    /// Whether one client can make the calls of both.
    func isSameClient(as other: KeySettings) -> Bool {
        name == other.name && provider === other.provider && limits == other.limits
            && limiter === other.limiter
    }

    /// How long it goes on without a proof.
    var bounds: KeyHealth.Limits {
        KeyHealth.Limits(
            rideThrough: rideThrough, authGrace: authGrace, storage: provider.storage,
            forgetsWhenForbidden: forgetsWhenForbidden)
    }

    func client(_ metrics: any MetricsFactory) -> RemoteKMSClient {
        RemoteKMSClient(provider, key: name, limits: limits, limiter: limiter, metrics: metrics)
    }
}

/// The configured keys and how they are watched.
public struct KeyRingSettings: Sendable {
    /// At least one; the first encrypts, all decrypt.
    public var keys: [KeySettings]
    /// Up to 255 bytes that tell clusters apart; bound into key_id and ciphertext, the same on every replica.
    public var clusterContext: String
    /// Where `keyring.json` lies; nil keeps the history in memory.
    public var stateDirectory: String?
    /// How often each key is observed.
    public var observeEvery: Duration
    /// How long a new version must have been seen before it encrypts.
    public var settle: Duration
    /// The bounds of the cache of unwrapped keys.
    public var cache: CacheLimits

    /// Settings.
    public init(
        keys: [KeySettings], clusterContext: String = "", stateDirectory: String? = nil,
        observeEvery: Duration = .seconds(30), settle: Duration = .seconds(90),
        cache: CacheLimits = CacheLimits()
    ) {
        self.keys = keys
        self.clusterContext = clusterContext
        self.stateDirectory = stateDirectory
        self.observeEvery = observeEvery
        self.settle = settle
        self.cache = cache
    }
}
