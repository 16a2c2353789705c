internal import CGRPC
private import CShims
private import Glibc
private import Synchronization

/// The thread that polls libgrpc's completion queue and is, at the same time, the serial executor of every actor on
/// the hot path: a call that needs no other thread never leaves this one.
///
/// The one pairing that costs no hop (measured; a wrong one is correct but slower): actors whose `unownedExecutor` is
/// this object, tasks started by `Task {}` inside their methods, jobs run with `runSynchronously(on:)`, no task
/// executor preference anywhere. `Statistics.jobsFromHere` per call guards it in a test.
@safe public final class EngineThread: SerialExecutor, @unchecked Sendable {
    // `queue`, `waker` and `thread` are set before the thread starts and used until it is joined; `ready`, `running`,
    // `trims`, `trimAt` and `lull` belong to the thread; everything else is atomic or under `inbox`'s lock.
    let queue: OpaquePointer
    private let waker: OpaquePointer
    private let inbox = Mutex(Inbox())
    private let sinks = Mutex<[(any CompletionSink)?]>([])
    private let threadID = Atomic<UInt>(0)
    private let probesAnswered = Atomic<UInt64>(0)
    private let clock = Atomic<Int32>(-1)
    private let trimTime = Atomic<Int64>(0)
    private let jobsFromHere = Atomic<UInt64>(0)
    private let jobsFromElsewhere = Atomic<UInt64>(0)
    private var thread = pthread_t()
    private var ready: [UnownedJob] = []
    private var running: [UnownedJob] = []
    private var trims: HeapTrims
    private var lull = Lull(processors: Int(ksw_usable_processors()))
    private var trimAt = gpr_inf_future(GPR_CLOCK_MONOTONIC)

    private struct Inbox {
        var jobs: [UnownedJob] = []
        var isWakePosted = false
        var isStopped = false
    }

    /// Counts since the start; for tests and for judging what a change costs.
    public struct Statistics: Sendable, Equatable {
        /// Jobs that the thread gave to itself: no hop.
        public var jobsFromHere: UInt64
        /// Jobs that came from other threads: a wake-up each, at most.
        public var jobsFromElsewhere: UInt64
    }

    /// Starts libgrpc, the queue and the thread, which keeps the engine until `stop()`.
    public init(name: String = "engine") {
        trims = HeapTrims(resident: ksw_resident_bytes())
        ksw_forgo_deadlock_detection()
        grpc_init()
        unsafe queue = grpc_completion_queue_create_for_next(nil)
        unsafe waker = ksw_waker_new(queue)
        let box = unsafe Unmanaged.passRetained(Start(engine: self, name: name))
        let failure = unsafe pthread_create(&thread, nil, runEngine, box.toOpaque())
        precondition(failure == 0, "cannot start the engine thread: errno \(failure)")
    }

    /// What the thread's start routine gets.
    fileprivate final class Start {
        let engine: EngineThread
        let name: String
        init(engine: EngineThread, name: String) {
            self.engine = engine
            self.name = name
        }
    }

    /// Ends the loop, joins the thread and shuts libgrpc down.
    ///
    /// Every server and client of this engine must have been drained before, and no actor of it may be used
    /// after. Blocks; never call it from a task.
    public func stop() {
        precondition(!isCurrent, "the engine thread cannot join itself")
        let wasStopped = inbox.withLock { inbox in
            defer { inbox.isStopped = true }
            return inbox.isStopped
        }
        guard !wasStopped else { return }
        unsafe grpc_call_unref(waker)
        unsafe grpc_completion_queue_shutdown(queue)
        pthread_join(thread, nil)
        clock.store(-1, ordering: .relaxed)  // the kernel may give its number to another thread
        sinks.withLock { $0.removeAll() }
        unsafe grpc_completion_queue_destroy(queue)
        grpc_shutdown_blocking()
    }

    // MARK: Executor

    /// Whether the caller runs on the engine's thread.
    public var isCurrent: Bool { UInt(pthread_self()) == threadID.load(ordering: .relaxed) }

    /// Runs a job on the engine's thread, in order of arrival.
    public func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        if isCurrent {
            jobsFromHere.wrappingAdd(1, ordering: .relaxed)
            ready.append(job)
            return
        }
        jobsFromElsewhere.wrappingAdd(1, ordering: .relaxed)
        let mustWake = inbox.withLock { inbox in
            precondition(!inbox.isStopped, "job for an engine that has stopped")
            inbox.jobs.append(job)
            defer { inbox.isWakePosted = true }
            return !inbox.isWakePosted
        }
        if mustWake { post(.wake) }
    }

    /// Whether the current context is the engine's thread.
    public func isIsolatingCurrentContext() -> Bool? { isCurrent }

    /// Traps if the caller is not on the engine's thread.
    public func checkIsolated() { precondition(isCurrent, "not on the engine's thread") }

    // MARK: Probes

    /// Posts a wake-up whose only effect is that `answeredProbes` grows when the thread comes round to it.
    ///
    /// For the stall guard and the watchdog. Does nothing after `stop()`.
    public func postProbe() {
        // Under the lock, so that the waker cannot go in between; posting calls nothing of ours.
        inbox.withLock { if !$0.isStopped { post(.probe) } }
    }

    /// How many probes the thread has answered.
    public var answeredProbes: UInt64 { probesAnswered.load(ordering: .relaxed) }

    /// Processor time that the thread has spent on behalf of peers; zero before it has begun and after it has ended.
    ///
    /// Giving memory back is not counted: no peer is to blame for that.
    public var busyTime: Duration {
        .nanoseconds(
            max(0, ksw_thread_time(clock.load(ordering: .relaxed)) - trimTime.load(ordering: .relaxed)))
    }

    /// Counts since the start.
    public var statistics: Statistics {
        Statistics(
            jobsFromHere: jobsFromHere.load(ordering: .relaxed),
            jobsFromElsewhere: jobsFromElsewhere.load(ordering: .relaxed))
    }

    private func post(_ kind: Tag.Kind) { post(Tag(sink: 0, slot: 0, generation: 0, kind: kind)) }

    /// Brings a tag to its owner on the engine's thread; not after `stop()`.
    func post(_ tag: Tag) {
        let error = unsafe ksw_wake(waker, tag.rawValue)
        precondition(error == GRPC_CALL_OK, "cannot wake the completion queue: call error \(error.rawValue)")
    }

    // MARK: Completions

    /// Registers an owner of tags; its index goes into them.
    func register(_ sink: any CompletionSink) -> Int {
        sinks.withLock { sinks in
            // A place is free only when its owner's last tag has come back.
            if let free = sinks.firstIndex(where: { $0 == nil }) {
                sinks[free] = sink
                return free
            }
            sinks.append(sink)
            precondition(
                sinks.count <= Tag.maximumSinks, "more tag owners on one engine than a tag can tell apart")
            return sinks.count - 1
        }
    }

    /// Forgets an owner that has no tag under way any more, so that the engine does not keep it alive.
    func unregister(_ index: Int) { sinks.withLock { $0[index] = nil } }

    fileprivate func run(name: String) {
        threadID.store(UInt(pthread_self()), ordering: .relaxed)
        clock.store(ksw_thread_clock(), ordering: .relaxed)
        unsafe ksw_name_this_thread(name)
        while true {
            let event = unsafe nextEvent()
            switch unsafe event.type {
            case GRPC_OP_COMPLETE:
                let sink = unsafe complete(
                    Tag(rawValue: UInt64(UInt(bitPattern: event.tag))), ok: event.success != 0)
                runReadyJobs()
                sink?.settled()
            case GRPC_QUEUE_TIMEOUT:
                trim()
            default:
                return
            }
        }
    }

    private func nextEvent() -> grpc_event {
        var began = ksw_monotonic_time()
        if lull.isWorthLooking {
            let end = began + Lull.longestLook
            while began < end {
                // A deadline that has passed: C-core polls once and does not sleep.
                let event = unsafe grpc_completion_queue_next(queue, gpr_inf_past(GPR_CLOCK_MONOTONIC), nil)
                if unsafe event.type != GRPC_QUEUE_TIMEOUT {
                    lull.looked(isSeen: true)
                    return unsafe event
                }
                began = ksw_monotonic_time()
            }
            lull.looked(isSeen: false)
        }
        let event = unsafe grpc_completion_queue_next(queue, trimAt, nil)
        lull.slept(ksw_monotonic_time() - began)
        return unsafe event
    }

    private func trim() {
        let next = trims.due(resident: ksw_resident_bytes) {
            let before = ksw_thread_time(clock.load(ordering: .relaxed))
            _ = ksw_trim_heap()
            trimTime.wrappingAdd(
                ksw_thread_time(clock.load(ordering: .relaxed)) - before, ordering: .relaxed)
        }
        look(in: next)
    }

    /// Looks at the memory again after so many seconds, or not before there has been work.
    private func look(in seconds: Int64?) {
        trimAt =
            if let seconds {
                gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_seconds(seconds, GPR_TIMESPAN))
            } else { gpr_inf_future(GPR_CLOCK_MONOTONIC) }
    }

    /// Handles one event; returns the owner of its tag.
    private func complete(_ tag: Tag, ok: Bool) -> (any CompletionSink)? {
        switch tag.kind {
        case .wake:
            inbox.withLock { inbox in
                if ready.isEmpty {
                    swap(&ready, &inbox.jobs)
                } else {
                    ready += inbox.jobs
                    inbox.jobs.removeAll(keepingCapacity: true)
                }
                inbox.isWakePosted = false
            }
            return nil
        case .probe:
            probesAnswered.wrappingAdd(1, ordering: .relaxed)
            return nil
        default:
            if let seconds = trims.worked() {
                look(in: seconds)
            } else if gpr_time_cmp(trimAt, gpr_now(GPR_CLOCK_MONOTONIC)) <= 0 {
                trim()  // with constant work the queue never times out
            }
            // A late tag of an owner that is gone finds nothing: never a trap for what C-core may still deliver.
            let sink = sinks.withLock { $0[tag.sink] }
            sink?.completed(tag, ok: ok)
            return sink
        }
    }

    private func runReadyJobs() {
        while !ready.isEmpty {
            swap(&ready, &running)
            for job in running {
                // UnownedJob is run exactly once, on the executor it was enqueued to.
                unsafe job.runSynchronously(on: asUnownedSerialExecutor())
            }
            running.removeAll(keepingCapacity: true)
        }
    }
}

/// The thread's start routine: takes over the retained `Start`.
private func runEngine(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let context = unsafe context else { return nil }
    // Balances passRetained in EngineThread.init.
    let start = unsafe Unmanaged<EngineThread.Start>.fromOpaque(context).takeRetainedValue()
    start.engine.run(name: start.name)
    return nil
}

/// An owner of tags.
///
/// Called on the engine's thread only.
protocol CompletionSink: AnyObject, Sendable {
    func completed(_ tag: Tag, ok: Bool)
    /// The jobs that the completion made ready have run, each to its end or to where it waits.
    func settled()
}

/// What C-core carries for us: an integer, not a pointer, so that a late or doubled completion finds an old
/// generation instead of freed memory.
struct Tag: Equatable {
    enum Kind: UInt64 {
        case wake, probe, handed, arrived, closed, sent, shutdown, unary
    }

    static let maximumSinks = 256

    /// generation (24 bits) | sink (8) | slot (28) | kind (4).
    let rawValue: UInt64

    init(rawValue: UInt64) { self.rawValue = rawValue }

    init(sink: Int, slot: Int, generation: UInt32, kind: Kind) {
        rawValue =
            UInt64(generation & 0xFF_FFFF) << 40 | UInt64(sink & 0xFF) << 32 | UInt64(slot & 0xFFF_FFFF) << 4
            | kind.rawValue
    }

    var kind: Kind {
        guard let kind = Kind(rawValue: rawValue & 0xF) else { preconditionFailure("tag of unknown kind") }
        return kind
    }
    var slot: Int { Int(rawValue >> 4 & 0xFFF_FFFF) }
    var sink: Int { Int(rawValue >> 32 & 0xFF) }
    var generation: UInt32 { UInt32(rawValue >> 40) }
}
