/// Finds out that one peer keeps the engine's thread inside its read loop: the rules, without sockets or time.
///
/// libgrpc 1.51 stays in the read loop of a flooding connection and serves nobody else. Each tick asks the engine for a
/// sign of life; when several ticks in a row had none, the connection with most unread bytes is cut, one per tick.
struct StallGuard {
    enum Action: Equatable { case none, postProbe, cutLargest }

    /// Ticks without an answer before the first cut: 3 of 100 ms.
    static let patience = 3
    /// A connection with fewer unread bytes is not what keeps the engine busy.
    static let suspiciousBytes = 16 * 1024

    private let interval: Duration
    private var answeredWhenPosted: UInt64?
    private var missed = 0

    init(interval: Duration) { self.interval = interval }

    var isStalled: Bool { missed >= Self.patience }

    /// Forgets what it saw: there are no connections, so no ticks.
    mutating func rest() {
        answeredWhenPosted = nil
        missed = 0
    }

    /// One tick, `elapsed` after the one before.
    ///
    /// A tick that comes far too late was not missed by the engine alone: the machine stood still, so it does
    /// not count.
    mutating func tick(answered: UInt64, elapsed: Duration) -> Action {
        guard let posted = answeredWhenPosted else {
            answeredWhenPosted = answered
            return .postProbe
        }
        if answered != posted {
            answeredWhenPosted = answered
            missed = 0
            return .postProbe
        }
        if elapsed < interval * 3 { missed += 1 }
        return isStalled ? .cutLargest : .none
    }
}
