internal import CoreMetrics
private import Observability
internal import SocketAcceptance

/// The acceptor's numbers as metrics.
struct AcceptanceMetrics: AcceptanceObserver {
    private let connections = Gauge(label: Names.Metric.connections)
    private let accepted = Counter(label: Names.Metric.connectionsAccepted)
    private let refused: [RefusalReason: Counter]

    init() {
        // Every series from the start: a rate over one that appears with the first refusal would miss it.
        refused = Dictionary(
            uniqueKeysWithValues: RefusalReason.allCases.map { reason in
                let labels = [(Names.Label.reason, reason.rawValue)]
                return (reason, Counter(label: Names.Metric.connectionsRefused, dimensions: labels))
            })
        connections.record(0)
        accepted.increment(by: 0)
        for counter in refused.values { counter.increment(by: 0) }
    }

    func connectionsChanged(to count: Int) { connections.record(count) }
    func connectionAccepted() { accepted.increment() }
    func connectionRefused(_ reason: RefusalReason) { refused[reason]?.increment() }
    func connectionAbandoned() {}
    func acceptingPaused(_ isPaused: Bool) {}
}
