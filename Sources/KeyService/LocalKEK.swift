public import EnvelopeCrypto
public import SecureMemory

/// The key that seals plaintexts, made here and wrapped once by the key-management service.
///
/// It belongs to exactly one key_id, suite and cluster context; its wrapped form says so, and nothing else opens under
/// it.
public final class LocalKEK: Sendable {
    /// The algorithms it may be used with.
    public let suite: Suite
    /// The only key_id it may be used for.
    public let keyID: KeyID
    /// The configured cluster context it is bound to.
    public let clusterContext: String

    let secret: SecretBytes

    /// Makes a new random one.
    ///
    /// Throws where the suite is not available or the context is longer than 255 bytes.
    public convenience init(
        randomFor keyID: KeyID, suite: Suite, clusterContext: String
    ) throws(EnvelopeError) {
        try self.init(
            SecretBytes(randomCount: CommittingAEAD.keyCount), keyID: keyID, suite: suite,
            clusterContext: clusterContext)
    }

    /// Takes what the key-management service unwrapped, if it is a local KEK of this key_id, suite and context.
    ///
    /// Throws `cannotOpen` for anything else, and as `init(randomFor:…)`.
    public convenience init(
        unwrapped payload: borrowing SecretBytes, keyID: KeyID, suite: Suite, clusterContext: String
    ) throws(EnvelopeError) {
        let expected = try Self.head(keyID: keyID, suite: suite, clusterContext: clusterContext)
        let isOurs = payload.withBytes { payload in
            payload.byteCount == Self.payloadCount
                && SecureMemory.isEqual(payload.extracting(first: expected.count), expected.span)
        }
        guard isOurs else { throw .cannotOpen }
        let secret = payload.withBytes { payload in
            SecretBytes(copying: payload.extracting(last: CommittingAEAD.keyCount))
        }
        try self.init(secret, keyID: keyID, suite: suite, clusterContext: clusterContext)
    }

    init(
        _ secret: consuming SecretBytes, keyID: KeyID, suite: Suite, clusterContext: String
    ) throws(EnvelopeError) {
        guard suite.isAvailable else { throw .crypto(.unavailable(suite.configurationName)) }
        guard clusterContext.utf8.count <= Self.contextLimit else {
            throw .contextTooLong(clusterContext.utf8.count)
        }
        self.secret = secret
        self.keyID = keyID
        self.suite = suite
        self.clusterContext = clusterContext
    }

    /// What the key-management service is given to wrap: 72 bytes that can be taken for nothing else.
    public func payload() throws(EnvelopeError) -> SecretBytes {
        let head = try Self.head(keyID: keyID, suite: suite, clusterContext: clusterContext)
        return secret.withBytes { secret in
            SecretBytes(count: Self.payloadCount) { span in
                span.copy(head.span, toByteOffset: 0)
                span.copy(secret, toByteOffset: head.count)
            }
        }
    }

    /// Whether both are the same key for the same use; in constant time as to the key.
    public func isSame(as other: LocalKEK) -> Bool {
        suite == other.suite && keyID == other.keyID && clusterContext == other.clusterContext
            && secret.isEqual(to: other.secret)
    }

    // MARK: Payload

    /// Length of the payload in bytes; no plaintext key of Kubernetes has it.
    public static let payloadCount = 72
    /// Longest cluster context in bytes.
    public static let contextLimit = 255

    /// "KWLK", format 1, suite, two zero bytes, and the digest of what the key is bound to.
    private static func head(
        keyID: KeyID, suite: Suite, clusterContext: String
    ) throws(EnvelopeError) -> [UInt8] {
        let name = Array(keyID.description.utf8)
        let context = Array(clusterContext.utf8)
        guard context.count <= contextLimit else { throw .contextTooLong(context.count) }
        var bound = Array("kmsward/local-kek/1".utf8)
        bound.append(0)
        bound.append(UInt8(name.count))
        bound.append(contentsOf: name)
        bound.append(bigEndian: UInt16(context.count))
        bound.append(contentsOf: context)
        let digest: DigestAlgorithm =
            switch suite {
            case .aes256GCM: .sha256
            case .sm4CTRHMACSM3, .sm4GCM: .sm3
            }
        var head = Array("KWLK".utf8)
        head.append(contentsOf: [1, suite.rawValue, 0, 0])
        do throws(CryptoFailure) { head.append(contentsOf: try digest.hash(bound.span)) } catch {
            throw .crypto(error)
        }
        return head
    }
}
