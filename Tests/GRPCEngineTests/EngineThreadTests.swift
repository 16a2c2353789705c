import GRPCEngine
import Synchronization
import Testing

@Suite struct EngineThreadTests {
    /// An actor on the engine's thread, as those on the hot path are.
    private actor Neighbour {
        nonisolated var unownedExecutor: UnownedSerialExecutor { unsafe engine.asUnownedSerialExecutor() }
        private let engine: EngineThread
        private var visits = 0
        init(on engine: EngineThread) { self.engine = engine }
        func visit() -> Int {
            visits += 1
            return visits
        }
        func isOnEngine() -> Bool { engine.isCurrent }
    }

    private struct VisitingHandler: CallHandler {
        let neighbours: [Neighbour]
        func serve(_ call: consuming IncomingCall) async throws(CallFailure) -> ReplyBytes {
            for neighbour in neighbours { _ = await neighbour.visit() }
            return ReplyBytes(count: 0) { _ in }
        }
    }

    @Test("a call through two actors of the hot path costs one local job and no hop to another thread")
    func noHop() async throws {
        let serverEngine = EngineThread(name: "hop-server")
        let clientEngine = EngineThread(name: "hop-client")
        let handler = VisitingHandler(neighbours: [Neighbour(on: serverEngine), Neighbour(on: serverEngine)])
        let server = Server(engine: serverEngine, methods: [.init(path: "/t.T/Visit")], handler: handler)
        await server.start()
        let listener = TestListener { server.adopt(connection: $0) }
        let client = Client(engine: clientEngine, target: .unix(path: listener.path))
        func call() async throws(CallFailure) {
            _ = try await client.unary(
                "/t.T/Visit", ReplyBytes(count: 0) { _ in }, deadline: ContinuousClock.now + .seconds(20))
        }
        try await call()
        let before = serverEngine.statistics
        for _ in 0..<100 { try await call() }
        let after = serverEngine.statistics
        #expect(after.jobsFromHere - before.jobsFromHere == 100)
        #expect(after.jobsFromElsewhere - before.jobsFromElsewhere == 0)
        listener.stop()
        #expect(await server.drain(grace: .seconds(20)))
        await client.close()
        serverEngine.stop()
        clientEngine.stop()
    }

    @Test("jobs posted from many threads all run, on the engine's thread, once")
    func jobsFromElsewhere() async {
        let engine = EngineThread(name: "jobs")
        let neighbour = Neighbour(on: engine)
        let seen = await withTaskGroup(of: [Int].self) { group in
            for _ in 0..<8 {
                group.addTask { @concurrent in
                    var seen: [Int] = []
                    for _ in 0..<500 { seen.append(await neighbour.visit()) }
                    return seen
                }
            }
            return await group.reduce(into: []) { $0 += $1 }
        }
        #expect(seen.sorted() == Array(1...4000))
        #expect(await neighbour.isOnEngine())
        #expect(!engine.isCurrent)
        engine.stop()
    }

    @Test("a probe is answered by a thread that turns")
    func probe() async {
        let engine = EngineThread(name: "probe")
        let neighbour = Neighbour(on: engine)
        engine.postProbe()
        // The queue is first in, first out: when this job has run, so has the probe before it.
        _ = await neighbour.visit()
        #expect(engine.answeredProbes == 1)
        engine.stop()
        engine.postProbe()
        #expect(engine.answeredProbes == 1)
    }

    @Test("the time that the thread works is counted, the time that it waits is not")
    func busyTime() async {
        let engine = EngineThread(name: "busy")
        let neighbour = Neighbour(on: engine)
        _ = await neighbour.visit()
        let before = engine.busyTime
        let clock = ContinuousClock()
        let start = clock.now
        while engine.busyTime < before + .milliseconds(5) { _ = await neighbour.visit() }
        #expect(engine.busyTime - before <= clock.now - start)
        engine.stop()
        #expect(engine.busyTime == .zero)
    }

    @Test("clients that come and go do not use up the engine")
    func manyClients() async {
        let engine = EngineThread(name: "many")
        for _ in 0..<600 {
            let client = Client(engine: engine, target: .unix(path: "/nowhere"))
            await client.close()
        }
        engine.stop()
    }
}
