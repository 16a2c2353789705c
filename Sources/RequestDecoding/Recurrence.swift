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
