private import COpenSSL

/// A digest of several pieces, taken one after the other; of public data only.
@safe public struct Digest: ~Copyable {
    private let algorithm: DigestAlgorithm
    private let context: OpaquePointer
    private var isIntact: Bool

    /// Begins a digest; throws `unavailable` where the loaded OpenSSL lacks the algorithm.
    public init(_ algorithm: DigestAlgorithm) throws(CryptoFailure) {
        guard let method = unsafe Algorithms.loaded.digest(algorithm) else {
            throw .unavailable("\(algorithm.openSSLName)")
        }
        guard let context = unsafe EVP_MD_CTX_new() else { throw .draining("EVP_MD_CTX_new") }
        guard unsafe EVP_DigestInit_ex2(context, method, nil) == 1 else {
            unsafe EVP_MD_CTX_free(context)
            throw .draining("EVP_DigestInit_ex2")
        }
        self.algorithm = algorithm
        unsafe self.context = context
        isIntact = true
    }

    /// Adds a piece.
    public mutating func update(_ bytes: Span<UInt8>) {
        guard !bytes.isEmpty else { return }
        let isAdded = unsafe bytes.withUnsafeBufferPointer {
            unsafe EVP_DigestUpdate(context, $0.baseAddress, $0.count) == 1
        }
        if !isAdded { isIntact = false }
    }

    /// The digest of the pieces, `algorithm.count` bytes.
    public consuming func finish() throws(CryptoFailure) -> [UInt8] {
        var isDone = isIntact
        let result = unsafe [UInt8](unsafeUninitializedCapacity: algorithm.count) { buffer, count in
            count = algorithm.count
            unsafe buffer.initialize(repeating: 0)
            if unsafe EVP_DigestFinal_ex(context, buffer.baseAddress, nil) != 1 { isDone = false }
        }
        guard isDone else { throw .draining("EVP_DigestFinal_ex") }
        return result
    }

    deinit { unsafe EVP_MD_CTX_free(context) }
}

extension DigestAlgorithm {
    /// The digest of one piece.
    public func hash(_ bytes: Span<UInt8>) throws(CryptoFailure) -> [UInt8] {
        var digest = try Digest(self)
        digest.update(bytes)
        return try digest.finish()
    }

    /// The digest of two pieces, one after the other.
    public func hash(_ first: Span<UInt8>, _ second: Span<UInt8>) throws(CryptoFailure) -> [UInt8] {
        var digest = try Digest(self)
        digest.update(first)
        digest.update(second)
        return try digest.finish()
    }
}
