/// Why nothing was signed: the loaded OpenSSL refused SHA-256 or HMAC, or memory is out.
public struct SigningFailure: Error, Sendable, Equatable, CustomStringConvertible {
    /// The OpenSSL function.
    let operation: String

    /// One line, without secrets.
    public var description: String {
        "OpenSSL failed in \(operation): check the installed OpenSSL 3 and its configuration"
    }
}
