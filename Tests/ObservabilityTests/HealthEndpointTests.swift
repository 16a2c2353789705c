import Glibc
import Synchronization
import Testing

@testable import Observability

@Suite("Endpoint") struct HealthEndpointTests {
    /// Readiness that a test changes while the endpoint runs.
    private final class Checks: Sendable {
        private let problem = Mutex<String?>(nil)
        private let note = Mutex<String?>(nil)
        var isFine: Readiness {
            Readiness([
                .init("key primary", problem: problem.withLock { $0 }, note: note.withLock { $0 }),
                .init("key second"),
            ])
        }
        func set(_ text: String?) { problem.withLock { $0 = text } }
        func note(_ text: String?) { note.withLock { $0 = text } }
    }

    private static let page = Page(html: Array("<p>all is well</p>".utf8), policy: "default-src 'none'")
    private static let everyone = HealthEndpoint.Limits()

    /// An endpoint on a free port, stopped when `body` is done.
    private func withEndpoint(
        _ listen: String = "127.0.0.1:0", checks: Checks = Checks(), limits: HealthEndpoint.Limits = everyone,
        _ body: (String) async throws -> Void
    ) async throws {
        let registry = PrometheusRegistry(process: false)
        registry.gauge(Names.Metric.connections) { 3 }
        let endpoint = HealthEndpoint(
            .address(listen), registry: registry, ready: { checks.isFine }, page: { Self.page },
            limits: limits)
        try endpoint.start()
        let result: Result<Void, any Error>
        do { result = .success(try await body(try #require(endpoint.address))) } catch {
            result = .failure(error)
        }
        await onThread { endpoint.stop() }
        try result.get()
    }

    private func get(_ address: String, _ path: String, accept: String? = nil) async -> String {
        let header = accept.map { "Accept: \($0)\r\n" } ?? ""
        return await Client.ask(address, "GET \(path) HTTP/1.1\r\nHost: localhost\r\n\(header)\r\n")
    }

    private func status(_ answer: String) -> String {
        answer.split(separator: " ").dropFirst().first.map(String.init) ?? ""
    }
    private func body(_ answer: String) -> String {
        guard let end = answer.firstRange(of: "\r\n\r\n") else { return "" }
        return String(answer[end.upperBound...])
    }

    // MARK: answers

    @Test("every path answers, with and without IPv6", arguments: ["127.0.0.1:0", "[::1]:0", "localhost:0"])
    func paths(_ listen: String) async throws {
        try await withEndpoint(listen) { address in
            #expect(!address.hasSuffix(":0"))
            #expect(body(await get(address, "/")) == "<p>all is well</p>")
            #expect(body(await get(address, "/livez")) == "ok\n")
            #expect(body(await get(address, "/readyz")) == "ok\n")
            #expect(body(await get(address, "/metrics")).hasSuffix("\nkmsward_connections 3\n"))
            #expect(status(await get(address, "/metrics/")) == "404")
            #expect(status(await get(address, "/debug/pprof")) == "404")
        }
    }

    @Test(
        "the page of metrics has the type that was asked for",
        arguments: [
            ("text/plain", "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"),
            (
                "application/openmetrics-text;version=1.0.0",
                "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"
            ),
        ])
    func contentType(_ accept: String, _ header: String) async throws {
        try await withEndpoint { address in
            let answer = await get(address, "/metrics", accept: accept)
            #expect(answer.contains(header))
            #expect(answer.contains("Connection: close\r\n"))
        }
    }

    @Test("readiness turns to 503 with the reason on a line, and back")
    func readiness() async throws {
        let checks = Checks()
        try await withEndpoint(checks: checks) { address in
            checks.set("backend does not\nanswer: timed out")
            let answer = await get(address, "/readyz")
            #expect(status(answer) == "503")
            #expect(body(answer) == "[-] key primary: backend does not answer: timed out\nnot ready\n")
            #expect(
                body(await get(address, "/readyz?verbose"))
                    == "[-] key primary: backend does not answer: timed out\n[+] key second\nnot ready\n")
            #expect(status(await get(address, "/livez")) == "200")
            checks.set(nil)
            #expect(status(await get(address, "/readyz")) == "200")
            #expect(
                body(await get(address, "/readyz?x=1&verbose=1")) == "[+] key primary\n[+] key second\nok\n")
        }
    }

    @Test("what is ridden through is said and does not make it unready; a problem goes before it")
    func notes() async throws {
        let checks = Checks()
        try await withEndpoint(checks: checks) { address in
            checks.note("riding through:\ntimed out")
            let answer = await get(address, "/readyz")
            #expect(status(answer) == "200")
            #expect(body(answer) == "[!] key primary: riding through: timed out\nok\n")
            checks.set("stopped")
            #expect(body(await get(address, "/readyz")) == "[-] key primary: stopped\nnot ready\n")
        }
    }

    @Test("the page comes with its policy, and nobody may show it as theirs or guess what it is")
    func pageHeaders() async throws {
        try await withEndpoint { address in
            let head = await get(address, "/").split(separator: "\r\n")
            for header in [
                "Content-Type: text/html; charset=utf-8", "Content-Security-Policy: default-src 'none'",
                "X-Content-Type-Options: nosniff", "Referrer-Policy: no-referrer", "Cache-Control: no-store",
            ] { #expect(head.contains { $0 == header }, "\(header)") }
        }
    }

    @Test(
        "the page is for who calls it by an address or a name of this host, not by one that somebody else lets lead here",
        arguments: [
            (nil, true), ("127.0.0.1", true), ("[::1]", true), ("::1", true), ("10.1.2.3", true),
            ("localhost", true),
            ("CP-1", true), ("CP-1.Example", true), ("cp-1.evil.example", false), ("evil.example", false),
            ("localhost.evil.example", false),
            ("cp-12", false), ("127.0.0.1.evil.example", false), ("", true),
        ] as [(String?, Bool)])
    func host(_ name: String?, isForUs: Bool) {
        #expect(HTTPRequest(path: "/", host: name, ownName: "cp-1.example").isForUs == isForUs)
        #expect(!HTTPRequest(path: "/", host: "evil", ownName: "").isForUs)
    }

    @Test("HEAD gets the length of the page and no page", arguments: ["/", "/livez", "/metrics"])
    func head(_ path: String) async throws {
        try await withEndpoint { address in
            let page = await get(address, path)
            let answer = await Client.ask(address, "HEAD \(path) HTTP/1.1\r\nHost: localhost\r\n\r\n")
            #expect(status(answer) == "200")
            #expect(answer.contains("Content-Length: \(body(page).utf8.count)\r\n"))
            #expect(body(answer) == "")
        }
    }

    @Test(
        "other methods are refused with the allowed ones named",
        arguments: ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
    func methods(_ method: String) async throws {
        try await withEndpoint { address in
            let answer = await Client.ask(
                address, "\(method) /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            #expect(status(answer) == "405")
            #expect(answer.contains("Allow: GET, HEAD\r\n"))
            let elsewhere = await Client.ask(
                address, "\(method) /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            #expect(status(elsewhere) == "404")
        }
    }

    @Test(
        "what is not HTTP, or too much of it, is refused and does no harm",
        arguments: [
            ("\r\n\r\n\r\n", "400"), ("GET\r\n\r\n", "400"), ("GET / HTTP/9.9\r\n\r\n", "400"),
            ("NONSENSE / HTTP/1.1\r\n\r\n", "501"), ("\u{0}\u{1}\u{2}\r\n\r\n", "400"),
            ("GET / HTTP/1.1\r\nno colon\r\n\r\n", "400"),
            ("GET http:// HTTP/1.1\r\n\r\n", "200"),  // an empty path is the index
            ("GET /%zz?%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", "404"),
            ("GET / HTTP/1.1\r\nX: " + String(repeating: "a", count: 20_000) + "\r\n\r\n", "400"),
            ("GET /" + String(repeating: "a", count: 20_000) + " HTTP/1.1\r\n\r\n", "400"),
            ("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n", "413"),
            ("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", "400"),
            (
                "POST /metrics HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n",
                "413"
            ),
        ])
    func rubbish(_ request: String, _ expected: String) async throws {
        try await withEndpoint { address in
            #expect(status(await Client.ask(address, request)) == expected)
            #expect(body(await get(address, "/livez")) == "ok\n")
        }
    }

    // MARK: bounds

    @Test(
        "a client that never finishes its request is cut",
        arguments: [
            "", "G", "GET /metrics HTTP/1.1\r\n", "GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
            "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc",
        ])
    func slowRequest(_ start: String) async throws {
        var limits = HealthEndpoint.Limits()
        limits.exchange = .milliseconds(100)
        try await withEndpoint(limits: limits) { address in
            let answer = await Client.ask(address, start)
            #expect(answer == "")
        }
    }

    @Test("a client that drips bytes is cut all the same")
    func drip() async throws {
        var limits = HealthEndpoint.Limits()
        limits.exchange = .milliseconds(100)
        limits.headers = 1 << 30  // so that only time can end it
        try await withEndpoint(limits: limits) { address in
            let isCut = await onThread {
                guard let client = Client(address) else { return false }
                client.send("GET /metrics HTTP/1.1\r\nX: ")
                // Each byte waits for nothing but the poll for an end that the endpoint must make.
                while client.send("a") {
                    var entry = pollfd(fd: client.fd, events: Int16(POLLIN), revents: 0)
                    if unsafe poll(&entry, 1, 1) > 0 { break }
                }
                return client.finish().isEmpty
            }
            #expect(isCut)
        }
    }

    @Test("idle connections beyond the limit cost the oldest theirs, never a probe its answer")
    func connectionLimit() async throws {
        var limits = HealthEndpoint.Limits()
        limits.connections = 4
        limits.exchange = .seconds(3600)
        try await withEndpoint(limits: limits) { address in
            var idle: [Client] = []
            for _ in 0..<12 { idle.append(try #require(Client(address))) }
            #expect(body(await get(address, "/readyz")) == "ok\n")
            let oldest = try #require(idle.first)
            let answer = await onThread { oldest.finish() }
            #expect(answer == "")
            for client in idle.dropFirst() { close(client.fd) }
            #expect(body(await get(address, "/readyz")) == "ok\n")
        }
    }

    @Test("many scrapes at once are all answered")
    func manyScrapes() async throws {
        try await withEndpoint { address in
            let answered = await withTaskGroup { group in
                for _ in 0..<8 {
                    group.addTask {
                        var count = 0
                        for _ in 0..<25 where status(await get(address, "/metrics")) == "200" { count += 1 }
                        return count
                    }
                }
                return await group.reduce(0, +)
            }
            #expect(answered == 200)
        }
    }

    // MARK: start and stop

    @Test("a port in use is refused in one line that says what to do")
    func portInUse() async throws {
        try await withEndpoint { address in
            let second = HealthEndpoint(
                .address(address), registry: PrometheusRegistry(process: false), ready: { Readiness() },
                page: { Self.page })
            let error = #expect(throws: EndpointError.self) { try second.start() }
            #expect(error?.code == .addressInUse)
            #expect(error?.description.contains(address) == true)
            #expect(error?.description.contains("metrics.listen") == true)
            #expect(error?.description.contains("\n") == false)
            #expect(second.address == nil)
            second.stop()
        }
    }

    @Test("an address of another machine is refused")
    func foreignAddress() {
        let endpoint = HealthEndpoint(
            .address("192.0.2.1:9464"), registry: PrometheusRegistry(process: false), ready: { Readiness() },
            page: { Self.page })
        let error = #expect(throws: EndpointError.self) { try endpoint.start() }
        #expect(error?.code == .badAddress)
    }

    @Test(
        "an address that is none is refused with an example",
        arguments: [
            "", ":9464", "9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:+80",
            "127.0.0.1:-1",
            "::1:9464", "[::1]", "[::1:9464", "[127.0.0.1]:9464", "example.org:9464", "1.2.3:80",
            "127.0.0.1:80 ",
        ])
    func badAddress(_ text: String) {
        let error = #expect(throws: EndpointError.self) { try ListenAddress(parsing: text) }
        #expect(error?.code == .badAddress)
        #expect(error?.description.contains("127.0.0.1:9464") == true)
        #expect(error?.description.contains("\n") == false)
    }

    @Test(
        "a socket that the service manager passed on is served, and goes on listening for the next",
        arguments: ["127.0.0.1:0", "[::1]:0"])
    func adopted(_ listen: String) async throws {
        let (passed, address) = try ListenAddress(parsing: listen).listen()
        // The service manager's own.
        let kept = dup(passed)
        defer { close(kept) }
        #expect(try HealthEndpoint.address(of: passed) == address.text)
        let endpoint = HealthEndpoint(
            .adopted(passed), registry: PrometheusRegistry(process: false), ready: { Readiness() },
            page: { Self.page })
        try endpoint.start()
        #expect(endpoint.address == address.text)
        #expect(body(await get(address.text, "/livez")) == "ok\n")
        await onThread { endpoint.stop() }

        let between = try #require(Client(address.text))
        between.send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        let next = HealthEndpoint(
            .adopted(dup(kept)), registry: PrometheusRegistry(process: false), ready: { Readiness() },
            page: { Self.page })
        try next.start()
        #expect(body(await onThread { between.finish() }) == "ok\n", "it has waited in the backlog")
        await onThread { next.stop() }
    }

    @Test("a descriptor that does not listen on an IP address is refused, and the unit's line is named")
    func notListening() throws {
        let datagrams = Glibc.socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
        let unix = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var name = sockaddr_un()
        name.sun_family = sa_family_t(AF_UNIX)
        let size = socklen_t(MemoryLayout<sa_family_t>.size)  // no name: the kernel picks an abstract one
        let isBound = unsafe withUnsafePointer(to: &name) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(unix, $0, size) == 0
            }
        }
        try #require(isBound && listen(unix, 1) == 0)
        defer { for one in [datagrams, unix] { close(one) } }
        for (descriptor, why) in [
            (datagrams, "does not listen"), (unix, "has no IP address"), (-1, "does not listen"),
        ] {
            let error = #expect(throws: EndpointError.self) { try HealthEndpoint.address(of: descriptor) }
            #expect(error?.code == .badAddress)
            #expect(error?.description.contains("\(why): its unit needs ListenStream=") == true)
        }
    }

    @Test("stopping frees the port, ends waiting clients, and may be repeated")
    func stop() async throws {
        let endpoint = HealthEndpoint(
            .address("127.0.0.1:0"), registry: PrometheusRegistry(process: false), ready: { Readiness() },
            page: { Self.page })
        try endpoint.start()
        let address = try #require(endpoint.address)
        let waiting = try #require(Client(address))
        waiting.send("GET / HT")
        #expect(body(await get(address, "/livez")) == "ok\n")  // so that the one before it was accepted
        await onThread {
            endpoint.stop()
            endpoint.stop()
        }
        #expect(await onThread { waiting.finish() } == "")
        #expect(endpoint.address == nil)
        #expect(await get(address, "/livez") == "")

        let again = HealthEndpoint(
            .address(address), registry: PrometheusRegistry(process: false), ready: { Readiness() },
            page: { Self.page })
        try again.start()
        #expect(body(await get(address, "/livez")) == "ok\n")
        await onThread { again.stop() }
    }
}
