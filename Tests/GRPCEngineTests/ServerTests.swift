import GRPCEngine
import Glibc
import Synchronization
import Testing

@Suite struct ServerTests {
    @Test(
        "a message of any size up to the limit comes back unchanged",
        arguments: [0, 1, 22, 23, 24, 1000, 70_000, 131_072])
    func echo(size: Int) async throws {
        try await withLoopback { loopback in
            let request = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 31) }
            try await #expect(loopback.call("/t.T/Echo", request) == request)
        }
    }

    @Test("the status code and the one-line message of a failure reach the caller")
    func failure() async throws {
        try await withLoopback { loopback in
            let failure = await loopback.failure(of: "/t.T/Fail", [1])
            #expect(failure?.code == .failedPrecondition)
            // The client shows printable ASCII only; the rest is replaced, byte by byte.
            #expect(failure?.message.hasPrefix("key primary: disabled since 10:00 say \"why\"") == true)
            // The remedy stands at the end.
            let long = await loopback.failure(of: "/t.T/Fail", [UInt8](repeating: 0, count: 30))
            #expect(long.map { (1_400...2_000).contains($0.message.utf8.count) } == true)
            let tooLong = await loopback.failure(of: "/t.T/Fail", [UInt8](repeating: 0, count: 100))
            #expect(tooLong?.message.utf8.count == 2_000)
        }
    }

    @Test(
        "a method that nobody registered is UNIMPLEMENTED, not left hanging",
        arguments: ["/t.T/Nope", "/x", "/v2.S/Ü"])
    func unknownMethod(path: String) async throws {
        try await withLoopback { loopback in
            let failure = await loopback.failure(of: path)
            #expect(failure?.code == .unimplemented)
            #expect(failure?.message.hasPrefix("unknown method /") == true)
            try await #expect(loopback.call("/t.T/Echo", [7]) == [7])
        }
    }

    @Test(
        "a message over the limit is refused in either direction, and the connection goes on",
        arguments: [true, false])
    func tooLarge(inbound: Bool) async throws {
        try await withLoopback { loopback in
            let failure =
                inbound
                ? await loopback.failure(of: "/t.T/Echo", [UInt8](repeating: 1, count: 131_073))
                : await loopback.failure(of: "/t.T/Big")
            #expect(failure?.code == .resourceExhausted)
            try await #expect(loopback.call("/t.T/Echo", [7]) == [7])
        }
    }

    @Test("the caller's deadline reaches the handler as an instant")
    func deadline() async throws {
        try await withLoopback { loopback in
            let before = ContinuousClock.now
            _ = try await loopback.call("/t.T/Deadline", within: .seconds(100))
            let after = ContinuousClock.now
            let seen = try #require(loopback.handler.deadlines.withLock { $0.first } ?? nil)
            // grpc-timeout is rounded on the wire by less than 1 %.
            #expect(seen > before + .seconds(98) && seen < after + .seconds(102))
        }
    }

    @Test(
        "a call whose deadline passes, or whose caller cancels, has its handler's task cancelled",
        arguments: [true, false])
    func cancellation(byDeadline: Bool) async throws {
        try await withLoopback { loopback in
            let gate = loopback.handler.gate
            if byDeadline {
                // On a busy machine a deadline may pass before the call has reached the handler.
                repeat {
                    let failure = await loopback.failure(of: "/t.T/Park", within: .milliseconds(50))
                    #expect(failure?.code == .deadlineExceeded)
                } while gate.arrivals == 0
            } else {
                let call = Task { await loopback.failure(of: "/t.T/Park") }
                await gate.until { waiting, _ in waiting == 1 }
                call.cancel()
                #expect(await call.value?.code == .cancelled)
            }
            await gate.until { waiting, cancelled in waiting == 0 && cancelled >= 1 }
            try await #expect(loopback.call("/t.T/Echo", [9]) == [9])
        }
    }

    @Test("calls beyond the limit fail at once with RESOURCE_EXHAUSTED; exempt methods are still served")
    func limit() async throws {
        try await withLoopback(limits: .init(callsInFlight: 3)) { loopback in
            let parked = (0..<3).map { _ in Task { try await loopback.call("/t.T/Park") } }
            await loopback.handler.gate.until { waiting, _ in waiting == 3 }
            #expect(loopback.server.callsInFlight == 3)
            #expect(await loopback.failure(of: "/t.T/Echo")?.code == .resourceExhausted)
            try await #expect(loopback.call("/t.T/Status", [5]) == [5])
            loopback.handler.gate.openForEver()
            for call in parked { try await #expect(call.value == []) }
            try await #expect(loopback.call("/t.T/Echo", [6]) == [6])
            #expect(loopback.server.callsInFlight == 0)
        }
    }

    @Test("draining lets calls in flight finish")
    func drainFinishes() async throws {
        let clock = GraceClock(grace: .seconds(60))
        try await withLoopback(clock: clock) { loopback in
            let parked = Task { try await loopback.call("/t.T/Park") }
            await loopback.handler.gate.until { waiting, _ in waiting == 1 }
            let drain = Task { await loopback.drain(grace: .seconds(60)) }
            // libgrpc has been told to shut down, and the grace is running, while the call is in flight.
            await clock.graceBegins()
            loopback.handler.gate.openForEver()
            try await #expect(parked.value == [])
            #expect(await drain.value)
        }
    }

    @Test("a drained server leaves no job behind: its engine can be stopped at once")
    func drainThenStop() async {
        for _ in 0..<200 {
            let engine = EngineThread(name: "short-lived")
            let server = Server(engine: engine, methods: EchoHandler.methods, handler: EchoHandler())
            await server.start()
            #expect(await server.drain(grace: .seconds(60)))
            engine.stop()
        }
    }

    @Test("draining cancels what has not finished within the grace")
    func drainCancels() async throws {
        try await withLoopback { loopback in
            let parked = Task { await loopback.failure(of: "/t.T/Park") }
            await loopback.handler.gate.until { waiting, _ in waiting == 1 }
            #expect(await loopback.drain(grace: .milliseconds(10)))
            #expect(await parked.value != nil)
        }
    }

    @Test("a handler that ignores cancellation does not hold the drain for ever")
    func drainGivesUp() async {
        await #expect(processExitsWith: .exitCode(7)) {
            struct Stuck: CallHandler {
                let gate: Gate
                func serve(_ call: consuming IncomingCall) async throws(CallFailure) -> ReplyBytes {
                    await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
                        // Kept and never resumed, as a call into a stuck backend would be.
                        Stuck.kept.withLock { $0.append(continuation) }
                        gate.openForEver()
                    }
                    throw CallFailure(.internal, "unreachable")
                }
                static let kept = Mutex<[CheckedContinuation<Void, Never>]>([])
            }
            let engine = EngineThread()
            let gate = Gate()
            let server = Server(
                engine: engine, methods: [.init(path: "/t.T/Stuck")], handler: Stuck(gate: gate))
            await server.start()
            let ended: Bool
            do {  // the listener's folder goes with it, which an exit would leave
                let listener = TestListener { server.adopt(connection: $0) }
                let client = Client(engine: engine, target: .unix(path: listener.path))
                let call = Task {
                    _ = try await client.unary(
                        "/t.T/Stuck", ReplyBytes(count: 0) { _ in },
                        deadline: ContinuousClock.now + .seconds(60))
                }
                try await gate.wait()
                ended = await server.drain(grace: .milliseconds(10))
                listener.stop()
                _ = call
            }
            exit(ended ? 1 : 7)
        }
    }

    @Test("connections beyond the first are served, and one that is cut does not disturb the others")
    func manyConnections() async throws {
        try await withLoopback { loopback in
            let engine = EngineThread(name: "others")
            var clients: [Client] = []
            for index in 0..<20 {
                let client = Client(engine: engine, target: .unix(path: loopback.listener.path))
                let body = ReplyBytes(count: 1) {
                    $0.storeBytes(of: UInt8(index), toByteOffset: 0, as: UInt8.self)
                }
                let reply = try await client.unary(
                    "/t.T/Echo", body, deadline: ContinuousClock.now + .seconds(20))
                #expect(reply.count == 1)
                clients.append(client)
            }
            for client in clients { await client.close() }
            engine.stop()
            try await #expect(loopback.call("/t.T/Echo", [4]) == [4])
        }
    }

    @Test("whoever hands a connection in does not read for libgrpc, however much the peer has sent")
    func adoptReturns() async throws {
        try await withLoopback { loopback in
            let holder = Holder(on: loopback.serverEngine)
            // The engine's thread is busy with another peer.
            let busy = Task { await holder.hold() }
            while !holder.isHolding.load(ordering: .acquiring) { await Task.yield() }
            var pair: [Int32] = [0, 0]
            unsafe socketpair(
                AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0, &pair)
            let greeting = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) + [0, 0, 0, 4, 0, 0, 0, 0, 0]
            #expect(unsafe write(pair[1], greeting, greeting.count) == greeting.count)
            loopback.server.adopt(connection: pair[0])
            var byte: UInt8 = 0
            #expect(unsafe read(pair[1], &byte, 1) == -1, "SETTINGS were sent by the wrong thread")
            holder.mayLetGo.store(true, ordering: .releasing)
            await busy.value
            var wait = pollfd(fd: pair[1], events: Int16(POLLIN), revents: 0)
            #expect(unsafe poll(&wait, 1, 20_000) == 1, "SETTINGS come from the engine's thread")
            close(pair[1])
        }
    }

    /// Keeps the engine's thread.
    private actor Holder {
        nonisolated var unownedExecutor: UnownedSerialExecutor { unsafe engine.asUnownedSerialExecutor() }
        private let engine: EngineThread
        nonisolated let isHolding = Atomic(false)
        nonisolated let mayLetGo = Atomic(false)

        init(on engine: EngineThread) { self.engine = engine }

        func hold() {
            isHolding.store(true, ordering: .releasing)
            while !mayLetGo.load(ordering: .acquiring) { sched_yield() }
        }
    }

    @Test("a connection handed in after the drain began is closed, not leaked")
    func adoptAfterDrain() async throws {
        try await withLoopback { loopback in
            #expect(await loopback.drain(grace: .seconds(10)))
            var pair: [Int32] = [0, 0]
            unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &pair)
            loopback.server.adopt(connection: pair[0])
            var byte: UInt8 = 0
            #expect(unsafe read(pair[1], &byte, 1) == 0, "the peer sees the end of the stream")
            close(pair[1])
        }
    }
}
