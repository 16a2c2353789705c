internal import EnvelopeCrypto
internal import RemoteKMS
internal import SecureMemory

/// What provider local returns for a wrapped key: a committing AEAD message that names the version it is under.
///
///     "KWLW" | 01 | suite | 00 00 | version UUID (16) | salt | commitment | ciphertext | tag
///
/// Bound to: file UUID | u8 length, purpose | u16 length, key_id.
struct LocalWrap {
    /// The open part.
    struct Header {
        let suite: Suite
        let version: KeyUUID

        static let count = 24
        private static let start = Array("KWLW".utf8) + [1]

        init(suite: Suite, version: KeyUUID) {
            self.suite = suite
            self.version = version
        }

        /// Reads the header of a wrapped key; nil if that cannot be one.
        init?(parsing wrapped: [UInt8]) {
            guard wrapped.count >= Self.count, wrapped.starts(with: Self.start),
                let suite = Suite(rawValue: wrapped[5]),
                wrapped[6] == 0, wrapped[7] == 0, wrapped.count >= Self.count + suite.overhead
            else { return nil }
            self.init(suite: suite, version: KeyUUID(in: wrapped, at: 8))
        }

        var bytes: [UInt8] { Self.start + [suite.rawValue, 0, 0] + version.bytes }
    }

    let header: Header
    let file: KeyUUID

    /// Wraps; throws `.misconfigured` if the loaded OpenSSL cannot do the suite.
    func seal(
        _ plaintext: borrowing SecretBytes, under key: SharedSecret, context: WrapContext
    ) throws(RemoteKMSError) -> [UInt8] {
        do throws(CryptoFailure) {
            return try CommittingAEAD.seal(plaintext, under: key.bytes, header: bound(context))
        } catch { throw Self.error(error) }
    }

    /// Unwraps; throws `.invalidCiphertext` for anything that was not wrapped under this key for this context.
    func open(
        _ wrapped: [UInt8], under key: SharedSecret, context: WrapContext
    ) throws(RemoteKMSError) -> SecretBytes {
        do throws(CryptoFailure) {
            return try CommittingAEAD.open(wrapped.span, under: key.bytes, header: bound(context))
        } catch { throw Self.error(error) }
    }

    private func bound(_ context: WrapContext) throws(CryptoFailure) -> BoundHeader {
        let purpose = Array(context.purpose.utf8)
        let keyID = Array(context.keyID.utf8)
        precondition(
            purpose.count <= 0xff && keyID.count <= 0xffff, "a wrap context is short by construction")
        let binding =
            file.bytes + [UInt8(purpose.count)] + purpose
            + [UInt8(keyID.count >> 8), UInt8(truncatingIfNeeded: keyID.count)] + keyID
        return try BoundHeader(
            header.bytes, suite: header.suite, label: "kmsward/local-wrap/1", context: binding.span)
    }

    private static func error(_ failure: CryptoFailure) -> RemoteKMSError {
        switch failure {
        case .notAuthentic:
            RemoteKMSError(
                .invalidCiphertext, "the wrapped key is damaged, or was wrapped for something else")
        case .unavailable, .wrongKeyLength, .openSSL:
            RemoteKMSError(
                .misconfigured, "provider local: \(failure)", remedy: "check the installed OpenSSL 3")
        }
    }
}
