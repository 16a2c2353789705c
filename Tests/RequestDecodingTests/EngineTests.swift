import GRPCEngine
import Glibc
import InMemoryLogging
import KMSWire
import KeyService
import Logging
import Testing

@testable import RequestDecoding

/// Accepts on the server's own engine thread: a test blocks no thread of the pool.
private actor Doorman {
    private let engine: EngineThread
    nonisolated var unownedExecutor: UnownedSerialExecutor { unsafe engine.asUnownedSerialExecutor() }

    init(_ engine: EngineThread) { self.engine = engine }

    func admit(from listener: Int32, to server: Server) {
        let fd = accept(listener, nil, nil)
        precondition(fd >= 0, "no client came")
        _ = fcntl(fd, F_SETFL, O_NONBLOCK)
        server.adopt(connection: fd)
    }
}

/// A listener with an abstract name, which disappears with its descriptor.
private func listener(named name: String) -> Int32 {
    let listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: [0] + name.utf8) }
    var patience = timeval(tv_sec: 20, tv_usec: 0)
    unsafe setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
    let length = socklen_t(MemoryLayout<sa_family_t>.size + 1 + name.utf8.count)
    let bound = unsafe withUnsafePointer(to: &address) { pointer in
        unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe bind(listener, $0, length) }
    }
    precondition(bound == 0 && listen(listener, 8) == 0)
    return listener
}

@Suite("over the engine")
struct EngineTests {
    @Test("calls are answered or refused over gRPC, and decoding and encoding cross no thread")
    func calls() async throws {
        let serverEngine = EngineThread(name: "server")
        let clientEngine = EngineThread(name: "client")
        let bench = Bench()
        let decoder = RequestDecoder(
            on: serverEngine, logger: .init(label: "test", factory: { _ in bench.log }))
        let handler = KMSCallHandler(
            service: bench.service, decoder: decoder,
            logger: .init(label: "test", factory: { _ in bench.log }),
            metrics: bench.metrics)
        let server = Server(engine: serverEngine, methods: KMSCallHandler.methods, handler: handler)
        await server.start()
        let name = "kmsward-decoding-\(getpid())"
        let socket = listener(named: name)
        let client = Client(engine: clientEngine, target: .abstract(name: name))

        func call(_ method: KMSMethod, _ message: [UInt8]) async throws(CallFailure) -> [UInt8] {
            let body = ReplyBytes(count: message.count) { fill(&$0, message) }
            let reply = try await client.unary(method.path, body, deadline: .now + .seconds(20))
            return reply.withBytes { bytes($0) }
        }
        async let first = call(.v2Status, [])
        await Doorman(serverEngine).admit(from: socket, to: server)
        let status = try await first
        guard case .status(let reply) = try KMSReply(parsing: unsafe status.span.bytes, to: .v2Status) else {
            Issue.record("not a Status reply")
            return
        }
        #expect(reply.keyID == "id")

        let before = serverEngine.statistics
        for _ in 0..<50 { _ = try await call(.v2Encrypt, goodEncrypt()) }
        let after = serverEngine.statistics
        #expect(after.jobsFromElsewhere == before.jobsFromElsewhere)
        #expect(after.jobsFromHere - before.jobsFromHere == 50)

        let failure = await #expect(throws: CallFailure.self) { _ = try await call(.v2Encrypt, [0x0e]) }
        #expect(
            failure
                == CallFailure(
                    .invalidArgument,
                    "v2.EncryptRequest.plaintext (field 1) at byte 0: there is no wire type 6"))
        #expect(bench.metric("kmsward_requests_total{api=\"v2\",method=\"encrypt\",code=\"OK\"}") == "50")
        close(socket)
        #expect(await server.drain(grace: .seconds(20)))
        await client.close()
        serverEngine.stop()
        clientEngine.stop()
    }
}
