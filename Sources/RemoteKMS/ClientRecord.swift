internal import CoreMetrics
private import Observability

/// What a client's calls and decisions leave behind: counters and durations, made once.
struct ClientRecord: Sendable {
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
    private let waitingGauge: Gauge
    private let breakerGauge: Gauge

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
        waitingGauge = Gauge(label: Names.Metric.backendCallsWaiting, dimensions: labels, factory: factory)
        breakerGauge = Gauge(label: Names.Metric.backendBreakerOpen, dimensions: labels, factory: factory)
        waitingGauge.record(0)
        breakerGauge.record(0)
    }

    func ended(_ operation: Operation, _ kind: Kind, _ failure: RemoteKMSError?, after duration: Duration) {
        timers[operation]?.recordNanoseconds(Int64(duration / .nanoseconds(1)))
        let labels = [
            (Names.Label.key, key), (Names.Label.operation, operation.rawValue),
            (Names.Label.outcome, failure?.code.rawValue ?? "ok"), (Names.Label.attempt, kind.rawValue),
        ]
        Counter(label: Names.Metric.backendCalls, dimensions: labels, factory: factory).increment()
    }

    func decided(_ decision: Decision) { decisions[decision]?.increment() }
    func waiting(_ count: Int) { waitingGauge.record(Double(count)) }
    func forget() { for gauge in [waitingGauge, breakerGauge] { gauge.destroy() } }
    func breaker(isOpen: Bool) { breakerGauge.record(isOpen ? 1 : 0) }
}
