/// Lets an event through at once, and while it goes on now and then, with the number of those left out between.
///
/// What goes on for hours leaves a line at 0, 1, 5 and 21 minutes and then one an hour, whatever the rate; what was quiet for longer
/// than its last pause begins anew. At most `capacity` keys are remembered: beyond that those seen longest ago are forgotten.
public struct Repeats<Key: Hashable & Sendable>: Sendable {
    private struct State {
        var admittedAt: Duration
        var seenAt: Duration
        var pause: Duration
        var omitted = 0
    }

    /// The first pause.
    public static var shortest: Duration { .seconds(60) }
    /// The longest.
    public static var longest: Duration { .seconds(3_600) }

    private let capacity: Int
    private var states: [Key: State] = [:]

    /// Nothing has happened yet.
    public init(capacity: Int = 256) { self.capacity = capacity }

    /// How many were left out since the last that was let through; nil if this one is left out too.
    ///
    /// `now` is of any clock that does not jump.
    public mutating func admit(_ key: Key, at now: Duration) -> Int? {
        guard let state = states[key], now - state.seenAt < state.pause else {
            // New, or quiet for long enough: what was left out is told all the same.
            let omitted = states[key]?.omitted ?? 0
            makeRoom(for: key)
            states[key] = State(admittedAt: now, seenAt: now, pause: Self.shortest)
            return omitted
        }
        guard now - state.admittedAt >= state.pause else {
            states[key]?.seenAt = now
            states[key]?.omitted += 1
            return nil
        }
        states[key] = State(admittedAt: now, seenAt: now, pause: min(state.pause * 4, Self.longest))
        return state.omitted
    }

    private mutating func makeRoom(for key: Key) {
        guard states[key] == nil, states.count >= capacity,
            let oldest = states.min(by: { $0.value.seenAt < $1.value.seenAt })
        else { return }
        states[oldest.key] = nil
    }
}
