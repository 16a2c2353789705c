private import Synchronization
private import Threads

/// What a probe learns: every check, and whether one of them failed.
public struct Readiness: Sendable, Equatable, Codable {
    /// One thing that was looked at.
    public struct Check: Sendable, Equatable, Codable {
        /// What was looked at, as in `key primary`.
        public let name: String
        /// What is wrong with it, one line; nil if nothing is.
        public let problem: String?
        /// What else should be known of it, one line; nil if nothing should.
        public let note: String?

        /// A check, failed if there is a problem.
        public init(_ name: String, problem: String? = nil, note: String? = nil) {
            self.name = name
            self.problem = problem
            self.note = note
        }
    }

    /// All that was looked at.
    public let checks: [Check]

    /// The sum of `checks`; without any, ready.
    public init(_ checks: [Check] = []) { self.checks = checks }

    /// No check failed.
    public var isReady: Bool { checks.allSatisfy { $0.problem == nil } }
}

/// A page for people.
public struct Page: Sendable, Equatable {
    /// The whole of it, HTML in UTF-8.
    public let html: [UInt8]
    /// Its Content-Security-Policy.
    public let policy: String

    /// A page.
    public init(html: [UInt8], policy: String) {
        self.html = html
        self.policy = policy
    }
}

/// Why the endpoint could not start.
public struct EndpointError: Error, CustomStringConvertible, Equatable {
    /// What kind of failure.
    public enum Code: Sendable {
        /// Not an address, or not one of this machine's.
        case badAddress
        /// Another process listens there.
        case addressInUse
        /// The port is not for us.
        case permissionDenied
        /// No descriptor, thread or memory.
        case system
    }

    /// The kind of failure.
    public let code: Code
    /// One line: which address, why, what to do.
    public let description: String

    init(_ code: Code, _ description: String) {
        self.code = code
        self.description = description
    }
}

/// Serves /metrics, /livez, /readyz and a page for people over HTTP on one thread of its own.
///
/// GET and HEAD only, one request per connection. A client has `Limits.exchange` from connecting to having read the
/// answer; beyond `Limits.connections` the oldest connection is cut, so idle clients cannot shut out a probe.
public final class HealthEndpoint: Sendable {
    /// What clients may use up.
    public struct Limits: Sendable {
        /// Connections at a time.
        public var connections = 64
        /// From connecting to having read the answer.
        public var exchange: Duration = .seconds(10)
        /// Bytes of a request's first line and headers.
        public var headers = 8192
        /// Bytes of a request's body, which nothing here reads.
        public var body = 1024

        /// The usual limits.
        public init() {}
    }

    private struct Running: ~Copyable {
        let loop: HTTPLoop
        let address: ListenAddress
        let thread: OwnedThread

        consuming func end() {
            loop.requestExit()
            thread.join()
            loop.dispose()
        }
    }

    /// Where its listening socket comes from.
    public enum Source: Sendable, Equatable {
        /// IP address and port, `127.0.0.1:9464` or `[::1]:9464`; port 0 takes a free one.
        case address(String)
        /// A descriptor that the service manager passed on.
        case adopted(Int32)
    }

    private let source: Source
    private let limits: Limits
    private let answer: @Sendable (HTTPRequest) -> HTTPReply
    private let running = Mutex<Running?>(nil)

    /// An endpoint that does not listen yet.
    ///
    /// - Parameters:
    ///   - source: where its listening socket comes from; one that is adopted is closed at the end, and not shut down.
    ///   - registry: what /metrics shows.
    ///   - live: asked for /livez; about this process, never about a backend. Must not block.
    ///   - ready: asked for /readyz. Must not block: answer from memory.
    ///   - page: asked for /. Must not block.
    ///   - limits: what clients may use up.
    public init(
        _ source: Source, registry: PrometheusRegistry,
        live: @escaping @Sendable () -> Readiness = { Readiness() },
        ready: @escaping @Sendable () -> Readiness, page: @escaping @Sendable () -> Page,
        limits: Limits = Limits()
    ) {
        self.source = source
        self.limits = limits
        answer = { request in
            Self.answer(request, registry: registry, live: live, ready: ready, page: page)
        }
    }

    /// Throws what `start` would, if `listen` is not an address and a port.
    public static func check(listen: String) throws(EndpointError) { _ = try ListenAddress(parsing: listen) }

    /// The address and port that an adopted descriptor listens on; throws if it does not listen there.
    public static func address(of descriptor: Int32) throws(EndpointError) -> String {
        try ListenAddress(listening: descriptor).text
    }

    /// Binds, listens and starts the thread; when it returns, probes are answered.
    ///
    /// Throws if the address is malformed, taken, forbidden or not this machine's. A second start without a stop does
    /// nothing.
    public func start() throws(EndpointError) {
        let wanted: ListenAddress
        switch source {
        case .address(let text): wanted = try ListenAddress(parsing: text)
        case .adopted(let descriptor): wanted = try ListenAddress(listening: descriptor)
        }
        let result: Result<Void, EndpointError> = running.withLock { running in
            guard running == nil else { return .success(()) }
            do throws(EndpointError) {
                let (fd, address) =
                    switch source {
                    case .address: try wanted.listen()
                    case .adopted(let descriptor): (descriptor, wanted)
                    }
                guard let loop = HTTPLoop(listener: fd, limits: limits, answer: answer) else {
                    throw EndpointError(.system, "cannot listen on \(address.text): libevent does not start")
                }
                guard let thread = OwnedThread(name: "kmsward-http", run: { loop.run() }) else {
                    loop.dispose()
                    throw EndpointError(.system, "cannot listen on \(address.text): no thread is left")
                }
                running = Running(loop: loop, address: address, thread: thread)
                return .success(())
            } catch { return .failure(error) }
        }
        try result.get()
    }

    /// The address it listens on, with the port it got; nil while it does not.
    public var address: String? {
        running.withLock { running in
            switch running {
            case .some(let running): running.address.text
            case .none: nil
            }
        }
    }

    /// Stops listening, cuts connections and waits for the thread, which at most finishes one answer.
    public func stop() {
        let ending = running.withLock { $0.take() }
        if let ending { ending.end() }
    }

    // MARK: answers

    static func answer(
        _ request: HTTPRequest, registry: PrometheusRegistry, live: () -> Readiness,
        ready: () -> Readiness, page: () -> Page
    ) -> HTTPReply {
        let known = ["/", "/metrics", "/livez", "/readyz"]
        guard known.contains(request.path) else {
            return .text(404, "not found; there are /, /metrics, /livez and /readyz\n")
        }
        guard request.isRead else {
            return HTTPReply(
                status: 405, headers: [("Content-Type", HTTPReply.plain), ("Allow", "GET, HEAD")],
                body: Array("only GET and HEAD\n".utf8))
        }
        switch request.path {
        case "/metrics":
            let format = ExpositionFormat(accept: request.accept)
            return HTTPReply(
                status: 200, headers: [("Content-Type", format.contentType), ("Vary", "Accept")],
                body: registry.render(format))
        case "/livez": return probe(live(), isVerbose: request.isVerbose)
        case "/readyz": return probe(ready(), isVerbose: request.isVerbose)
        default:
            guard request.isForUs else {
                return .text(421, "call this page by an address, localhost or the name of its host\n")
            }
            return .page(page())
        }
    }

    /// 200 `ok`, or 503 and the reasons, one per line; notes in any case, all checks if it is to be verbose.
    private static func probe(_ readiness: Readiness, isVerbose: Bool) -> HTTPReply {
        var text = ""
        for check in readiness.checks {
            if let problem = check.problem {
                text += "[-] \(oneLine(check.name)): \(oneLine(problem))\n"
            } else if let note = check.note {
                text += "[!] \(oneLine(check.name)): \(oneLine(note))\n"
            } else if isVerbose {
                text += "[+] \(oneLine(check.name))\n"
            }
        }
        return .text(readiness.isReady ? 200 : 503, text + (readiness.isReady ? "ok\n" : "not ready\n"))
    }

    private static func oneLine(_ text: String) -> String {
        String(text.map { $0.isNewline ? " " : $0 })
    }
}

/// What the endpoint looks at in a request.
struct HTTPRequest: Sendable, Equatable {
    /// GET or HEAD.
    var isRead = true
    var path: String
    var query: String?
    var accept: String?
    /// What the client believes to speak to, without the port.
    var host: String?
    /// The name of this host.
    var ownName = ""

    /// Not for a page of others that had its name resolve to this address, to read here what its visitor may read.
    var isForUs: Bool {
        guard let host = host?.lowercased() else { return true }
        let ownName = ownName.lowercased()
        let isAddress = host.contains(":") || host.allSatisfy { $0.isNumber || $0 == "." }
        return isAddress || host == "localhost"
            || !ownName.isEmpty && (host == ownName || host == ownName.prefix { $0 != "." })
    }

    var isVerbose: Bool {
        (query ?? "").split(separator: "&").contains { $0 == "verbose" || $0.hasPrefix("verbose=") }
    }
}

/// An answer; every one also ends the connection.
struct HTTPReply: Sendable, Equatable {
    static let plain = "text/plain; charset=utf-8"

    let status: Int32
    let headers: [(String, String)]
    let body: [UInt8]

    static func text(_ status: Int32, _ text: String) -> Self {
        Self(status: status, headers: [("Content-Type", plain)], body: Array(text.utf8))
    }

    /// Nothing may be loaded for it, nor may others show it as theirs.
    static func page(_ page: Page) -> Self {
        Self(
            status: 200,
            headers: [
                ("Content-Type", "text/html; charset=utf-8"), ("Content-Security-Policy", page.policy),
                ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer"),
                ("Cross-Origin-Resource-Policy", "same-origin"),
            ], body: page.html)
    }

    static func == (left: Self, right: Self) -> Bool {
        left.status == right.status && left.body == right.body
            && left.headers.elementsEqual(right.headers, by: ==)
    }
}
