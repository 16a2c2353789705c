private import CShims
private import Glibc
private import Synchronization

/// Hears what a poll thread sees.
///
/// All calls come on that thread.
protocol PollSink: AnyObject, Sendable {
    /// Milliseconds to wait at most; -1 for ever.
    func pollTimeout() -> Int32
    /// Descriptors became ready, or the time is up.
    func polled(_ events: [PollThread.Event])
}

/// One named thread that runs an actor's jobs and waits for its descriptors.
///
/// After the thread has ended, late jobs run one at a time on the threads that bring them: nothing hangs, nothing traps.
///
/// @unchecked: `ready` and `sink` are touched only by whoever `owner` names; the rest is constant, atomic or locked.
final class PollThread: SerialExecutor, @unchecked Sendable {
    struct Event: Equatable {
        let tag: UInt64
        let hasEnded: Bool
    }

    enum Interest {
        /// Bytes or connections wait to be taken.
        case readable
        /// New bytes came, or the peer will send no more.
        case arrivals
        /// New bytes came.
        case data
        /// The connection is over, which the other kinds report too.
        case endOnly

        fileprivate var events: UInt32 {
            switch self {
            case .readable: ksw_poll_readable
            case .arrivals: ksw_poll_arrivals
            case .data: ksw_poll_data
            case .endOnly: 0
            }
        }
    }

    private enum Phase { case running, stopping, ended }
    private enum NextStep { case nothing, wake, runHere }

    private struct Inbox {
        var jobs: [UnownedJob] = []
        var phase = Phase.running
        var isWakePosted = false
        var isBeingRunHere = false
    }

    private static let wakeTag = UInt64.max

    private let name: String
    private let poll: OwnedDescriptor
    private let waker: OwnedDescriptor
    private let owner = Atomic<UInt>(0)
    private let inbox = Mutex(Inbox())
    private let thread = Mutex<pthread_t?>(nil)
    private var ready: [UnownedJob] = []
    private var sink: (any PollSink)?

    init(named name: String) throws(SocketFailure) {
        guard let poll = OwnedDescriptor(adopting: ksw_poll_new()),
            let waker = OwnedDescriptor(adopting: ksw_waker_new()),
            ksw_poll_add(poll.number, waker.number, ksw_poll_readable, Self.wakeTag) == 0
        else { throw SocketFailure(.system, "cannot poll for connections: \(SocketFailure.text(of: errno))") }
        self.name = name
        self.poll = poll
        self.waker = waker
    }

    // MARK: Life

    /// Starts the thread, which keeps this object and the sink alive until `join`.
    func start(sink: any PollSink) throws(SocketFailure) {
        self.sink = sink
        var started: pthread_t = 0
        let context = unsafe Unmanaged.passRetained(self)
        let outcome = unsafe pthread_create(
            &started, nil,
            { context in
                guard let context = unsafe context else { return nil }
                unsafe Unmanaged<PollThread>.fromOpaque(context).takeRetainedValue().run()
                return nil
            }, context.toOpaque())
        guard outcome == 0 else {
            unsafe context.release()
            self.sink = nil
            throw SocketFailure(.system, "cannot start thread \(name): \(SocketFailure.text(of: outcome))")
        }
        thread.withLock { $0 = started }
    }

    /// Asks the thread to end once it has nothing more to run.
    func stop() {
        inbox.withLock { if $0.phase == .running { $0.phase = .stopping } }
        ksw_waker_post(waker.number)
    }

    /// Waits until the thread has ended, which it does at once after `stop`.
    ///
    /// Not from the thread itself.
    func join() {
        guard let thread = thread.withLock({ $0.take() }) else { return }
        _ = pthread_join(thread, nil)
        sink = nil
    }

    // MARK: Descriptors

    /// Starts watching; false with `errno` if the kernel refuses.
    func watch(_ descriptor: Int32, _ interest: Interest, tag: UInt64) -> Bool {
        ksw_poll_add(poll.number, descriptor, interest.events, tag) == 0
    }

    /// Changes what a watched descriptor is watched for; what has become true already is reported too.
    func rewatch(_ descriptor: Int32, _ interest: Interest, tag: UInt64) {
        _ = ksw_poll_change(poll.number, descriptor, interest.events, tag)
    }

    /// Stops watching.
    ///
    /// Must come before closing: the kernel watches the open file, of which others hold copies.
    func unwatch(_ descriptor: Int32) { _ = ksw_poll_remove(poll.number, descriptor) }

    // MARK: SerialExecutor

    private var isCurrent: Bool { owner.load(ordering: .relaxed) == UInt(pthread_self()) }

    func isIsolatingCurrentContext() -> Bool? { isCurrent }

    func checkIsolated() { precondition(isCurrent, "not on thread \(name)") }

    func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        if isCurrent {
            ready.append(job)
            return
        }
        let next = inbox.withLock { inbox -> NextStep in
            inbox.jobs.append(job)
            if inbox.phase == .ended {
                if inbox.isBeingRunHere { return .nothing }
                inbox.isBeingRunHere = true
                return .runHere
            }
            if inbox.isWakePosted { return .nothing }
            inbox.isWakePosted = true
            return .wake
        }
        switch next {
        case .nothing: break
        case .wake: ksw_waker_post(waker.number)
        case .runHere: runLateJobs()
        }
    }

    // MARK: Loop

    private func run() {
        ksw_block_signals()
        unsafe ksw_name_this_thread(name)
        owner.store(UInt(pthread_self()), ordering: .relaxed)
        var events: [ksw_poll_event] = Array(repeating: ksw_poll_event(), count: 64)
        repeat {
            runReadyJobs()
            let mustNotWait = !ready.isEmpty || inbox.withLock { $0.phase == .stopping }
            let timeout = mustNotWait ? 0 : sink?.pollTimeout() ?? -1
            let count = unsafe events.withUnsafeMutableBufferPointer {
                unsafe ksw_poll_wait(poll.number, $0.baseAddress, Int32($0.count), timeout)
            }
            var seen: [Event] = []
            for event in events.prefix(Int(max(0, count))) {
                if event.tag == Self.wakeTag {
                    ksw_waker_clear(waker.number)
                } else {
                    seen.append(Event(tag: event.tag, hasEnded: event.events & ksw_poll_ended != 0))
                }
            }
            sink?.polled(seen)
        } while !hasEnded()
    }

    private func runReadyJobs() {
        let arrived = inbox.withLock { inbox -> [UnownedJob] in
            inbox.isWakePosted = false
            defer { inbox.jobs.removeAll(keepingCapacity: true) }
            return inbox.jobs
        }
        let batch = ready + arrived
        ready.removeAll(keepingCapacity: true)
        for job in batch { unsafe job.runSynchronously(on: asUnownedSerialExecutor()) }
    }

    private func hasEnded() -> Bool {
        guard ready.isEmpty else { return false }
        return inbox.withLock { inbox in
            guard inbox.phase == .stopping, inbox.jobs.isEmpty else { return false }
            inbox.phase = .ended
            owner.store(0, ordering: .relaxed)
            return true
        }
    }

    private func runLateJobs() {
        owner.store(UInt(pthread_self()), ordering: .relaxed)
        var isDone = false
        while !isDone {
            runReadyJobs()
            guard ready.isEmpty else { continue }
            isDone = inbox.withLock { inbox in
                guard inbox.jobs.isEmpty else { return false }
                inbox.isBeingRunHere = false
                owner.store(0, ordering: .relaxed)
                return true
            }
        }
    }
}
