// TestSupport: what the tests of several rooms stand on.

private import Synchronization

/// A serial executor on Swift's pool, in the place of the engine's thread.
public final class PoolExecutor: SerialExecutor {
    private struct State {
        var jobs: [UnownedJob] = []
        var isRunning = false
    }

    private let state = Mutex(State())

    /// An executor.
    public init() {}

    /// Runs a job after those that came before.
    public func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        let mustStart = state.withLock { state in
            state.jobs.append(job)
            defer { state.isRunning = true }
            return !state.isRunning
        }
        if mustStart { Task { self.run() } }
    }

    private func run() {
        while let job = next() {
            // Run exactly once, on the executor it was enqueued to.
            unsafe job.runSynchronously(on: asUnownedSerialExecutor())
        }
    }

    private func next() -> UnownedJob? {
        state.withLock { state in
            guard !state.jobs.isEmpty else {
                state.isRunning = false
                return nil
            }
            return state.jobs.removeFirst()
        }
    }
}
