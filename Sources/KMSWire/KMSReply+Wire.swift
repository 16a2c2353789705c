private import SecureMemory

extension KMSReply {
    /// Reads the reply to `method` from bytes that stay the caller's.
    ///
    /// For clients: unknown fields are skipped, as protobuf asks, but the API server's own rules hold, so that what
    /// it would throw away throws here. `healthz` and the versions are any text; show them to nobody unescaped.
    ///
    /// - Throws: `WireError`, with the field and the reason.
    public init(parsing span: RawSpan, to method: KMSMethod) throws(WireError) {
        let scan = try FieldScan(method.response, span)
        switch method {
        case .v1Version:
            self = .version(
                VersionReply(
                    version: scan.text(1, span), runtimeName: scan.text(2, span),
                    runtimeVersion: scan.text(3, span)))
        case .v2Status:
            let status = StatusReply(
                version: scan.text(1, span), healthz: scan.text(2, span), keyID: scan.text(3, span))
            try status.requireKeyID()
            self = .status(status)
        case .v1Encrypt:
            self = .encrypted(.v1beta1, EncryptReply(ciphertext: scan.bytes(1, span), keyID: ""))
        case .v2Encrypt:
            self = .encrypted(
                .v2,
                EncryptReply(
                    ciphertext: scan.bytes(1, span), keyID: scan.text(2, span),
                    annotations: scan.annotations(span)))
        case .v1Decrypt: self = .decrypted(.v1beta1, secret(span.extracting(scan[1])))
        case .v2Decrypt: self = .decrypted(.v2, secret(span.extracting(scan[1])))
        }
    }

    /// The method that this reply answers.
    public var method: KMSMethod {
        switch self {
        case .version: .v1Version
        case .status: .v2Status
        case .encrypted(let api, _): api == .v1beta1 ? .v1Encrypt : .v2Encrypt
        case .decrypted(let api, _): api == .v1beta1 ? .v1Decrypt : .v2Decrypt
        }
    }

    /// Writes the message, if the API server would take it, in place into what `make` sets aside for it.
    ///
    /// The API server throws away an Encrypt reply beyond its limits without telling the plugin, so such a reply
    /// fails here instead, with the field and the reason. `make` gets the exact number of bytes, and must hand so
    /// many to the function it gets beside it. A plaintext key is copied once.
    public consuming func encode<R: ~Copyable>(
        into make: (_ count: Int, _ fill: (inout MutableRawSpan) -> Void) -> R
    ) throws(WireError) -> R {
        switch consume self {
        case .version(let reply): return make(try reply.encodedCount()) { reply.encode(into: &$0) }
        case .status(let reply): return make(try reply.encodedCount()) { reply.encode(into: &$0) }
        case .encrypted(let api, let reply):
            return make(try reply.encodedCount(api)) { reply.encode(api, into: &$0) }
        case .decrypted(let api, let plaintext):
            let message = api == .v1beta1 ? WireMessage.v1DecryptResponse : .v2DecryptResponse
            return make(try message.size(1, plaintext.count)) { target in
                plaintext.withBytes { bytes in
                    var writer = FieldWriter()
                    writer.write(1, bytes, to: &target)
                    writer.finish(target)
                }
            }
        }
    }
}

extension VersionReply {
    fileprivate func encodedCount() throws(WireError) -> Int {
        let message = WireMessage.v1VersionResponse
        return try message.size(1, version) + message.size(2, runtimeName) + message.size(3, runtimeVersion)
    }

    fileprivate func encode(into target: inout MutableRawSpan) {
        var writer = FieldWriter()
        writer.write(1, version, to: &target)
        writer.write(2, runtimeName, to: &target)
        writer.write(3, runtimeVersion, to: &target)
        writer.finish(target)
    }
}

extension StatusReply {
    /// A healthy plugin has a key_id; one that says what is wrong may have none.
    fileprivate func requireKeyID() throws(WireError) {
        guard healthz == "ok", keyID.isEmpty else { return }
        throw WireError(.empty, .v2StatusResponse, field: 3, at: 0)
    }
}

extension StatusReply {
    fileprivate func encodedCount() throws(WireError) -> Int {
        let message = WireMessage.v2StatusResponse
        try requireKeyID()
        return try message.size(1, version) + message.size(2, healthz) + message.size(3, keyID)
    }

    fileprivate func encode(into target: inout MutableRawSpan) {
        var writer = FieldWriter()
        writer.write(1, version, to: &target)
        writer.write(2, healthz, to: &target)
        writer.write(3, keyID, to: &target)
        writer.finish(target)
    }
}

extension EncryptReply {
    fileprivate func encodedCount(_ api: KMSAPI) throws(WireError) -> Int {
        switch api {
        case .v1beta1: return try WireMessage.v1EncryptResponse.size(1, ciphertext.count)
        case .v2:
            let message = WireMessage.v2EncryptResponse
            return try message.size(1, ciphertext.count) + message.size(2, keyID)
                + message.size(3, annotations)
        }
    }

    fileprivate func encode(_ api: KMSAPI, into target: inout MutableRawSpan) {
        var writer = FieldWriter()
        writer.write(1, ciphertext, to: &target)
        if api == .v2 {
            writer.write(2, keyID, to: &target)
            writer.write(3, annotations, to: &target)
        }
        writer.finish(target)
    }
}

extension WireMessage {
    /// The size of a field of `count` bytes, if it may have so many.
    fileprivate func size(_ number: Int, _ count: Int) throws(WireError) -> Int {
        let field = known(number)
        if count == 0, field.isRequired { throw WireError(.empty, self, field: number, at: 0) }
        guard count <= field.limit else {
            throw WireError(.tooLong, self, field: number, at: 0, found: count, limit: field.limit)
        }
        return FieldWriter.size(count)
    }

    /// The size of a text field, if the text may be there.
    fileprivate func size(_ number: Int, _ value: String) throws(WireError) -> Int {
        // UTF-8 code units have no padding.
        try known(number).check(self, unsafe value.utf8Span.span.bytes, at: 0)
        return try size(number, value.utf8.count)
    }

    /// The size of a map field, if its keys and their sum are in order.
    fileprivate func size(_ number: Int, _ annotations: [Annotation]) throws(WireError) -> Int {
        guard !annotations.isEmpty else { return 0 }
        var sum = 0
        var keys: Set<String> = []
        for annotation in annotations {
            sum += annotation.key.utf8.count + annotation.value.count
            // UTF-8 code units have no padding.
            guard isFullyQualified(unsafe annotation.key.utf8Span.span.bytes) else {
                throw WireError(.invalidAnnotationKey, self, field: number, at: 0)
            }
            guard keys.insert(annotation.key).inserted else {
                throw WireError(.repeatedAnnotationKey, self, field: number, at: 0)
            }
        }
        let limit = known(number).limit
        guard sum <= limit else {
            throw WireError(.tooLong, self, field: number, at: 0, found: sum, limit: limit)
        }
        return FieldWriter.size(annotations)
    }

    private func known(_ number: Int) -> WireField {
        guard let field = field(number) else { preconditionFailure("no such field") }
        return field
    }
}
