private import COpenSSL
public import SecureMemory

/// HKDF (RFC 5869), extract and expand in one, over OpenSSL's HMAC.
///
/// Not by OpenSSL's own EVP_KDF: that one looks digest and HMAC up by name in every derivation, which costs nearly as
/// much as the hashing. The tests hold this one against the published vectors and an independent implementation.
public enum HKDF {
    /// Derives `count` bytes of key, at most 255 digests, from `key`, `salt` and `info`; a few microseconds.
    public static func derive(
        _ digest: DigestAlgorithm, key: borrowing SecretBytes, salt: Span<UInt8>, info: Span<UInt8>,
        count: Int
    ) throws(CryptoFailure) -> SecretBytes {
        precondition(0...255 * digest.count ~= count, "HKDF cannot derive so many bytes")
        guard let hmac = HMAC(digest) else { throw .unavailable("HMAC with \(digest.openSSLName)") }
        // PRK, T and OKM are the names of the RFC.
        var isDerived = false
        let prk = SecretBytes(count: digest.count) { prk in
            isDerived = unsafe prk.withUnsafeMutableBytes { prk in
                key.withBytes { key in
                    unsafe salt.withUnsafeBytes { salt in
                        unsafe key.withUnsafeBytes { key in unsafe hmac.tag(key: salt, key, into: prk) }
                    }
                }
            }
        }
        let okm = SecretBytes(count: count) { okm in
            guard isDerived else { return }
            isDerived = unsafe okm.withUnsafeMutableBytes { okm in
                prk.withBytes { prk in
                    unsafe info.withUnsafeBytes { info in
                        unsafe prk.withUnsafeBytes { prk in unsafe expand(hmac, prk, info, into: okm) }
                    }
                }
            }
        }
        guard isDerived else { throw .draining("HKDF") }
        return okm
    }

    private static func expand(
        _ hmac: borrowing HMAC, _ prk: UnsafeRawBufferPointer, _ info: UnsafeRawBufferPointer,
        into okm: UnsafeMutableRawBufferPointer
    ) -> Bool {
        let length = prk.count
        var previous = unsafe UnsafeRawBufferPointer(start: nil, count: 0)
        var number: UInt8 = 1
        for offset in stride(from: 0, to: okm.count, by: length) {
            let rest = unsafe UnsafeMutableRawBufferPointer(rebasing: okm[offset...])
            let isWhole = rest.count >= length
            let isDone = unsafe withUnsafeBytes(of: number) { number in
                if isWhole { return unsafe hmac.tag(key: prk, previous, info, number, into: rest) }
                var isDone = false
                let last = SecretBytes(count: length) { last in
                    isDone = unsafe last.withUnsafeMutableBytes { last in
                        unsafe hmac.tag(key: prk, previous, info, number, into: last)
                    }
                }
                last.withBytes { last in
                    unsafe last.extracting(first: rest.count).withUnsafeBytes { last in
                        unsafe rest.copyMemory(from: last)
                    }
                }
                return isDone
            }
            guard isDone else { return false }
            unsafe previous = UnsafeRawBufferPointer(rebasing: okm[offset..<min(offset + length, okm.count)])
            number &+= 1  // wraps after the last of 255 blocks only
        }
        return true
    }
}
