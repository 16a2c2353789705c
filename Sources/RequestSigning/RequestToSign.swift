public import SecureMemory

/// What of a request a signature covers.
public struct RequestToSign: Sendable {
    /// In upper case.
    public var method: String
    /// The path before percent-encoding.
    public var path: String
    /// Query parameters before percent-encoding, in any order.
    public var query: [(name: String, value: String)]
    /// The header fields that are signed, `host` included, in any order; a name stands once.
    public var headers: [(name: String, value: String)]
    /// The SHA-256 of the body in hexadecimal.
    let bodyDigest: String

    /// A request; the body is read here alone.
    public init(
        method: String, path: String, query: [(name: String, value: String)] = [],
        headers: [(name: String, value: String)], body: borrowing SecretBytes
    ) throws(SigningFailure) {
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        bodyDigest = try body.withBytes { (body) throws(SigningFailure) in try SHA256.hex(body) }
    }

    /// Path and query as they go into the request line: what a server sees is what is signed.
    public var target: String {
        let query = canonicalQuery
        return canonicalPath(collapsingSlashes: false) + (query.isEmpty ? "" : "?\(query)")
    }

    /// The text whose digest is signed.
    func canonical(collapsingSlashes: Bool) -> String {
        let fields = canonicalHeaders.map { "\($0.name):\($0.value)\n" }.joined()
        return [
            method, canonicalPath(collapsingSlashes: collapsingSlashes), canonicalQuery, fields,
            signedHeaders, bodyDigest,
        ].joined(separator: "\n")
    }

    /// The names of the signed fields, in order.
    var signedHeaders: String { canonicalHeaders.map(\.name).joined(separator: ";") }

    private var canonicalHeaders: [(name: String, value: String)] {
        headers.map { ($0.name.lowercased(), $0.value.trimmingBlanks()) }
            .sorted { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
    }

    private func canonicalPath(collapsingSlashes: Bool) -> String {
        guard collapsingSlashes else { return path.isEmpty ? "/" : path.percentEncoded(keeping: "/") }
        let pieces = path.split(separator: "/").map { $0.percentEncoded() }
        return "/" + pieces.joined(separator: "/") + (path.hasSuffix("/") && !pieces.isEmpty ? "/" : "")
    }

    private var canonicalQuery: String {
        query.map { ($0.name.percentEncoded(), $0.value.percentEncoded()) }
            .sorted { $0.0 == $1.0 ? $0.1 < $1.1 : $0.0 < $1.0 }
            .map { "\($0.0)=\($0.1)" }.joined(separator: "&")
    }
}

extension StringProtocol {
    /// Every byte but letters, digits, `-._~` and those of `kept` as `%XX`.
    func percentEncoded(keeping kept: String = "") -> String {
        let hex = Array("0123456789ABCDEF".utf8)
        let plain = Set("-._~\(kept)".utf8)
        var bytes: [UInt8] = []
        for byte in utf8 {
            let isLetter = (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20)
            let isDigit = (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
            if isLetter || isDigit || plain.contains(byte) {
                bytes.append(byte)
            } else {
                bytes += [UInt8(ascii: "%"), hex[Int(byte >> 4)], hex[Int(byte & 15)]]
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    fileprivate func trimmingBlanks() -> String {
        func isBlank(_ character: Character) -> Bool { character == " " || character == "\t" }
        let tail = drop(while: isBlank)
        return String(tail[..<(tail.lastIndex { !isBlank($0) }.map(tail.index(after:)) ?? tail.startIndex)])
    }
}
