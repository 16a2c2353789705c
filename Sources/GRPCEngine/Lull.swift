/// When the engine's thread looks for its next event without going to sleep: the rules, without a queue or time.
///
/// An API server that reads many objects sends its next call some ten microseconds after an answer. Sleep and wake-up cost
/// about as much, in latency and in processor time, so a short look instead costs nothing. After a look in vain
/// it sleeps; and the next looks come ever more rarely, until one succeeds.
struct Lull {
    /// Nanoseconds of one look, at most.
    static let longestLook: Int64 = 50_000
    /// Nanoseconds of sleep, its wake-up included, after which the next event might have been seen by a look.
    static let short: Int64 = 80_000
    /// Lulls slept through after so many looks in vain in a row: 2 to that power, at most this one.
    static let longestRest = 6

    /// Whether to look before the next sleep.
    private(set) var isWorthLooking = false

    private let isAllowed: Bool
    private var inVain = 0
    private var rest = 0

    /// With one processor a look would only keep the peer from running.
    init(processors: Int) { isAllowed = processors > 1 }

    /// A look saw an event, or none.
    mutating func looked(isSeen: Bool) {
        guard !isSeen else {
            inVain = 0
            return
        }
        isWorthLooking = false
        inVain = min(inVain + 1, Self.longestRest)
        rest = 1 << inVain
    }

    /// The thread has slept so many nanoseconds before its event came.
    mutating func slept(_ nanoseconds: Int64) {
        guard rest == 0 else {
            rest -= 1
            return
        }
        isWorthLooking = isAllowed && nanoseconds < Self.short
    }
}
