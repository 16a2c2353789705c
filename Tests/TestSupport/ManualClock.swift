private import Synchronization

/// Time that passes when the test says so; who sleeps is woken by that, or by being cancelled.
public final class ManualClock: Clock {
    /// The instants that deadlines are made of.
    public typealias Instant = ContinuousClock.Instant

    private struct Sleeper {
        let until: Instant
        let continuation: CheckedContinuation<Void, Never>
    }

    private struct State {
        var now = ContinuousClock.now
        var sleepers: [Int: Sleeper] = [:]
        var next = 0
        var watchers: [(count: Int, continuation: CheckedContinuation<Void, Never>)] = []

        mutating func takeReadyWatchers() -> [CheckedContinuation<Void, Never>] {
            let ready = watchers.filter { $0.count <= sleepers.count }.map(\.continuation)
            watchers.removeAll { $0.count <= sleepers.count }
            return ready
        }
    }

    private let state = Mutex(State())

    /// A clock that stands at the time of its making.
    public init() {}

    /// The instant at which it stands.
    public var now: Instant { state.withLock { $0.now } }
    /// Any.
    public var minimumResolution: Duration { .zero }

    /// Waits until the test has let that much time pass.
    public func sleep(until deadline: Instant, tolerance: Duration?) async throws {
        let ticket = state.withLock { state in
            state.next += 1
            return state.next
        }
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let (mustWait, watchers) = state.withLock {
                    state -> (Bool, [CheckedContinuation<Void, Never>]) in
                    guard deadline > state.now, !Task.isCancelled else { return (false, []) }
                    state.sleepers[ticket] = Sleeper(until: deadline, continuation: continuation)
                    return (true, state.takeReadyWatchers())
                }
                for watcher in watchers { watcher.resume() }
                if !mustWait { continuation.resume() }
            }
        } onCancel: {
            state.withLock { $0.sleepers.removeValue(forKey: ticket) }?.continuation.resume()
        }
        try Task.checkCancellation()
    }

    /// Time until the first sleeper wakes.
    public var untilNextWake: Duration {
        state.withLock { state in
            state.sleepers.values.map { state.now.duration(to: $0.until) }.min() ?? .zero
        }
    }

    /// Lets time pass.
    public func advance(by duration: Duration) {
        let woken = state.withLock { state in
            state.now += duration
            let due = state.sleepers.filter { $0.value.until <= state.now }
            for ticket in due.keys { state.sleepers[ticket] = nil }
            return due.values.map(\.continuation)
        }
        for continuation in woken { continuation.resume() }
    }

    /// Waits until so many tasks sleep.
    public func untilSleeping(_ count: Int = 1) async {
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
