internal import HTTPTransport
internal import RemoteKMS
internal import RequestSigning

/// An answer that says no: the service's own, or that of something in between.
struct Refusal {
    let answer: Answer
    let status: Int
    /// The service's name for it; nil where the answer is not the service's.
    let name: String?
    /// Its words, cut, and without what could be a secret.
    let message: String?
    let requestID: String?

    init(_ answer: Answer, status: Int, name: String?, message: String?, requestID: String?) {
        self.answer = answer
        self.status = status
        self.name = name.map {
            String($0.filter { $0.isASCII && ($0.isLetter || $0.isNumber || $0 == "_") }.prefix(48))
        }
        self.message = message.map(Self.printable)
        self.requestID = requestID ?? answer.headers["x-jdcloud-request-id"]
    }

    /// `HTTP 403 HTTP_FORBIDDEN "no IAM permission [gw]"`.
    var words: String {
        let said = [name, message.map { "\"\($0)\"" }].compactMap { $0 }.filter { !$0.isEmpty }.map {
            " \($0)"
        }.joined()
        let source = name == nil ? ", not in the form of JD Cloud" : ""
        return "HTTP \(status)\(said)\(source)"
    }

    /// How the service names the call, so that its operators find it.
    static func reference(_ requestID: String?) -> String? {
        guard let requestID, (1...64).contains(requestID.utf8.count),
            requestID.utf8.allSatisfy({
                $0.isDigit || $0 | 0x20 >= UInt8(ascii: "a") && $0 | 0x20 <= UInt8(ascii: "z")
                    || $0 == UInt8(ascii: "-")
            })
        else { return nil }
        return "request \(requestID)"
    }

    /// One line of printable ASCII without quotes; words that are long enough to be a key or a token are left out, as a
    /// service may repeat what it was sent.
    private static func printable(_ text: String) -> String {
        var result = ""
        var word = ""
        func end() {
            // Names of headers are as long, but have no digits and no capitals.
            let isName = word.utf8.allSatisfy { 0x61...0x7A ~= $0 || $0 == UInt8(ascii: "-") }
            result += word.utf8.count > 16 && !isName ? "…" : word
            word = ""
        }
        for scalar in text.unicodeScalars.prefix(400) {
            let isWordPart =
                scalar.isASCII && scalar.value > 0x20 && !" ,;:()[]{}<>\"'\\".unicodeScalars.contains(scalar)
            if isWordPart {
                word.unicodeScalars.append(scalar)
            } else {
                end()
                result +=
                    scalar.value > 0x20 && scalar.value < 0x7F && scalar != "\"" && scalar != "\\"
                    ? String(scalar) : " "
            }
        }
        end()
        return String(result.prefix(200)).split(separator: " ").joined(separator: " ")
    }

    // MARK: What it means

    /// What a refusal is about, so far as it tells without another question.
    enum Meaning: Equatable {
        /// The request's date; with what the offset of the clock would have to be, if the answer has a date.
        case clock(serverTime: Int64?)
        /// The credentials.
        case credentials
        /// What they may do.
        case permission
        /// Nothing of the kind is there: the key, or the whole API.
        case absent(isRoute: Bool)
        /// Too many calls.
        case rate
        /// The service's trouble, or something's in between.
        case trouble
        /// Something between refused, such as a firewall or a login page.
        case between
        /// The request itself.
        case request
    }

    var meaning: Meaning {
        let text = message?.lowercased() ?? ""
        let saysToken = text.contains("token") || text.contains("credential") || text.contains("accesskey")
        switch status {
        case 401
        where !saysToken && ["date", "expire", "clock", "time", "skew"].contains(where: text.contains):
            return .clock(
                serverTime: answer.headers["date"].flatMap { SigningTime(httpDate: $0) }?.unixSeconds)
        case 401: return name == nil ? .between : .credentials
        case _ where (400...403).contains(status) && text.contains("token") && text.contains("expire"):
            return .credentials
        case 429: return .rate
        case 408, 500...599: return .trouble
        case _ where name == nil || name == "HTTP_BAD_REQUEST": return .between
        case 403: return .permission
        case 404: return .absent(isRoute: text.contains("route") || text.contains("no api"))
        case 400...499: return .request
        default: return .between
        }
    }

    /// How long the service asks to be left alone.
    var retryAfter: Duration? {
        guard let text = answer.headers["retry-after"] else { return nil }
        if let seconds = Int64(text), seconds >= 0 { return .seconds(min(seconds, 3600)) }
        guard let until = SigningTime(httpDate: text),
            let now = answer.headers["date"].flatMap({ SigningTime(httpDate: $0) })
        else { return nil }
        return .seconds(min(max(0, until.unixSeconds - now.unixSeconds), 3600))
    }
}

extension RemoteKMSError {
    /// What a refusal means, where nothing more is known of the key.
    init(_ refusal: Refusal, host: String) {
        let summary = "\(refusal.answer.what) was refused: \(refusal.words)"
        let reference = Refusal.reference(refusal.requestID)
        switch refusal.meaning {
        case .clock:
            self.init(
                .unauthenticated, summary,
                remedy: "set this machine's clock; until then the service's time is tried",
                reference: reference)
        case .credentials:
            self.init(
                .unauthenticated, summary,
                remedy: "check access key, secret key and session token, and that the access key is enabled",
                reference: reference)
        case .permission:
            self.init(
                .permissionDenied, summary,
                remedy: "allow these credentials, and this address, to use the key in IAM",
                reference: reference)
        case .absent(isRoute: true):
            self.init(
                .misconfigured, summary, remedy: "check endpoint and scheme: \(host) does not serve this API",
                reference: reference)
        case .absent(isRoute: false):
            self.init(
                .keyNotFound, summary,
                remedy: "check key_id, and that the endpoint is in the region of the key",
                reference: reference)
        case .rate:
            self.init(
                .throttled, summary,
                remedy: "raise the quota of the access key, or share it with fewer callers",
                reference: reference,
                retryAfter: refusal.retryAfter)
        case .trouble: self.init(.unavailable, summary, reference: reference, retryAfter: refusal.retryAfter)
        case .between where (300..<400).contains(refusal.status):
            self.init(
                .misconfigured, summary,
                remedy: "give the endpoint that is led to; redirects are not followed", reference: reference)
        case .between where refusal.status < 300:
            self.init(
                .malformedReply, summary,
                remedy: "see whether the endpoint is JD Cloud's, and what stands between",
                reference: reference)
        case .between:
            self.init(
                .permissionDenied, summary,
                remedy: "see what stands between: a proxy, a firewall, a login page", reference: reference)
        case .request:
            self.init(
                .misconfigured, summary, remedy: "check key_id, and that the key is symmetric",
                reference: reference)
        }
    }

    /// What a failed transfer means.
    init(_ failure: HTTPFailure, what: String) {
        let summary = "\(what): \(failure.summary)"
        switch failure.code {
        case .resolve:
            self.init(
                .unavailable, summary, remedy: "check the endpoint's name and this machine's name servers")
        case .connect:
            self.init(.unavailable, summary, remedy: "check the way there: firewall, route, VPC endpoint")
        case .proxy: self.init(.unavailable, summary, remedy: "check the proxy, or set proxy: none")
        case .tls:
            switch failure.tlsProblem {
            case .trustFile, .clientCertificate, .protocolVersion, .notTLS:
                self.init(.misconfigured, summary, remedy: "check ca_file, scheme and port of the endpoint")
            case .handshake, nil: self.init(.unavailable, summary)
            case .expired, .notYetValid, .unknownIssuer, .selfSigned, .wrongHost, .revoked, .certificate,
                .clientCertificateRefused:
                self.init(
                    .unauthenticated, summary,
                    remedy: "check the endpoint's certificate, ca_file and this machine's clock")
            }
        case .timeout where failure.phase == .waiting || failure.phase == .reading:
            self.init(.deadlineExceeded, summary)
        case .timeout:
            self.init(.unavailable, summary, remedy: "check the way there: firewall, route, VPC endpoint")
        case .reset: self.init(.unavailable, summary)
        case .tooLarge, .malformedAnswer:
            self.init(
                .malformedReply, summary,
                remedy: "see whether the endpoint is JD Cloud's, and what stands between")
        case .badRequest: self.init(.misconfigured, summary)
        case .cancelled: self.init(.deadlineExceeded, "\(what): the caller gave up")
        case .overloaded, .closed, .system: self.init(.unavailable, summary)
        }
    }
}
