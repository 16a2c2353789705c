internal import EnvelopeCrypto
public import KMSWire
public import SecureMemory

/// Writes envelopes under one local KEK, and opens its own; what does not change from one to the next is computed once.
public struct EnvelopeWriter: Sendable {
    /// The key that seals.
    public let localKEK: LocalKEK
    /// The same, as the key-management service wrapped it.
    public let wrappedKey: [UInt8]
    /// Whether v2 envelopes carry the wrapped key in an annotation, because it does not fit.
    public let usesAnnotation: Bool

    private let v1Header: BoundHeader
    private let v2Header: BoundHeader
    private let v2Annotations: [Annotation]

    /// Longest ciphertext in bytes: what the API server stores.
    public static func ciphertextLimit(_ api: KMSAPI) -> Int {
        switch api {
        case .v1beta1: 65_535
        case .v2: 1024
        }
    }

    /// A writer for `localKEK`, which the key-management service wrapped into `wrappedKey`.
    ///
    /// Throws `wrappedKeyLength` here, and not at the first Encrypt, if a key of Kubernetes would not fit beside it.
    public init(localKEK: LocalKEK, wrappedKey: [UInt8]) throws(EnvelopeError) {
        guard Envelope.annotationRange ~= wrappedKey.count else {
            throw .wrappedKeyLength(wrappedKey.count, allowed: Envelope.annotationRange)
        }
        let suite = localKEK.suite
        let inline = { (api: KMSAPI) in
            Envelope.header(suite: suite, api: api, flags: .none, keyID: localKEK.keyID, wrapped: wrappedKey)
        }
        let usualCount = inline(.v2).count + suite.overhead + Self.usualPlaintextCount
        let usesAnnotation = usualCount > Self.ciphertextLimit(.v2)
        do throws(CryptoFailure) {
            let context = Envelope.context(localKEK.clusterContext, annotation: [])
            v1Header = try BoundHeader(
                inline(.v1beta1), suite: suite, label: Envelope.label, context: context.span)
            if usesAnnotation {
                let header = Envelope.header(
                    suite: suite, api: .v2, flags: .wrappedKeyInAnnotation, keyID: localKEK.keyID,
                    wrapped: try suite.digest.hash(wrappedKey.span))
                let context = Envelope.context(localKEK.clusterContext, annotation: wrappedKey)
                v2Header = try BoundHeader(header, suite: suite, label: Envelope.label, context: context.span)
            } else {
                v2Header = try BoundHeader(
                    inline(.v2), suite: suite, label: Envelope.label, context: context.span)
            }
        } catch {
            throw .crypto(error)
        }
        v2Annotations = usesAnnotation ? [Annotation(key: Envelope.annotationKey, value: wrappedKey)] : []
        self.localKEK = localKEK
        self.wrappedKey = wrappedKey
        self.usesAnnotation = usesAnnotation
    }

    /// Lengths in bytes of the plaintexts that can be sealed for `api`.
    public func plaintextRange(_ api: KMSAPI) -> ClosedRange<Int> {
        1...Self.ciphertextLimit(api) - header(api).bytes.count - localKEK.suite.overhead
    }

    /// Seals a plaintext key; the reply is complete.
    ///
    /// Throws `plaintextLength` outside `plaintextRange(api)`. A few microseconds.
    public func seal(_ plaintext: borrowing SecretBytes, api: KMSAPI) throws(EnvelopeError) -> EncryptReply {
        try check(plaintext.count, api)
        do throws(CryptoFailure) {
            return reply(api, try CommittingAEAD.seal(plaintext, under: localKEK.secret, header: header(api)))
        } catch {
            throw .crypto(error)
        }
    }

    /// Seals with a given salt, for test vectors.
    package func seal(
        _ plaintext: borrowing SecretBytes, api: KMSAPI, salt: [UInt8]
    ) throws(EnvelopeError) -> EncryptReply {
        try check(plaintext.count, api)
        do throws(CryptoFailure) {
            return reply(
                api,
                try CommittingAEAD.seal(plaintext, under: localKEK.secret, header: header(api), salt: salt))
        } catch {
            throw .crypto(error)
        }
    }

    /// Opens a request whose envelope begins as this writer's do, without a look at the rest of its head; nil for every
    /// other request, which is for `Envelope` to judge.
    ///
    /// Throws `cannotOpen` if the envelope was altered behind its head. A few microseconds.
    public func open(_ request: DecryptRequest) throws(EnvelopeError) -> SecretBytes? {
        let header = header(request.api)
        let isOurs =
            request.ciphertext.count > header.bytes.count + header.suite.overhead
            && header.begins(request.ciphertext.span)
            && (request.api == .v2
                ? request.keyID == localKEK.keyID.description && request.annotations == v2Annotations
                : request.keyID.isEmpty && request.annotations.isEmpty)
        guard isOurs else { return nil }
        do throws(CryptoFailure) {
            return try CommittingAEAD.open(request.ciphertext.span, under: localKEK.secret, header: header)
        } catch .notAuthentic {
            throw .cannotOpen
        } catch {
            throw .crypto(error)
        }
    }

    /// Every plaintext that kube-apiserver sends through v2 has this length.
    private static let usualPlaintextCount = 32

    private func header(_ api: KMSAPI) -> BoundHeader {
        switch api {
        case .v1beta1: v1Header
        case .v2: v2Header
        }
    }

    private func check(_ count: Int, _ api: KMSAPI) throws(EnvelopeError) {
        let allowed = plaintextRange(api)
        guard allowed ~= count else { throw .plaintextLength(count, allowed: allowed) }
    }

    private func reply(_ api: KMSAPI, _ ciphertext: [UInt8]) -> EncryptReply {
        EncryptReply(
            ciphertext: ciphertext, keyID: localKEK.keyID.description,
            annotations: api == .v2 ? v2Annotations : [])
    }
}
