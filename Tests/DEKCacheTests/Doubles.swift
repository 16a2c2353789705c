import CoreMetrics
import DEKCache
import Dispatch
import Synchronization

/// A serial executor that counts what it is given.
final class CountingExecutor: SerialExecutor {
    private let queue = DispatchQueue(label: "test executor")
    private let count = Atomic<Int>(0)

    /// Jobs given to it so far.
    var jobs: Int { count.load(ordering: .relaxed) }

    func enqueue(_ job: consuming ExecutorJob) {
        count.wrappingAdd(1, ordering: .relaxed)
        let job = UnownedJob(job)
        queue.async {
            // Run exactly once, on the executor it was enqueued to.
            unsafe job.runSynchronously(on: self.asUnownedSerialExecutor())
        }
    }
}

/// Time that passes when the test says so.
final class ManualTime: Sendable {
    private let passed = Mutex(Duration.seconds(1_000))

    var now: Duration { passed.withLock { $0 } }

    func advance(by duration: Duration) { passed.withLock { $0 += duration } }
}

/// A value whose end shows.
final class Secret: Sendable {
    let id: Int
    private let living: LivingSecrets?

    init(_ id: Int, countedBy living: LivingSecrets? = nil) {
        self.id = id
        self.living = living
        living?.add(1)
    }

    deinit { living?.add(-1) }
}

/// How many secrets there are.
final class LivingSecrets: Sendable {
    private let count = Atomic<Int>(0)

    var now: Int { count.load(ordering: .sequentiallyConsistent) }

    func add(_ change: Int) { count.add(change, ordering: .sequentiallyConsistent) }
}

enum Trouble: Error, Equatable {
    case unreachable
    case corrupt
}

/// A key-management service that answers when the test says so, in any order.
final class GatedKMS: Sendable {
    typealias Answer = Result<Secret, Trouble>

    private struct State {
        var calls = 0
        var pending: [Int: CheckedContinuation<Answer, Never>] = [:]
        var budgets: [Duration] = []
        var cancellations = 0
        var watchers: [(calls: Int, continuation: CheckedContinuation<Void, Never>)] = []
    }

    private let state = Mutex(State())

    var calls: Int { state.withLock { $0.calls } }
    var cancellations: Int { state.withLock { $0.cancellations } }
    var budgets: [Duration] { state.withLock { $0.budgets } }

    /// One call; the first is number 1.
    func unwrap(within budget: Duration) async throws(Trouble) -> Secret {
        let number = state.withLock { state in
            state.calls += 1
            state.budgets.append(budget)
            return state.calls
        }
        let answer = await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let ready = state.withLock { state in
                    state.pending[number] = continuation
                    let ready = state.watchers.filter { $0.calls <= state.calls }
                    state.watchers.removeAll { $0.calls <= state.calls }
                    return ready
                }
                for watcher in ready { watcher.continuation.resume() }
            }
        } onCancel: {
            state.withLock { $0.cancellations += 1 }
        }
        return try answer.get()
    }

    /// Waits until so many calls were made.
    func untilCalled(_ calls: Int = 1) async {
        await withCheckedContinuation { continuation in
            let isThere = state.withLock { state in
                guard state.calls < calls || state.pending[calls] == nil else { return true }
                state.watchers.append((calls, continuation))
                return false
            }
            if isThere { continuation.resume() }
        }
    }

    func answer(_ number: Int, _ answer: Answer) {
        state.withLock { $0.pending.removeValue(forKey: number) }?.resume(returning: answer)
    }
}

/// Metrics by name and labels: counters and gauges hold their value.
final class MetricStore: MetricsFactory {
    private let values = Mutex<[String: Double]>([:])

    subscript(name: String) -> Double? { values.withLock { $0[name] } }

    private func handler(_ label: String, _ dimensions: [(String, String)]) -> Handler {
        Handler(store: self, name: label + dimensions.map { "{\($0)=\($1)}" }.joined())
    }

    func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        handler(label, dimensions)
    }
    func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        handler(label, dimensions)
    }
    func makeRecorder(
        label: String, dimensions: [(String, String)], aggregate: Bool
    ) -> any RecorderHandler { handler(label, dimensions) }
    func destroyCounter(_ handler: any CounterHandler) {}
    func destroyTimer(_ handler: any TimerHandler) {}
    func destroyRecorder(_ handler: any RecorderHandler) {}

    private final class Handler: CounterHandler, RecorderHandler, TimerHandler {
        private let store: MetricStore
        private let name: String

        init(store: MetricStore, name: String) {
            self.store = store
            self.name = name
        }

        private func set(_ change: (Double) -> Double) {
            store.values.withLock { $0[name] = change($0[name] ?? 0) }
        }

        func increment(by amount: Int64) { set { $0 + Double(amount) } }
        func reset() { set { _ in 0 } }
        func record(_ value: Int64) { set { _ in Double(value) } }
        func record(_ value: Double) { set { _ in value } }
        func recordNanoseconds(_ duration: Int64) { set { $0 + 1 } }
    }
}
