public import SecureMemory

/// A way to sign requests: a scope, a chain of HMACs from the secret key to it, and the canonical request.
public struct SigningScheme: Sendable, Equatable {
    /// Names the scheme in `Authorization`.
    let algorithm: String
    /// Ends the scope.
    let terminator: String
    /// Stands before the secret key.
    let secretPrefix: String
    /// Whether runs of `/` count as one, and a path begins with one.
    let collapsesSlashes: Bool

    /// JD Cloud, version 2.
    public static let jdcloud2 = SigningScheme(
        algorithm: "JDCLOUD2-HMAC-SHA256", terminator: "jdcloud2_request", secretPrefix: "JDCLOUD2",
        collapsesSlashes: false)
    /// JD Cloud, version 3.
    public static let jdcloud3 = SigningScheme(
        algorithm: "JDCLOUD3-HMAC-SHA256", terminator: "jdcloud3_request", secretPrefix: "JDCLOUD3",
        collapsesSlashes: true)

    /// Where and when a signature counts.
    public struct Scope: Sendable, Equatable {
        /// When the request is sent.
        public var time: SigningTime
        /// The region.
        public var region: String
        /// The service.
        public var service: String

        /// A scope.
        public init(time: SigningTime, region: String, service: String) {
            self.time = time
            self.region = region
            self.service = service
        }
    }

    /// The value of `Authorization`; costs six HMACs and a digest, some microseconds.
    public func authorization(
        for request: RequestToSign, in scope: Scope, accessKey: String, secretKey: borrowing SecretBytes
    ) throws(SigningFailure) -> String {
        let key = try signingKey(in: scope, secretKey: secretKey)
        let tag = try SHA256.hmac(key: key, stringToSign(for: request, in: scope))
        // A signature is public.
        let signature = tag.withBytes { tag in
            tag.byteOffsets.map { unsafe tag.unsafeLoad(fromByteOffset: $0, as: UInt8.self) }
        }
        return
            "\(algorithm) Credential=\(accessKey)/\(text(of: scope)), SignedHeaders=\(request.signedHeaders),"
            + " Signature=\(signature.lowerHex)"
    }

    func canonicalDigest(of request: RequestToSign) throws(SigningFailure) -> String {
        let canonical = Array(request.canonical(collapsingSlashes: collapsesSlashes).utf8)
        return try unsafe SHA256.hex(canonical.span.bytes)  // bytes of UInt8 have no padding
    }

    func stringToSign(for request: RequestToSign, in scope: Scope) throws(SigningFailure) -> String {
        "\(algorithm)\n\(scope.time.basic)\n\(text(of: scope))\n\(try canonicalDigest(of: request))"
    }

    func signingKey(in scope: Scope, secretKey: borrowing SecretBytes) throws(SigningFailure) -> SecretBytes {
        let prefix = Array(secretPrefix.utf8)
        let count = prefix.count + secretKey.count
        let start = secretKey.withBytes { secretKey in
            SecretBytes(count: count) { start in
                start.copy(prefix.span, toByteOffset: 0)
                start.copy(secretKey, toByteOffset: prefix.count)
            }
        }
        let ofDay = try SHA256.hmac(key: start, scope.time.day)
        let ofRegion = try SHA256.hmac(key: ofDay, scope.region)
        let ofService = try SHA256.hmac(key: ofRegion, scope.service)
        return try SHA256.hmac(key: ofService, terminator)
    }

    private func text(of scope: Scope) -> String {
        "\(scope.time.day)/\(scope.region)/\(scope.service)/\(terminator)"
    }
}
