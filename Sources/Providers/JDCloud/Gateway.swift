internal import HTTPTransport
internal import RemoteKMS
internal import RequestSigning
internal import SecureMemory
private import Synchronization

/// Calls one service of JD Cloud: signs each request anew, and reads its envelope.
final class Gateway: Sendable {
    /// A call, ready but for its signature.
    struct Call: ~Copyable, Sendable {
        /// In messages: `Encrypt with key srh6mt4lj49tnzvs`.
        var what: String
        var method: String
        var path: String
        var query: [(name: String, value: String)] = []
        var body: SecretBytes
        /// Bound of the answer in bytes.
        var responseLimit = 64 << 10
    }

    /// Why a call gave no result.
    enum Failure: Error {
        /// The service, or what stands before it, refused.
        case refused(Refusal)
        /// Anything else.
        case failed(RemoteKMSError)
    }

    let origin: HTTPOrigin
    let clock: SkewedClock
    private let service: String
    private let region: String
    private let scheme: SigningScheme
    private let sendsRawTokens: Bool
    private let transport: HTTPTransport
    private let billed = Atomic<UInt64>(0)
    private let certificate = Atomic<Int64>(0)

    /// Requests that the service took: those that it refused for their rate or failed itself are not billed.
    var billedCalls: UInt64 { billed.load(ordering: .relaxed) }
    /// When the certificate that it showed last ends, seconds since 1970.
    var certificateEnd: Int64? {
        let end = certificate.load(ordering: .relaxed)
        return end == 0 ? nil : end
    }

    init(
        _ origin: HTTPOrigin, service: String, region: String, scheme: SigningScheme, sendsRawTokens: Bool,
        transport: HTTPTransport, clock: SkewedClock
    ) {
        self.origin = origin
        self.service = service
        self.region = region
        self.scheme = scheme
        self.sendsRawTokens = sendsRawTokens
        self.transport = transport
        self.clock = clock
    }

    /// Signs, sends, and gives `read` the result with the bytes it lies in.
    func perform<R: ~Copyable>(
        _ call: consuming Call, signedWith credentials: Credentials, attempt: Attempt,
        read: (JSON, RawSpan) -> R?
    ) async throws(Failure) -> R {
        let what = call.what
        let offset = clock.offset
        let request = try signed(call, with: credentials, fresh: attempt.wantsFreshConnection)
        let response: HTTPResponse
        do throws(HTTPFailure) {
            response = try await transport.send(request, deadline: attempt.deadline.instant)
        } catch { throw .failed(RemoteKMSError(error, what: "\(service) of JD Cloud: \(what)")) }
        if let end = response.certificateEnd { certificate.store(end, ordering: .relaxed) }
        if response.status < 500, response.status != 429 { billed.add(1, ordering: .relaxed) }
        let answer = Answer(
            status: response.status, headers: response.headers, clockOffset: offset,
            what: "\(what) at \(origin)")
        return try response.body.withBytes { (body) throws(Failure) in
            try Self.read(answer, body, read)
        }
    }

    private func signed(
        _ call: consuming Call, with credentials: Credentials, fresh: Bool
    ) throws(Failure) -> HTTPRequest {
        let time = SigningTime(unixSeconds: clock.now)
        var fields: [(name: String, value: String)] = [
            ("content-type", "application/json"), ("x-jdcloud-date", time.basic),
            ("x-jdcloud-nonce", Nonce.uuid()),
        ]
        if let token = credentials.sessionToken {
            fields.append(("x-jdcloud-security-token", Self.text(of: token.bytes, encoded: !sendsRawTokens)))
        }
        let target: String
        let authorization: String
        do throws(SigningFailure) {
            let toSign = try RequestToSign(
                method: call.method, path: call.path, query: call.query,
                headers: fields + [("host", origin.authority)], body: call.body)
            target = toSign.target
            authorization = try scheme.authorization(
                for: toSign, in: .init(time: time, region: region, service: service),
                accessKey: credentials.accessKey, secretKey: credentials.secretKey.bytes)
        } catch {
            throw .failed(RemoteKMSError(.misconfigured, "\(call.what) cannot be signed: \(error)"))
        }
        var headers = HTTPHeaders(fields.map { HTTPHeaders.Field($0.name, $0.value) })
        headers.append("authorization", authorization)
        let (method, limit) = (call.method, call.responseLimit)
        var request = HTTPRequest(method, origin, target, headers: headers, body: call.takeBody())
        request.responseLimit = limit
        request.wantsFreshConnection = fresh
        return request
    }

    /// A session token as it goes into its header: it does not sign, so it is of no use alone.
    private static func text(of token: borrowing SecretBytes, encoded: Bool) -> String {
        func string(_ bytes: RawSpan) -> String {
            String(decoding: bytes.byteOffsets.map { bytes.byte(at: $0) }, as: UTF8.self)
        }
        return token.withBytes { bytes in
            encoded ? Base64.encode(bytes, between: "", and: "").withBytes(string) : string(bytes)
        }
    }

    // MARK: The envelope

    private static func read<R: ~Copyable>(
        _ answer: Answer, _ body: RawSpan, _ read: (JSON, RawSpan) -> R?
    ) throws(Failure) -> R {
        let document = try? JSON(parsing: body)
        if let error = document?["error"] {
            let code = error["code"]?.integer.flatMap { Int(exactly: $0) } ?? 0
            throw .refused(
                Refusal(
                    answer,
                    status: answer.status == 200 ? ((400..<600).contains(code) ? code : 500) : answer.status,
                    name: error["status"]?.text(in: body), message: error["message"]?.text(in: body),
                    requestID: document?["requestId"]?.text(in: body)))
        }
        guard answer.status == 200 else {
            throw .refused(Refusal(answer, status: answer.status, name: nil, message: nil, requestID: nil))
        }
        let requestID = document?["requestId"]?.text(in: body) ?? answer.headers["x-jdcloud-request-id"]
        guard let result = document?["result"], let value = read(result, body) else {
            let kind = document == nil ? "what is no JSON" : "JSON without the documented result"
            throw .failed(
                RemoteKMSError(
                    .malformedReply, "\(answer.what) answered \(kind)",
                    remedy: "see whether the endpoint is JD Cloud's, and what stands between",
                    reference: Refusal.reference(requestID)))
        }
        return value
    }
}

extension Gateway.Call {
    fileprivate consuming func takeBody() -> SecretBytes { body }
}

/// An answer without its body.
struct Answer {
    let status: Int
    let headers: HTTPHeaders
    /// What the request's date was off by on purpose.
    let clockOffset: Int64
    /// In messages: `Encrypt with key srh6mt4lj49tnzvs at kms.jdcloud-api.com:443`.
    let what: String
}
