import CoreMetrics
import EnvelopeCrypto
import Logging
import RemoteKMS
import Synchronization
import TestSupport
import Testing

@testable import KeyService

@Suite("Metrics of the keys")
struct MetricsTests {
    @Test("backend calls are counted by operation and outcome, and the gauges tell the key's state")
    func metrics() async throws {
        let store = MetricStore()
        let provider = FakeProvider()
        let key = KeySettings(
            name: "primary", provider: provider, suite: .aes256GCM, limits: .local)
        let ring = KeyRing(
            KeyRingSettings(keys: [key], settle: .zero),
            on: PoolExecutor(), logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
            metrics: store, epochSeconds: { 1_000 })
        provider.fail(.describe, .unavailable)
        await ring.observeOnce()
        #expect(store["kmsward_key_ready", "key=primary"] == 0)
        provider.fail(.describe, nil)
        await ring.observeOnce()
        let first = try #require(ring.snapshot()[0].keyID)
        #expect(store["kmsward_key_info", "key=primary,key_id=\(first)"] == 1)
        provider.rotate(to: "2")
        await ring.observeOnce()
        let second = try #require(ring.snapshot()[0].keyID)

        #expect(store["kmsward_key_ready", "key=primary"] == 1)
        #expect(store["kmsward_key_info", "key=primary,key_id=\(first)"] == nil)
        #expect(store["kmsward_key_info", "key=primary,key_id=\(second)"] == 1)
        #expect(store["kmsward_local_kek_age_seconds", "key=primary"] == 0)
        #expect(store["kmsward_local_kek_uses", "key=primary"] == 0)
        let calls = "kmsward_backend_calls_total"
        #expect(store[calls, "key=primary,operation=describe,outcome=unavailable,attempt=first"] == 1)
        #expect(store[calls, "key=primary,operation=describe,outcome=ok,attempt=first"] == 4)
        #expect(store[calls, "key=primary,operation=wrap,outcome=ok,attempt=first"] == 3)
        #expect(store[calls, "key=primary,operation=unwrap,outcome=ok,attempt=first"] == 3)
        #expect(store["kmsward_backend_duration_seconds", "key=primary,operation=describe"] == 5)
    }
}

/// Metrics by name and labels: counters and gauges hold their value, timers how often they were recorded.
private final class MetricStore: MetricsFactory {
    private let values = Mutex<[String: Double]>([:])

    subscript(name: String, labels: String) -> Double? { values.withLock { $0["\(name){\(labels)}"] } }

    private func handler(_ label: String, _ dimensions: [(String, String)]) -> Handler {
        Handler(store: self, name: "\(label){\(dimensions.map { "\($0)=\($1)" }.joined(separator: ","))}")
    }

    func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        handler(label, dimensions)
    }
    func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        handler(label, dimensions)
    }
    func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> any RecorderHandler {
        handler(label, dimensions)
    }
    func destroyCounter(_ handler: any CounterHandler) {}
    func destroyTimer(_ handler: any TimerHandler) {}
    func destroyRecorder(_ handler: any RecorderHandler) {
        if let handler = handler as? Handler { values.withLock { $0[handler.name] = nil } }
    }

    final class Handler: CounterHandler, TimerHandler, RecorderHandler {
        let store: MetricStore
        let name: String

        init(store: MetricStore, name: String) {
            self.store = store
            self.name = name
        }

        func increment(by amount: Int64) { store.values.withLock { $0[name, default: 0] += Double(amount) } }
        func reset() {}
        func recordNanoseconds(_ duration: Int64) { store.values.withLock { $0[name, default: 0] += 1 } }
        func record(_ value: Int64) { record(Double(value)) }
        func record(_ value: Double) { store.values.withLock { $0[name] = value } }
    }
}
