import GRPCEngine
import Glibc
import Synchronization
import TestSupport
import Testing

/// A server on a UNIX socket of its own and a client of it, each on its own engine, for the length of `body`.
func withLoopback(
    methods: [Server.Method] = EchoHandler.methods, handler: EchoHandler = EchoHandler(),
    limits: Server.Limits = Server.Limits(), clock: any Clock<Duration> = ContinuousClock(),
    _ body: (Loopback) async throws -> Void
) async throws {
    let serverEngine = EngineThread(name: "test-server")
    let clientEngine = EngineThread(name: "test-client")
    let server = Server(
        engine: serverEngine, methods: methods, handler: handler, limits: limits, clock: clock)
    await server.start()
    let listener = TestListener { server.adopt(connection: $0) }
    let client = Client(engine: clientEngine, target: .unix(path: listener.path))
    let loopback = Loopback(
        serverEngine: serverEngine, server: server, client: client, handler: handler, listener: listener)
    let result: Result<Void, any Error>
    do { result = .success(try await body(loopback)) } catch { result = .failure(error) }
    listener.stop()
    handler.gate.openForEver()
    if !loopback.isDrained.load(ordering: .relaxed) {
        #expect(await server.drain(grace: .seconds(20)), "every call ends when the server drains")
    }
    await client.close()
    serverEngine.stop()
    clientEngine.stop()
    try result.get()
}

final class Loopback: Sendable {
    let serverEngine: EngineThread
    let server: Server
    let client: Client
    let handler: EchoHandler
    let listener: TestListener
    let isDrained = Atomic(false)

    init(
        serverEngine: EngineThread, server: Server, client: Client, handler: EchoHandler,
        listener: TestListener
    ) {
        self.serverEngine = serverEngine
        self.server = server
        self.client = client
        self.handler = handler
        self.listener = listener
    }

    /// Calls `path` with `request` and returns the reply's bytes.
    func call(
        _ path: String, _ request: [UInt8] = [1, 2, 3], within timeout: Duration = .seconds(20)
    ) async throws -> [UInt8] {
        let body = ReplyBytes(count: request.count) { span in
            for (offset, byte) in request.enumerated() {
                span.storeBytes(of: byte, toByteOffset: offset, as: UInt8.self)
            }
        }
        let reply = try await client.unary(path, body, deadline: ContinuousClock.now + timeout)
        return reply.withBytes { span in
            span.byteOffsets.map { unsafe span.unsafeLoad(fromByteOffset: $0, as: UInt8.self) }
        }
    }

    /// The failure of a call that must fail.
    func failure(
        of path: String, _ request: [UInt8] = [1, 2, 3], within timeout: Duration = .seconds(20)
    ) async -> CallFailure? {
        do {
            _ = try await call(path, request, within: timeout)
            return nil
        } catch { return error as? CallFailure }
    }

    func drain(grace: Duration) async -> Bool {
        isDrained.store(true, ordering: .relaxed)
        return await server.drain(grace: grace)
    }
}

/// `/t.T/Echo` returns the message, `/t.T/Fail` fails with a text as long as the request asks, `/t.T/Park` waits at the gate and reports how that ended.
final class EchoHandler: CallHandler {
    static let methods: [Server.Method] = [
        .init(path: "/t.T/Echo"), .init(path: "/t.T/Fail"), .init(path: "/t.T/Park"),
        .init(path: "/t.T/Status", isExemptFromLimit: true), .init(path: "/t.T/Deadline"),
        .init(path: "/t.T/Big"),
    ]

    let gate = Gate()
    let deadlines = Mutex<[ContinuousClock.Instant?]>([])

    func serve(_ call: consuming IncomingCall) async throws(CallFailure) -> ReplyBytes {
        switch call.method {
        case 0, 3:
            return call.message.withBytes { request in
                ReplyBytes(count: request.byteCount) { reply in
                    for offset in request.byteOffsets {
                        reply.storeBytes(
                            of: unsafe request.unsafeLoad(fromByteOffset: offset, as: UInt8.self),
                            toByteOffset: offset,
                            as: UInt8.self)
                    }
                }
            }
        case 1:
            // As often as the request has bytes.
            let times = call.message.withBytes { $0.byteCount }
            let text = "key primary: disabled since 10:00\tsay \"why\" – ü"
            throw CallFailure(
                .failedPrecondition, Array(repeating: text, count: times).joined(separator: "; "))
        case 2:
            try await gate.wait()
            return ReplyBytes(count: 0) { _ in }
        case 4:
            let deadline = call.deadline
            deadlines.withLock { $0.append(deadline) }
            return ReplyBytes(count: 0) { _ in }
        default: return ReplyBytes(count: 200_000) { _ in }
        }
    }
}

/// A gate that calls wait at: cancellable, and countable.
final class Gate: Sendable {
    private struct State {
        var isOpen = false
        var next = 0
        var waiting: [Int: CheckedContinuation<Bool, Never>] = [:]
        var cancelledEarly: Set<Int> = []
        var cancelled = 0
        var watchers:
            [(condition: @Sendable (Int, Int) -> Bool, continuation: CheckedContinuation<Void, Never>)] = []
    }

    private let state = Mutex(State())

    /// Waits until the gate opens; throws CANCELLED when the task is cancelled first.
    func wait() async throws(CallFailure) {
        let id = state.withLock { state in
            defer { state.next += 1 }
            return state.next
        }
        let passed = await withTaskCancellationHandler {
            await withCheckedContinuation { (continuation: CheckedContinuation<Bool, Never>) in
                let answer: Bool? = state.withLock { state in
                    if state.isOpen { return true }
                    if state.cancelledEarly.remove(id) != nil { return false }
                    state.waiting[id] = continuation
                    return nil
                }
                if let answer { continuation.resume(returning: answer) }
                notify()
            }
        } onCancel: {
            let waiter = state.withLock { state in
                state.cancelled += 1
                let waiter = state.waiting.removeValue(forKey: id)
                if waiter == nil { state.cancelledEarly.insert(id) }
                return waiter
            }
            waiter?.resume(returning: false)
            notify()
        }
        if !passed { throw CallFailure(.cancelled, "the caller gave up") }
    }

    /// How many have come to the gate so far.
    var arrivals: Int { state.withLock { $0.next } }

    func openForEver() {
        let waiters = state.withLock { state in
            state.isOpen = true
            defer { state.waiting = [:] }
            return state.waiting.values
        }
        for waiter in waiters { waiter.resume(returning: true) }
        notify()
    }

    /// Returns once `condition(waiting, cancelled)` holds.
    func until(_ condition: @escaping @Sendable (_ waiting: Int, _ cancelled: Int) -> Bool) async {
        await withCheckedContinuation { continuation in
            state.withLock { $0.watchers.append((condition, continuation)) }
            notify()
        }
    }

    private func notify() {
        let ready = state.withLock { state in
            let (waiting, cancelled) = (state.waiting.count, state.cancelled)
            let ready = state.watchers.filter { $0.condition(waiting, cancelled) }
            state.watchers.removeAll { $0.condition(waiting, cancelled) }
            return ready
        }
        for watcher in ready { watcher.continuation.resume() }
    }
}

/// Tells when the grace of a drain begins; that lasts until it is cancelled, and shorter waits are over at once.
final class GraceClock: Clock {
    typealias Instant = ContinuousClock.Instant

    private let grace: Duration
    private let begun: AsyncStream<Void>
    private let begin: AsyncStream<Void>.Continuation

    init(grace: Duration) {
        self.grace = grace
        (begun, begin) = AsyncStream.makeStream()
    }

    var now: Instant { ContinuousClock.now }
    var minimumResolution: Duration { .zero }

    func graceBegins() async { for await _ in begun { return } }

    func sleep(until deadline: Instant, tolerance: Duration?) async throws {
        guard now.duration(to: deadline) > grace / 2 else { return }
        begin.yield()
        try await ContinuousClock().sleep(until: .now + .seconds(3600))
    }
}

/// Accepts on a socket in a temporary directory and hands the descriptors on.
@safe final class TestListener: @unchecked Sendable {
    // Immutable but for the thread, which init starts and stop joins.
    let path: String
    private let folder = TemporaryFolder()
    private let listener: Int32
    private let accepted: @Sendable (Int32) -> Void
    private var thread = pthread_t()

    init(_ accepted: @escaping @Sendable (Int32) -> Void) {
        path = folder("s")
        self.accepted = accepted
        listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
        let bound = unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(listener, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
        precondition(bound == 0 && listen(listener, 128) == 0)
        let box = unsafe Unmanaged.passRetained(self)
        unsafe pthread_create(&thread, nil, acceptLoop, box.toOpaque())
    }

    fileprivate func run() {
        while true {
            let fd = accept(listener, nil, nil)
            if fd < 0 { return }
            _ = fcntl(fd, F_SETFL, O_NONBLOCK)
            accepted(fd)
        }
    }

    func stop() {
        shutdown(listener, Int32(SHUT_RDWR))
        pthread_join(thread, nil)
        close(listener)
    }
}

private func acceptLoop(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    // Balances passRetained in TestListener.init.
    if let context = unsafe context {
        unsafe Unmanaged<TestListener>.fromOpaque(context).takeRetainedValue().run()
    }
    return nil
}
