/// Why an entry is gone.
public enum EvictionReason: String, Sendable, CaseIterable {
    /// Another one needed its place.
    case capacity
    /// Its key was not proven to decrypt for too long.
    case expired
    /// The key-management service said that the key is disabled or destroyed.
    case denied
    /// Its key is no longer configured.
    case removed
    /// A newer value of the same key came.
    case replaced
    /// The cache was turned off.
    case off
    /// The daemon ends.
    case shutdown
}

/// How a request ended, as far as the cache is concerned.
public enum LookupResult: String, Sendable, CaseIterable {
    /// The value was there.
    case hit
    /// A load was made.
    case miss
    /// A load under way was joined.
    case coalesced
    /// A remembered failure was given.
    case negative
}

/// What a cache did and holds.
public struct CacheCounts: Sendable, Equatable {
    /// Requests by result, since the start.
    public var hits = 0
    /// Requests that made a load.
    public var misses = 0
    /// Requests that joined a load under way.
    public var coalesced = 0
    /// Requests that got a remembered failure.
    public var negativeHits = 0
    /// Reloads beside a hit, since the start.
    public var reloads = 0
    /// Reloads that failed: the entry stayed.
    public var failedReloads = 0
    /// Entries gone since the start, by reason.
    public var evictions: [EvictionReason: Int] = [:]

    /// Loads under way, those that nobody waits for any more included.
    public var loadsInFlight = 0
    /// Requests that wait for a load.
    public var waiting = 0
    /// Entries held.
    public var entries = 0
    /// Failures remembered.
    public var failures = 0
    /// Bytes of secrets held.
    public var secretBytes = 0
    /// Bytes of tables, about, without the values.
    public var tableBytes = 0

    /// Nothing yet.
    public init() {}

    mutating func count(_ result: LookupResult) {
        switch result {
        case .hit: hits += 1
        case .miss: misses += 1
        case .coalesced: coalesced += 1
        case .negative: negativeHits += 1
        }
    }

    /// Requests with that result.
    public func requests(_ result: LookupResult) -> Int {
        switch result {
        case .hit: hits
        case .miss: misses
        case .coalesced: coalesced
        case .negative: negativeHits
        }
    }
}
