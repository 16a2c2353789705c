import EnvelopeCrypto
import KMSWire
import Logging
import RemoteKMS
import Synchronization
import Testing

@testable import KeyService

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
        "beyond its time, Status, Encrypt and ping fail with its code and remedy, cached reads go on for a day, and a proof heals",
        arguments: [
            (RemoteKMSError.Code.unavailable, 86_400, KMSFailure.Code.unavailable),
            (.deadlineExceeded, 86_400, .unavailable), (.throttled, 86_400, .unavailable),
            (.unauthenticated, 900, .unauthenticated), (.permissionDenied, 900, .permissionDenied),
        ])
    func beyond(_ code: RemoteKMSError.Code, _ seconds: Int, _ expected: KMSFailure.Code) async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider)
        let written = try await plugin.encrypt(random(32))
        for operation in FakeProvider.Operation.allCases { provider.fail(operation, code) }
        await plugin.observe()
        await plugin.observe(after: .seconds(seconds - 30))
        #expect(try await plugin.status().healthz == "ok")
        #expect(plugin.key.writesStopIn == .seconds(30))
        await plugin.observe(after: .seconds(30))
        await expectStopped(plugin, expected)
        if seconds < 86_400 {
            #expect(try await plugin.decrypt(written).count == 32)
        } else {
            // What was unwrapped so long ago is wiped.
            let refused = await failure { () throws(KMSFailure) in _ = try await plugin.decrypt(written) }
            #expect(refused?.code == (code == .deadlineExceeded ? .deadlineExceeded : .unavailable))
        }
        for operation in FakeProvider.Operation.allCases { provider.fail(operation, nil) }
        await plugin.observe(after: .seconds(30))
        #expect(try await plugin.encrypt(random(32)).keyID == written.keyID)
        #expect(plugin.key.state == .active && plugin.key.writesStopIn == nil)
    }

    /// A plugin that was observed once, with `on_forbidden: wipe`.
    private func wiping(_ provider: FakeProvider) async -> Plugin {
        var key = KeySettings(name: "primary", provider: provider, suite: .aes256GCM)
        key.forgetsWhenForbidden = true
        let plugin = Plugin(KeyRingSettings(keys: [key]))
        await plugin.observe()
        return plugin
    }

    @Test(
        "with on_forbidden wipe, a refusal beyond its time ends reading too, and a proof heals it under the same key_id"
    )
    func forbidden() async throws {
        let provider = FakeProvider()
        let plugin = await wiping(provider)
        let written = try await plugin.encrypt(random(32))
        for operation in FakeProvider.Operation.allCases { provider.fail(operation, .permissionDenied) }
        await plugin.observe()
        await plugin.observe(after: .seconds(870))
        #expect(try await plugin.decrypt(written).count == 32)
        await plugin.observe(after: .seconds(30))
        await expectStopped(plugin, .permissionDenied)
        let refused = await failure { () throws(KMSFailure) in _ = try await plugin.decrypt(written) }
        #expect(refused?.code == .permissionDenied)
        for operation in FakeProvider.Operation.allCases { provider.fail(operation, nil) }
        await plugin.observe(after: .seconds(30))
        #expect(try await plugin.encrypt(random(32)).keyID == written.keyID)
        #expect(try await plugin.decrypt(written).count == 32)
    }

    @Test("with on_forbidden wipe, writes that are forbidden stay stopped, and what may be read is read")
    func forbiddenToWrite() async throws {
        let provider = FakeProvider()
        let plugin = await wiping(provider)
        let written = try await plugin.encrypt(random(32))
        for operation in [FakeProvider.Operation.wrap, .probe] { provider.fail(operation, .permissionDenied) }
        await plugin.observe(after: .seconds(30))
        await plugin.observe(after: .seconds(900))
        for _ in 0..<6 {
            await expectStopped(plugin, .permissionDenied)
            #expect(try await plugin.decrypt(written).count == 32)
            await plugin.observe(after: .seconds(30))
        }
    }

    @Test(
        "with on_forbidden wipe, a key that only decrypts and has nothing to be tried with is wiped by its look"
    )
    func forbiddenToRead() async throws {
        let old = FakeProvider(identity: "old")
        var former = KeySettings(
            name: "former", provider: old, suite: .aes256GCM, writeFormat: .compatible)
        let before = Plugin(KeyRingSettings(keys: [former]))
        await before.observe()
        let written = try await before.encrypt(random(32))
        former.forgetsWhenForbidden = true
        let writer = KeySettings(name: "primary", provider: FakeProvider(), suite: .aes256GCM)
        let plugin = Plugin(KeyRingSettings(keys: [writer, former]))
        await plugin.observe()
        #expect(try await plugin.decrypt(written).count == 32)
        await plugin.observe(after: .seconds(30))
        for operation in FakeProvider.Operation.allCases { old.fail(operation, .unauthenticated) }
        await plugin.observe(after: .seconds(30))
        await plugin.observe(after: .seconds(840))
        #expect(try await plugin.decrypt(written).count == 32, "from memory")
        await plugin.observe(after: .seconds(60))
        let refused = await failure { () throws(KMSFailure) in _ = try await plugin.decrypt(written) }
        #expect(refused?.code == .unauthenticated)
        #expect(try await plugin.status().healthz == "ok", "of the other key")
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

    @Test(
        "when the version that encrypts is gone, writing stops: at once from a file, after the grace from a service",
        arguments: [KeyStorage.file, .service])
    func gone(from storage: KeyStorage) async throws {
        let provider = FakeProvider(storage: storage)
        let plugin = await Plugin.started(provider)
        provider.set { $0.knownVersions = [] }
        await plugin.observe(after: .seconds(30))
        if storage == .service {
            #expect(try await plugin.status().healthz == "ok")
            await plugin.observe(after: .seconds(900))
        }
        #expect(plugin.key.state == .failed)
        #expect(
            await failure { () throws(KMSFailure) in _ = try await plugin.encrypt(random(32)) }?.code
                == .failedPrecondition)
        // A new version heals it.
        provider.rotate(to: "2")
        await plugin.settle()
        #expect(try await plugin.status().healthz == "ok")
    }

    @Test(
        "a key that is said twice to be disabled is wiped, and reads again under its key_id once it is enabled"
    )
    func denied() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider)
        let written = try await plugin.encrypt(random(32))
        let elsewhere = try await Plugin.started(FakeProvider()).encrypt(random(32))
        _ = try await plugin.decrypt(elsewhere)
        for operation in FakeProvider.Operation.allCases { provider.fail(operation, .keyDisabled) }
        await plugin.observe(after: .seconds(30))
        await expectStopped(plugin, .failedPrecondition)
        for read in [written, elsewhere] { #expect(try await plugin.decrypt(read).count == 32) }
        // Not yet half a minute since it was first said.
        await plugin.observe(after: .seconds(29))
        for read in [written, elsewhere] { #expect(try await plugin.decrypt(read).count == 32) }
        await plugin.observe(after: .seconds(1))
        for read in [written, elsewhere] {
            let refused = await failure { () throws(KMSFailure) in _ = try await plugin.decrypt(read) }
            #expect(refused?.code == .failedPrecondition)
        }
        for operation in FakeProvider.Operation.allCases { provider.fail(operation, nil) }
        await plugin.observe(after: .seconds(30))
        #expect(try await plugin.encrypt(random(32)).keyID == written.keyID)
        for read in [written, elsewhere] { #expect(try await plugin.decrypt(read).count == 32) }
    }

    @Test("lasting trouble is logged at once and hourly, with the time that is left, and its end once")
    func log() async throws {
        let lines = LogLines()
        let provider = FakeProvider()
        provider.set { $0.namesCalls = true }
        let key = KeySettings(
            name: "primary", provider: provider, suite: .aes256GCM, limits: .local)
        let plugin = Plugin(KeyRingSettings(keys: [key]), logger: lines.logger)
        await plugin.observe()
        for operation in [FakeProvider.Operation.describe, .unwrap] { provider.fail(operation, .unavailable) }
        lines.clear()
        for _ in 0..<240 { await plugin.observe(after: .seconds(30)) }
        #expect(
            lines.texts
                == ["23 h 59 min", "22 h 59 min"].map {
                    "warning: the key has trouble and goes on with what it has: writes stop in \($0)"
                })
        for operation in [FakeProvider.Operation.describe, .unwrap] { provider.fail(operation, nil) }
        lines.clear()
        for _ in 0..<10 { await plugin.observe(after: .seconds(30)) }
        #expect(lines.texts == ["notice: the key is well again: "])
    }

    @Test("where the backend wraps every message, the log says that writes fail, not that they go on")
    func compatibleLog() async throws {
        let lines = LogLines()
        let provider = FakeProvider()
        let key = KeySettings(
            name: "primary", provider: provider, suite: .aes256GCM, writeFormat: .compatible)
        let plugin = Plugin(KeyRingSettings(keys: [key]), logger: lines.logger)
        await plugin.observe()
        lines.clear()
        for operation in FakeProvider.Operation.allCases { provider.fail(operation, .unavailable) }
        for _ in 0..<5 { await plugin.observe(after: .seconds(30)) }
        #expect(
            lines.texts == [
                "error: the key does not encrypt: its backend has to wrap every message: Status fails in 1 min",
                "error: the key does not serve: ",
            ])
    }

    @Test("trouble with a former version is logged once, however the service names its calls")
    func formerLog() async throws {
        let lines = LogLines()
        let provider = FakeProvider()
        let key = KeySettings(name: "primary", provider: provider, suite: .aes256GCM, limits: .local)
        let plugin = Plugin(KeyRingSettings(keys: [key]), logger: lines.logger)
        await plugin.observe()
        provider.rotate(to: "2")
        await plugin.settle()
        lines.clear()
        provider.set {
            $0.namesCalls = true
            $0.disabledVersions = ["1": RemoteKMSError(.keyDisabled, "the fake says no")]
        }
        for _ in 0..<20 { await plugin.observe(after: .seconds(30)) }
        #expect(lines.texts == ["warning: a former version of the key has trouble: "])
        #expect(plugin.key.trouble?.contains("the fake says no (request ") == true)
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
