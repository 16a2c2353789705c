private import CEvent
internal import Glibc
private import Logging

/// evhttp on an event loop: turns requests into replies, and bounds what clients may use up.
///
/// Made and disposed of by the endpoint, run by its thread; the two never overlap except in `requestExit`.
// Unchecked: state is touched by one thread at a time, in that order.
@safe final class HTTPLoop: @unchecked Sendable {
    @safe private struct Client {
        let connection: OpaquePointer  // a reference of ours to evhttp's bufferevent
        let end: ContinuousClock.Instant
    }

    private let base: OpaquePointer
    private let http: OpaquePointer
    private let listener: OpaquePointer
    private var sweep: OpaquePointer?
    private var clients: [Client] = []  // oldest first
    private let limits: HealthEndpoint.Limits
    private let answer: @Sendable (HTTPRequest) -> HTTPReply

    private static let isThreaded: Bool = {
        unsafe event_set_log_callback { _, text in
            guard let text = unsafe text else { return }
            Logger(label: "kmsward.endpoint").debug("libevent: \(unsafe String(cString: text))")
        }
        return evthread_use_pthreads() == 0
    }()

    /// Takes over `listener`, a listening socket; nil (and the socket closed) if libevent has no memory or descriptor.
    init?(
        listener fd: Int32, limits: HealthEndpoint.Limits,
        answer: @escaping @Sendable (HTTPRequest) -> HTTPReply
    ) {
        guard Self.isThreaded, let base = unsafe event_base_new() else {
            close(fd)
            return nil
        }
        guard let http = unsafe evhttp_new(base) else {
            close(fd)
            unsafe event_base_free(base)
            return nil
        }
        let options = LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC
        guard let listener = unsafe evconnlistener_new(base, nil, nil, UInt32(options), 0, fd) else {
            close(fd)
            unsafe evhttp_free(http)
            unsafe event_base_free(base)
            return nil
        }
        guard unsafe evhttp_bind_listener(http, listener) != nil else {
            unsafe evconnlistener_free(listener)
            unsafe evhttp_free(http)
            unsafe event_base_free(base)
            return nil
        }
        unsafe self.base = base
        unsafe self.http = http
        unsafe self.listener = listener
        self.limits = limits
        self.answer = answer

        unsafe evhttp_set_max_headers_size(http, limits.headers)
        unsafe evhttp_set_max_body_size(http, limits.body)
        unsafe evhttp_set_allowed_methods(http, 0x1ff)  // all that evhttp knows: 405 is ours to say
        // Alive as long as the callbacks: `dispose` ends them, and the endpoint holds this object until then.
        let me = unsafe Unmanaged.passUnretained(self).toOpaque()
        unsafe evhttp_set_gencb(
            http,
            { request, me in
                guard let request = unsafe request, let me = unsafe me else { return }
                unsafe Unmanaged<HTTPLoop>.fromOpaque(me).takeUnretainedValue().serve(request)
            }, me)
        unsafe evhttp_set_bevcb(
            http,
            { _, me in
                guard let me = unsafe me else { return nil }
                return unsafe Unmanaged<HTTPLoop>.fromOpaque(me).takeUnretainedValue().admit()
            }, me)
        // Its context is evhttp's, so it works on the listener alone.
        unsafe evconnlistener_set_error_cb(listener) { listener, _ in unsafe HTTPLoop.pause(listener) }
        unsafe sweep = event_new(
            base, -1, 0,
            { _, _, me in
                guard let me = unsafe me else { return }
                unsafe Unmanaged<HTTPLoop>.fromOpaque(me).takeUnretainedValue().cutLate()
            }, me)
    }

    /// Serves until `requestExit`.
    func run() { unsafe event_base_loop(base, EVLOOP_NO_EXIT_ON_EMPTY) }

    /// Ends `run`; from any thread.
    func requestExit() { unsafe event_base_loopexit(base, nil) }

    /// Frees everything; after `run` has ended, once.
    func dispose() {
        unsafe evhttp_free(http)  // and the listener, and the connections
        for client in clients { unsafe bufferevent_decref(client.connection) }
        clients = []
        if let sweep = unsafe sweep { unsafe event_free(sweep) }
        unsafe event_base_free(base)
    }

    // MARK: connections

    /// evhttp asks for the bufferevent of a connection it has accepted.
    ///
    /// evhttp 2.1 neither counts connections nor says when one has gone, and its time-outs start again with every byte.
    /// So we keep a reference to each bufferevent: evhttp takes its callbacks off when it is done with one.
    private func admit() -> OpaquePointer? {
        dropGone()
        while clients.count >= limits.connections, let oldest = clients.first {
            cut(oldest)
            dropGone()
            if unsafe clients.first?.connection == oldest.connection { break }
        }
        guard let connection = unsafe bufferevent_socket_new(base, -1, 0) else { return nil }
        unsafe bufferevent_incref(connection)
        unsafe clients.append(Client(connection: connection, end: .now + limits.exchange))
        if clients.count == 1 { armSweep() }
        return unsafe connection
    }

    private func cutLate() {
        let now = ContinuousClock.now
        for client in clients where client.end <= now { cut(client) }
        dropGone()
        if !clients.isEmpty { armSweep() }
    }

    private func armSweep() {
        guard let sweep = unsafe sweep else { return }
        var interval = Self.timeval(min(max(limits.exchange / 4, .milliseconds(10)), .seconds(1)))
        unsafe event_add(sweep, &interval)
    }

    /// Lets evhttp believe that the connection timed out: it frees it.
    private func cut(_ client: Client) {
        guard Self.isAlive(client) else { return }
        unsafe bufferevent_trigger_event(client.connection, Int16(BEV_EVENT_TIMEOUT | BEV_EVENT_READING), 0)
    }

    private func dropGone() {
        for client in clients where !Self.isAlive(client) {
            unsafe bufferevent_decref(client.connection)
        }
        clients.removeAll { !Self.isAlive($0) }
    }

    private static func isAlive(_ client: Client) -> Bool {
        var callback: bufferevent_event_cb?
        unsafe bufferevent_getcb(client.connection, nil, nil, &callback, nil)
        return unsafe callback != nil
    }

    /// Accepting failed, mostly because the process has no descriptor left: trying again at once would spin.
    private static func pause(_ listener: OpaquePointer?) {
        guard let listener = unsafe listener else { return }
        unsafe evconnlistener_disable(listener)
        var second = timeval(.seconds(1))
        let proceed: event_callback_fn = { _, _, listener in
            guard let listener = unsafe listener else { return }
            unsafe evconnlistener_enable(OpaquePointer(listener))
        }
        let context = unsafe UnsafeMutableRawPointer(listener)
        unsafe event_base_once(
            evconnlistener_get_base(listener), -1, Int16(EV_TIMEOUT), proceed, context, &second)
    }

    private static func timeval(_ duration: Duration) -> Glibc.timeval {
        let parts = duration.components
        return Glibc.timeval(tv_sec: Int(parts.seconds), tv_usec: Int(parts.attoseconds / 1_000_000_000_000))
    }

    // MARK: requests

    private func serve(_ request: OpaquePointer) {
        let command = unsafe evhttp_request_get_command(request)
        let isHead = command == EVHTTP_REQ_HEAD
        let uri = unsafe evhttp_request_get_evhttp_uri(request)
        let path = unsafe evhttp_uri_get_path(uri).map { unsafe String(cString: $0) } ?? "/"
        let query = unsafe evhttp_uri_get_query(uri).map { unsafe String(cString: $0) }
        let incoming = unsafe evhttp_request_get_input_headers(request)
        let accept = unsafe evhttp_find_header(incoming, "Accept").map { unsafe String(cString: $0) }
        // Nil without a header: an HTTP/1.0 client.
        let host = unsafe evhttp_request_get_host(request).map { unsafe String(cString: $0) }
        let reply = answer(
            HTTPRequest(
                isRead: isHead || command == EVHTTP_REQ_GET, path: path.isEmpty ? "/" : path, query: query,
                accept: accept, host: host, ownName: Self.ownName))

        let outgoing = unsafe evhttp_request_get_output_headers(request)
        for (name, value) in reply.headers { unsafe evhttp_add_header(outgoing, name, value) }
        unsafe evhttp_add_header(outgoing, "Content-Length", "\(reply.body.count)")
        unsafe evhttp_add_header(outgoing, "Cache-Control", "no-store")
        unsafe evhttp_add_header(outgoing, "Connection", "close")
        guard let body = unsafe evbuffer_new() else {
            unsafe evhttp_send_error(request, 503, nil)
            return
        }
        if !isHead {
            _ = unsafe reply.body.withUnsafeBytes { unsafe evbuffer_add(body, $0.baseAddress, $0.count) }
        }
        unsafe evhttp_send_reply(request, reply.status, Self.phrase(reply.status), body)
        unsafe evbuffer_free(body)
    }

    private static let ownName: String = {
        var name = [CChar](repeating: 0, count: 256)
        guard unsafe gethostname(&name, name.count - 1) == 0 else { return "" }
        return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }()

    private static func phrase(_ status: Int32) -> String {
        switch status {
        case 200: "OK"
        case 404: "Not Found"
        case 405: "Method Not Allowed"
        case 421: "Misdirected Request"
        default: "Service Unavailable"
        }
    }
}
