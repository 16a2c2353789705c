internal import CGRPC
private import Glibc
private import Synchronization

/// Serves unary methods on connections handed in as file descriptors.
///
/// Isolated to the engine's thread. A call is: an armed slot that C-core fills, a task that runs the handler, and the
/// completions `sent` and, if the handler had to wait, `closed` (over or cancelled); the slot is armed again when they are back.
@safe public actor Server: CompletionSink {
    /// A method as registered with C-core.
    public struct Method: Sendable, Equatable {
        /// The `:path`, `/package.Service/Method`.
        public var path: String
        /// Whether calls of it are served even when `Limits.callsInFlight` is reached.
        public var isExemptFromLimit: Bool

        /// A method.
        public init(path: String, isExemptFromLimit: Bool = false) {
            self.path = path
            self.isExemptFromLimit = isExemptFromLimit
        }
    }

    /// The bounds of a server.
    public struct Limits: Sendable, Equatable {
        /// Handlers running at once; calls beyond fail with RESOURCE_EXHAUSTED.
        public var callsInFlight: Int
        /// Bytes of one message, in and out; larger ones fail with RESOURCE_EXHAUSTED.
        public var messageBytes: Int
        /// Streams open at once on one connection, as told to the peer.
        public var streamsPerConnection: Int

        /// Bounds; the defaults are those of a control plane's plugin.
        public init(
            callsInFlight: Int = 1024, messageBytes: Int = 128 * 1024, streamsPerConnection: Int = 256
        ) {
            self.callsInFlight = callsInFlight
            self.messageBytes = messageBytes
            self.streamsPerConnection = streamsPerConnection
        }
    }

    /// Requests armed per method.
    ///
    /// More of them do not help in a flood (measured), fewer make calls queue in C-core.
    private static let armedPerMethod = 32

    /// Connections on their way to the engine's thread.
    private struct Entrance {
        var isOpen = true
        var waiting: [Int32] = []
    }

    /// The engine's thread.
    public nonisolated var unownedExecutor: UnownedSerialExecutor { unsafe engine.asUnownedSerialExecutor() }

    private let engine: EngineThread
    private let methods: [Method]
    private let handler: any CallHandler
    private let limits: Limits
    private let clock: any Clock<Duration>
    private let server: OpaquePointer
    private let credentials: OpaquePointer
    private let registered: [UnsafeMutableRawPointer]
    private nonisolated let sink = Atomic<Int>(-1)
    private nonisolated let entrance = Mutex(Entrance())
    private nonisolated let inFlight = Atomic<Int>(0)
    private var arrivals: UInt64 = 0
    /// Calls that arrived since the thread settled last; who among them has not been answered is watched for its end.
    private var arrived: [Int] = []
    private nonisolated let unanswered = Atomic<Int>(0)

    private var slots: [Slot] = []
    private var free: [Int] = []
    private var isEnding = false
    private var isDraining = false
    private var isShutDown = false
    private var isAbandoned = false
    private var drained: CheckedContinuation<Void, Never>?

    /// One call, from armed to answered.
    @safe private final class Slot {
        let storage: UnsafeMutablePointer<ksw_server_slot>
        let index: Int
        var generation: UInt32 = 0
        /// Index into `methods`; nil for a method that nobody registered.
        var method: Int?
        var message: MessageBytes?
        var task: Task<Void, Never>?
        var pendingCompletions = 0
        var isAnswered = false
        var isCounted = false
        /// Whether C-core was asked to tell the call's end: a call that is answered at once is asked in the same batch.
        var isWatched = false

        init(index: Int) {
            unsafe storage = ksw_server_slot_new()
            self.index = index
        }

        deinit { unsafe ksw_server_slot_free(storage) }
    }

    /// Makes a server for `methods`; `IncomingCall.method` is the index into that list.
    ///
    /// Serves nothing before `start()`, though connections may be handed in: their peers get SETTINGS, their
    /// calls wait. The engine keeps the server until `drain(grace:)` has ended it.
    public init(
        engine: EngineThread, methods: [Method], handler: any CallHandler, limits: Limits = Limits(),
        clock: any Clock<Duration> = ContinuousClock()
    ) {
        self.engine = engine
        self.methods = methods
        self.handler = handler
        self.limits = limits
        self.clock = clock
        let server = unsafe ksw_server_create(Int32(limits.messageBytes), Int32(limits.streamsPerConnection))
        guard let server = unsafe server else { preconditionFailure("C-core refuses to make a server") }
        unsafe self.server = server
        unsafe credentials = grpc_insecure_server_credentials_create()
        unsafe registered = methods.map { method in
            guard let handle = unsafe ksw_register_method(server, method.path) else {
                preconditionFailure("method \(method.path) registered twice")
            }
            return unsafe handle
        }
        unsafe grpc_server_register_completion_queue(server, engine.queue, nil)
        unsafe grpc_server_start(server)
        sink.store(engine.register(self), ordering: .relaxed)
    }

    /// Begins to serve: arms a number of slots for each method, and some for methods that nobody registered (without
    /// those, such a call would never be answered).
    public func start() {
        for method in [nil] + methods.indices.map(Optional.some) {
            for _ in 0..<(method == nil ? 4 : Self.armedPerMethod) { arm(method) }
        }
    }

    /// Takes over a connected, non-blocking stream socket.
    ///
    /// Callable from any thread, returns at once; closes it if the server is draining. libgrpc sends SETTINGS from the
    /// engine's thread, and calls shutdown(2) before it closes.
    public nonisolated func adopt(connection fd: Int32) {
        // Not here: libgrpc reads what the peer has sent already on the thread that hands the descriptor in, and stays
        // there for as long as a flooding peer keeps sending. That may be the thread of the guard against floods.
        let isTaken = entrance.withLock { entrance in
            guard entrance.isOpen else { return false }
            // Under the lock, so that the engine cannot end in between; posting calls nothing of ours.
            if entrance.waiting.isEmpty { engine.post(tag(.handed, slot: 0, generation: 0)) }
            entrance.waiting.append(fd)
            return true
        }
        if !isTaken {
            shutdown(fd, Int32(SHUT_RDWR))  // whoever keeps a copy of the descriptor must see the end too
            close(fd)
        }
    }

    /// Passes on to libgrpc what `adopt` has been given so far, which otherwise happens a moment later.
    public func takeConnections() {
        let waiting = entrance.withLock { entrance in
            defer { entrance.waiting.removeAll() }
            return entrance.waiting
        }
        for fd in waiting { unsafe grpc_server_add_channel_from_fd(server, fd, credentials) }
    }

    /// Handlers running now.
    public nonisolated var callsInFlight: Int { inFlight.load(ordering: .relaxed) }

    /// Stops serving: no new connection, GOAWAY to the peers; calls in flight may finish within `grace`.
    ///
    /// They are cancelled then, and given up two seconds later. C-core cancels calls that
    /// it has read but not handed over when it is told to shut down, so the drain first lets them through: it waits until none
    /// has arrived for a moment, at most half a second under constant load. Whoever handed the connections in can
    /// end that load by a GOAWAY of its own.
    ///
    /// - Returns: whether all ended; if not, handlers are still running, the engine must not be stopped, and the process can
    ///   only exit.
    public func drain(grace: Duration) async -> Bool {
        precondition(!isDraining && !isEnding, "server drained twice")
        isEnding = true
        entrance.withLock { $0.isOpen = false }
        takeConnections()
        await waitForQuiet()
        isDraining = true
        unsafe grpc_server_shutdown_and_notify(
            server, engine.queue,
            UnsafeMutableRawPointer(bitPattern: UInt(tag(.shutdown, slot: 0, generation: 0).rawValue)))
        let clock = clock
        let bound = Task {
            do {
                try await clock.sleep(for: grace)
                self.cancelAllCalls()
                try await clock.sleep(for: Self.patience)
                self.abandon()
            } catch {
                // Cancelled: everything has ended in time.
            }
        }
        if !isDrained { await withCheckedContinuation { drained = $0 } }
        bound.cancel()
        await bound.value  // or its last job would come to an engine that has been stopped meanwhile
        guard !isAbandoned else { return false }
        unsafe grpc_server_destroy(server)
        unsafe grpc_server_credentials_release(credentials)
        engine.unregister(sink.load(ordering: .relaxed))
        return true
    }

    /// How long cancelled calls are waited for: their handlers' answer is a matter of milliseconds.
    private static let patience = Duration.seconds(2)
    private static let quiet = Duration.milliseconds(50)
    private static let longestWaitForQuiet = 10

    private func waitForQuiet() async {
        for _ in 0..<Self.longestWaitForQuiet {
            let before = arrivals
            // Cancelled: whoever drains has no time left.
            do { try await clock.sleep(for: Self.quiet) } catch { return }
            if arrivals == before { return }
        }
    }

    private var isDrained: Bool { isShutDown && free.count == slots.count }

    private func cancelAllCalls() { unsafe grpc_server_cancel_all_calls(server) }

    private func abandon() {
        isAbandoned = true
        drained.take()?.resume()
    }

    private func resumeIfDrained() {
        if isDrained { drained.take()?.resume() }
    }

    // MARK: Slots

    private nonisolated func tag(_ kind: Tag.Kind, slot: Int, generation: UInt32) -> Tag {
        Tag(sink: sink.load(ordering: .relaxed), slot: slot, generation: generation, kind: kind)
    }

    private func tag(_ kind: Tag.Kind, _ slot: Slot) -> UInt64 {
        tag(kind, slot: slot.index, generation: slot.generation).rawValue
    }

    private func arm(_ method: Int?) {
        let slot: Slot
        if let index = free.popLast() {
            slot = slots[index]
        } else {
            slot = Slot(index: slots.count)
            slots.append(slot)
        }
        slot.method = method
        let error =
            if let method {
                unsafe ksw_arm(server, registered[method], slot.storage, engine.queue, tag(.arrived, slot))
            } else {
                unsafe ksw_arm_unregistered(server, slot.storage, engine.queue, tag(.arrived, slot))
            }
        precondition(error == GRPC_CALL_OK, "cannot arm a request: call error \(error.rawValue)")
    }

    private func release(_ slot: Slot) {
        unsafe ksw_server_slot_reset(slot.storage)
        slot.generation &+= 1
        slot.message = nil
        slot.task = nil
        slot.isAnswered = false
        slot.isWatched = false
        free.append(slot.index)
        if isDraining { resumeIfDrained() }
    }

    // MARK: Completions

    nonisolated func completed(_ tag: Tag, ok: Bool) { assumeIsolated { $0.dispatch(tag, ok: ok) } }

    nonisolated func settled() {
        guard unanswered.load(ordering: .relaxed) > 0 else { return }
        assumeIsolated { $0.watchUnanswered() }
    }

    /// Asks for the end of the calls that wait for something: the only sign of cancellation.
    private func watchUnanswered() {
        for index in arrived where !slots[index].isAnswered && !slots[index].isWatched {
            let slot = slots[index]
            let error = unsafe ksw_watch_close(slot.storage, tag(.closed, slot))
            precondition(error == GRPC_CALL_OK, "cannot watch a call: call error \(error.rawValue)")
            slot.isWatched = true
            slot.pendingCompletions = 1
        }
        arrived.removeAll(keepingCapacity: true)
        unanswered.store(0, ordering: .relaxed)
    }

    private func dispatch(_ tag: Tag, ok: Bool) {
        if tag.kind == .shutdown {
            isShutDown = true
            resumeIfDrained()
            return
        }
        if tag.kind == .handed { return takeConnections() }
        let slot = slots[tag.slot]
        precondition(slot.generation & 0xFF_FFFF == tag.generation, "completion of a call that was over")
        switch tag.kind {
        case .arrived: begin(slot, ok: ok)
        case .closed:
            if unsafe slot.storage.pointee.was_cancelled != 0 { slot.task?.cancel() }
            completionIsBack(slot)
        case .sent: completionIsBack(slot)
        case .wake, .probe, .handed, .shutdown, .unary:
            preconditionFailure("tag of a kind that no server makes")
        }
    }

    private func completionIsBack(_ slot: Slot) {
        slot.pendingCompletions -= 1
        if slot.pendingCompletions == 0 && slot.isAnswered { release(slot) }
    }

    private func begin(_ slot: Slot, ok: Bool) {
        // Not ok: C-core hands the armed requests back because it is shutting down.
        guard ok else {
            release(slot)
            return
        }
        arrivals += 1
        if !isDraining { arm(slot.method) }
        if unanswered.load(ordering: .relaxed) == 0 { arrived.removeAll(keepingCapacity: true) }
        arrived.append(slot.index)
        unanswered.wrappingAdd(1, ordering: .relaxed)

        guard let method = slot.method else {
            let path = unsafe String(received: slot.storage.pointee.details.method, atMost: 200)
            fail(slot, CallFailure(.unimplemented, "unknown method \(path)"))
            return
        }
        guard let payload = unsafe slot.storage.pointee.payload else {
            fail(
                slot,
                CallFailure(.invalidArgument, "\(methods[method].path): the call carries no request message"))
            return
        }
        unsafe slot.storage.pointee.payload = nil
        guard let message = unsafe MessageBytes(adopting: payload) else {
            fail(
                slot,
                CallFailure(.internal, "\(methods[method].path): the request message cannot be decompressed"))
            return
        }
        guard callsInFlight < limits.callsInFlight || methods[method].isExemptFromLimit else {
            fail(
                slot,
                CallFailure(
                    .resourceExhausted,
                    "\(limits.callsInFlight) calls are in flight, the configured limit; retry, or raise the limit"
                ))
            return
        }
        slot.message = consume message
        slot.isCounted = true
        inFlight.wrappingAdd(1, ordering: .relaxed)
        // Inherits the actor, so it starts on this thread without a hop; `serve` always answers.
        slot.task = Task { await self.serve(slot.index) }
    }

    private func serve(_ index: Int) async {
        let slot = slots[index]
        guard let method = slot.method, let message = slot.message.take() else {
            preconditionFailure("call served twice")
        }
        let left = unsafe ksw_nanoseconds_until(slot.storage.pointee.deadline)
        let deadline = left == .max ? nil : ContinuousClock.now + .nanoseconds(left)
        do throws(CallFailure) {
            let reply = try await handler.serve(
                IncomingCall(method: method, deadline: deadline, message: message))
            answer(slot, code: .ok, text: "", reply: reply)
        } catch {
            fail(slot, error)
        }
    }

    private func fail(_ slot: Slot, _ failure: CallFailure) {
        precondition(failure.code != .ok, "a failure with status OK")
        answer(slot, code: failure.code, text: failure.message, reply: nil)
    }

    private func answer(_ slot: Slot, code: StatusCode, text: String, reply: consuming ReplyBytes?) {
        if slot.isCounted {
            slot.isCounted = false
            inFlight.wrappingSubtract(1, ordering: .relaxed)
        }
        if !slot.isWatched { unanswered.wrappingSubtract(1, ordering: .relaxed) }
        slot.isAnswered = true
        slot.pendingCompletions += 1
        var body = unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0)
        if let reply = reply.take() { unsafe body = reply.release() }
        var text = Self.oneLine(text)
        let sent = tag(.sent, slot)
        // A reply after cancellation is accepted and dropped by C-core: no special case.
        let error = text.withUTF8 { utf8 in
            unsafe utf8.withMemoryRebound(to: CChar.self) { characters in
                unsafe ksw_reply(
                    slot.storage, Int32(code.rawValue), characters.baseAddress, characters.count,
                    body.baseAddress, body.count, slot.isWatched ? 0 : 1, sent)
            }
        }
        precondition(error == GRPC_CALL_OK, "cannot answer a call: call error \(error.rawValue)")
    }

    /// Bytes of a status message, in and out.
    static let longestText = 2_000

    /// One line of at most `longestText`: grpc-message travels as a header, and peers limit those to 8 KiB in all.
    private static func oneLine(_ text: String) -> String {
        let utf8 = text.utf8
        guard utf8.count > longestText || utf8.contains(where: { $0 < 0x20 || $0 == 0x7F }) else {
            return text
        }
        return String(
            decoding: utf8.prefix(longestText).map { $0 < 0x20 || $0 == 0x7F ? 0x20 : $0 }, as: UTF8.self)
    }
}

extension String {
    /// Text that a peer sent, for a message: so many bytes at most, anything but printable ASCII as `?`.
    init(received slice: grpc_slice, atMost limit: Int) {
        var slice = unsafe slice
        let bytes = unsafe UnsafeBufferPointer(
            start: ksw_slice_start(&slice), count: ksw_slice_length(&slice))
        self = unsafe String(
            decoding: bytes.prefix(limit).map { (0x20..<0x7F).contains($0) ? $0 : UInt8(ascii: "?") },
            as: UTF8.self)
    }
}
