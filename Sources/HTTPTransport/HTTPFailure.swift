/// Why there is no answer: a code, how far the request came, and one line for the operator.
///
/// The line names host and port; never a path, a query, a header or a credential.
public struct HTTPFailure: Error, Sendable, Equatable {
    /// What failed.
    public enum Code: String, Sendable, CaseIterable {
        /// The name has no address, or no name server answered.
        case resolve
        /// Refused, or no way there.
        case connect
        /// The proxy cannot be reached, or refuses.
        case proxy
        /// No TLS session that can be trusted; `tlsProblem` says why.
        case tls
        /// No answer by the deadline, or no connection in its time; `phase` says which.
        case timeout
        /// The connection ended before the answer was whole.
        case reset
        /// The answer is larger than allowed.
        case tooLarge
        /// What came is not HTTP.
        case malformedAnswer
        /// The request cannot be sent as it is, or is not allowed.
        case badRequest
        /// The task was cancelled.
        case cancelled
        /// Too many requests are under way.
        case overloaded
        /// The transport is closed.
        case closed
        /// Something of this machine's: memory, descriptors, a defect.
        case system
    }

    /// How far a request came.
    public enum Phase: String, Sendable, CaseIterable {
        /// Not begun.
        case queued
        /// Finding the address.
        case resolve
        /// Connecting, or waiting for a place among the host's connections.
        case connect
        /// Connecting to the proxy, or asking it for a tunnel.
        case proxy
        /// TLS.
        case tls
        /// The request goes out, or its answer is waited for.
        case waiting
        /// The answer has begun.
        case reading
    }

    /// What is wrong with TLS.
    public enum TLSProblem: String, Sendable, CaseIterable {
        /// The server's certificate has expired.
        case expired
        /// The server's certificate is not valid yet; usually a clock is wrong.
        case notYetValid
        /// The server's certificate comes from an authority that is not trusted.
        case unknownIssuer
        /// The server's certificate is its own authority, and not trusted.
        case selfSigned
        /// The server's certificate is for other names.
        case wrongHost
        /// The server's certificate was revoked.
        case revoked
        /// The server's certificate does not hold for another reason.
        case certificate
        /// Only versions below TLS 1.2.
        case protocolVersion
        /// The port does not speak TLS.
        case notTLS
        /// The server wants a client certificate, or refuses ours.
        case clientCertificateRefused
        /// The file with the trusted authorities cannot be read.
        case trustFile
        /// The client certificate or its key cannot be read, or do not belong together.
        case clientCertificate
        /// Something else in the handshake.
        case handshake
    }

    /// What failed.
    public let code: Code
    /// How far the request came.
    public let phase: Phase
    /// What is wrong with TLS, where the code is `.tls`.
    public let tlsProblem: TLSProblem?
    /// One line: what failed, with which host, why.
    public let summary: String

    /// A failure.
    public init(
        _ code: Code, _ summary: String, phase: Phase = .queued, tlsProblem: TLSProblem? = nil
    ) {
        self.code = code
        self.summary = summary
        self.phase = phase
        self.tlsProblem = tlsProblem
    }
}

extension HTTPFailure: CustomStringConvertible {
    /// The summary.
    public var description: String { summary }
}

extension HTTPFailure.TLSProblem {
    /// The problem in words, as the end of `TLS with host:port failed: `.
    var words: String {
        switch self {
        case .expired: "the server's certificate has expired"
        case .notYetValid: "the server's certificate is not valid yet; check both clocks"
        case .unknownIssuer: "the server's certificate comes from an authority that is not trusted here"
        case .selfSigned: "the server's certificate is self-signed and not trusted here"
        case .wrongHost: "the server's certificate is for another name"
        case .revoked: "the server's certificate was revoked"
        case .certificate: "the server's certificate does not hold"
        case .protocolVersion: "no common protocol version; TLS 1.2 or newer is needed"
        case .notTLS: "the port does not speak TLS"
        case .clientCertificateRefused: "the server wants a client certificate, or refuses the one it got"
        case .trustFile: "the file with the trusted authorities cannot be read"
        case .clientCertificate: "the client certificate or its key cannot be used (PEM, the key unencrypted)"
        case .handshake: "the handshake failed"
        }
    }
}
