internal import DEKCache
public import EnvelopeCrypto
public import KMSWire
public import SecureMemory

/// A ciphertext of format 1, `envelope`, read and checked against the request it came in; not yet opened.
///
/// `docs/ciphertext-format.md` has every byte. The order of a Decrypt: read, check that the key_id is accepted, find or
/// unwrap the local KEK, open.
public struct Envelope: Sendable {
    /// The algorithms it names.
    public let suite: Suite
    /// The API it was written through.
    public let api: KMSAPI
    /// The key_id it names, which in v2 is the request's; authenticated once it is opened.
    public let keyID: KeyID

    private let bytes: [UInt8]
    private let wrappedRange: Range<Int>
    /// The wrapped local KEK, where it did not fit into the envelope.
    private let annotation: [UInt8]?

    /// The annotation of a wrapped local KEK that does not fit into the 1,024 bytes of a v2 ciphertext.
    public static let annotationKey = "wrapped-kek.kmsward.internal"

    /// Whether `bytes` begin as an envelope does: what begins so is an envelope or refused, never another format.
    public static func hasMagic(_ bytes: [UInt8]) -> Bool { bytes.starts(with: magic) }

    /// Reads the envelope of a request strictly, and checks that the request's API, key_id and annotations are those
    /// it was written with.
    ///
    /// Throws `notAnEnvelope`, `malformed` or `requestMismatch`; under a microsecond.
    public init(parsing request: DecryptRequest) throws(EnvelopeError) {
        let ciphertext = request.ciphertext
        guard Self.hasMagic(ciphertext) else { throw .notAnEnvelope }
        var reader = Reader(bytes: ciphertext, position: Self.magic.count)
        guard let format = reader.byte(), format == Self.format,
            let suite = reader.byte().flatMap(Suite.init(rawValue:)),
            let api = reader.byte().flatMap(KMSAPI.init(rawValue:)),
            let flags = reader.byte().flatMap(Flags.init(rawValue:)),
            let nameCount = reader.byte(), let name = reader.range(Int(nameCount)),
            let keyID = try? KeyID(parsing: ciphertext.span.extracting(name)),
            let wrappedHigh = reader.byte(), let wrappedLow = reader.byte(),
            let wrapped = reader.range(Int(wrappedHigh) << 8 | Int(wrappedLow)), !wrapped.isEmpty,
            ciphertext.count - reader.position > suite.overhead
        else { throw .malformed }
        if api == .v1beta1, flags != .none { throw .malformed }

        guard api == request.api, request.keyID == (api == .v2 ? keyID.description : "") else {
            throw .requestMismatch
        }
        switch flags {
        case .none:
            guard request.annotations.isEmpty else { throw .requestMismatch }
            annotation = nil
        case .wrappedKeyInAnnotation:
            guard wrapped.count == suite.digest.count else { throw .malformed }
            guard request.annotations.count == 1, request.annotations[0].key == Self.annotationKey else {
                throw .requestMismatch
            }
            let value = request.annotations[0].value
            guard Self.annotationRange ~= value.count else { throw .requestMismatch }
            do throws(CryptoFailure) {
                guard try suite.digest.hash(value.span).elementsEqual(ciphertext[wrapped]) else {
                    throw .notAuthentic
                }
            } catch .notAuthentic {
                throw .requestMismatch
            } catch {
                throw .crypto(error)
            }
            annotation = value
        }
        bytes = ciphertext
        self.suite = suite
        self.api = api
        self.keyID = keyID
        wrappedRange = wrapped
    }

    /// The local KEK as the key-management service wrapped it.
    public var wrappedKey: [UInt8] { annotation ?? Array(bytes[wrappedRange]) }

    /// What a cache of local KEKs finds this one by.
    ///
    /// A digest of key, format, wrapped key and cluster context, none of which is secret. Nothing the request chose beside the ciphertext enters it.
    public func wrappedKeyDigest(clusterContext: String) throws(EnvelopeError) -> WrappedKeyDigest {
        if let annotation {
            return try WrappedKeyDigest(
                keyPart: keyID.keyPart, wrappedKey: annotation.span, clusterContext: clusterContext)
        }
        return try WrappedKeyDigest(
            keyPart: keyID.keyPart, wrappedKey: bytes.span.extracting(wrappedRange),
            clusterContext: clusterContext)
    }

    /// Opens the envelope straight into secret memory.
    ///
    /// Throws `cannotOpen` for every mismatch of key, key_id, suite, context or content; a few microseconds.
    public func open(under localKEK: LocalKEK) throws(EnvelopeError) -> SecretBytes {
        guard localKEK.suite == suite, localKEK.keyID == keyID else { throw .cannotOpen }
        do throws(CryptoFailure) {
            let header = try BoundHeader(
                Array(bytes[..<wrappedRange.upperBound]), suite: suite, label: Self.label,
                context: Self.context(localKEK.clusterContext, annotation: annotation ?? []).span)
            return try CommittingAEAD.open(bytes.span, under: localKEK.secret, header: header)
        } catch .notAuthentic {
            throw .cannotOpen
        } catch {
            throw .crypto(error)
        }
    }

    // MARK: Format

    static let magic: [UInt8] = [0xF5] + Array("kmsward".utf8)
    static let format: UInt8 = 1
    static let label: StaticString = "kmsward/envelope/1"
    /// Bytes of a wrapped key that an annotation may hold: Kubernetes allows 32 KiB for keys and values together.
    static let annotationRange = 1...32_768 - annotationKey.utf8.count

    enum Flags: UInt8 {
        case none = 0
        case wrappedKeyInAnnotation = 1
    }

    /// Everything from the magic to the wrapped key, or its digest where `flags` says so.
    static func header(suite: Suite, api: KMSAPI, flags: Flags, keyID: KeyID, wrapped: [UInt8]) -> [UInt8] {
        let name = keyID.description.utf8
        var header: [UInt8] = []
        header.reserveCapacity(magic.count + 7 + name.count + wrapped.count)
        header.append(contentsOf: magic)
        header.append(contentsOf: [format, suite.rawValue, api.rawValue, flags.rawValue, UInt8(name.count)])
        header.append(contentsOf: name)
        header.append(bigEndian: UInt16(wrapped.count))
        header.append(contentsOf: wrapped)
        return header
    }

    /// What an envelope is bound to without holding it: cluster context and annotation.
    static func context(_ clusterContext: String, annotation: [UInt8]) -> [UInt8] {
        let text = clusterContext.utf8
        var context: [UInt8] = []
        context.reserveCapacity(4 + text.count + annotation.count)
        context.append(bigEndian: UInt16(text.count))
        context.append(contentsOf: text)
        context.append(bigEndian: UInt16(annotation.count))
        context.append(contentsOf: annotation)
        return context
    }

    /// Reads from the front; nil once the bytes do not suffice.
    private struct Reader {
        let bytes: [UInt8]
        var position: Int

        mutating func byte() -> UInt8? {
            guard position < bytes.count else { return nil }
            defer { position += 1 }
            return bytes[position]
        }

        mutating func range(_ count: Int) -> Range<Int>? {
            guard bytes.count - position >= count else { return nil }
            defer { position += count }
            return position..<position + count
        }
    }
}

/// What a cache of local KEKs finds one by; public data.
public struct WrappedKeyDigest: Sendable, Hashable {
    private let bytes: [UInt8]

    /// The digest for the key with F `keyPart`.
    ///
    /// Throws only where OpenSSL has no SHA-256.
    public init(keyPart: String, wrappedKey: [UInt8], clusterContext: String) throws(EnvelopeError) {
        try self.init(keyPart: keyPart, wrappedKey: wrappedKey.span, clusterContext: clusterContext)
    }

    /// What the cache finds it by.
    var cacheKey: KeyDigest { KeyDigest(bytes.span) }

    init(
        keyPart: String, wrappedKey: Span<UInt8>, clusterContext: String,
        format: CiphertextFormat = .envelope
    ) throws(EnvelopeError) {
        var head: [UInt8] = []
        for item in ["kmsward wrapped key 1", keyPart, clusterContext] {
            head.appendLengthPrefixed(Array(item.utf8))
        }
        head.append(format == .envelope ? Envelope.format : 0)
        head.append(bigEndian: UInt32(wrappedKey.count))
        do throws(CryptoFailure) { bytes = try DigestAlgorithm.sha256.hash(head.span, wrappedKey) } catch {
            throw .crypto(error)
        }
    }
}
