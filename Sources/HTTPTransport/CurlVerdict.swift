internal import CCurl
private import CShims

/// What curl's results mean.
enum CurlVerdict {
    /// All that tells one failure from another.
    struct Facts {
        var code: CURLcode
        /// curl's own words; read for OpenSSL's error number, never passed on.
        var text = ""
        var phase = HTTPFailure.Phase.waiting
        var isTooLarge = false
        var isMalformed = false
        var refusedResend = false
        var errno: Int32 = 0
        var certificate = 0
        var proxyCertificate = 0
        var connectStatus = 0
    }

    static func failure(_ facts: Facts, origin: String, proxy: String?, limit: Int) -> HTTPFailure {
        let peer = proxy.map { "\(origin) by proxy \($0)" } ?? origin
        func failed(
            _ code: HTTPFailure.Code, _ summary: String, _ problem: HTTPFailure.TLSProblem? = nil
        ) -> HTTPFailure {
            HTTPFailure(code, summary, phase: facts.phase, tlsProblem: problem)
        }
        if facts.isTooLarge || facts.code == CURLE_FILESIZE_EXCEEDED {
            return failed(
                .tooLarge,
                "\(peer) sent more than \(limit) bytes, or \(AnswerReader.maximumBytes) bytes of headers")
        }
        if facts.isMalformed { return failed(.malformedAnswer, "\(peer) did not answer with HTTP") }
        if facts.refusedResend {
            return HTTPFailure(
                .reset, "\(peer) closed a kept connection before it answered", phase: .waiting)
        }
        if let proxy, facts.connectStatus >= 300 {
            return failed(
                .proxy, "proxy \(proxy) answered \(facts.connectStatus) to the way to \(origin)")
        }
        switch facts.code {
        case CURLE_OPERATION_TIMEDOUT:
            return timeout(peer, facts.phase)
        case CURLE_COULDNT_RESOLVE_HOST, CURLE_COULDNT_RESOLVE_PROXY:
            return failed(.resolve, "no address for \(proxy ?? origin)")
        case CURLE_COULDNT_CONNECT:
            let why = facts.errno == 0 ? "no connection" : errorText(facts.errno)
            guard let proxy else { return failed(.connect, "cannot connect to \(origin): \(why)") }
            return failed(.proxy, "cannot connect to proxy \(proxy) for \(origin): \(why)")
        case CURLE_PROXY:
            return failed(.proxy, "proxy \(proxy ?? "") does not lead to \(origin)")
        case CURLE_SSL_CONNECT_ERROR, CURLE_PEER_FAILED_VERIFICATION, CURLE_SSL_CERTPROBLEM, CURLE_SSL_CIPHER,
            CURLE_SSL_CACERT_BADFILE, CURLE_SSL_ENGINE_NOTFOUND, CURLE_SSL_SHUTDOWN_FAILED,
            CURLE_SSL_ISSUER_ERROR, CURLE_SSL_INVALIDCERTSTATUS, CURLE_SSL_CLIENTCERT:
            return tls(facts, origin: origin, proxy: proxy)
        case CURLE_SEND_ERROR, CURLE_RECV_ERROR, CURLE_GOT_NOTHING, CURLE_PARTIAL_FILE, CURLE_HTTP2,
            CURLE_HTTP2_STREAM:
            // With TLS 1.3 a server's judgement on our certificate comes after the handshake.
            if let problem = problem(inText: facts.text), problem != .handshake {
                return tls(facts, origin: origin, proxy: proxy)
            }
            if facts.phase == .proxy, let proxy {
                return failed(.proxy, "proxy \(proxy) closed the connection on the way to \(origin)")
            }
            let what =
                facts.phase == .reading
                ? "ended the connection before its answer was whole"
                : "ended the connection before it answered"
            return failed(.reset, "\(peer) \(what)")
        case CURLE_WEIRD_SERVER_REPLY, CURLE_UNSUPPORTED_PROTOCOL, CURLE_BAD_CONTENT_ENCODING:
            return failed(.malformedAnswer, "\(peer) did not answer with HTTP")
        default:
            let reason = unsafe String(cString: ksw_curl_easy_strerror(facts.code))
            return failed(.system, "request to \(peer): libcurl says \(reason) (\(facts.code.rawValue))")
        }
    }

    static func timeout(_ peer: String, _ phase: HTTPFailure.Phase) -> HTTPFailure {
        let what =
            switch phase {
            case .queued: "the request to \(peer) was not begun in time"
            case .resolve: "no address for \(peer) in time: the name service does not answer"
            case .connect: "no connection to \(peer) in time"
            case .proxy: "no way to \(peer) in time: the proxy does not answer"
            case .tls: "no TLS session with \(peer) in time"
            case .waiting: "no answer from \(peer) in time"
            case .reading: "\(peer) did not finish its answer in time"
            }
        return HTTPFailure(.timeout, what, phase: phase)
    }

    private static func tls(_ facts: Facts, origin: String, proxy: String?) -> HTTPFailure {
        // The proxy's own TLS comes before the tunnel.
        let isProxy =
            proxy != nil && facts.phase != .tls && facts.phase != .waiting && facts.phase != .reading
        let peer = isProxy ? "proxy \(proxy ?? "")" : origin
        let verdict = isProxy ? facts.proxyCertificate : facts.certificate
        let problem: HTTPFailure.TLSProblem
        var detail = ""
        switch facts.code {
        case CURLE_SSL_CACERT_BADFILE: problem = .trustFile
        case CURLE_SSL_CERTPROBLEM: problem = .clientCertificate
        case CURLE_PEER_FAILED_VERIFICATION, CURLE_SSL_ISSUER_ERROR, CURLE_SSL_INVALIDCERTSTATUS:
            switch Int32(truncatingIfNeeded: verdict) {
            // curl compares names itself, before it asks OpenSSL for the verdict.
            case X509_V_ERR_UNSPECIFIED where facts.text.contains("subject name"): problem = .wrongHost
            case X509_V_ERR_CERT_HAS_EXPIRED: problem = .expired
            case X509_V_ERR_CERT_NOT_YET_VALID: problem = .notYetValid
            case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT: problem = .selfSigned
            case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT,
                X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
                problem = .unknownIssuer
            case X509_V_ERR_CERT_REVOKED: problem = .revoked
            default:
                problem = .certificate
                detail = unsafe ": " + String(cString: X509_verify_cert_error_string(verdict))
            }
        default:
            guard let found = Self.problem(inText: facts.text) else {
                let text = "\(peer) ended the connection during the TLS handshake"
                return HTTPFailure(.reset, text, phase: facts.phase)
            }
            problem = found
            if found == .handshake, let number = opensslError(in: facts.text),
                let reason = unsafe ERR_reason_error_string(number)
            {
                detail = unsafe ": " + String(cString: reason)
            }
        }
        return HTTPFailure(
            .tls, "TLS with \(peer) failed: \(problem.words)\(detail)",
            phase: facts.phase, tlsProblem: problem)
    }

    /// What OpenSSL's error number in curl's words means; nil where there is none.
    private static func problem(inText text: String) -> HTTPFailure.TLSProblem? {
        guard let number = opensslError(in: text) else { return nil }
        let reason = Int32(truncatingIfNeeded: number & 0x7F_FFFF)
        return switch reason {
        case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, SSL_R_UNSUPPORTED_PROTOCOL, SSL_R_NO_PROTOCOLS_AVAILABLE:
            .protocolVersion
        case SSL_R_WRONG_VERSION_NUMBER, SSL_R_HTTP_REQUEST, SSL_R_PACKET_LENGTH_TOO_LONG: .notTLS
        case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE, SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE,
            SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED, SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED,
            SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN, SSL_R_TLSV1_ALERT_UNKNOWN_CA,
            SSL_R_TLSV1_ALERT_ACCESS_DENIED,
            SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
            .clientCertificateRefused
        case SSL_R_UNEXPECTED_EOF_WHILE_READING: nil
        default: .handshake
        }
    }

    /// The number in `error:0A00042E:SSL routines::...`.
    private static func opensslError(in text: String) -> UInt? {
        guard let start = text.firstRange(of: "error:") else { return nil }
        let digits = text[start.upperBound...].prefix { $0.isHexDigit }
        return UInt(digits, radix: 16)
    }

    static func errorText(_ error: Int32) -> String {
        var buffer = [CChar](repeating: 0, count: 128)
        unsafe ksw_error_text(error, &buffer, buffer.count)
        let text = String(decoding: buffer.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
        return text.lowercased()
    }
}
