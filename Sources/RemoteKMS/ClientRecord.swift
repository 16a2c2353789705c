internal import CoreMetrics
private import Observability
private import Synchronization

/// What a client's calls and decisions leave behind: counters and durations, made once.
///
/// Gauges tell of the key that serves, so they wait until the client is its.
final class ClientRecord: Sendable {
    /// What is called.
    enum Operation: String, CaseIterable { case describe, wrap, unwrap }

    /// Which try of a call it is.
    enum Kind: String, CaseIterable { case first, beside, again }

    /// What was decided about a call.
    enum Decision: String, CaseIterable {
        case triedBeside = "tried_beside"
        case besideWon = "beside_won"
        case triedAgain = "tried_again"
        case recovered = "credentials_renewed"
        case refusedByBreaker = "refused_by_breaker"
        case openedBreaker = "opened_breaker"
        case refusedByRate = "refused_by_rate"
        case refusedByQueue = "refused_by_queue"
        case outlivedCaller = "outlived_caller"
        case endedWithCaller = "ended_with_caller"
    }

    private let key: String
    private let factory: any MetricsFactory
    private let timers: [Operation: CoreMetrics.Timer]
    private let decisions: [Decision: Counter]
    private let queue: CoreMetrics.Timer
    private let state = Mutex(State())

    private struct State {
        var waiting = 0
        var isBreakerOpen = false
        /// Whether what changes is told; it was once if there are gauges.
        var isTelling = false
        var waitingGauge: Gauge?
        var breakerGauge: Gauge?
        var billedCounter: Counter?
        var billed: UInt64 = 0

        func tell() {
            guard isTelling else { return }
            waitingGauge?.record(Double(waiting))
            breakerGauge?.record(isBreakerOpen ? 1 : 0)
        }
    }

    init(key: String, metrics factory: any MetricsFactory) {
        self.key = key
        self.factory = factory
        let labels = [(Names.Label.key, key)]
        timers = Dictionary(
            uniqueKeysWithValues: Operation.allCases.map { operation in
                (
                    operation,
                    CoreMetrics.Timer(
                        label: Names.Metric.backendDuration,
                        dimensions: labels + [(Names.Label.operation, operation.rawValue)], factory: factory)
                )
            })
        decisions = Dictionary(
            uniqueKeysWithValues: Decision.allCases.map { decision in
                (
                    decision,
                    Counter(
                        label: Names.Metric.backendDecisions,
                        dimensions: labels + [(Names.Label.decision, decision.rawValue)], factory: factory)
                )
            })
        queue = CoreMetrics.Timer(label: Names.Metric.queueDuration, dimensions: labels, factory: factory)
    }

    /// Sets the gauges from now on.
    func beginTelling() {
        let labels = [(Names.Label.key, key)]
        state.withLock { state in
            guard !state.isTelling else { return }
            state.isTelling = true
            state.waitingGauge = Gauge(
                label: Names.Metric.backendCallsWaiting, dimensions: labels, factory: factory)
            state.breakerGauge = Gauge(
                label: Names.Metric.backendBreakerOpen, dimensions: labels, factory: factory)
            state.tell()
        }
    }

    /// Leaves the gauges to the client that comes after.
    func endTelling() { state.withLock { $0.isTelling = false } }

    func ended(_ operation: Operation, _ kind: Kind, _ failure: RemoteKMSError?, after duration: Duration) {
        timers[operation]?.recordNanoseconds(duration.nanoseconds)
        let labels = [
            (Names.Label.key, key), (Names.Label.operation, operation.rawValue),
            (Names.Label.outcome, failure?.code.rawValue ?? "ok"), (Names.Label.attempt, kind.rawValue),
        ]
        Counter(label: Names.Metric.backendCalls, dimensions: labels, factory: factory).increment()
    }

    /// A call had its turn after so long, or none came.
    func queued(for duration: Duration) { queue.recordNanoseconds(duration.nanoseconds) }

    /// The provider has been billed for so many requests in all.
    func billed(_ total: UInt64) {
        state.withLock { state in
            let counter =
                state.billedCounter
                ?? Counter(
                    label: Names.Metric.billedCalls, dimensions: [(Names.Label.key, key)], factory: factory)
            state.billedCounter = counter
            if total > state.billed { counter.increment(by: Int64(clamping: total - state.billed)) }
            state.billed = total
        }
    }

    func decided(_ decision: Decision) { decisions[decision]?.increment() }
    func waiting(_ count: Int) {
        state.withLock { state in
            guard state.waiting != count else { return }
            state.waiting = count
            state.tell()
        }
    }
    func breaker(isOpen: Bool) {
        state.withLock { state in
            state.isBreakerOpen = isOpen
            state.tell()
        }
    }
    func forget() {
        state.withLock { state in
            state.isTelling = false
            for gauge in [state.waitingGauge, state.breakerGauge] { gauge?.destroy() }
        }
    }
}
