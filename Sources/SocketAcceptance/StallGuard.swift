/// Finds out which peer costs the others their service: the rules, without sockets or time.
///
/// Two ways to do that. A peer that never reads its replies: they pile up. And one that keeps the engine's thread inside
/// its read loop:
/// libgrpc 1.51 stays in the read loop of a flooding connection and serves nobody else. While a connection has much
/// unread, each tick asks the engine for a sign of life; if the engine's thread works on and on without giving it, the
/// process with most unread bytes is cut, and if that was not it, the next one.
///
/// Speed matters here: what libgrpc takes in before the cut it lets go of afterwards, which takes it longer still, and only
/// then are the others served.
struct StallGuard {
    enum Action: Equatable { case none, postProbe, cutWorst }

    /// Processor time that the engine's thread may spend without an answer.
    ///
    /// Not time on the clock: an engine that is kept waiting by a busy machine or a long sleep spends none, and is no
    /// reason to blame a peer.
    static let patience = Duration.milliseconds(30)
    /// The same after a cut: the engine lets go of what it held for that peer, and nobody else is to blame for it.
    static let patienceAfterCut = Duration.milliseconds(300)
    /// A connection with fewer unread bytes is not what keeps the engine busy.
    static let suspiciousBytes = 16 * 1024

    /// Bytes of replies left unread, with the kernel's overhead, that make a backlog.
    ///
    /// More than a well-behaved client has under way (HTTP/2's first window is 64 KiB), less than a socket's buffer
    /// (208 KiB): what does not fit into that piles up in libgrpc, without bound.
    static let longBacklog = 64 * 1024
    /// Ticks in a row with such a backlog before the connection may be cut.
    static let backlogPatience = 6
    /// Bytes by which the process must have grown besides: a client with a thousand calls in flight, or one that a busy machine
    /// does not schedule, has long backlogs too, and does no harm.
    static let harmfulGrowth = 64 << 20

    private let interval: Duration
    private var posted: (answered: UInt64, busy: Duration)?
    private(set) var isStalled = false
    private var backlogs: [Admission.ID: Int] = [:]

    init(interval: Duration) { self.interval = interval }

    /// Forgets what it saw: there are no connections, so no ticks.
    mutating func rest() {
        posted = nil
        isStalled = false
        backlogs.removeAll()
    }

    /// The connections that have left much unread for long; `unsent` has the bytes of each.
    mutating func neverRead(unsent: [Admission.ID: Int], elapsed: Duration) -> [Admission.ID] {
        let step = elapsed < interval * 3 ? 1 : 0
        backlogs = unsent.filter { $0.value > Self.longBacklog }.mapValues { _ in step }
            .merging(backlogs) { now, before in before + now }
            .filter { (unsent[$0.key] ?? 0) > Self.longBacklog }
        return backlogs.filter { $0.value >= Self.backlogPatience }.map(\.key).sorted()
    }

    /// One tick; `answered` and `busy` are the engine's by now, `isSuspicious` says whether any connection looks guilty.
    mutating func tick(answered: UInt64, busy: Duration, isSuspicious: Bool) -> Action {
        guard let last = posted, last.answered == answered else {
            posted = isSuspicious ? (answered, busy) : nil
            isStalled = false
            return isSuspicious ? .postProbe : .none
        }
        guard busy - last.busy >= (isStalled ? Self.patienceAfterCut : Self.patience) else { return .none }
        posted = (answered, busy)
        isStalled = true
        return .cutWorst
    }
}
