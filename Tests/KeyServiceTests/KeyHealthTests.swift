import EnvelopeCrypto
import KMSWire
import Logging
import RemoteKMS
import Synchronization
import Testing

@testable import KeyService

@Suite("Decision about writing in trouble")
struct KeyHealthTests {
    private static let minute = Duration.seconds(60)

    private func error(_ code: RemoteKMSError.Code) -> RemoteKMSError {
        RemoteKMSError(code, "it says \(code)", remedy: "do something")
    }

    private func health() -> KeyHealth {
        var health = KeyHealth(.init(rideThrough: .seconds(86_400), authGrace: .seconds(900)))
        health.activated(at: .seconds(100))
        return health
    }

    @Test(
        "without a proof, writing stops after the time of the failure's class",
        arguments: [
            (RemoteKMSError.Code.deadlineExceeded, 86_400), (.unavailable, 86_400), (.throttled, 86_400),
            (.malformedReply, 86_400), (.unauthenticated, 900), (.permissionDenied, 900),
            (.misconfigured, 900), (.keyNotFound, 0), (.invalidCiphertext, 0), (.keyDisabled, 0),
        ])
    func bounds(_ code: RemoteKMSError.Code, _ seconds: Int) {
        var health = health()
        let finding = KeyHealth.Finding(proof: error(code))
        if seconds > 0 {
            health.observed(finding, at: .seconds(100 + seconds - 1))
            #expect(health.stopped == nil)
            #expect(health.writesStopIn == .seconds(1))
            #expect(health.trouble == error(code))
        }
        health.observed(finding, at: .seconds(100 + seconds))
        #expect(health.stopped == error(code))
        #expect(health.writesStopIn == .zero)
        health.observed(.init(), at: .seconds(200 + seconds))
        #expect(health.stopped == nil && health.trouble == nil && health.writesStopIn == nil)
    }

    @Test(
        "a look that fails stops nothing while the unwrap is proven, but for a disabled key and a wrong set-up",
        arguments: RemoteKMSError.Code.allCases)
    func look(_ code: RemoteKMSError.Code) {
        var health = health()
        var stoppedAt: Int?
        for minute in 1...3_000 {
            health.observed(.init(look: error(code)), at: Self.minute * minute)
            if health.stopped != nil, stoppedAt == nil { stoppedAt = minute }
            #expect(health.trouble == error(code))
        }
        switch code {
        case .keyDisabled: #expect(stoppedAt == 1)
        // Counted from the first sight of it, at minute 1.
        case .misconfigured: #expect(stoppedAt == 16)
        default: #expect(stoppedAt == nil)
        }
    }

    @Test("a rotation or renewal that fails stops nothing while the unwrap is proven")
    func rotation() {
        var health = health()
        for minute in 1...3_000 {
            health.observed(.init(rotation: error(.misconfigured)), at: Self.minute * minute)
        }
        #expect(health.stopped == nil && health.writesStopIn == nil)
        #expect(health.trouble == error(.misconfigured))
    }

    @Test("every proof starts the time anew")
    func proofs() {
        var health = health()
        for minute in 1...3_000 {
            let isBad = !minute.isMultiple(of: 15)
            health.observed(
                isBad ? .init(proof: error(.permissionDenied)) : .init(), at: Self.minute * minute)
            #expect(health.stopped == nil, "minute \(minute)")
        }
    }

    @Test("what has stopped goes on after a proof only, not when the trouble turns into a milder one")
    func latch() {
        var health = health()
        health.observed(.init(look: error(.keyDisabled), proof: error(.keyDisabled)), at: .seconds(130))
        health.observed(.init(look: error(.unavailable), proof: error(.unavailable)), at: .seconds(160))
        #expect(health.stopped == error(.keyDisabled))
        health.observed(.init(look: error(.unavailable)), at: .seconds(190))
        #expect(health.stopped == nil)
        #expect(health.trouble == error(.unavailable))
    }
}

@Suite("Lasting trouble of the key that encrypts")
struct LastingTroubleTests {
    private func expectStopped(_ plugin: Plugin, _ code: KMSFailure.Code) async {
        let refusals = [
            await failure { () throws(KMSFailure) in _ = try await plugin.status() },
            await failure { () throws(KMSFailure) in _ = try await plugin.encrypt(random(32), .v2) },
            await failure { () throws(KMSFailure) in _ = try await plugin.encrypt(random(32), .v1beta1) },
            await failure { () throws(KMSFailure) in
                _ = try await plugin.encrypt(Array("ping".utf8), .v1beta1)
            },
        ]
        for refusal in refusals {
            #expect(refusal?.code == code)
            #expect(refusal?.message.contains("tell it otherwise") == true, "\(refusal?.message ?? "")")
        }
        #expect(plugin.key.state == .failed)
        #expect(plugin.key.writesStopIn == .zero)
    }

    @Test(
        "beyond its time, Status, Encrypt and ping fail with its code and remedy, cached reads go on, and a proof heals",
        arguments: [
            (RemoteKMSError.Code.unavailable, 86_400, KMSFailure.Code.unavailable),
            (.deadlineExceeded, 86_400, .unavailable), (.throttled, 86_400, .unavailable),
            (.unauthenticated, 900, .unauthenticated), (.permissionDenied, 900, .permissionDenied),
        ])
    func beyond(_ code: RemoteKMSError.Code, _ seconds: Int, _ expected: KMSFailure.Code) async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider)
        let written = try await plugin.encrypt(random(32))
        for operation in [FakeProvider.Operation.describe, .wrap, .unwrap] { provider.fail(operation, code) }
        await plugin.observe(after: .seconds(seconds - 30))
        #expect(try await plugin.status().healthz == "ok")
        #expect(plugin.key.writesStopIn == .seconds(30))
        await plugin.observe(after: .seconds(30))
        await expectStopped(plugin, expected)
        #expect(try await plugin.decrypt(written).count == 32)
        for operation in [FakeProvider.Operation.describe, .wrap, .unwrap] { provider.fail(operation, nil) }
        await plugin.observe(after: .seconds(30))
        #expect(try await plugin.encrypt(random(32)).keyID == written.keyID)
        #expect(plugin.key.state == .active && plugin.key.writesStopIn == nil)
    }

    @Test("while only the look fails, the unwrap is proven at every observation and writing goes on")
    func lookOnly() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider)
        provider.fail(.describe, .permissionDenied)
        for _ in 0..<5 { await plugin.observe(after: .seconds(86_400)) }
        #expect(try await plugin.status().healthz == "ok")
        #expect(plugin.key.trouble != nil)
        #expect(plugin.key.lastProof == Int64(1_432_000))
    }

    @Test("when the version that encrypts is gone from the backend, writing stops at once")
    func gone() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider)
        provider.set { $0.knownVersions = [] }
        await plugin.observe(after: .seconds(30))
        #expect(plugin.key.state == .failed)
        #expect(
            await failure { () throws(KMSFailure) in _ = try await plugin.encrypt(random(32)) }?.code
                == .failedPrecondition)
        // A new version heals it.
        provider.rotate(to: "2")
        await plugin.settle()
        #expect(try await plugin.status().healthz == "ok")
    }

    @Test("lasting trouble is logged at once and hourly, with the time that is left, and its end once")
    func log() async throws {
        let lines = LogLines()
        let provider = FakeProvider()
        let key = KeySettings(
            name: "primary", provider: provider, suite: .aes256GCM, limits: .local)
        let plugin = Plugin(KeyRingSettings(keys: [key]), logger: lines.logger)
        await plugin.observe()
        for operation in [FakeProvider.Operation.describe, .unwrap] { provider.fail(operation, .unavailable) }
        lines.clear()
        for _ in 0..<240 { await plugin.observe(after: .seconds(30)) }
        #expect(
            lines.texts
                == [1_439, 1_379].map {
                    "warning: the key has trouble and goes on with what it has: writes stop in \($0) min"
                })
        for operation in [FakeProvider.Operation.describe, .unwrap] { provider.fail(operation, nil) }
        lines.clear()
        for _ in 0..<10 { await plugin.observe(after: .seconds(30)) }
        #expect(lines.texts == ["notice: the key is well again: "])
    }
}

/// What was logged: `level: message: limit`.
private final class LogLines: Sendable {
    private let lines = Mutex<[String]>([])

    var texts: [String] { lines.withLock { $0 } }
    func clear() { lines.withLock { $0 = [] } }
    var logger: Logger { Logger(label: "test") { _ in Handler(lines: self) } }

    private struct Handler: LogHandler {
        let lines: LogLines
        var metadata: Logger.Metadata = [:]
        var logLevel = Logger.Level.info

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            let limit = event.metadata?["limit"].map { "\($0)" } ?? ""
            lines.lines.withLock { $0.append("\(event.level): \(event.message): \(limit)") }
        }
    }
}
