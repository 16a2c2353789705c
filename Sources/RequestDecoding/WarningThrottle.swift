/// Lets one warning per key and interval through and counts the others, so that a flood of equal failures cannot
/// flood the journal.
///
/// As many keys as the caller's type has values are remembered.
struct WarningThrottle<Key: Hashable & Sendable>: Sendable {
    private struct State {
        var last: ContinuousClock.Instant
        var omitted: Int
    }

    private let interval: Duration
    private var states: [Key: State] = [:]

    init(interval: Duration) { self.interval = interval }

    /// How many were left out since the last one that was let through; nil if this one is left out too.
    mutating func admit(_ key: Key, at now: ContinuousClock.Instant) -> Int? {
        guard let state = states[key] else {
            states[key] = State(last: now, omitted: 0)
            return 0
        }
        guard now - state.last < interval else {
            states[key] = State(last: now, omitted: 0)
            return state.omitted
        }
        states[key]?.omitted += 1
        return nil
    }
}

/// Tells what goes on from what happened a few times.
///
/// As many keys as the caller's type has values are remembered.
struct Recurrence<Key: Hashable & Sendable>: Sendable {
    private struct State {
        var since: ContinuousClock.Instant
        var count = 0
    }

    private let limit: Int
    private let interval: Duration
    private var states: [Key: State] = [:]

    /// Goes on what happens more than `limit` times in an `interval` that begins with its first time.
    init(limit: Int, interval: Duration) {
        self.limit = limit
        self.interval = interval
    }

    /// Counts one more time.
    mutating func goesOn(_ key: Key, at now: ContinuousClock.Instant) -> Bool {
        var state = states[key] ?? State(since: now)
        if now - state.since >= interval { state = State(since: now) }
        state.count += 1
        states[key] = state
        return state.count > limit
    }
}
