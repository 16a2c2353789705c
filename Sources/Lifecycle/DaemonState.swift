private import Synchronization

/// Facts about the daemon's own life that the health endpoint and the exit code are made of.
final class DaemonState: Sendable {
    private let stopping = Atomic(false)
    private let abandoned = Atomic(false)

    var isStopping: Bool { stopping.load(ordering: .relaxed) }
    var hasAbandonedCalls: Bool { abandoned.load(ordering: .relaxed) }

    func beginStopping() { stopping.store(true, ordering: .relaxed) }
    func abandonCalls() { abandoned.store(true, ordering: .relaxed) }
}
