private import Synchronization

/// Who waits for a reload that was asked for; all who ask before it begins are answered by the same one.
final class ReloadRequests: Sendable {
    /// Takes the report, or nil if the daemon ends first.
    typealias Answer = CheckedContinuation<ReloadReport?, Never>

    private struct State {
        var isClosed = false
        var waiting: [UInt64: Answer] = [:]
        var next: UInt64 = 0
        var ring: (@Sendable () -> Void)?
    }

    private let state = Mutex(State())

    /// How many wait.
    var count: Int { state.withLock { $0.waiting.count } }

    /// Calls `ring` at each request, and for those that came before.
    func open(_ ring: @escaping @Sendable () -> Void) {
        let isAwaited = state.withLock { state in
            state.ring = ring
            return !state.waiting.isEmpty
        }
        if isAwaited { ring() }
    }

    /// Those who wait now; each must be answered.
    func take() -> [Answer] {
        state.withLock { state in
            defer { state.waiting = [:] }
            return Array(state.waiting.values)
        }
    }

    /// Answers nobody any more.
    func close() {
        state.withLock {
            $0.isClosed = true
            $0.ring = nil
        }
        for answer in take() { answer.resume(returning: nil) }
    }

    /// Has the configuration read anew, and waits for what becomes of it; nil if the daemon, or the caller's task, ends first.
    func reload() async -> ReloadReport? {
        let ticket = state.withLock { state in
            state.next += 1
            return state.next
        }
        return await withTaskCancellationHandler {
            await withCheckedContinuation { (answer: Answer) in
                let (mayWait, ring) = state.withLock { state in
                    // A cancellation that came before this line finds nobody to answer; one that comes later does.
                    guard !state.isClosed, !Task.isCancelled else {
                        return (false, nil as (@Sendable () -> Void)?)
                    }
                    state.waiting[ticket] = answer
                    return (true, state.ring)
                }
                if mayWait { ring?() } else { answer.resume(returning: nil) }
            }
        } onCancel: {
            state.withLock { $0.waiting.removeValue(forKey: ticket) }?.resume(returning: nil)
        }
    }
}
