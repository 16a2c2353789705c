internal import CoreMetrics
private import Observability
private import Synchronization

/// The gauges of each key, set after every observation.
final class KeyMetrics: Sendable {
    /// A gauge that is there only while it has something to say, and what it said last.
    private struct Told {
        let gauge: Gauge
        let labels: [String]
    }

    private struct Place: Hashable {
        let key: String
        let metric: String
    }

    /// A gauge of a former key_id, of trouble that is over or of a key that is gone would keep its last value.
    private let told = Mutex<[Place: Told]>([:])

    private let factory: any MetricsFactory

    init(_ factory: any MetricsFactory) { self.factory = factory }

    /// Sets what is known of a key that is probed every `interval`.
    ///
    /// `Double($0)` in full: `map(Double.init)` of a UInt64 takes its bits for those of the number.
    func publish(_ key: KeySnapshot, probedEvery interval: Duration) {
        tell(Names.Metric.keyReady, key.name, key.state == .active ? 1 : 0)
        tell(Names.Metric.localKEKAge, key.name, key.localKEKAge?.inSeconds)
        tell(Names.Metric.localKEKUses, key.name, key.localKEKUses.map { Double($0) })
        tell(Names.Metric.localKEKMaximumAge, key.name, key.localKEKMaximumAge?.inSeconds)
        tell(
            Names.Metric.keyInfo, key.name, key.keyID.map { _ in 1 },
            [
                (Names.Label.keyID, key.keyID ?? ""), (Names.Label.version, key.version ?? ""),
                (Names.Label.epoch, "\(key.epoch)"), (Names.Label.suite, key.suite),
                (Names.Label.writeFormat, key.writeFormat),
                (Names.Label.role, key.encrypts ? "encrypts" : "decrypts"),
                (Names.Label.provider, key.provider),
            ])
        tell(
            Names.Metric.keyTrouble, key.name, key.troubleCode.map { _ in 1 },
            [(Names.Label.code, key.troubleCode ?? "")])
        tell(
            Names.Metric.keyWritesStop, key.name,
            key.encrypts && key.trouble != nil ? key.writesFail ? 0 : key.writesStopIn?.inSeconds : nil)
        tell(Names.Metric.keyLastProof, key.name, key.lastProof.map { Double($0) })
        tell(Names.Metric.credentialsEnd, key.name, key.credentialsEnd.map { Double($0) })
        tell(Names.Metric.clockOffset, key.name, key.clockOffset?.inSeconds)
        tell(Names.Metric.keyLastProbe, key.name, key.lastProbe.map { Double($0) })
        tell(Names.Metric.keyProbeInterval, key.name, interval.inSeconds)
        tell(Names.Metric.certificateEnd, key.name, key.certificateEnd.map { Double($0) })
        tell(Names.Metric.callPrice, key.name, key.callPrice)
    }

    /// Drops all that was said of the key.
    func forget(_ key: String) {
        let gone = told.withLock { told in
            let gone = told.filter { $0.key.key == key }
            told = told.filter { $0.key.key != key }
            return gone
        }
        for gauge in gone.values.map(\.gauge) { gauge.destroy() }
    }

    /// Sets a gauge of a key, with more labels or none; nil drops it.
    private func tell(
        _ metric: String, _ key: String, _ value: Double?, _ more: [(String, String)] = []
    ) {
        let place = Place(key: key, metric: metric)
        let before = told.withLock { $0[place] }
        guard let value else {
            told.withLock { _ = $0.removeValue(forKey: place) }
            before?.gauge.destroy()
            return
        }
        let labels = more.map(\.1)
        if let before, before.labels == labels { return before.gauge.record(value) }
        let gauge = Gauge(label: metric, dimensions: [(Names.Label.key, key)] + more, factory: factory)
        gauge.record(value)
        told.withLock { $0[place] = Told(gauge: gauge, labels: labels) }
        before?.gauge.destroy()
    }
}

extension Duration {
    fileprivate var inSeconds: Double { self / .seconds(1) }
}
