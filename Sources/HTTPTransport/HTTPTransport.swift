// HTTPTransport: HTTPS requests over libcurl, on one owned thread. It knows no KMS word and signs nothing: bytes go out
// as they are given, answers come back in memory that is wiped, and what goes wrong has a code and a line.

private import Glibc
private import SecureMemory
private import Synchronization
private import Threads

/// Sends requests to any number of hosts, and keeps connections for the next.
///
/// One thread, `http-client`, does all transfers; names are looked up on threads of their own. A cancelled task or a
/// passed deadline ends a transfer at once, also while its name is being looked up. Redirects are never followed,
/// proxies never asked for metadata services, plain http never spoken unless allowed. Close it before it is dropped.
public final class HTTPTransport: Sendable {
    /// How the transport reaches servers and whom it trusts.
    public struct Settings: Sendable, Equatable {
        /// Which proxy requests go through.
        ///
        /// Requests to this host and to metadata services go direct in any case.
        public enum Proxy: Sendable, Equatable {
            /// None, whatever the environment says.
            case none
            /// `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy`, read once.
            case environment
            /// `http://[user:password@]host:port` or https, but for the names, addresses and networks listed.
            case url(String, noProxy: [String])
        }

        /// A client certificate.
        public struct Identity: Sendable, Equatable {
            /// Path of the PEM chain, leaf first.
            public var certificateFile: String
            /// Path of the PEM key, unencrypted.
            public var keyFile: String

            /// A client certificate; both files are read for each new connection.
            public init(certificateFile: String, keyFile: String) {
                self.certificateFile = certificateFile
                self.keyFile = keyFile
            }
        }

        /// Which proxy requests go through.
        public var proxy = Proxy.environment
        /// Path of a PEM file with the only authorities to trust; nil for the system's.
        ///
        /// Read anew every minute.
        public var authoritiesFile: String?
        /// The client certificate.
        public var identity: Identity?
        /// Whether `http://` is allowed elsewhere than at metadata services.
        public var allowsPlainHTTP = false
        /// Whether HTTP/2 is offered to TLS servers.
        ///
        /// Off unless asked for: libcurl keeps the last answer of an idle HTTP/2 connection in its read buffer, a key in
        /// plain text perhaps. HTTP/1.1 leaves nothing.
        public var offersHTTP2 = false
        /// The `User-Agent`.
        public var userAgent = "kmsward"
        /// Bound of an answer's body in bytes.
        public var responseLimit = 1 << 20
        /// Bound of name resolution, connecting and TLS together.
        public var connectTimeout = Duration.milliseconds(800)
        /// Connections to one host; further requests wait for one of them.
        public var connectionsPerHost = 32
        /// Requests under way at once, waiting ones included.
        public var maximumRequests = 1024

        /// The usual settings.
        public init() {}
    }

    private let loop: TransferLoop
    private let thread: Mutex<OwnedThread?>
    private let allowsPlainHTTP: Bool

    /// Starts the thread.
    ///
    /// Fails on a proxy that cannot be understood, or without memory, descriptors or threads left.
    public convenience init(_ settings: Settings = Settings()) throws(HTTPFailure) {
        try self.init(settings, lookup: Lookup.bySystem)
    }

    init(_ settings: Settings, lookup: @escaping Lookup.Function) throws(HTTPFailure) {
        let rules = try ProxyRules(settings.proxy) { name in
            guard let value = unsafe getenv(name) else { return nil }
            return unsafe String(cString: value)
        }
        allowsPlainHTTP = settings.allowsPlainHTTP
        let loop = try TransferLoop(settings: settings, rules: rules, lookup: lookup)
        guard let thread = OwnedThread(name: "http-client", run: { loop.run() }) else {
            loop.discard()
            throw HTTPFailure(.system, "cannot start thread http-client: \(CurlVerdict.errorText(errno))")
        }
        self.loop = loop
        self.thread = Mutex(thread)
    }

    /// Sends a request and waits for the whole answer, whatever its status.
    ///
    /// Fails at `deadline` with `.timeout`, when the task is cancelled with `.cancelled`; both free the connection
    /// before this returns. Costs two switches of threads beside the transfer itself.
    public func send(
        _ request: consuming HTTPRequest, deadline: ContinuousClock.Instant
    ) async throws(HTTPFailure) -> HTTPResponse {
        try Self.check(request, allowsPlainHTTP: allowsPlainHTTP)
        let transfer = Transfer(request, deadline: deadline)
        await withTaskCancellationHandler {
            await withCheckedContinuation { loop.submit(transfer, $0) }
        } onCancel: {
            loop.cancel(transfer)
        }
        return try transfer.takeOutcome()
    }

    /// Ends what is under way with `.closed`, and then the thread.
    ///
    /// Later requests fail with `.closed`. Lookups that hang are left to themselves.
    public func close() async {
        await loop.close()
        // The thread is at its last instruction: this does not wait.
        thread.withLock { $0.take() }?.join()
    }

    deinit { precondition(loop.hasEnded, "HTTPTransport dropped without close()") }

    // MARK: Requests

    private static let ownHeaders: Set = [
        "host", "content-length", "transfer-encoding", "connection", "expect",
    ]

    private static func check(
        _ request: borrowing HTTPRequest, allowsPlainHTTP: Bool
    ) throws(HTTPFailure) {
        let origin = request.origin
        func refuse(_ why: String) -> HTTPFailure { HTTPFailure(.badRequest, "request to \(origin): \(why)") }
        guard origin.scheme == .https || allowsPlainHTTP || origin.isMetadata else {
            throw refuse("plain http is not allowed; use https, or allow it in the configuration")
        }
        guard isToken(request.method) else { throw refuse("the method is not a token") }
        guard request.method != "HEAD" || request.body.count == 0 else { throw refuse("HEAD has no body") }
        guard request.target.first == "/", request.target.utf8.allSatisfy({ (0x21...0x7E).contains($0) }),
            !request.target.utf8.contains(UInt8(ascii: "#"))
        else { throw refuse("the target is not an escaped path that begins with /") }
        for field in request.headers.fields {
            guard isToken(field.name) else { throw refuse("a header name is not a token") }
            guard !ownHeaders.contains(field.name.lowercased()) else {
                throw refuse("the header \(field.name) is the transport's own")
            }
            guard field.value.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7F || $0 == 0x09 }) else {
                throw refuse("the header \(field.name) has a control byte in its value")
            }
        }
    }

    private static func isToken(_ text: String) -> Bool {
        !text.isEmpty
            && text.utf8.allSatisfy { byte in
                (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
                    || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
                    || "!#$%&'*+-.^_`|~".utf8.contains(byte)
            }
    }
}
