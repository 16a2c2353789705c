// Tests of the way between engine and key service: a fake service with behaviour of its own, a clock by hand, and all
// that a call leaves behind (log lines, metrics) in memory.

import InMemoryLogging
import KMSWire
import KeyService
import Logging
import Observability
import RemoteKMS
import SecureMemory
import Synchronization

@testable import GRPCEngine
@testable import RequestDecoding

/// Wraps by turning bytes around, knows the key_id `id`, and fails or dawdles when told to.
final class TurningService: KMSServing {
    enum Mood: Sendable {
        case working
        case failing(KMSFailure)
        /// Waits until its task is cancelled.
        case dawdling
        /// Answers every request with a Version reply.
        case confused
        /// Returns more ciphertext than the API server takes.
        case excessive
    }

    private let mood: Mutex<Mood>
    private let seen = Mutex<[Deadline]>([])
    private let started = AsyncStream<Void>.makeStream()

    init(_ mood: Mood = .working) { self.mood = Mutex(mood) }

    func become(_ mood: Mood) { self.mood.withLock { $0 = mood } }

    /// The deadlines of all requests so far.
    var deadlines: [Deadline] { seen.withLock { $0 } }

    /// Returns when a dawdling request is under way.
    func untilStarted() async { for await _ in started.stream { return } }

    func perform(
        _ request: consuming KMSRequest, deadline: Deadline, keyID: inout String
    ) async throws(KMSFailure) -> KMSReply {
        seen.withLock { $0.append(deadline) }
        let mood = self.mood.withLock { $0 }
        switch mood {
        case .working: break
        case .failing(let failure): throw failure
        case .dawdling:
            started.continuation.yield()
            let (stream, continuation) = AsyncStream<Void>.makeStream()
            await withTaskCancellationHandler {
                for await _ in stream {}
            } onCancel: {
                continuation.finish()
            }
            throw KMSFailure(.cancelled, "the caller gave up")
        case .confused:
            return .version(VersionReply(version: "v1beta1", runtimeName: "x", runtimeVersion: "1.0.0"))
        case .excessive:
            return .encrypted(.v2, EncryptReply(ciphertext: [UInt8](repeating: 0, count: 1_025), keyID: "id"))
        }
        switch consume request {
        case .version:
            return .version(VersionReply(version: "v1beta1", runtimeName: "turning", runtimeVersion: "1.0.0"))
        case .status: return .status(StatusReply(version: "v2", healthz: "ok", keyID: "id"))
        case .encrypt(let request):
            keyID = "id"
            let turned = Array(contents(request.plaintext).reversed())
            return .encrypted(request.api, EncryptReply(ciphertext: turned, keyID: "id"))
        case .decrypt(let request):
            guard request.api == .v1beta1 || request.keyID == "id" else {
                throw KMSFailure(.invalidArgument, "key_id is none of ours")
            }
            keyID = "id"
            let turned = Array(request.ciphertext.reversed())
            return .decrypted(request.api, secret(turned))
        }
    }
}

func contents(_ secret: borrowing SecretBytes) -> [UInt8] { secret.withBytes { bytes($0) } }

func bytes(_ span: RawSpan) -> [UInt8] { unsafe span.withUnsafeBytes { unsafe Array($0) } }

func secret(_ bytes: [UInt8]) -> SecretBytes {
    SecretBytes(count: bytes.count) { fill(&$0, bytes) }
}

func fill(_ target: inout MutableRawSpan, _ bytes: [UInt8]) {
    for (index, byte) in bytes.enumerated() {
        target.storeBytes(of: byte, toByteOffset: index, as: UInt8.self)
    }
}

func encoded(_ request: consuming KMSRequest) -> [UInt8] {
    var out = [UInt8](repeating: 0, count: request.encodedCount)
    var span = out.mutableSpan
    var raw = unsafe span.mutableBytes
    request.encode(into: &raw)
    return out
}

/// Time that passes when told to.
final class HandClock: Sendable {
    private let state: Mutex<(now: ContinuousClock.Instant, step: Duration)>

    init() { state = Mutex((ContinuousClock.now, .zero)) }

    var now: ContinuousClock.Instant {
        state.withLock { state in
            defer { state.now += state.step }
            return state.now
        }
    }

    func advance(by duration: Duration) { state.withLock { $0.now += duration } }

    /// Every reading moves the clock on by `step`.
    func tick(_ step: Duration) { state.withLock { $0.step = step } }
}

/// A handler with everything around it.
struct Bench {
    /// One engine for all tests; its thread ends with the process.
    static let engine = EngineThread(name: "bench")

    let service: TurningService
    let clock = HandClock()
    let log = InMemoryLogHandler()
    let metrics = PrometheusRegistry(process: false)
    let decoder: RequestDecoder
    let handler: KMSCallHandler

    init(_ mood: TurningService.Mood = .working, level: Logger.Level = .info) {
        service = TurningService(mood)
        let log = log
        var logger = Logger(label: "bench", factory: { _ in log })
        logger.logLevel = level
        let clock = clock
        decoder = RequestDecoder(on: Self.engine, logger: logger, now: { clock.now })
        handler = KMSCallHandler(
            service: service, decoder: decoder, logger: logger, metrics: metrics, now: { clock.now })
    }

    /// Calls the handler as the engine would, with `timeout` left.
    func call(
        _ method: KMSMethod, _ message: [UInt8], timeout: Duration? = .seconds(3)
    ) async throws(CallFailure) -> [UInt8] {
        let deadline = timeout.map { clock.now + $0 }
        let incoming = IncomingCall(
            method: method.rawValue, deadline: deadline,
            message: MessageBytes(copying: unsafe message.span.bytes))
        let reply = try await handler.serve(incoming)
        return reply.withBytes { bytes($0) }
    }

    func failure(
        _ method: KMSMethod, _ message: [UInt8], timeout: Duration? = .seconds(3)
    ) async -> CallFailure? {
        do throws(CallFailure) {
            _ = try await call(method, message, timeout: timeout)
            return nil
        } catch { return error }
    }

    /// The value of one line of the metrics page; nil if there is no such line.
    func metric(_ series: String) -> String? {
        String(decoding: metrics.render(.text), as: UTF8.self).split(separator: "\n")
            .first { $0.hasPrefix(series + " ") }
            .map { String($0.dropFirst(series.count + 1)) }
    }

    var page: String { String(decoding: metrics.render(.text), as: UTF8.self) }
}

/// A good v2 Encrypt of a marked plaintext.
let marker = "TOP-SECRET-PLAINTEXT"
func goodEncrypt(
    uid: String = "11111111-2222-3333-4444-555555555555", _ api: KMSAPI = .v2
) -> [UInt8] {
    encoded(
        .encrypt(
            EncryptRequest(
                api: api, plaintext: secret(Array(marker.utf8)), uid: api == .v2 ? uid : "")))
}

func goodDecrypt(uid: String = "u-1", keyID: String = "id", _ api: KMSAPI = .v2) -> [UInt8] {
    let turned = Array(Array(marker.utf8).reversed())
    let request =
        api == .v2
        ? DecryptRequest(api: .v2, ciphertext: turned, uid: uid, keyID: keyID)
        : DecryptRequest(api: .v1beta1, ciphertext: turned)
    return encoded(.decrypt(request))
}
