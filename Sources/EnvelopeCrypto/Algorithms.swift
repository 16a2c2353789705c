private import COpenSSL

/// The algorithms of the loaded OpenSSL, fetched once: a fetch per call would cost more than the call.
@safe struct Algorithms: @unchecked Sendable {  // fetched objects and the template are never written again
    static let loaded = Algorithms()

    let aes256GCM: OpaquePointer?
    let sm4CTR: OpaquePointer?
    let sm4GCM: OpaquePointer?
    private let sha256: OpaquePointer?
    private let sha512: OpaquePointer?
    private let sm3: OpaquePointer?
    // HMAC contexts with their digest set and no key: copying one is cheaper than setting the digest by name.
    private let hmacSHA256: OpaquePointer?
    private let hmacSHA512: OpaquePointer?
    private let hmacSM3: OpaquePointer?

    private init() {
        unsafe aes256GCM = EVP_CIPHER_fetch(nil, "AES-256-GCM", nil)
        unsafe sm4CTR = EVP_CIPHER_fetch(nil, "SM4-CTR", nil)
        unsafe sm4GCM = EVP_CIPHER_fetch(nil, "SM4-GCM", nil)
        unsafe sha256 = EVP_MD_fetch(nil, "SHA2-256", nil)
        unsafe sha512 = EVP_MD_fetch(nil, "SHA2-512", nil)
        unsafe sm3 = EVP_MD_fetch(nil, "SM3", nil)
        unsafe hmacSHA256 = Self.makeHMACTemplate(.sha256)
        unsafe hmacSHA512 = Self.makeHMACTemplate(.sha512)
        unsafe hmacSM3 = Self.makeHMACTemplate(.sm3)
        ERR_clear_error()  // an algorithm that is not there is an answer, not an error
    }

    func has(_ suite: Suite) -> Bool {
        guard unsafe hmac(suite.digest) != nil, unsafe digest(suite.digest) != nil else { return false }
        switch suite {
        case .aes256GCM: return unsafe aes256GCM != nil
        case .sm4CTRHMACSM3: return unsafe sm4CTR != nil
        case .sm4GCM: return unsafe sm4GCM != nil
        }
    }

    func digest(_ algorithm: DigestAlgorithm) -> OpaquePointer? {
        switch algorithm {
        case .sha256: unsafe sha256
        case .sha512: unsafe sha512
        case .sm3: unsafe sm3
        }
    }

    func hmac(_ algorithm: DigestAlgorithm) -> OpaquePointer? {
        switch algorithm {
        case .sha256: unsafe hmacSHA256
        case .sha512: unsafe hmacSHA512
        case .sm3: unsafe hmacSM3
        }
    }

    private static func makeHMACTemplate(_ digest: DigestAlgorithm) -> OpaquePointer? {
        guard let mac = unsafe EVP_MAC_fetch(nil, OSSL_MAC_NAME_HMAC, nil) else { return nil }
        defer { unsafe EVP_MAC_free(mac) }
        guard let context = unsafe EVP_MAC_CTX_new(mac) else { return nil }
        let parameters = unsafe [
            OSSL_PARAM_construct_utf8_string(cString("digest"), cString(digest.openSSLName), 0),
            OSSL_PARAM_construct_end(),
        ]
        guard unsafe EVP_MAC_CTX_set_params(context, parameters) == 1 else {
            unsafe EVP_MAC_CTX_free(context)
            return nil
        }
        return unsafe context
    }
}

/// A name for an OSSL_PARAM, which outlives the call that makes it.
///
/// OpenSSL only reads it, though its type says otherwise.
func cString(_ name: StaticString) -> UnsafeMutablePointer<CChar> {
    unsafe UnsafeMutableRawPointer(mutating: name.utf8Start).assumingMemoryBound(to: CChar.self)
}
