// RequestSigning: what signed HTTP requests are made of: canonical requests, HMAC chains, dates and nonces. Secret keys
// stay in SecretBytes; everything else here is public, as it goes over the wire.

private import COpenSSL
internal import SecureMemory

/// SHA-256 and HMAC-SHA256 of OpenSSL over borrowed memory.
enum SHA256 {
    static let count = 32

    /// The digest in lower-case hexadecimal, for bytes that may be secret.
    static func hex(_ bytes: RawSpan) throws(SigningFailure) -> String {
        var digest = [UInt8](repeating: 0, count: count)
        var written = 0
        let isDone = unsafe bytes.withUnsafeBytes { source in
            unsafe EVP_Q_digest(nil, "SHA256", nil, source.baseAddress, source.count, &digest, &written) == 1
        }
        guard isDone, written == count else { throw .refusing("EVP_Q_digest") }
        return digest.lowerHex
    }

    /// HMAC under `key` of a public message; in wiped memory, as it may be the next key of a chain.
    static func hmac(key: borrowing SecretBytes, _ message: String) throws(SigningFailure) -> SecretBytes {
        let message = Array(message.utf8)
        return try SecretBytes(count: count) { tag throws(SigningFailure) in
            var written = 0
            let isDone = key.withBytes { key in
                unsafe key.withUnsafeBytes { key in
                    unsafe tag.withUnsafeMutableBytes { tag in
                        unsafe EVP_Q_mac(
                            nil, "HMAC", nil, "SHA256", nil, key.baseAddress, key.count, message,
                            message.count,
                            tag.baseAddress, tag.count, &written) != nil
                    }
                }
            }
            guard isDone, written == count else { throw .refusing("EVP_Q_mac") }
        }
    }
}

extension SigningFailure {
    /// The failure of `operation`, with OpenSSL's queue of this thread emptied.
    fileprivate static func refusing(_ operation: String) -> Self {
        ERR_clear_error()
        return Self(operation: operation)
    }
}

extension [UInt8] {
    var lowerHex: String {
        let digits = Array("0123456789abcdef".utf8)
        return String(decoding: flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
    }
}
