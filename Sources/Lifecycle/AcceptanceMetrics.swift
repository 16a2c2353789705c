internal import CoreMetrics
private import Observability
internal import SocketAcceptance

/// The acceptor's numbers as metrics.
struct AcceptanceMetrics: AcceptanceObserver {
    private let connections: Gauge
    private let accepted: Counter
    private let abandoned: Counter
    private let paused: Gauge
    private let refused: [RefusalReason: Counter]

    init(factory: any MetricsFactory = MetricsSystem.factory) {
        connections = Gauge(label: Names.Metric.connections, factory: factory)
        accepted = Counter(label: Names.Metric.connectionsAccepted, factory: factory)
        abandoned = Counter(label: Names.Metric.connectionsAbandoned, factory: factory)
        paused = Gauge(label: Names.Metric.acceptingPaused, factory: factory)
        // Every series from the start: a rate over one that appears with the first refusal would miss it.
        refused = Dictionary(
            uniqueKeysWithValues: RefusalReason.allCases.map { reason in
                let labels = [(Names.Label.reason, reason.rawValue)]
                return (
                    reason,
                    Counter(label: Names.Metric.connectionsRefused, dimensions: labels, factory: factory)
                )
            })
        connections.record(0)
        accepted.increment(by: 0)
        abandoned.increment(by: 0)
        paused.record(0)
        for counter in refused.values { counter.increment(by: 0) }
    }

    func connectionsChanged(to count: Int) { connections.record(count) }
    func connectionAccepted() { accepted.increment() }
    func connectionRefused(_ reason: RefusalReason) { refused[reason]?.increment() }
    func connectionAbandoned() { abandoned.increment() }
    func acceptingPaused(_ isPaused: Bool) { paused.record(isPaused ? 1 : 0) }
}
