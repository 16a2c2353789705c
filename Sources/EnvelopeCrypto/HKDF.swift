private import COpenSSL
public import SecureMemory

/// HKDF (RFC 5869), extract and expand in one, by OpenSSL's own EVP_KDF.
public enum HKDF {
    /// Derives `count` bytes of key from `key`, `salt` and `info`; a few microseconds.
    public static func derive(
        _ digest: DigestAlgorithm, key: borrowing SecretBytes, salt: Span<UInt8>, info: Span<UInt8>,
        count: Int
    ) throws(CryptoFailure) -> SecretBytes {
        guard let method = unsafe Algorithms.loaded.hkdf else { throw .unavailable("HKDF") }
        guard let context = unsafe EVP_KDF_CTX_new(method) else { throw .draining("EVP_KDF_CTX_new") }
        // Clears the copy of the key that OpenSSL made.
        defer { unsafe EVP_KDF_CTX_free(context) }
        return try SecretBytes(count: count) { okm throws(CryptoFailure) in
            let isDerived = key.withBytes { key in
                unsafe key.withUnsafeBytes { key in
                    unsafe salt.withUnsafeBufferPointer { salt in
                        unsafe info.withUnsafeBufferPointer { info in
                            unsafe okm.withUnsafeMutableBytes { okm in
                                unsafe derive(
                                    context, digest, key: key, salt: UnsafeRawBufferPointer(salt),
                                    info: UnsafeRawBufferPointer(info), into: okm)
                            }
                        }
                    }
                }
            }
            guard isDerived else { throw .draining("EVP_KDF_derive") }
        }
    }

    private static func derive(
        _ context: OpaquePointer, _ digest: DigestAlgorithm, key: UnsafeRawBufferPointer,
        salt: UnsafeRawBufferPointer, info: UnsafeRawBufferPointer, into okm: UnsafeMutableRawBufferPointer
    ) -> Bool {
        unsafe withUnsafeTemporaryAllocation(of: OSSL_PARAM.self, capacity: 5) { parameters in
            let name = unsafe OSSL_PARAM_construct_utf8_string(
                cString("digest"), cString(digest.openSSLName), 0)
            unsafe parameters.initializeElement(at: 0, to: name)
            unsafe parameters.initializeElement(at: 1, to: octets("key", key))
            unsafe parameters.initializeElement(at: 2, to: octets("salt", salt))
            unsafe parameters.initializeElement(at: 3, to: octets("info", info))
            unsafe parameters.initializeElement(at: 4, to: OSSL_PARAM_construct_end())
            let output = unsafe okm.baseAddress?.assumingMemoryBound(to: UInt8.self)
            return unsafe EVP_KDF_derive(context, output, okm.count, parameters.baseAddress) == 1
        }
    }

    /// A parameter that OpenSSL reads, though it asks for a mutable pointer.
    private static func octets(_ name: StaticString, _ bytes: UnsafeRawBufferPointer) -> OSSL_PARAM {
        unsafe OSSL_PARAM_construct_octet_string(
            cString(name), UnsafeMutableRawPointer(mutating: bytes.baseAddress), bytes.count)
    }
}
