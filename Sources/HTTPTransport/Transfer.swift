internal import CCurl
private import Glibc
internal import SecureMemory
internal import Synchronization

/// One request on its way: what curl is given, what it gave back, and who waits for it.
///
/// @unchecked: its maker's until it is submitted, the client thread's until the continuation is resumed, then its
/// maker's again; `isCancelled` is atomic and `outcome` locked.
@safe final class Transfer: @unchecked Sendable {
    let request: HTTPRequest
    let deadline: ContinuousClock.Instant
    let isCancelled = Atomic(false)

    // The client thread's.
    var continuation: CheckedContinuation<Void, Never>?
    var number: UInt = 0
    var waitsFor: String?
    var proxy: Proxy?
    var startedAt = ContinuousClock.now
    var connectDeadline = ContinuousClock.now
    var useOldAddressesAt: ContinuousClock.Instant?
    var responseLimit = 0
    private var launchedAt: ContinuousClock.Instant?
    private var tlsBeganAt: ContinuousClock.Instant?
    private var sentAt: ContinuousClock.Instant?
    private var firstByteAt: ContinuousClock.Instant?
    private var timesTLSBegan = 0
    private var handle: CurlHandle?
    private var sent = 0
    private var timesSent = 0
    private var answer = AnswerReader()
    private var certificateEnd: Int64?
    private var chunks = BodyChunks()
    private var isTooLarge = false
    private var refusedResend = false

    private struct Outcome: ~Copyable, Sendable {
        var failure: HTTPFailure?
        var response: HTTPResponse?
    }

    private let outcome = Mutex(Outcome())

    init(_ request: consuming HTTPRequest, deadline: ContinuousClock.Instant) {
        self.request = request
        self.deadline = deadline
    }

    /// The name to look up; nil where there is an address already.
    var nameToResolve: String? {
        let hop = proxy?.origin ?? request.origin
        return hop.address == nil ? hop.host : nil
    }

    /// How far it came.
    var phase: HTTPFailure.Phase {
        guard handle != nil else { return waitsFor == nil ? .queued : .resolve }
        if timesSent > 0 { return firstByteAt == nil ? .waiting : .reading }
        let isHTTPS = request.origin.scheme == .https
        if isHTTPS, timesTLSBegan == (proxy?.origin.scheme == .https ? 2 : 1) { return .tls }
        return proxy == nil ? .connect : .proxy
    }

    /// Who is spoken to, for people.
    var peer: String {
        guard let proxy else { return request.origin.description }
        return "\(request.origin) by proxy \(proxy.origin)"
    }

    private var connectMilliseconds: Int {
        Int(min(3_600_000, ContinuousClock.now.duration(to: connectDeadline) / .milliseconds(1)))
    }

    // MARK: The handle

    /// Makes curl's handle for this request and starts it, to go to one of `addresses` (none: the host is an address).
    ///
    /// Whether it throws or not, `dispose` must follow.
    func start(
        in multi: OpaquePointer, addresses: [IPAddress], settings: HTTPTransport.Settings
    ) throws(HTTPFailure) {
        guard let handle = CurlHandle() else {
            throw HTTPFailure(.system, "out of memory for a request to \(peer)")
        }
        self.handle = handle
        launchedAt = .now
        unsafe handle.set(CURLOPT_PRIVATE, pointer: UnsafeMutableRawPointer(bitPattern: number))
        handle.set(CURLOPT_NOSIGNAL, 1)
        handle.set(CURLOPT_PROTOCOLS_STR, "http,https")
        handle.set(CURLOPT_FOLLOWLOCATION, 0)
        handle.set(CURLOPT_CONNECTTIMEOUT_MS, max(1, connectMilliseconds))
        handle.set(CURLOPT_FRESH_CONNECT, request.wantsFreshConnection ? 1 : 0)
        // Front ends close idle connections after 60 s and more.
        handle.set(CURLOPT_MAXAGE_CONN, 50)
        handle.endSilentConnections(afterMilliseconds: 5000)
        // A request is a few hundred bytes, and curl wipes what it frees.
        handle.set(CURLOPT_UPLOAD_BUFFERSIZE, 16384)
        setAddress(handle, addresses)
        setProxy(handle)
        setTLS(handle, settings)
        setRequest(handle, settings)
        setCallbacks(handle)
        guard handle.failure == CURLE_OK else {
            let reason = unsafe String(cString: ksw_curl_easy_strerror(handle.failure))
            throw HTTPFailure(.system, "libcurl refuses a request to \(peer): \(reason)")
        }
        let code = unsafe handle.add(to: multi)
        guard code == CURLM_OK else {
            throw HTTPFailure(.system, "libcurl does not take a request to \(peer): error \(code.rawValue)")
        }
    }

    private func setAddress(_ handle: CurlHandle, _ addresses: [IPAddress]) {
        // The target goes in a field of its own: curl neither reads nor rewrites nor repeats it.
        let start = "\(request.origin.scheme.rawValue)://\(request.origin.authority)"
        handle.set(CURLOPT_URL, start + "/")
        let isForwarded = proxy != nil && request.origin.scheme == .http
        handle.set(CURLOPT_REQUEST_TARGET, isForwarded ? start + request.target : request.target)
        guard !addresses.isEmpty, let name = nameToResolve else { return }
        let port = (proxy?.origin ?? request.origin).port
        let list = addresses.map(\.urlText).joined(separator: ",")
        handle.set(CURLOPT_RESOLVE, lines: ["+\(name):\(port):\(list)"])
    }

    private func setProxy(_ handle: CurlHandle) {
        // Empty rather than unset: unset, curl reads the environment by rules of its own.
        handle.set(CURLOPT_PROXY, proxy?.url ?? "")
        handle.set(CURLOPT_NOPROXY, "")
        handle.set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1)
        guard let proxy, !proxy.user.isEmpty else { return }
        handle.set(CURLOPT_PROXYUSERNAME, proxy.user)
        handle.set(CURLOPT_PROXYPASSWORD, proxy.password)
    }

    private func setTLS(_ handle: CurlHandle, _ settings: HTTPTransport.Settings) {
        for (version, authorities, folder) in [
            (CURLOPT_SSLVERSION, CURLOPT_CAINFO, CURLOPT_CAPATH),
            (CURLOPT_PROXY_SSLVERSION, CURLOPT_PROXY_CAINFO, CURLOPT_PROXY_CAPATH),
        ] {
            handle.set(version, Int(CURL_SSLVERSION_TLSv1_2))
            if let file = settings.authoritiesFile { handle.set(authorities, file) }
            // The system's folder would be trusted beside the file, and keep curl from remembering what it read.
            handle.unset(folder)
        }
        handle.set(CURLOPT_SSL_VERIFYPEER, 1)
        handle.set(CURLOPT_SSL_VERIFYHOST, 2)
        handle.set(CURLOPT_CA_CACHE_TIMEOUT, 60)
        // A resumed session would outlive a change of what is trusted.
        handle.set(CURLOPT_SSL_SESSIONID_CACHE, 0)
        handle.set(
            CURLOPT_HTTP_VERSION,
            Int(settings.offersHTTP2 ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1))
        guard let identity = settings.identity else { return }
        handle.set(CURLOPT_SSLCERT, identity.certificateFile)
        handle.set(CURLOPT_SSLKEY, identity.keyFile)
        // Else OpenSSL asks the terminal for an encrypted key's.
        handle.set(CURLOPT_KEYPASSWD, "")
    }

    private func setRequest(_ handle: CurlHandle, _ settings: HTTPTransport.Settings) {
        let method = request.method
        if request.body.count > 0 || ["POST", "PUT", "PATCH"].contains(method) {
            handle.set(CURLOPT_POST, 1)
            handle.set(CURLOPT_POSTFIELDSIZE_LARGE, size: request.body.count)
            if method != "POST" { handle.set(CURLOPT_CUSTOMREQUEST, method) }
        } else if method == "HEAD" {
            handle.set(CURLOPT_NOBODY, 1)
        } else {
            handle.set(CURLOPT_HTTPGET, 1)
            if method != "GET" { handle.set(CURLOPT_CUSTOMREQUEST, method) }
        }
        handle.set(CURLOPT_USERAGENT, settings.userAgent)
        var lines = request.headers.fields.map {
            $0.value.isEmpty ? "\($0.name);" : "\($0.name): \($0.value)"
        }
        // What curl would add on its own account.
        for name in ["Accept", "Content-Type", "Expect"] where request.headers[name] == nil {
            lines.append("\(name):")
        }
        handle.set(CURLOPT_HTTPHEADER, lines: lines)
        // A proxy's tunnel is asked for without what is meant for the server.
        handle.set(CURLOPT_HEADEROPT, Int(CURLHEADER_SEPARATE))
    }

    private func setCallbacks(_ handle: CurlHandle) {
        // Unretained: curl calls back only while the handle is in use, which the loop keeps this object for.
        let this = unsafe Unmanaged.passUnretained(self).toOpaque()
        unsafe handle.set(CURLOPT_HEADERFUNCTION) { bytes, size, count, this in
            unsafe Transfer.at(this).took(header: bytes, size * count) ? size * count : 0
        }
        unsafe handle.set(CURLOPT_HEADERDATA, pointer: this)
        unsafe handle.set(CURLOPT_WRITEFUNCTION) { bytes, size, count, this in
            unsafe Transfer.at(this).took(body: bytes, size * count) ? size * count : 0
        }
        unsafe handle.set(CURLOPT_WRITEDATA, pointer: this)
        unsafe handle.set(CURLOPT_READFUNCTION) { bytes, size, count, this in
            unsafe Transfer.at(this).give(bytes, size * count)
        }
        unsafe handle.set(CURLOPT_READDATA, pointer: this)
        unsafe handle.onSeek { this, offset, origin in
            guard origin == SEEK_SET, offset == 0 else { return CURL_SEEKFUNC_FAIL }
            unsafe Transfer.at(this).sent = 0
            return CURL_SEEKFUNC_OK
        }
        unsafe handle.set(CURLOPT_SEEKDATA, pointer: this)
        unsafe handle.onRequest { this, _, _, _, _ in
            unsafe Transfer.at(this).maySend() ? CURL_PREREQFUNC_OK : CURL_PREREQFUNC_ABORT
        }
        unsafe handle.set(CURLOPT_PREREQDATA, pointer: this)
        unsafe handle.onTLS { _, context, this in
            unsafe ksw_tls_wipe_plaintext(context)
            unsafe Transfer.at(this).beganTLS()
            return CURLE_OK
        }
        unsafe handle.set(CURLOPT_SSL_CTX_DATA, pointer: this)
        handle.set(CURLOPT_MAXFILESIZE_LARGE, size: responseLimit)
    }

    private static func at(_ pointer: UnsafeMutableRawPointer?) -> Transfer {
        guard let pointer = unsafe pointer else { preconditionFailure("curl calls back without a transfer") }
        return unsafe Unmanaged<Transfer>.fromOpaque(pointer).takeUnretainedValue()
    }

    /// Ends the transfer, if it is on its way, and frees all that curl was lent.
    func dispose() { handle.take()?.remove() }

    /// Before the end of a transfer whose answer is not whole: its connection goes with the last transfer on it.
    ///
    /// With HTTP/1.1 it goes anyway. With HTTP/2 it may be dead, and would take the next request too.
    func spoilConnection() {
        if timesSent > 0 { handle?.set(CURLOPT_FORBID_REUSE, 1) }
    }

    // MARK: Callbacks

    private func beganTLS() {
        timesTLSBegan += 1
        tlsBeganAt = .now
    }

    private func maySend() -> Bool {
        timesSent += 1
        sentAt = .now
        guard timesSent > 1, !request.mayBeResent else { return true }
        refusedResend = true
        return false
    }

    private func give(_ target: UnsafeMutablePointer<CChar>?, _ capacity: Int) -> Int {
        let count = min(capacity, request.body.count - sent)
        guard count > 0, let target = unsafe target else { return 0 }
        request.body.withBytes { bytes in
            unsafe bytes.extracting(sent..<sent + count).withUnsafeBytes { source in
                unsafe UnsafeMutableRawBufferPointer(start: target, count: count).copyMemory(from: source)
            }
        }
        sent += count
        return count
    }

    private func took(header bytes: UnsafeMutablePointer<CChar>?, _ count: Int) -> Bool {
        guard let bytes = unsafe bytes else { return true }
        if firstByteAt == nil {
            firstByteAt = .now
            certificateEnd = handle?.certificateEnd
        }
        return answer.take(
            line: unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(start: bytes, count: count)))
    }

    private func took(body bytes: UnsafeMutablePointer<CChar>?, _ count: Int) -> Bool {
        guard let bytes = unsafe bytes, count > 0 else { return true }
        guard count <= responseLimit - chunks.count else {
            isTooLarge = true
            return false
        }
        chunks.append(unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(start: bytes, count: count)))
        return true
    }

    // MARK: Outcome

    /// What the transfer ended with; to be thrown or returned to whoever waits.
    func takeOutcome() throws(HTTPFailure) -> HTTPResponse {
        let taken = outcome.withLock { Outcome(failure: $0.failure, response: $0.response.take()) }
        if let failure = taken.failure { throw failure }
        guard let response = taken.response else {
            preconditionFailure("a transfer ended without an outcome")
        }
        return response
    }

    func fail(_ failure: HTTPFailure) { outcome.withLock { $0.failure = failure } }

    /// Takes over what curl says at the end.
    func conclude(_ code: CURLcode) {
        guard let handle else { preconditionFailure("a transfer without handle ended") }
        guard code == CURLE_OK else {
            fail(reason(of: code, handle))
            return
        }
        guard answer.status >= 200 else {
            fail(HTTPFailure(.malformedAnswer, "\(peer) sent no final status", phase: .reading))
            return
        }
        let isHTTP2 = handle.number(CURLINFO_HTTP_VERSION) == Int(CURL_HTTP_VERSION_2_0)
        var response: HTTPResponse? = HTTPResponse(
            status: answer.status, version: isHTTP2 ? .http2 : .http1, headers: HTTPHeaders(answer.fields),
            body: chunks.joined(), timings: timings(handle), certificateEnd: certificateEnd)
        outcome.withLock { $0.response = response.take() }
    }

    private func timings(_ handle: CurlHandle) -> HTTPTimings {
        let launched = launchedAt ?? startedAt
        let sent = sentAt ?? launched
        return HTTPTimings(
            resolve: startedAt.duration(to: launched), connect: launched.duration(to: tlsBeganAt ?? sent),
            tls: tlsBeganAt?.duration(to: sent) ?? .zero, firstByte: sent.duration(to: firstByteAt ?? sent),
            total: startedAt.duration(to: .now), isReused: handle.number(CURLINFO_NUM_CONNECTS) == 0)
    }

    /// curl's result as a failure of ours.
    private func reason(of code: CURLcode, _ handle: CurlHandle) -> HTTPFailure {
        let facts = CurlVerdict.Facts(
            code: code, text: handle.errorText, phase: phase,
            isTooLarge: isTooLarge || answer.isTooLarge, isMalformed: answer.isMalformed,
            refusedResend: refusedResend,
            errno: Int32(truncatingIfNeeded: handle.number(CURLINFO_OS_ERRNO)),
            certificate: handle.number(CURLINFO_SSL_VERIFYRESULT),
            proxyCertificate: handle.number(CURLINFO_PROXY_SSL_VERIFYRESULT),
            connectStatus: handle.number(CURLINFO_HTTP_CONNECTCODE))
        return CurlVerdict.failure(
            facts, origin: request.origin.description, proxy: proxy?.origin.description, limit: responseLimit)
    }
}
