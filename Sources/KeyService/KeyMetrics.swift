internal import CoreMetrics
private import Observability
private import Synchronization

/// The gauges of each key, set after every observation.
final class KeyMetrics: Sendable {
    /// Per key name, the gauge of the key_id announced last: a gauge of a former one would stay 1.
    private let announced = Mutex<[String: (keyID: String, gauge: Gauge)]>([:])

    private let factory: any MetricsFactory

    init(_ factory: any MetricsFactory) { self.factory = factory }

    func publish(_ key: KeySnapshot) {
        let labels = [(Names.Label.key, key.name)]
        Gauge(label: Names.Metric.keyReady, dimensions: labels, factory: factory).record(
            key.state == .active ? 1 : 0)
        if let age = key.localKEKAge {
            Gauge(label: Names.Metric.localKEKAge, dimensions: labels, factory: factory).record(
                age.components.seconds)
        }
        if let uses = key.localKEKUses {
            Gauge(label: Names.Metric.localKEKUses, dimensions: labels, factory: factory).record(Double(uses))
        }
        guard let keyID = key.keyID, announced.withLock({ $0[key.name]?.keyID }) != keyID else { return }
        let gauge = Gauge(
            label: Names.Metric.keyInfo, dimensions: labels + [(Names.Label.keyID, keyID)], factory: factory)
        gauge.record(1)
        announced.withLock { $0.updateValue((keyID, gauge), forKey: key.name) }?.gauge.destroy()
    }
}
