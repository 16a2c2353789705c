private import COpenSSL

/// OpenSSL's HMAC with one digest, over borrowed memory; what it holds of the last key is wiped at the end of its life.
@safe struct HMAC: ~Copyable {
    private let context: OpaquePointer

    /// Nil where the loaded OpenSSL has no HMAC with this digest, or memory is out.
    init?(_ digest: DigestAlgorithm) {
        guard let template = unsafe Algorithms.loaded.hmac(digest),
            let context = unsafe EVP_MAC_CTX_dup(template)
        else { return nil }
        unsafe self.context = context
    }

    deinit { unsafe EVP_MAC_CTX_free(context) }  // clears the key

    /// Writes the tag of up to three pieces, one after the other, to the beginning of `tag`, which has room for a digest.
    func tag(
        key: UnsafeRawBufferPointer, _ first: UnsafeRawBufferPointer,
        _ second: UnsafeRawBufferPointer = unsafe UnsafeRawBufferPointer(start: nil, count: 0),
        _ third: UnsafeRawBufferPointer = unsafe UnsafeRawBufferPointer(start: nil, count: 0),
        into tag: UnsafeMutableRawBufferPointer
    ) -> Bool {
        var written = 0
        let output = unsafe tag.baseAddress?.assumingMemoryBound(to: UInt8.self)
        return unsafe begin(key) && add(first) && add(second) && add(third)
            && EVP_MAC_final(context, output, &written, tag.count) == 1
    }

    private func begin(_ key: UnsafeRawBufferPointer) -> Bool {
        var nothing: UInt8 = 0  // an empty key needs an address: null would mean the key before
        return unsafe withUnsafePointer(to: &nothing) { nothing in
            unsafe EVP_MAC_init(context, bytes(key) ?? nothing, key.count, nil) == 1
        }
    }

    private func add(_ piece: UnsafeRawBufferPointer) -> Bool {
        unsafe piece.isEmpty || EVP_MAC_update(context, bytes(piece), piece.count) == 1
    }
}
