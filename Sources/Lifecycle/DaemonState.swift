internal import KeyService
private import Synchronization

/// What the parts of the daemon tell each other; read by /readyz.
final class DaemonState: Sendable {
    private let announced = Atomic(false)
    private let stopping = Atomic(false)
    private let abandoned = Atomic(false)
    private let ring = Mutex<KeyRing?>(nil)

    /// Whether READY=1 was said, and STOPPING=1 was not.
    var isReady: Bool { announced.load(ordering: .acquiring) && !isStopping }
    var isStopping: Bool { stopping.load(ordering: .relaxed) }
    var hasAbandonedCalls: Bool { abandoned.load(ordering: .relaxed) }
    /// How the keys are; nothing is said of them before there are any.
    var keys: [KeySnapshot] { ring.withLock { $0 }?.snapshot() ?? [] }

    func keysAreKnown(_ keys: KeyRing) { ring.withLock { $0 = keys } }
    func announceReadiness() { announced.store(true, ordering: .releasing) }
    func beginStopping() { stopping.store(true, ordering: .relaxed) }
    func abandonCalls() { abandoned.store(true, ordering: .relaxed) }
}
