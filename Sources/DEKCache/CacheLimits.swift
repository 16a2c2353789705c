/// How much a cache keeps and how long; the defaults are the documented ones.
public struct CacheLimits: Sendable, Equatable {
    /// Entries at most; 0 keeps nothing, and every request loads.
    public var capacity = 10_000
    /// From this age on, a hit has the entry loaded anew beside it.
    public var reloadAfter = Duration.seconds(3_600)
    /// How long after a failed reload the next one is tried.
    public var reloadPause = Duration.seconds(60)
    /// Reloads under way at once: entries that came together grow old together, and requests go first.
    public var maximumReloads = 8
    /// How long after the last proof that a scope's key decrypts its entries are used; per scope by `open`.
    public var rideThrough = Duration.seconds(86_400)
    /// What a load is given to end in, whatever its callers have left.
    public var loadBudget = Duration.seconds(10)
    /// How long a failure that is the ciphertext's own fault is remembered.
    public var rememberFailures = Duration.seconds(60)
    /// How many of these at most.
    public var maximumFailures = 256

    /// The defaults.
    public init() {}
}
