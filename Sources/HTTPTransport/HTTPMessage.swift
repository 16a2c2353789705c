public import SecureMemory

/// Header fields in order; names are compared without regard to case, and may repeat.
public struct HTTPHeaders: Sendable, Equatable, ExpressibleByDictionaryLiteral {
    /// One field.
    public struct Field: Sendable, Equatable {
        /// The name as it was written.
        public let name: String
        /// The value without the blanks around it.
        public let value: String

        /// A field.
        public init(_ name: String, _ value: String) {
            self.name = name
            self.value = value
        }
    }

    /// The fields in order.
    public private(set) var fields: [Field]

    /// No fields, or those given.
    public init(_ fields: [Field] = []) { self.fields = fields }

    /// Fields as a literal, in order.
    public init(dictionaryLiteral elements: (String, String)...) {
        fields = elements.map { Field($0.0, $0.1) }
    }

    /// Adds a field behind the others.
    public mutating func append(_ name: String, _ value: String) { fields.append(Field(name, value)) }

    /// The first value of that name.
    public subscript(name: String) -> String? { all(name).first }

    /// Every value of that name, in order.
    public func all(_ name: String) -> [String] {
        let name = name.lowercased()
        return fields.filter { $0.name.lowercased() == name }.map(\.value)
    }
}

/// A request, sent exactly as it is written here, so that it can be signed.
///
/// Nothing is added but `Host` (`origin.authority`), `User-Agent` and, with a body or a method that usually has one,
/// `Content-Length`.
public struct HTTPRequest: ~Copyable, Sendable {
    /// `GET`, `POST`, ...
    public var method: String
    /// Where it goes.
    public var origin: HTTPOrigin
    /// Path and query as they stand in the request line: escaped, beginning with `/`.
    public var target: String
    /// Header fields; not `Host`, `Content-Length`, `Transfer-Encoding`, `Connection`, `Expect`.
    public var headers: HTTPHeaders
    /// The body; empty for none.
    ///
    /// It is read in place and wiped with the request.
    public var body: SecretBytes
    /// Bound of name resolution, connecting and TLS together; nil for the transport's.
    public var connectTimeout: Duration?
    /// Bound of the answer's body in bytes; nil for the transport's.
    public var responseLimit: Int?
    /// Whether to make a new connection though another is idle: for a second attempt beside the first.
    public var wantsFreshConnection = false
    /// Whether the same bytes may go out again, on a new connection, when a reused one turns out to be closed.
    ///
    /// Not for requests with a nonce: the server may have seen the first.
    public var mayBeResent = false

    /// A request without a body.
    public init(_ method: String, _ origin: HTTPOrigin, _ target: String, headers: HTTPHeaders = [:]) {
        self.init(method, origin, target, headers: headers, body: SecretBytes(count: 0) { _ in })
    }

    /// A request with a body.
    public init(
        _ method: String, _ origin: HTTPOrigin, _ target: String, headers: HTTPHeaders = [:],
        body: consuming SecretBytes
    ) {
        self.method = method
        self.origin = origin
        self.target = target
        self.headers = headers
        self.body = body
    }
}

/// An answer, whatever its status.
public struct HTTPResponse: ~Copyable, Sendable {
    /// The version that was spoken.
    public enum Version: String, Sendable {
        /// HTTP/1.0 or 1.1.
        case http1 = "1.1"
        /// HTTP/2.
        case http2 = "2"
    }

    /// 200 and so on; never 1xx.
    public let status: Int
    /// The version that was spoken.
    public let version: Version
    /// The fields of the final header; trailers are dropped.
    public let headers: HTTPHeaders
    /// The body, in memory that is wiped.
    public let body: SecretBytes
    /// Where the time went.
    public let timings: HTTPTimings
    /// When the server's certificate ends, seconds since 1970; nil without TLS.
    public let certificateEnd: Int64?
}

/// Where a transfer's time went; zero for what did not take place.
public struct HTTPTimings: Sendable, Equatable {
    /// Finding the address.
    public var resolve: Duration = .zero
    /// Until there was a connection and a proxy's tunnel, with the wait for a place among the host's connections.
    public var connect: Duration = .zero
    /// TLS with the server.
    public var tls: Duration = .zero
    /// From the ready connection to the first byte of the answer.
    public var firstByte: Duration = .zero
    /// All of it.
    public var total: Duration = .zero
    /// Whether the connection was there already.
    public var isReused = false
}
