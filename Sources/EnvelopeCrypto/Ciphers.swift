private import COpenSSL

// The ciphers of the suites over borrowed memory. Lengths of keys, nonces and tags are the algorithm's; every function
// answers whether OpenSSL did it, and leaves its error queue to the caller.

/// AES-256-GCM and SM4-GCM with a nonce of 12 bytes and a tag of 16.
enum GCM {
    static func seal(
        _ cipher: OpaquePointer, key: UnsafePointer<UInt8>, nonce: UnsafePointer<UInt8>,
        aad: UnsafeRawBufferPointer,
        plaintext: UnsafeRawBufferPointer, ciphertext: UnsafeMutablePointer<UInt8>,
        tag: UnsafeMutablePointer<UInt8>
    ) -> Bool {
        guard let context = unsafe EVP_CIPHER_CTX_new() else { return false }
        defer { unsafe EVP_CIPHER_CTX_free(context) }
        var written: Int32 = 0
        return unsafe EVP_EncryptInit_ex2(context, cipher, key, nonce, nil) == 1
            && update(context, EVP_EncryptUpdate, into: nil, aad)
            && update(context, EVP_EncryptUpdate, into: ciphertext, plaintext)
            && EVP_EncryptFinal_ex(context, tag, &written) == 1  // GCM writes nothing here
            && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, 16, tag) == 1
    }

    static func open(
        _ cipher: OpaquePointer, key: UnsafePointer<UInt8>, nonce: UnsafePointer<UInt8>,
        aad: UnsafeRawBufferPointer,
        ciphertext: UnsafeRawBufferPointer, tag: UnsafePointer<UInt8>, plaintext: UnsafeMutablePointer<UInt8>
    ) -> Bool {
        guard let context = unsafe EVP_CIPHER_CTX_new() else { return false }
        defer { unsafe EVP_CIPHER_CTX_free(context) }
        var written: Int32 = 0
        // OpenSSL reads the expected tag, though it asks for a mutable pointer.
        let expected = unsafe UnsafeMutableRawPointer(mutating: tag)
        return unsafe EVP_DecryptInit_ex2(context, cipher, key, nonce, nil) == 1
            && update(context, EVP_DecryptUpdate, into: nil, aad)
            && update(context, EVP_DecryptUpdate, into: plaintext, ciphertext)
            && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, 16, expected) == 1
            && EVP_DecryptFinal_ex(context, plaintext, &written) == 1  // GCM writes nothing here
    }
}

/// SM4-CTR; encrypting and decrypting are the same.
enum CTR {
    static func apply(
        _ cipher: OpaquePointer, key: UnsafePointer<UInt8>, counter: UnsafePointer<UInt8>,
        _ input: UnsafeRawBufferPointer, into output: UnsafeMutablePointer<UInt8>
    ) -> Bool {
        guard let context = unsafe EVP_CIPHER_CTX_new() else { return false }
        defer { unsafe EVP_CIPHER_CTX_free(context) }
        return unsafe EVP_EncryptInit_ex2(context, cipher, key, counter, nil) == 1
            && update(context, EVP_EncryptUpdate, into: output, input)
    }
}

private typealias Update = (
    OpaquePointer?, UnsafeMutablePointer<UInt8>?, UnsafeMutablePointer<Int32>?, UnsafePointer<UInt8>?, Int32
) -> Int32

/// One EVP update of the whole of `input`, which must come out whole; nothing at all for no bytes, since OpenSSL gives
/// a null input another meaning.
private func update(
    _ context: OpaquePointer, _ update: Update, into output: UnsafeMutablePointer<UInt8>?,
    _ input: UnsafeRawBufferPointer
) -> Bool {
    guard input.count > 0 else { return true }
    guard let count = Int32(exactly: input.count) else { return false }
    var written: Int32 = 0
    return unsafe update(context, output, &written, bytes(input), count) == 1 && written == count
}

func bytes(_ buffer: UnsafeRawBufferPointer) -> UnsafePointer<UInt8>? {
    unsafe buffer.baseAddress?.assumingMemoryBound(to: UInt8.self)
}
