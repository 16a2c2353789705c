import CoreMetrics
import EnvelopeCrypto
import Logging
import Observability
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
        let made = ",epoch=0,suite=aes-256-gcm,write_format=envelope,role=encrypts,provider=fake"
        provider.fail(.describe, .unavailable)
        await ring.observeOnce()
        #expect(store["kmsward_key_ready", "key=primary"] == 0)
        provider.fail(.describe, nil)
        await ring.observeOnce()
        let first = try #require(ring.snapshot()[0].keyID)
        #expect(store["kmsward_key_info", "key=primary,key_id=\(first),version=1\(made)"] == 1)
        provider.rotate(to: "2")
        await ring.observeOnce()
        let second = try #require(ring.snapshot()[0].keyID)

        #expect(store["kmsward_key_ready", "key=primary"] == 1)
        #expect(store["kmsward_key_info", "key=primary,key_id=\(first),version=1\(made)"] == nil)
        #expect(store["kmsward_key_info", "key=primary,key_id=\(second),version=2\(made)"] == 1)
        #expect(store["kmsward_local_kek_age_seconds", "key=primary"] == 0)
        #expect(store["kmsward_local_kek_uses", "key=primary"] == 0)
        let calls = "kmsward_backend_calls_total"
        #expect(store[calls, "key=primary,operation=describe,outcome=unavailable,attempt=first"] == 1)
        #expect(store[calls, "key=primary,operation=describe,outcome=ok,attempt=first"] == 4)
        #expect(store[calls, "key=primary,operation=wrap,outcome=ok,attempt=first"] == 3)
        #expect(store[calls, "key=primary,operation=unwrap,outcome=ok,attempt=first"] == 3)
        #expect(store["kmsward_backend_duration_seconds", "key=primary,operation=describe"] == 5)
        #expect(store["kmsward_queue_duration_seconds", "key=primary"] == 11)
    }

    @Test("probes are counted as they end, and dated; so are key_ids that take another's place")
    func probes() async {
        let store = MetricStore()
        let provider = FakeProvider()
        let plugin = Plugin(
            KeyRingSettings(
                keys: [
                    KeySettings(
                        name: "a", provider: provider, suite: .sm4CTRHMACSM3,
                        localKEKMaximumAge: .seconds(3_600), callPrice: 0.25)
                ], observeEvery: .seconds(20)), startingAt: 1_000, metrics: store)
        await plugin.observe()
        #expect(store["kmsward_key_probes_total", "key=a,result=ok"] == 1)
        #expect(store["kmsward_key_probes_total", "key=a,result=failed"] == nil)
        #expect(store["kmsward_key_last_probe_timestamp_seconds", "key=a"] == 1_000)
        #expect(store["kmsward_key_probe_interval_seconds", "key=a"] == 20)
        #expect(store["kmsward_local_kek_maximum_age_seconds", "key=a"] == 3_600)
        #expect(store["kmsward_backend_call_price", "key=a"] == 0.25)
        #expect(store["kmsward_key_rotations_total", "key=a"] == nil)
        provider.fail(.unwrap, .unavailable)
        await plugin.observe(after: .seconds(20))
        #expect(store["kmsward_key_probes_total", "key=a,result=failed"] == 1)
        #expect(store["kmsward_key_last_probe_timestamp_seconds", "key=a"] == 1_020)
        provider.fail(.unwrap, nil)
        provider.rotate(to: "2")
        await plugin.settle()
        #expect(store["kmsward_key_rotations_total", "key=a"] == 1)
        #expect(store["kmsward_key_probes_total", "key=a,result=ok"] == 3)
    }

    @Test("requests leave times of sealing, opening and waiting, and a count of what a former key_id wrote")
    func requests() async throws {
        let store = MetricStore()
        let provider = FakeProvider()
        let settings = KeyRingSettings(keys: [
            KeySettings(name: "a", provider: provider, suite: .aes256GCM)
        ])
        let plugin = Plugin(settings, metrics: store)
        await plugin.observe()
        let before = try await plugin.encrypt([1, 2, 3])
        #expect(try await plugin.decrypt(before) == [1, 2, 3])
        #expect(store["kmsward_crypto_duration_seconds", "operation=seal"] == 1)
        #expect(store["kmsward_crypto_duration_seconds", "operation=open"] == 1)
        #expect(store["kmsward_former_key_decrypts_total", "key=a"] == nil)
        #expect(store["kmsward_cache_load_duration_seconds", "key=a"] == nil)

        provider.rotate(to: "2")
        await plugin.settle()
        #expect(try await plugin.decrypt(before) == [1, 2, 3])
        #expect(store["kmsward_former_key_decrypts_total", "key=a"] == 1)
        let after = try await plugin.encrypt([4, 5, 6])
        #expect(try await plugin.decrypt(after) == [4, 5, 6])
        #expect(store["kmsward_former_key_decrypts_total", "key=a"] == 1)

        // Another replica, in whose memory neither is.
        let other = Plugin(settings, metrics: store)
        await other.observe()
        #expect(try await other.decrypt(after) == [4, 5, 6])
        #expect(store["kmsward_former_key_decrypts_total", "key=a"] == 1)
        #expect(try await other.decrypt(before) == [1, 2, 3])
        #expect(store["kmsward_former_key_decrypts_total", "key=a"] == 2)
        #expect(store["kmsward_cache_load_duration_seconds", "key=a"] == 2)
        #expect(store["kmsward_crypto_duration_seconds", "operation=open"] == 5)
    }

    @Test("what a further key opened was written under a former key_id")
    func furtherKey() async throws {
        let store = MetricStore()
        let former = FakeProvider(identity: "former")
        let writer = await Plugin.started(former)
        let written = try await writer.encrypt([1])
        let plugin = Plugin(
            KeyRingSettings(keys: [
                KeySettings(name: "a", provider: FakeProvider(), suite: .aes256GCM),
                KeySettings(name: "b", provider: former, suite: .aes256GCM),
            ]), metrics: store)
        await plugin.observe()
        #expect(try await plugin.decrypt(written) == [1])
        #expect(store["kmsward_former_key_decrypts_total", "key=a"] == nil)
        #expect(store["kmsward_former_key_decrypts_total", "key=b"] == 1)
        let announced = try #require(plugin.ring.snapshot()[1].keyID)
        #expect(
            store[
                "kmsward_key_info",
                "key=b,key_id=\(announced),version=1,epoch=0,suite=aes-256-gcm,write_format=envelope,role=decrypts,provider=fake"
            ] == 1)
    }

    @Test("bills and certificates are what the provider says of itself")
    func facts() async {
        let store = MetricStore()
        let provider = FakeProvider()
        let plugin = Plugin(
            KeyRingSettings(keys: [KeySettings(name: "a", provider: provider, suite: .aes256GCM)]),
            metrics: store)
        await plugin.observe()
        #expect(store["kmsward_backend_billed_calls_total", "key=a"] == nil)
        #expect(store["kmsward_backend_certificate_expiry_timestamp_seconds", "key=a"] == nil)
        #expect(store["kmsward_backend_call_price", "key=a"] == nil)
        for (total, end) in [(7, 5_000), (9, 6_000)] as [(UInt64, Int64)] {
            provider.set { $0.facts = ProviderFacts(certificateEnd: end, billedCalls: total) }
            await plugin.observe()
            #expect(store["kmsward_backend_billed_calls_total", "key=a"] == Double(total))
            #expect(
                store["kmsward_backend_certificate_expiry_timestamp_seconds", "key=a"] == Double(end))
        }
    }

    @Test("the values of labels are those of the metrics' catalogue")
    func labels() {
        #expect(Names.Value.suites == Suite.allCases.map(\.configurationName))
        #expect(Names.Value.writeFormats == CiphertextFormat.allCases.map(\.rawValue))
        #expect(Names.Value.troubles == RemoteKMSError.Code.allCases.map(\.rawValue))
    }
}

@Suite("Metrics of keys in trouble and of keys that are gone")
struct PassingMetricsTests {
    @Test(
        "writes stop in no time where the backend wraps every message and does not",
        arguments: [(CiphertextFormat.compatible, 0.0), (.envelope, 100.0)])
    func writesStop(_ format: CiphertextFormat, _ seconds: Double) async {
        let store = MetricStore()
        let provider = FakeProvider()
        let key = KeySettings(
            name: "a", provider: provider, suite: .aes256GCM, writeFormat: format, rideThrough: .seconds(100),
            limits: .local)
        let ring = KeyRing(
            KeyRingSettings(keys: [key]), on: PoolExecutor(),
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }, metrics: store,
            epochSeconds: { 1_000 }, uptime: { .zero })
        await ring.observeOnce()
        for operation in FakeProvider.Operation.allCases { provider.fail(operation, .unavailable) }
        await ring.observeOnce()
        #expect(store["kmsward_key_writes_stop_in_seconds", "key=a"] == seconds)
        #expect(store["kmsward_key_ready", "key=a"] == 1)
    }

    @Test("a key that is refused at a reload does not touch the gauges of the one that serves")
    func refusedCandidate() async throws {
        let store = MetricStore()
        func key(_ provider: FakeProvider) -> KeySettings {
            KeySettings(
                name: "a", provider: provider, suite: .aes256GCM,
                limits: .init(tries: 1, failuresInARow: 1))
        }
        let provider = FakeProvider()
        let ring = KeyRing(
            KeyRingSettings(keys: [key(provider)]), on: PoolExecutor(),
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }, metrics: store)
        let breaker = { store["kmsward_backend_breaker_open", "key=a"] }
        #expect(breaker() == 0)
        for operation in FakeProvider.Operation.allCases { provider.fail(operation, .unavailable) }
        await ring.observeOnce()
        #expect(breaker() == 1)
        let other = FakeProvider()
        other.fail(.unwrap, .permissionDenied)
        await #expect(throws: KeyRefusal.self) { try await ring.apply([key(other)]) }
        #expect(breaker() == 1)
        other.fail(.unwrap, nil)
        _ = try await ring.apply([key(other)])
        #expect(breaker() == 0)
    }

    @Test("trouble, its end, the last proof, credentials and clock are gauges that go with what they tell")
    func trouble() async throws {
        let store = MetricStore()
        let provider = FakeProvider()
        let uptime = Mutex(Duration.zero)
        let key = KeySettings(
            name: "a", provider: provider, suite: .aes256GCM, rideThrough: .seconds(100), limits: .local)
        let ring = KeyRing(
            KeyRingSettings(keys: [key]), on: PoolExecutor(),
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }, metrics: store,
            epochSeconds: { 1_000 + uptime.withLock { $0 }.components.seconds },
            uptime: { uptime.withLock { $0 } })
        func passing() -> [String: Double] {
            var values: [String: Double] = [:]
            for name in [
                "key_writes_stop_in_seconds", "key_last_proof_timestamp_seconds",
                "credentials_expiry_timestamp_seconds", "backend_clock_offset_seconds",
            ] { values[name] = store["kmsward_\(name)", "key=a"] }
            for code in RemoteKMSError.Code.allCases {
                values[code.rawValue] = store["kmsward_key_trouble", "key=a,code=\(code.rawValue)"]
            }
            return values
        }
        await ring.observeOnce()
        #expect(passing() == ["key_last_proof_timestamp_seconds": 1_000])

        provider.set {
            $0.facts = ProviderFacts(
                credentialsServeFor: .seconds(60), clockOffset: .seconds(-5),
                reservation: RemoteKMSError(.misconfigured, "an empty file"))
        }
        uptime.withLock { $0 = .seconds(30) }
        await ring.observeOnce()
        #expect(
            passing() == [
                "key_last_proof_timestamp_seconds": 1_030, "credentials_expiry_timestamp_seconds": 1_090,
                "backend_clock_offset_seconds": -5, "misconfigured": 1,
            ])
        #expect(ring.snapshot()[0].state == .active && ring.snapshot()[0].trouble == "an empty file")

        provider.set { $0.facts = ProviderFacts() }
        for operation in FakeProvider.Operation.allCases { provider.fail(operation, .unavailable) }
        uptime.withLock { $0 = .seconds(60) }
        await ring.observeOnce()
        #expect(
            passing() == [
                "key_last_proof_timestamp_seconds": 1_030, "unavailable": 1, "key_writes_stop_in_seconds": 70,
            ])

        for operation in FakeProvider.Operation.allCases { provider.fail(operation, nil) }
        await ring.observeOnce()
        #expect(passing() == ["key_last_proof_timestamp_seconds": 1_060])

        _ = try await ring.apply([
            KeySettings(name: "b", provider: provider, suite: .aes256GCM, limits: .local)
        ])
        #expect(passing().isEmpty)
        #expect(store["kmsward_key_ready", "key=a"] == nil && store["kmsward_key_ready", "key=b"] == 1)
        #expect(store["kmsward_backend_breaker_open", "key=a"] == nil)
        #expect(store["kmsward_backend_breaker_open", "key=b"] == 0)
        #expect(store["kmsward_key_probes_total", "key=a,result=ok"] == nil)
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
    func destroyCounter(_ handler: any CounterHandler) { destroy(handler) }
    func destroyTimer(_ handler: any TimerHandler) { destroy(handler) }
    func destroyRecorder(_ handler: any RecorderHandler) { destroy(handler) }
    private func destroy(_ handler: any Sendable) {
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
