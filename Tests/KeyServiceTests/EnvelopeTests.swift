import EnvelopeCrypto
import KMSWire
import SecureMemory
import Testing

@testable import KeyService

/// What reading and opening a request gives: the plaintext, or the error.
private func open(_ request: DecryptRequest, under kek: LocalKEK) -> Result<[UInt8], EnvelopeError> {
    Result { () throws(EnvelopeError) in bytes(of: try Envelope(parsing: request).open(under: kek)) }
}

/// What a writer opens of its own; an error is as good as nil.
private func openShort(_ writer: EnvelopeWriter, _ request: DecryptRequest) -> [UInt8]? {
    do {
        switch try writer.open(request) {
        case let plaintext?: return bytes(of: plaintext)
        case nil: return nil
        }
    } catch { return nil }
}

private let suites = Suite.allCases.filter(\.isAvailable)

@Suite("Envelope: vectors")
struct EnvelopeVectorTests {
    @Test("sealing gives the bytes of an independent implementation", arguments: CiphertextVectors.openable)
    func seal(_ vector: CiphertextVectors.EnvelopeVector) throws {
        let writer = try EnvelopeWriter(localKEK: vector.kek(), wrappedKey: hex(vector.wrapped))
        let request = try vector.request()
        let reply = try writer.seal(secret(vector.plaintext), api: request.api, salt: hex(vector.salt))
        #expect(reply.ciphertext == request.ciphertext)
        #expect(reply.annotations == request.annotations)
        #expect(reply.keyID == vector.keyId)
        #expect(writer.usesAnnotation == vector.inAnnotation)
        let digest = try DigestAlgorithm.sha256.hash(reply.ciphertext.span)
        #expect(digest == hex(vector.ciphertextSha256))
        let afterTag = reply.ciphertext.dropLast(writer.localKEK.suite.tagCount + hex(vector.plaintext).count)
        #expect(Array(afterTag.suffix(32)) == hex(vector.commitment))
    }

    @Test("opening reads what an independent implementation sealed", arguments: CiphertextVectors.openable)
    func open(_ vector: CiphertextVectors.EnvelopeVector) throws {
        let envelope = try Envelope(parsing: vector.request())
        #expect(envelope.suite.rawValue == vector.suite)
        #expect(envelope.api.rawValue == vector.api)
        #expect(envelope.keyID.description == vector.keyId)
        #expect(envelope.wrappedKey == hex(vector.wrapped))
        let opened = try bytes(of: envelope.open(under: vector.kek()))
        #expect(opened == hex(vector.plaintext))
    }

    @Test(
        "the payload of a local KEK is that of an independent implementation",
        arguments: CiphertextVectors.all.localKekPayloads)
    func payload(_ vector: CiphertextVectors.Payload) throws {
        let suite = try #require(Suite(rawValue: vector.suite))
        guard suite.isAvailable else {
            #expect(throws: EnvelopeError.crypto(.unavailable(suite.configurationName))) {
                try LocalKEK(randomFor: KeyID(parsing: vector.keyId), suite: suite, clusterContext: "")
            }
            return
        }
        let keyID = try KeyID(parsing: vector.keyId)
        let kek = try LocalKEK(
            secret(vector.localKek), keyID: keyID, suite: suite, clusterContext: vector.clusterContext)
        let payload = try bytes(of: kek.payload())
        #expect(payload == hex(vector.payload))
        let again = try LocalKEK(
            unwrapped: secret(vector.payload), keyID: keyID, suite: suite,
            clusterContext: vector.clusterContext)
        #expect(again.isSame(as: kek))
    }
}

@Suite("Envelope: changes")
struct EnvelopeChangeTests {
    @Test("no byte of a ciphertext can change", arguments: CiphertextVectors.openable)
    func everyByte(_ vector: CiphertextVectors.EnvelopeVector) throws {
        let kek = try vector.kek()
        let request = try vector.request()
        for index in request.ciphertext.indices {
            for change in [0x01, 0x80, 0xFF] as [UInt8] {
                var altered = request
                altered.ciphertext[index] ^= change
                #expect(throws: EnvelopeError.self, "byte \(index)") { try open(altered, under: kek).get() }
            }
        }
    }

    @Test("what is cut or extended is refused", arguments: CiphertextVectors.openable)
    func lengths(_ vector: CiphertextVectors.EnvelopeVector) throws {
        let kek = try vector.kek()
        let request = try vector.request()
        for count in request.ciphertext.indices {
            var cut = request
            cut.ciphertext.removeLast(request.ciphertext.count - count)
            #expect(throws: EnvelopeError.self, "\(count) bytes") { try open(cut, under: kek).get() }
        }
        for extra in [[0], [1], Array(repeating: 0, count: 16), request.ciphertext] as [[UInt8]] {
            var extended = request
            extended.ciphertext += extra
            #expect(open(extended, under: kek) == .failure(.cannotOpen))
        }
    }

    @Test("a writer opens its own by a shorter way, and nothing else", arguments: CiphertextVectors.openable)
    func shorterWay(_ vector: CiphertextVectors.EnvelopeVector) throws {
        let kek = try vector.kek()
        let writer = try EnvelopeWriter(localKEK: kek, wrappedKey: hex(vector.wrapped))
        let request = try vector.request()
        var altered: [DecryptRequest] = []
        func alter(_ change: (inout DecryptRequest) -> Void) {
            var copy = request
            change(&copy)
            altered.append(copy)
        }
        for index in request.ciphertext.indices {
            alter { $0.ciphertext[index] ^= 0x01 }
            alter { $0.ciphertext.removeLast(request.ciphertext.count - index) }
        }
        alter { $0.ciphertext.append(0) }
        alter { $0.ciphertext += request.ciphertext }
        alter { $0.keyID = request.keyID.isEmpty ? vector.keyId : "" }
        alter { $0.keyID += "A" }
        alter { $0.annotations.append(Annotation(key: "x.kmsward.internal", value: [])) }
        alter { $0.api = request.api == .v2 ? .v1beta1 : .v2 }
        if vector.inAnnotation {
            alter { $0.annotations = [] }
            alter { $0.annotations[0].value[0] ^= 1 }
        }
        #expect(openShort(writer, request) == hex(vector.plaintext))
        for request in altered {
            #expect(throws: EnvelopeError.self) { try open(request, under: kek).get() }
            #expect(openShort(writer, request) == nil, "\(request)")
        }
    }

    @Test(
        "the key_id of a v2 request must be the one inside, and a v1 request has none",
        arguments: CiphertextVectors.openable)
    func keyID(_ vector: CiphertextVectors.EnvelopeVector) throws {
        let request = try vector.request()
        var altered = request
        for keyID in ["", "x", vector.keyId + "A", String(vector.keyId.dropLast())]
        where keyID != request.keyID {
            altered.keyID = keyID
            #expect(open(altered, under: try vector.kek()) == .failure(.requestMismatch))
        }
        for index in vector.keyId.utf8.indices {
            var text = Array(vector.keyId.utf8)
            text[vector.keyId.utf8.distance(from: vector.keyId.utf8.startIndex, to: index)] ^= 1
            altered.keyID = String(decoding: text, as: UTF8.self)
            #expect(open(altered, under: try vector.kek()) == .failure(.requestMismatch))
        }
    }

    @Test(
        "an envelope and its request cannot both be moved to another key_id",
        arguments: CiphertextVectors.openable)
    func movedKeyID(_ vector: CiphertextVectors.EnvelopeVector) throws {
        // Epoch 0 to 1 and 7 to 6, in the header and in the request alike; the local KEK is taken for the new id.
        var request = try vector.request()
        let old = try KeyID(parsing: vector.keyId)
        let moved = "kw1.\(old.keyPart).\(old.epoch ^ 1).\(old.versionPart)"
        request.ciphertext.replaceSubrange(13..<13 + moved.utf8.count, with: moved.utf8)
        if request.api == .v2 { request.keyID = moved }
        #expect(open(request, under: try vector.kek()) == .failure(.cannotOpen))
        let kek = try LocalKEK(
            secret(vector.localKek), keyID: KeyID(parsing: moved), suite: vector.kek().suite,
            clusterContext: vector.clusterContext)
        #expect(open(request, under: kek) == .failure(.cannotOpen))
    }

    @Test("annotations are exactly those written", arguments: CiphertextVectors.openable)
    func annotations(_ vector: CiphertextVectors.EnvelopeVector) throws {
        let kek = try vector.kek()
        let request = try vector.request()
        let key = Envelope.annotationKey
        var altered = request
        let added = Annotation(key: "x.kmsward.internal", value: [])
        var variants = [request.annotations + [added], [added], [Annotation(key: key, value: [])]]
        if vector.inAnnotation {
            let value = request.annotations[0].value
            variants += [
                [], [Annotation(key: "x." + key, value: value)], request.annotations + request.annotations,
            ]
            variants += [
                [Annotation(key: key, value: value + [0])], [Annotation(key: key, value: value.dropLast())],
            ]
            for index in value.indices {
                var changed = value
                changed[index] ^= 0x20
                variants.append([Annotation(key: key, value: changed)])
            }
        } else {
            variants.append([Annotation(key: key, value: hex(vector.wrapped))])
        }
        for variant in variants {
            altered.annotations = variant
            #expect(open(altered, under: kek) == .failure(.requestMismatch))
        }
    }

    @Test("an envelope opens through the API that wrote it only", arguments: CiphertextVectors.openable)
    func otherAPI(_ vector: CiphertextVectors.EnvelopeVector) throws {
        var request = try vector.request()
        request.api = request.api == .v2 ? .v1beta1 : .v2
        request.annotations = []
        for keyID in ["", vector.keyId] {
            request.keyID = keyID
            #expect(open(request, under: try vector.kek()) == .failure(.requestMismatch))
        }
        request.keyID = request.api == .v2 ? vector.keyId : ""
        // Nor when the header is changed to match.
        request.ciphertext[10] = request.api.rawValue
        #expect(throws: EnvelopeError.self) { try open(request, under: vector.kek()).get() }
    }

    @Test(
        "another key, context or key_id of the local KEK opens nothing", arguments: CiphertextVectors.openable
    )
    func otherKey(_ vector: CiphertextVectors.EnvelopeVector) throws {
        let request = try vector.request()
        let right = try vector.kek()
        let wrong = try [
            LocalKEK(randomFor: right.keyID, suite: right.suite, clusterContext: right.clusterContext),
            LocalKEK(
                secret(vector.localKek), keyID: right.keyID, suite: right.suite,
                clusterContext: right.clusterContext + "x"),
            LocalKEK(
                secret(vector.localKek),
                keyID: KeyID(parsing: "kw1.\(right.keyID.keyPart).9.\(right.keyID.versionPart)"),
                suite: right.suite, clusterContext: right.clusterContext),
            LocalKEK(
                secret(vector.localKek), keyID: right.keyID,
                suite: right.suite == .aes256GCM ? .sm4CTRHMACSM3 : .aes256GCM,
                clusterContext: right.clusterContext),
        ]
        for kek in wrong { #expect(open(request, under: kek) == .failure(.cannotOpen)) }
    }

    @Test("what is not an envelope is told apart from a broken one")
    func classes() throws {
        let vector = try #require(CiphertextVectors.openable.first)
        let sound = try vector.request()
        func error(_ change: (inout [UInt8]) -> Void) -> EnvelopeError? {
            var request = sound
            change(&request.ciphertext)
            return #expect(throws: EnvelopeError.self) { try Envelope(parsing: request) }
        }
        #expect(error { $0 = [] } == .notAnEnvelope)
        #expect(error { $0 = Array("{\"keyId\":1}".utf8) } == .notAnEnvelope)
        #expect(error { $0[0] = 0xF4 } == .notAnEnvelope)
        #expect(error { $0.removeLast($0.count - 8) } == .malformed)
        #expect(error { $0[8] = 2 } == .malformed)  // format
        #expect(error { $0[9] = 4 } == .malformed)  // suite
        #expect(error { $0[10] = 3 } == .malformed)  // API
        #expect(error { $0[11] = 2 } == .malformed)  // flags
        #expect(error { $0[11] = 1 } == .malformed)  // flags: what stands there is no digest
        #expect(error { $0[12] = 0 } == .malformed)  // length of key_id
        #expect(
            error {
                $0[64] = 0; $0[65] = 0
            } == .malformed)  // length of the wrapped key
        #expect(error { $0[64] = 0xFF } == .malformed)
        #expect(Envelope.hasMagic(sound.ciphertext))
        #expect(!Envelope.hasMagic([]))
        #expect(!Envelope.hasMagic(Array(sound.ciphertext.prefix(7))))
    }

    @Test("v1 has no annotations, so an envelope that refers to one is refused")
    func annotationFlagInV1() throws {
        let vector = try #require(CiphertextVectors.openable.first { $0.inAnnotation })
        var request = try vector.request()
        request.ciphertext[10] = KMSAPI.v1beta1.rawValue
        request.api = .v1beta1
        request.keyID = ""
        #expect(open(request, under: try vector.kek()) == .failure(.malformed))
    }
}

@Suite("Envelope: writing")
struct EnvelopeWriterTests {
    private func writer(_ suite: Suite, wrappedCount: Int) throws -> EnvelopeWriter {
        let keyID = try KeyID(parsing: "kw1.AAAAAAAAAAAAAAAAAAAAAA.0.BBBBBBBBBBBBBBBBBBBBBB")
        return try EnvelopeWriter(
            localKEK: LocalKEK(randomFor: keyID, suite: suite, clusterContext: "test"),
            wrappedKey: (0..<wrappedCount).map { UInt8(truncatingIfNeeded: $0) })
    }

    private func request(_ reply: EncryptReply, _ api: KMSAPI) -> DecryptRequest {
        DecryptRequest(
            api: api, ciphertext: reply.ciphertext, keyID: api == .v2 ? reply.keyID : "",
            annotations: reply.annotations)
    }

    @Test(
        "what is sealed opens, in both APIs and at the limits of length", arguments: suites, KMSAPI.allCases)
    func roundTrip(suite: Suite, api: KMSAPI) throws {
        for wrappedCount in [1, 200, 3000] {
            let writer = try writer(suite, wrappedCount: wrappedCount)
            let range = writer.plaintextRange(api)
            for count in [1, 4, 16, 24, 32, range.upperBound] {
                let reply = try writer.seal(SecretBytes(count: count) { _ in }, api: api)
                #expect(reply.ciphertext.count <= EnvelopeWriter.ciphertextLimit(api))
                #expect(
                    open(request(reply, api), under: writer.localKEK)
                        == .success(Array(repeating: 0, count: count)))
            }
            for count in [0, range.upperBound + 1] {
                #expect(throws: EnvelopeError.plaintextLength(count, allowed: range)) {
                    try writer.seal(SecretBytes(count: count) { _ in }, api: api)
                }
            }
        }
    }

    @Test("the same plaintext never gives the same ciphertext")
    func distinct() throws {
        let writer = try writer(.aes256GCM, wrappedCount: 100)
        var seen: Set<[UInt8]> = []
        for _ in 0..<1000 {
            seen.insert(try writer.seal(SecretBytes(count: 32) { _ in }, api: .v2).ciphertext)
        }
        #expect(seen.count == 1000)
    }

    @Test("a wrapped key moves to the annotation exactly when it does not fit", arguments: suites)
    func sizes(suite: Suite) throws {
        let last = 1024 - 130 - suite.tagCount - 32
        #expect(last == (suite == .sm4CTRHMACSM3 ? 830 : 846))
        for (count, usesAnnotation) in [(last, false), (last + 1, true), (32_740, true)] {
            let writer = try writer(suite, wrappedCount: count)
            #expect(writer.usesAnnotation == usesAnnotation)
            let reply = try writer.seal(SecretBytes(count: 32) { _ in }, api: .v2)
            #expect(reply.annotations.isEmpty != usesAnnotation)
            #expect(reply.annotations.reduce(0) { $0 + $1.key.utf8.count + $1.value.count } <= 32_768)
            #expect(usesAnnotation || reply.ciphertext.count == 130 + suite.tagCount + 32 + count)
            let v1 = try writer.seal(SecretBytes(count: 32) { _ in }, api: .v1beta1)
            #expect(v1.annotations.isEmpty)
            let envelope = try Envelope(parsing: request(v1, .v1beta1))
            #expect(envelope.wrappedKey == writer.wrappedKey)
        }
        for count in [0, 32_741] {
            #expect(throws: EnvelopeError.wrappedKeyLength(count, allowed: 1...32_740)) {
                try writer(suite, wrappedCount: count)
            }
        }
    }

    @Test("a digest stands for key, wrapped key and context, and for nothing else of the request")
    func digests() throws {
        let base = try WrappedKeyDigest(keyPart: "F", wrappedKey: [1, 2], clusterContext: "c")
        #expect(try WrappedKeyDigest(keyPart: "F", wrappedKey: [1, 2], clusterContext: "c") == base)
        #expect(try WrappedKeyDigest(keyPart: "G", wrappedKey: [1, 2], clusterContext: "c") != base)
        #expect(try WrappedKeyDigest(keyPart: "F", wrappedKey: [1, 3], clusterContext: "c") != base)
        #expect(try WrappedKeyDigest(keyPart: "F", wrappedKey: [1, 2], clusterContext: "") != base)
        #expect(try WrappedKeyDigest(keyPart: "Fc", wrappedKey: [1, 2], clusterContext: "") != base)
        for count in [100, 3000] {  // within the envelope, and in the annotation
            let writer = try writer(.aes256GCM, wrappedCount: count)
            var digests: Set<WrappedKeyDigest> = []
            for api in KMSAPI.allCases {
                let reply = try writer.seal(SecretBytes(count: 32) { _ in }, api: api)
                digests.insert(
                    try Envelope(parsing: request(reply, api)).wrappedKeyDigest(clusterContext: "test"))
            }
            digests.insert(
                try WrappedKeyDigest(
                    keyPart: writer.localKEK.keyID.keyPart, wrappedKey: writer.wrappedKey,
                    clusterContext: "test"))
            #expect(digests.count == 1)
        }
    }

    @Test("errors are one line")
    func messages() {
        let errors: [EnvelopeError] = [
            .notAnEnvelope, .malformed, .requestMismatch, .cannotOpen, .plaintextLength(0, allowed: 1...2),
            .wrappedKeyLength(0, allowed: 1...2), .contextTooLong(300), .crypto(.unavailable("sm4-gcm")),
        ]
        #expect(Set(errors.map(\.description)).count == errors.count)
        #expect(errors.allSatisfy { !$0.description.contains("\n") })
    }
}

@Suite("Local KEK")
struct LocalKEKTests {
    private static let keyID = "kw1.AAAAAAAAAAAAAAAAAAAAAA.0.BBBBBBBBBBBBBBBBBBBBBB"

    @Test("only the payload made for this key_id, suite and context is taken", arguments: suites)
    func unwrapped(suite: Suite) throws {
        let keyID = try KeyID(parsing: Self.keyID)
        let kek = try LocalKEK(randomFor: keyID, suite: suite, clusterContext: "prod")
        let payload = try bytes(of: kek.payload())
        #expect(payload.count == LocalKEK.payloadCount)
        func take(
            _ payload: [UInt8], id: KeyID? = nil, suite other: Suite? = nil, context: String = "prod"
        ) throws(EnvelopeError) -> LocalKEK {
            let secret = SecretBytes(count: payload.count) { $0.copy(payload.span, toByteOffset: 0) }
            return try LocalKEK(
                unwrapped: secret, keyID: id ?? keyID, suite: other ?? suite, clusterContext: context)
        }
        #expect(try take(payload).isSame(as: kek))
        for index in 0..<40 {  // everything before the key itself
            var altered = payload
            altered[index] ^= 1
            #expect(throws: EnvelopeError.cannotOpen) { try take(altered) }
        }
        for index in 40..<72 {
            var altered = payload
            altered[index] ^= 1
            #expect(try !take(altered).isSame(as: kek))
        }
        for count in [0, 4, 16, 24, 32, 71] {
            #expect(throws: EnvelopeError.cannotOpen) { try take(Array(payload.prefix(count))) }
        }
        #expect(throws: EnvelopeError.cannotOpen) { try take(payload + [0]) }
        #expect(throws: EnvelopeError.cannotOpen) { try take(payload, context: "") }
        let otherID = try KeyID(parsing: Self.keyID.replacing(".0.", with: ".1."))
        #expect(throws: EnvelopeError.cannotOpen) { try take(payload, id: otherID) }
        let otherSuite: Suite = suite == .aes256GCM ? .sm4CTRHMACSM3 : .aes256GCM
        #expect(throws: EnvelopeError.cannotOpen) { try take(payload, suite: otherSuite) }
    }

    @Test("two new ones differ")
    func random() throws {
        let keyID = try KeyID(parsing: Self.keyID)
        let first = try LocalKEK(randomFor: keyID, suite: .aes256GCM, clusterContext: "")
        #expect(try !first.isSame(as: LocalKEK(randomFor: keyID, suite: .aes256GCM, clusterContext: "")))
    }

    @Test("a cluster context of more than 255 bytes is refused")
    func contextLimit() throws {
        let keyID = try KeyID(parsing: Self.keyID)
        _ = try LocalKEK(
            randomFor: keyID, suite: .aes256GCM, clusterContext: String(repeating: "c", count: 255)
        ).payload()
        #expect(throws: EnvelopeError.contextTooLong(256)) {
            try LocalKEK(
                randomFor: keyID, suite: .aes256GCM, clusterContext: String(repeating: "c", count: 256))
        }
    }
}
