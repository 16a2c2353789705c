import RemoteKMS
import Synchronization

/// Time that passes when the test says so, in the instants that deadlines are made of.
final class HandClock: DeadlineClock, Sendable {
    typealias Instant = ContinuousClock.Instant

    private struct Sleeper {
        let until: Instant
        let continuation: CheckedContinuation<Void, Never>
    }

    private struct State {
        var now: Instant
        var sleepers: [Int: Sleeper] = [:]
        var next = 0
        var watchers: [(count: Int, continuation: CheckedContinuation<Void, Never>)] = []
    }

    private let state = Mutex(State(now: ContinuousClock.now))

    var now: Instant { state.withLock { $0.now } }
    var minimumResolution: Duration { .zero }

    /// A deadline so far from now.
    func deadline(in duration: Duration) -> Deadline { Deadline(now + duration) }

    func sleep(until deadline: Instant, tolerance: Duration?) async throws {
        let ticket = state.withLock { state in
            state.next += 1
            return state.next
        }
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let (mustWait, watchers) = state.withLock { state in
                    guard deadline > state.now, !Task.isCancelled else {
                        return (false, [CheckedContinuation<Void, Never>]())
                    }
                    state.sleepers[ticket] = Sleeper(until: deadline, continuation: continuation)
                    let ready = state.watchers.filter { $0.count <= state.sleepers.count }
                    state.watchers.removeAll { $0.count <= state.sleepers.count }
                    return (true, ready.map(\.continuation))
                }
                for watcher in watchers { watcher.resume() }
                if !mustWait { continuation.resume() }
            }
        } onCancel: {
            state.withLock { $0.sleepers.removeValue(forKey: ticket) }?.continuation.resume()
        }
        try Task.checkCancellation()
    }

    func advance(by duration: Duration) {
        let woken = state.withLock { state in
            state.now += duration
            let due = state.sleepers.filter { $0.value.until <= state.now }
            for ticket in due.keys { state.sleepers[ticket] = nil }
            return due.values.map(\.continuation)
        }
        for continuation in woken { continuation.resume() }
    }

    /// Waits until so many tasks sleep.
    func untilSleeping(_ count: Int) async {
        await withCheckedContinuation { continuation in
            let isThere = state.withLock { state in
                guard state.sleepers.count < count else { return true }
                state.watchers.append((count, continuation))
                return false
            }
            if isThere { continuation.resume() }
        }
    }
}
