private import Synchronization

/// Opens once, when it is known whether a key works; whoever comes earlier can wait.
///
/// A waiter's cancellation or time limit ends its own wait only.
final class FirstVerdict: Sendable {
    private struct State {
        var isGiven = false
        var waiters: [UInt64: CheckedContinuation<Void, Never>] = [:]
        var next: UInt64 = 0
    }

    private let state = Mutex(State())

    var isGiven: Bool { state.withLock { $0.isGiven } }

    /// Lets everybody through, now and later.
    func give() {
        let waiters = state.withLock { state in
            state.isGiven = true
            defer { state.waiters = [:] }
            return state.waiters
        }
        for waiter in waiters.values { waiter.resume() }
    }

    /// Waits, at most so long; true if the verdict is there.
    func wait(atMost limit: Duration, on clock: any Clock<Duration>) async -> Bool {
        if isGiven { return true }
        guard limit > .zero else { return false }
        await withTaskGroup(of: Void.self) { group in
            group.addTask { await self.wait() }
            // Cancelled when the verdict came first; then there is nothing to report.
            group.addTask { try? await clock.sleep(for: limit) }
            await group.next()
            group.cancelAll()
        }
        return isGiven
    }

    /// Waits until the verdict is there or the task is cancelled.
    func wait() async {
        let ticket = state.withLock { state in
            state.next += 1
            return state.next
        }
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let mayWait = state.withLock { state in
                    // A cancellation that came before this line finds no waiter to end, so it is looked up here;
                    // one that comes later finds it.
                    guard !state.isGiven, !Task.isCancelled else { return false }
                    state.waiters[ticket] = continuation
                    return true
                }
                if !mayWait { continuation.resume() }
            }
        } onCancel: {
            state.withLock { $0.waiters.removeValue(forKey: ticket) }?.resume()
        }
    }
}
