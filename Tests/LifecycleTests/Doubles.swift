import RemoteKMS
import SecureMemory
import SocketAcceptance
import Synchronization

@testable import Lifecycle

/// A service manager that remembers what it was told.
final class RecordingManager: ServiceManager {
    let watchdogInterval: Duration?
    private let heard = Mutex<[String]>([])

    init(watchdogInterval: Duration? = nil) { self.watchdogInterval = watchdogInterval }

    var told: [String] { heard.withLock { $0 } }

    func ready(status: String) { heard.withLock { $0.append("READY \(status)") } }
    func status(_ line: String) { heard.withLock { $0.append("STATUS \(line)") } }
    func starting(status: String, atMost limit: Duration) {
        heard.withLock { $0.append("STARTING \(limit) \(status)") }
    }
    func reloading() { heard.withLock { $0.append("RELOADING") } }
    func reloaded() { heard.withLock { $0.append("RELOADED") } }
    func stopping() { heard.withLock { $0.append("STOPPING") } }
    func watchdog() { heard.withLock { $0.append("WATCHDOG") } }
}

/// An engine that answers a probe, or not, as the script says.
final class ScriptedEngine: EngineProgress {
    private let script: Mutex<[Bool]>
    private let answered = Atomic<UInt64>(0)

    init(answers: [Bool]) { script = Mutex(answers) }

    var answeredProbes: UInt64 { answered.load(ordering: .relaxed) }
    var busyTime: Duration { .zero }

    func postProbe() {
        let answers = script.withLock { $0.isEmpty ? false : $0.removeFirst() }
        if answers { answered.wrappingAdd(1, ordering: .relaxed) }
    }
}

/// A clock whose sleeps end at once, and whose sleeper is cancelled after a number of them.
final class ImpatientClock: Clock {
    typealias Duration = Swift.Duration
    typealias Instant = ContinuousClock.Instant

    private let left: Mutex<Int>
    private let asked = Mutex<[Duration]>([])

    init(sleeps: Int) { left = Mutex(sleeps) }

    /// How long each sleep was to be, to the millisecond.
    var durations: [Duration] { asked.withLock { $0 } }
    var now: Instant { ContinuousClock.now }
    var minimumResolution: Duration { .zero }

    func sleep(until deadline: Instant, tolerance: Duration?) async throws {
        let wanted = now.duration(to: deadline)
        asked.withLock { $0.append(wanted) }
        let mayGoOn = left.withLock { left in
            left -= 1
            return left >= 0
        }
        if !mayGoOn { throw CancellationError() }
    }
}

/// A backend that never answers.
final class SilentProvider: Provider {
    let name = "silent"

    func describe(_ attempt: Attempt) async throws(RemoteKMSError) -> KeyDescription {
        for await _ in AsyncStream<Int>.makeStream().stream {}  // ends with the task
        throw RemoteKMSError(.unavailable, "unreachable")
    }

    func wrap(
        _ plaintext: borrowing SecretBytes, context: WrapContext, attempt: Attempt
    ) async throws(RemoteKMSError) -> [UInt8] { throw RemoteKMSError(.unavailable, "unreachable") }

    func unwrap(
        _ wrapped: [UInt8], context: WrapContext, attempt: Attempt
    ) async throws(RemoteKMSError) -> SecretBytes { throw RemoteKMSError(.unavailable, "unreachable") }
}

/// A backend that fails at once.
final class FailingProvider: Provider {
    let name = "failing"
    static let failure = RemoteKMSError(.misconfigured, "there is no key file", remedy: "make one")

    func describe(_ attempt: Attempt) async throws(RemoteKMSError) -> KeyDescription { throw Self.failure }

    func wrap(
        _ plaintext: borrowing SecretBytes, context: WrapContext, attempt: Attempt
    ) async throws(RemoteKMSError) -> [UInt8] { throw Self.failure }

    func unwrap(
        _ wrapped: [UInt8], context: WrapContext, attempt: Attempt
    ) async throws(RemoteKMSError) -> SecretBytes { throw Self.failure }
}
