internal import SecureMemory

extension KMSRequest {
    /// Reads the request of `method` from bytes that stay the caller's.
    ///
    /// Strict, since the only caller is an API server whose messages are known: an unknown field or a field beyond its
    /// limit is refused, and so is a v1beta1 `version` that is neither empty nor `v1beta1`. A plaintext key is copied
    /// once, into its `SecretBytes`. Never traps, whatever the bytes; linear in their number.
    ///
    /// - Throws: `WireError`, with the field and the reason.
    public init(parsing span: RawSpan, as method: KMSMethod) throws(WireError) {
        let scan = try FieldScan(method.request, span)
        switch method {
        case .v1Version: self = .version
        case .v2Status: self = .status
        case .v1Encrypt:
            self = .encrypt(
                EncryptRequest(api: .v1beta1, plaintext: secret(span.extracting(scan[2])), uid: ""))
        case .v2Encrypt:
            self = .encrypt(
                EncryptRequest(
                    api: .v2, plaintext: secret(span.extracting(scan[1])), uid: scan.text(2, span)))
        case .v1Decrypt:
            self = .decrypt(DecryptRequest(api: .v1beta1, ciphertext: scan.bytes(2, span)))
        case .v2Decrypt:
            self = .decrypt(
                DecryptRequest(
                    api: .v2, ciphertext: scan.bytes(1, span), uid: scan.text(2, span),
                    keyID: scan.text(3, span), annotations: scan.annotations(span)))
        }
    }

    /// The method that this request calls.
    public var method: KMSMethod {
        switch self {
        case .version: .v1Version
        case .status: .v2Status
        case .encrypt(let request): request.api == .v1beta1 ? .v1Encrypt : .v2Encrypt
        case .decrypt(let request): request.api == .v1beta1 ? .v1Decrypt : .v2Decrypt
        }
    }

    /// Bytes of the message, exactly.
    public var encodedCount: Int {
        switch self {
        case .version: FieldWriter.size(v1APIVersion)
        case .status: 0
        case .encrypt(let request):
            FieldWriter.size(request.plaintext.count)
                + FieldWriter.size(request.api == .v1beta1 ? v1APIVersion : request.uid)
        case .decrypt(let request):
            switch request.api {
            case .v1beta1: FieldWriter.size(v1APIVersion) + FieldWriter.size(request.ciphertext.count)
            case .v2:
                FieldWriter.size(request.ciphertext.count) + FieldWriter.size(request.uid)
                    + FieldWriter.size(request.keyID) + FieldWriter.size(request.annotations)
            }
        }
    }

    /// Writes the message in place, without judging it: a test of a plugin may well send a bad one.
    ///
    /// `target` must have `encodedCount` bytes. A plaintext key is copied once.
    public func encode(into target: inout MutableRawSpan) {
        var writer = FieldWriter()
        switch self {
        case .version: writer.write(1, v1APIVersion, to: &target)
        case .status: break
        case .encrypt(let request):
            if request.api == .v1beta1 { writer.write(1, v1APIVersion, to: &target) }
            request.plaintext.withBytes { bytes in
                writer.write(request.api == .v1beta1 ? 2 : 1, bytes, to: &target)
            }
            if request.api == .v2 { writer.write(2, request.uid, to: &target) }
        case .decrypt(let request):
            switch request.api {
            case .v1beta1:
                writer.write(1, v1APIVersion, to: &target)
                writer.write(2, request.ciphertext, to: &target)
            case .v2:
                writer.write(1, request.ciphertext, to: &target)
                writer.write(2, request.uid, to: &target)
                writer.write(3, request.keyID, to: &target)
                writer.write(4, request.annotations, to: &target)
            }
        }
        writer.finish(target)
    }
}

/// The one copy of a plaintext key.
func secret(_ span: RawSpan) -> SecretBytes {
    SecretBytes(count: span.byteCount) { target in copy(span, to: &target) }
}
