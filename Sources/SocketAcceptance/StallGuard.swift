/// Finds out which peer costs the others their service: the rules, without sockets or time.
///
/// Two ways to do that. A peer that never reads its replies: they pile up. And one that keeps the engine's thread inside
/// its read loop:
/// libgrpc 1.51 stays in the read loop of a flooding connection and serves nobody else. Each tick asks the engine for a
/// sign of life; when several ticks in a row had none, the connection with most unread bytes is cut, one per tick.
struct StallGuard {
    enum Action: Equatable { case none, postProbe, cutLargest }

    /// Ticks without an answer before the first cut: 3 of 100 ms.
    static let patience = 3
    /// A connection with fewer unread bytes is not what keeps the engine busy.
    static let suspiciousBytes = 16 * 1024

    /// Bytes of replies left unread, with the kernel's overhead, that make a backlog.
    ///
    /// More than a well-behaved client has under way (HTTP/2's first window is 64 KiB), less than a socket's buffer
    /// (208 KiB): what does not fit into that piles up in libgrpc, without bound.
    static let longBacklog = 64 * 1024
    /// Ticks in a row with such a backlog before the connection is cut.
    ///
    /// A client that was merely not scheduled reads within 300 ms.
    static let backlogPatience = 3

    private let interval: Duration
    private var answeredWhenPosted: UInt64?
    private var missed = 0
    private var backlogs: [Admission.ID: Int] = [:]

    init(interval: Duration) { self.interval = interval }

    var isStalled: Bool { missed >= Self.patience }

    /// Forgets what it saw: there are no connections, so no ticks.
    mutating func rest() {
        answeredWhenPosted = nil
        missed = 0
        backlogs.removeAll()
    }

    /// The connections that have left too much unread for too long; `unsent` has the bytes of each.
    mutating func neverRead(unsent: [Admission.ID: Int], elapsed: Duration) -> [Admission.ID] {
        let step = elapsed < interval * 3 ? 1 : 0
        backlogs = unsent.filter { $0.value > Self.longBacklog }.mapValues { _ in step }
            .merging(backlogs) { now, before in before + now }
            .filter { (unsent[$0.key] ?? 0) > Self.longBacklog }
        return backlogs.filter { $0.value >= Self.backlogPatience }.map(\.key).sorted()
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
