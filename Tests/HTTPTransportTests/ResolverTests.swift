import Glibc
import Synchronization
import Testing
import Threads

@testable import HTTPTransport

/// A name service that answers when it is told to.
private final class Gate: Sendable {
    private let lock = Mutex<[Int32]>([])
    private let pipeEnds: (read: Int32, write: Int32)
    let asked = Atomic(0)

    init() {
        var ends: [Int32] = [0, 0]
        unsafe precondition(pipe(&ends) == 0)
        pipeEnds = (ends[0], ends[1])
    }

    /// Blocks its thread until `open`.
    func wait() {
        asked.wrappingAdd(1, ordering: .relaxed)
        var byte: UInt8 = 0
        _ = unsafe read(pipeEnds.read, &byte, 1)
    }

    func open(_ count: Int) {
        let bytes = [UInt8](repeating: 0, count: count)
        _ = unsafe write(pipeEnds.write, bytes, count)
    }

    deinit {
        close(pipeEnds.read)
        close(pipeEnds.write)
    }
}

/// unshare(CLONE_NEWNS) of the calling thread, which Swift's Glibc module does not show.
private func leaveMountNamespace() -> Bool {
    typealias Unshare = @convention(c) (Int32) -> Int32
    guard let symbol = unsafe dlsym(nil, "unshare") else { return false }
    return unsafe unsafeBitCast(symbol, to: Unshare.self)(0x20000) == 0
}

extension HTTPTransportTests {
    @Suite struct ResolverTests {
        @Test(
            "a name service that hangs delays neither deadline nor cancellation nor other requests nor the end"
        )
        func hanging() async throws {
            let gate = Gate()
            let lookup: Lookup.Function = { name in
                guard name == "hung.test" else { return .thisHost }
                gate.wait()
                return .thisHost
            }
            try await withTransport(lookup: lookup) { transport, servers in
                let late = try await transport.get(
                    "https", servers, host: "hung.test", deadline: .now + .milliseconds(200))
                #expect(late.failure?.code == .timeout && late.failure?.phase == .resolve)
                let slow = try await transport.get("https", servers, host: "hung.test") {
                    $0.connectTimeout = .milliseconds(200)
                }
                #expect(slow.failure?.code == .timeout && slow.failure?.phase == .resolve)
                let task = Task { try await transport.get("https", servers, host: "hung.test") }
                try await #expect(transport.get("https", servers).get().status == 200)
                task.cancel()
                #expect(try await task.value.failure?.code == .cancelled)
                // One thread for all of them.
                #expect(gate.asked.load(ordering: .relaxed) == 1)
                #expect(transportThreads().sorted() == ["http-client", "http-dns"])
            }
            // Closed, though the lookup still hangs; it ends later and finds nobody.
            gate.open(1)
        }

        @Test("requests that wait for a name go on when its address is there, or fail with the reason")
        func answers() async throws {
            let gate = Gate()
            let lookup: Lookup.Function = { name in
                gate.wait()
                return name == "kms.test" ? .thisHost : .noSuchName("no such name")
            }
            try await withTransport(lookup: lookup) { transport, servers in
                try await withThrowingTaskGroup(of: Result<Answer, HTTPFailure>.self) { group in
                    for _ in 0..<20 { group.addTask { try await transport.get("https", servers) } }
                    for _ in 0..<3 {
                        group.addTask { try await transport.get("https", servers, host: "no.test") }
                    }
                    gate.open(50)
                    let results = try await group.reduce(into: []) { $0.append($1) }
                    let failures = results.compactMap(\.failure)
                    #expect(results.count == 23 && failures.map(\.code) == [.resolve, .resolve, .resolve])
                    #expect(failures.first?.summary.contains("no such name") == true)
                }
            }
        }

        @Test("the next address is tried when the first refuses")
        func severalAddresses() async throws {
            let addresses = ["127.0.0.9", "127.0.0.1"].compactMap { IPAddress($0) }
            try await withTransport(lookup: { _ in .addresses(addresses) }) { transport, servers in
                try await #expect(transport.get("https", servers).get().status == 200)
            }
        }

        @Test("the system's resolver knows this host, and tells a name that does not exist from silence")
        func system() {
            guard case .addresses(let addresses) = Lookup.bySystem("localhost") else {
                Issue.record("localhost has no address")
                return
            }
            let others = addresses.filter { !$0.isLoopback }
            #expect(!addresses.isEmpty && others.isEmpty)
            guard case .noSuchName = Lookup.bySystem("a..b") else {
                Issue.record("an impossible name was found")
                return
            }
        }

        @Test(
            "a mute name server of the system delays neither the deadline nor closing",
            .enabled(if: geteuid() == 0, "needs root: a mount namespace with its own resolv.conf"))
        func muteNameServer() async throws {
            let server = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
            defer { close(server) }
            // An address of this process's own: the port is given, and other runs of this test have it too.
            let host = "127.77.\(getpid() >> 8 & 0xff).\(getpid() & 0xff)"
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = UInt16(53).bigEndian
            unsafe inet_pton(AF_INET, host, &address.sin_addr)
            let bound = unsafe withUnsafePointer(to: &address) { address in
                unsafe address.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    unsafe bind(server, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
            try #require(bound == 0, "errno \(errno)")
            let servers = try Servers.shared.get()
            let file = servers.file("resolv.conf")
            guard let stream = unsafe fopen(file, "w") else { throw Servers.Failure(what: "no file") }
            unsafe fputs("nameserver \(host)\n", stream)
            unsafe fclose(stream)

            // Threads started by this one see its mounts: so the transport is made there.
            let transport = Mutex<Result<HTTPTransport, any Error>?>(nil)
            let maker = OwnedThread(name: "namespace") {
                transport.withLock { transport in
                    transport = Result {
                        guard leaveMountNamespace(),
                            unsafe mount("none", "/", nil, UInt(MS_REC | MS_PRIVATE), nil) == 0,
                            unsafe mount(file, "/etc/resolv.conf", nil, UInt(MS_BIND), nil) == 0
                        else { throw Servers.Failure(what: "no mount namespace: errno \(errno)") }
                        var settings = HTTPTransport.Settings()
                        settings.proxy = .none
                        return try HTTPTransport(settings)
                    }
                }
            }
            if let maker { maker.join() } else { Issue.record("no thread") }
            let made = try #require(transport.withLock { $0 }).get()
            let origin = try HTTPOrigin(parsing: "https://kms.nowhere.example")
            let late = await made.answer(HTTPRequest("GET", origin, "/"), deadline: .now + .milliseconds(300))
            #expect(late.failure?.code == .timeout && late.failure?.phase == .resolve)
            // It did ask: the name server has the question, and does not answer it.
            var query = [UInt8](repeating: 0, count: 512)
            #expect(unsafe recv(server, &query, query.count, Int32(MSG_DONTWAIT)) > 12)
            let task = Task { await made.answer(HTTPRequest("GET", origin, "/")) }
            task.cancel()
            #expect(await task.value.failure?.code == .cancelled)
            #expect(transportThreads().contains("http-dns"))
            await made.close()
            // The resolver is still at it, so nothing of the above has waited for it.
            let threads = transportThreads()
            #expect(threads.contains("http-dns") && !threads.contains("http-client"))
        }
    }

    @Suite struct LeakTests {
        @Test(
            "10,000 cancelled requests leave no connection, descriptor or thread behind",
            arguments: ["http", "https"])
        func cancelled(server: String) async throws {
            let servers = try Servers.shared.get()
            let scheme = server == "http" ? "http" : "https"
            try await withTransport { transport, servers in
                for batch in 0..<50 {
                    try await withThrowingTaskGroup(of: HTTPFailure.Code?.self) { group in
                        for _ in 0..<100 {
                            group.addTask {
                                try await transport.get(server, servers, "/silent", scheme: scheme).failure?
                                    .code
                            }
                        }
                        // Some before they begin, some while they connect, some while they wait for the answer.
                        if batch % 5 == 0 { _ = try await transport.stats("silent/8", servers) }
                        if batch % 5 == 1 { _ = try await transport.stats("count/http", servers) }
                        group.cancelAll()
                        while let code = try await group.next() { #expect(code == .cancelled) }
                    }
                }
                let stats = try await transport.stats("open/\(server)", servers)
                #expect(stats.hasSuffix(" 0"))
                try #expect(connectedDescriptors(to: [servers.port(server)]) == 0)
                let threads = transportThreads().filter { $0 == "http-client" }
                #expect(threads.count == 1)
                try await #expect(transport.get(server, servers, scheme: scheme).get().status == 200)
            }
            #expect(!transportThreads().contains("http-client"))
            #expect(connectedDescriptors(to: servers.allPorts) == 0)
        }

        @Test("transports that come and go leave no descriptor or thread behind")
        func transports() async throws {
            let before = openDescriptors()
            for _ in 0..<200 {
                try await withTransport { transport, servers in
                    try await #expect(transport.get("http", servers, scheme: "http").get().status == 200)
                }
            }
            // Other tests open descriptors meanwhile, but not hundreds.
            #expect(openDescriptors() - before < 150)
            #expect(!transportThreads().contains("http-client"))
        }

        @Test("one second attempt beside the first: the loser is cancelled, the winner's connection stays")
        func besides() async throws {
            try await withTransport { transport, servers in
                let first = Task { try await transport.get("https", servers, "/silent") }
                _ = try await transport.stats("silent/1", servers)
                let second = try await transport.get("https", servers) { $0.wantsFreshConnection = true }
                    .get()
                first.cancel()
                #expect(try await first.value.failure?.code == .cancelled)
                let third = try await transport.get("https", servers).get()
                #expect(third.isReused && third.headers["x-connection"] == second.headers["x-connection"])
            }
        }

        @Test("an HTTP/2 connection on which a request ran out of time is not trusted with the next")
        func spoiled() async throws {
            try await withTransport { transport, servers in
                let first = try await transport.get("h2", servers).get()
                let late = try await transport.get(
                    "h2", servers, "/silent", deadline: .now + .milliseconds(200))
                #expect(late.failure?.phase == .waiting)
                let next = try await transport.get("h2", servers).get()
                #expect(next.headers["x-connection"] != first.headers["x-connection"])
            }
        }
    }
}
