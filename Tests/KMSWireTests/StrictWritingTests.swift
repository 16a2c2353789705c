import KMSWire
import Testing

@Suite("writing")
struct StrictWritingTests {
    private static func many(_ count: Int) -> [UInt8] { [UInt8](repeating: 1, count: count) }

    private static func encrypt(_ count: Int, id: String = "id", _ annotations: [String: Int] = [:]) -> Sample
    {
        Sample(
            .v2EncryptResponse, ["ciphertext": many(count), "key_id": Array(id.utf8)],
            annotations: annotations.mapValues { many($0) })
    }

    @Test(
        "refuses a reply that the API server would throw away",
        arguments: [
            (encrypt(0), WireError.Reason.empty, 1), (encrypt(1_025), .tooLong, 1),
            (encrypt(1, id: ""), .empty, 2),
            (encrypt(1, id: String(repeating: "k", count: 1_025)), .tooLong, 2),
            (encrypt(1, id: "a\nb"), .notPrintable, 2),
            (encrypt(1, ["com": 1]), .invalidAnnotationKey, 3), (encrypt(1, ["a.b": 32_766]), .tooLong, 3),
            (encrypt(1, ["a.b": 16_384, "a.c": 16_379]), .tooLong, 3),
            (Sample(.v1EncryptResponse, ["cipher": many(65_536)]), .tooLong, 1),
            (Sample(.v1EncryptResponse, [:]), .empty, 1),
            (Sample(.v1DecryptResponse, [:]), .empty, 1),
            (Sample(.v2DecryptResponse, ["plaintext": many(32_769)]), .tooLong, 1),
            (Sample(.v2StatusResponse, ["healthz": Array("ok".utf8)]), .empty, 3),
            (Sample(.v1VersionResponse, ["runtime_name": many(257)]), .tooLong, 2),
        ])
    func refuses(_ sample: Sample, _ reason: WireError.Reason, _ number: Int) {
        let error = #expect(throws: WireError.self) { _ = try sample.ourBytes() }
        #expect(error?.reason == reason)
        #expect(error?.field == number)
        #expect(error?.message == sample.message)
    }

    @Test("refuses the same annotation twice")
    func repeatedAnnotation() {
        let twice = [Annotation(key: "a.b", value: []), Annotation(key: "a.b", value: [1])]
        let error = #expect(throws: WireError.self) {
            _ = try encoded(.encrypted(.v2, EncryptReply(ciphertext: [1], keyID: "id", annotations: twice)))
        }
        #expect(error?.reason == .repeatedAnnotationKey)
    }

    @Test(
        "takes what is just within the limits",
        arguments: [
            encrypt(1_024, id: String(repeating: "k", count: 1_024), ["a.b": 32_765]),
            encrypt(1, ["a.b": 16_384, "a.c": 16_378]),
        ])
    func takes(_ sample: Sample) throws {
        let bytes = try sample.ourBytes()
        #expect(try ourSample(.v2EncryptResponse, bytes) == sample)
        #expect(try referenceSample(.v2EncryptResponse, bytes) == sample)
    }

    @Test("leaves key_id and annotations out of a v1beta1 Encrypt reply")
    func v1Encrypt() throws {
        let reply = EncryptReply(
            ciphertext: [7], keyID: "id", annotations: [Annotation(key: "a.b", value: [1])])
        #expect(try encoded(.encrypted(.v1beta1, reply)) == [0x0a, 1, 7])
    }

    @Test("names the method of every request and reply", arguments: WireMessage.allCases)
    func method(_ message: WireMessage) throws {
        var generator = SeededGenerator(seed: 6)
        let bytes = try generator.sample(message).ourBytes()
        let method = message.method
        #expect(
            message.isRequest
                ? try ourRequest(bytes, method).method == method
                : try ourReply(bytes, method).method == method)
    }

    @Test("traps on a target of another size: a count that is wrong is a defect of ours")
    func wrongTarget() async {
        await #expect(processExitsWith: .failure) {
            var out = [UInt8](repeating: 0, count: 100)
            var span = out.mutableSpan
            var raw = unsafe span.mutableBytes
            KMSRequest.version.encode(into: &raw)
        }
    }
}
