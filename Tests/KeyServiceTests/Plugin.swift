import CoreMetrics
import EnvelopeCrypto
import KMSWire
import Logging
import RemoteKMS
import SecureMemory
import Synchronization
import TestSupport

@testable import KeyService

/// A key ring and its service, with time by hand.
final class Plugin: Sendable {
    let ring: KeyRing
    let service: KeyService
    let clock = ManualClock()
    private let seconds: SharedSeconds
    private let uptime = Uptime()
    private let accepted = Mutex("")

    /// `startingAt` is the time of day at start, seconds since 1970.
    init(
        _ settings: KeyRingSettings, startingAt epochSeconds: Int64 = 1_000_000,
        version: KeyService.V2Version = .v2beta1,
        logger: Logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
        metrics: any MetricsFactory = NOOPMetricsHandler.instance
    ) {
        let seconds = SharedSeconds(epochSeconds)
        var settings = settings
        // What a failing backend is asked again and again is the client's matter, and has its own tests.
        for index in settings.keys.indices { settings.keys[index].limits = .local }
        let uptime = uptime
        ring = KeyRing(
            settings, on: PoolExecutor(), logger: logger, metrics: metrics, epochSeconds: { seconds.value },
            uptime: { uptime.value }, random: { 0.5 })
        service = KeyService(ring: ring, v2Version: version, runtimeVersion: "1.2.3", clock: clock)
        self.seconds = seconds
    }

    convenience init(
        _ provider: any Provider, suite: Suite = .aes256GCM, epoch: UInt32 = 0, context: String = "",
        state: String? = nil, startingAt epochSeconds: Int64 = 1_000_000
    ) {
        let key = KeySettings(name: "primary", provider: provider, suite: suite, epoch: epoch)
        self.init(
            KeyRingSettings(keys: [key], clusterContext: context, stateDirectory: state),
            startingAt: epochSeconds)
    }

    /// A plugin that was observed once.
    static func started(_ provider: any Provider, state: String? = nil) async -> Plugin {
        let plugin = Plugin(provider, state: state)
        await plugin.observe()
        return plugin
    }

    /// Lets time pass, on every clock.
    func pass(_ duration: Duration) {
        seconds.add(duration.components.seconds)
        uptime.add(duration)
        clock.advance(by: duration)
    }

    /// Lets time pass, then observes every key once.
    func observe(after duration: Duration = .zero) async {
        seconds.add(duration.components.seconds)
        uptime.add(duration)
        await ring.observeOnce()
    }

    /// Observes until a version that is there now encrypts.
    func settle() async {
        await observe(after: .seconds(30))
        await observe(after: .seconds(90))
    }

    /// The key_id that the last request went by; empty if none was found to answer for it.
    var acceptedKeyID: String { accepted.withLock { $0 } }

    func perform(
        _ request: consuming KMSRequest, by deadline: Deadline = .after(.seconds(60))
    ) async throws(KMSFailure) -> KMSReply {
        var keyID = ""
        defer { accepted.withLock { $0 = keyID } }
        return try await service.perform(request, deadline: deadline, keyID: &keyID)
    }

    func status(by deadline: Deadline = .after(.seconds(60))) async throws(KMSFailure) -> StatusReply {
        guard case .status(let reply) = try await perform(.status, by: deadline) else {
            preconditionFailure("a status is answered by a status")
        }
        return reply
    }

    func encrypt(
        _ bytes: [UInt8], _ api: KMSAPI = .v2, by deadline: Deadline = .after(.seconds(60))
    ) async throws(KMSFailure) -> EncryptReply {
        let request = EncryptRequest(api: api, plaintext: secret(bytes), uid: "u")
        guard
            case .encrypted(api, let reply) = try await perform(.encrypt(request), by: deadline)
        else {
            preconditionFailure("an encrypt is answered by an encrypted")
        }
        return reply
    }

    func decrypt(
        _ request: DecryptRequest, by deadline: Deadline = .after(.seconds(60))
    ) async throws(KMSFailure) -> [UInt8] {
        guard
            case .decrypted(_, let bytes) = try await perform(.decrypt(request), by: deadline)
        else { preconditionFailure("a decrypt is answered by a decrypted") }
        return array(bytes)
    }

    func decrypt(_ reply: EncryptReply, _ api: KMSAPI = .v2) async throws(KMSFailure) -> [UInt8] {
        try await decrypt(DecryptRequest(reply, api))
    }

    var key: KeySnapshot { ring.snapshot()[0] }
}

private final class Uptime: Sendable {
    private let state = Mutex(Duration.zero)
    var value: Duration { state.withLock { $0 } }
    func add(_ duration: Duration) { state.withLock { $0 += duration } }
}

private final class SharedSeconds: Sendable {
    private let state: Mutex<Int64>
    init(_ value: Int64) { state = Mutex(value) }
    var value: Int64 { state.withLock { $0 } }
    func add(_ seconds: Int64) { state.withLock { $0 += seconds } }
}

extension DecryptRequest {
    /// What an API server sends back for what it was given.
    init(_ reply: EncryptReply, _ api: KMSAPI = .v2) {
        self.init(
            api: api, ciphertext: reply.ciphertext, keyID: api == .v2 ? reply.keyID : "",
            annotations: api == .v2 ? reply.annotations : [])
    }
}

func random(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8.random(in: 0...255) } }

func failure(_ body: () async throws(KMSFailure) -> Void) async -> KMSFailure? {
    do throws(KMSFailure) { try await body() } catch { return error }
    return nil
}
