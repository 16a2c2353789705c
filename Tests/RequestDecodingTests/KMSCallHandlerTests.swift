import GRPCEngine
import InMemoryLogging
import KMSWire
import KeyService
import Logging
import RemoteKMS
import SecureMemory
import Testing

@testable import RequestDecoding

@Suite("a call on its way through the handler")
struct KMSCallHandlerTests {
    @Test(
        "Encrypt and Decrypt of both APIs round-trip",
        arguments: [(KMSAPI.v1beta1, 4), (.v1beta1, 32), (.v2, 1), (.v2, 32), (.v2, 1_024)])
    func roundTrip(_ api: KMSAPI, _ count: Int) async throws {
        let bench = Bench()
        let plaintext = (0..<count).map { UInt8(truncatingIfNeeded: $0) }
        let encrypt = api == .v2 ? KMSMethod.v2Encrypt : .v1Encrypt
        let decrypt = api == .v2 ? KMSMethod.v2Decrypt : .v1Decrypt
        let wrapped = try await bench.call(
            encrypt, encoded(.encrypt(EncryptRequest(api: api, plaintext: secret(plaintext), uid: ""))))
        guard case .encrypted(_, let reply) = try KMSReply(parsing: unsafe wrapped.span.bytes, to: encrypt)
        else {
            Issue.record("not an Encrypt reply")
            return
        }
        #expect(reply.ciphertext == plaintext.reversed())
        let request = DecryptRequest(api: api, ciphertext: reply.ciphertext, keyID: reply.keyID)
        let opened = try await bench.call(decrypt, encoded(.decrypt(request)))
        guard case .decrypted(_, let back) = try KMSReply(parsing: unsafe opened.span.bytes, to: decrypt)
        else {
            Issue.record("not a Decrypt reply")
            return
        }
        #expect(contents(back) == plaintext)
    }

    @Test("Version and Status are answered, with an empty message too")
    func versionAndStatus() async throws {
        let bench = Bench()
        let version = try await bench.call(.v1Version, [])
        guard case .version(let reply) = try KMSReply(parsing: unsafe version.span.bytes, to: .v1Version)
        else {
            Issue.record("not a Version reply")
            return
        }
        #expect(reply.version == "v1beta1")
        let status = try await bench.call(.v2Status, [])
        guard case .status(let reply) = try KMSReply(parsing: unsafe status.span.bytes, to: .v2Status) else {
            Issue.record("not a Status reply")
            return
        }
        #expect(reply == StatusReply(version: "v2", healthz: "ok", keyID: "id"))
    }

    @Test(
        "the server's methods are the API's, in the order of KMSMethod; only Status and Version have no limit"
    )
    func methods() {
        #expect(KMSCallHandler.methods.map(\.path) == KMSMethod.allCases.map(\.path))
        #expect(KMSMethod.allCases.map(\.rawValue) == Array(0..<6))
        let exempt = KMSCallHandler.methods.filter(\.isExemptFromLimit).map(\.path)
        #expect(Set(exempt) == [KMSMethod.v2Status.path, KMSMethod.v1Version.path])
    }

    @Test(
        "every failure of the key service becomes the gRPC status of its name",
        arguments: KMSFailure.Code.allCases)
    func status(_ code: KMSFailure.Code) async {
        let bench = Bench(.failing(KMSFailure(code, "key primary: cause: remedy")))
        let failure = await bench.failure(.v2Encrypt, goodEncrypt())
        let name = code.rawValue.map { $0.isUppercase ? "_\($0)" : $0.uppercased() }.joined()
        #expect(failure?.code.name == name)
        #expect(failure?.message == "key primary: cause: remedy")
    }

    @Test(
        "the key service gets the caller's time less a reserve to answer",
        arguments: [
            (nil, .milliseconds(2_850)), (.seconds(3), .milliseconds(2_850)),
            (.seconds(1), .milliseconds(950)),
            (.milliseconds(400), .milliseconds(350)), (.seconds(60), .seconds(57)),
            (.milliseconds(60), .milliseconds(10)), (.milliseconds(20), .milliseconds(-30)),
        ] as [(Duration?, Duration)])
    func reserve(_ timeout: Duration?, _ budget: Duration) async throws {
        let bench = Bench()
        _ = try await bench.call(.v2Status, [], timeout: timeout)
        #expect(bench.service.deadlines == [Deadline(bench.clock.now + budget)])
    }

    @Test("a deadline as far off as can be does not overflow")
    func farDeadline() async throws {
        let bench = Bench()
        _ = try await bench.call(.v2Status, [], timeout: .seconds(Int64(1) << 55))
        #expect(try #require(bench.service.deadlines.first).instant > bench.clock.now + .seconds(1 << 54))
    }

    @Test(
        "a call that comes too late does not reach the key service", arguments: [Duration.zero, .seconds(-1)])
    func late(_ timeout: Duration) async {
        let bench = Bench()
        #expect(await bench.failure(.v2Encrypt, goodEncrypt(), timeout: timeout)?.code == .deadlineExceeded)
        #expect(bench.service.deadlines.isEmpty)
    }

    @Test("the caller's cancellation reaches the key service, and is no warning")
    func cancellation() async {
        let bench = Bench(.dawdling, level: .info)
        let call = Task { await bench.failure(.v2Encrypt, goodEncrypt()) }
        await bench.service.untilStarted()
        call.cancel()
        #expect(await call.value?.code == .cancelled)
        #expect(bench.log.entries.isEmpty)
        #expect(
            bench.metric("kmsward_requests_total{api=\"v2\",method=\"encrypt\",code=\"CANCELLED\"}") == "1")
    }

    @Test("a reply that the API server would throw away fails as a defect, with the field")
    func excessiveReply() async {
        let bench = Bench(.excessive)
        let failure = await bench.failure(.v2Encrypt, goodEncrypt())
        #expect(failure?.code == .internal)
        #expect(failure?.message.contains("v2.EncryptResponse.ciphertext (field 1)") == true)
        #expect(bench.log.entries.map(\.level) == [.error])
    }

    @Test("a reply to another method never leaves", arguments: [KMSMethod.v2Encrypt, .v2Status])
    func confusedReply(_ method: KMSMethod) async {
        let bench = Bench(.confused)
        let failure = await bench.failure(method, method == .v2Encrypt ? goodEncrypt() : [])
        #expect(failure?.code == .internal)
    }
}

@Suite("messages that break the API")
struct RefusedMessageTests {
    static let uid = "22222222-aaaa"

    @Test(
        "are answered INVALID_ARGUMENT with field and reason, and never reach the key service",
        arguments: [
            (
                KMSMethod.v2Encrypt, [UInt8](),
                "v2.EncryptRequest.plaintext (field 1) at byte 0: must not be empty"
            ),
            (
                .v2Encrypt, [0x0a, 5, 1],
                "v2.EncryptRequest.plaintext (field 1) at byte 0: its length of 5 bytes reaches beyond the 1 bytes that are left"
            ),
            (
                .v2Status, [0x0a, 0],
                "v2.StatusRequest, field 1 at byte 0: this message has no such field; is the caller made for a newer API?"
            ),
            (
                .v1Decrypt, [0x08, 1],
                "v1beta1.DecryptRequest.version (field 1) at byte 0: written as wire type 0, but it is length-delimited (2)"
            ),
        ])
    func refused(_ method: KMSMethod, _ message: [UInt8], _ text: String) async {
        let bench = Bench()
        let failure = await bench.failure(method, message)
        #expect(failure == CallFailure(.invalidArgument, text))
        #expect(bench.service.deadlines.isEmpty)
        #expect(bench.log.entries.count == 1)
        #expect(bench.log.entries.first?.level == .warning)
        #expect(bench.log.entries.first?.metadata["cause"] == "\(text)")
        #expect(bench.log.entries.first?.metadata["event"] == "KW-REQUEST-MALFORMED")
    }

    @Test("are warned of at once, then ever more seldom with the number left out, for each reason by itself")
    func rateLimit() async throws {
        let bench = Bench()
        for _ in 0..<500 { _ = await bench.failure(.v2Encrypt, []) }
        #expect(bench.log.entries.count == 1)
        _ = await bench.failure(.v2Encrypt, [0x0e])
        _ = await bench.failure(.v1Encrypt, [])
        #expect(bench.log.entries.map { $0.metadata["reason"] } == ["empty", "invalidWireType", "empty"])
        bench.clock.advance(by: .seconds(59))
        _ = await bench.failure(.v2Encrypt, [])
        #expect(bench.log.entries.count == 3)
        bench.clock.advance(by: .seconds(1))
        _ = await bench.failure(.v2Encrypt, [])
        #expect(bench.log.entries.count == 4)
        #expect(bench.log.entries.last?.metadata["count"] == "500")
        #expect(await bench.decoder.refused(.empty) == 503)
        #expect(await bench.decoder.refused(.invalidWireType) == 1)
        #expect(await bench.decoder.refused(.truncated) == 0)
        #expect(
            bench.metric("kmsward_requests_total{api=\"v2\",method=\"encrypt\",code=\"INVALID_ARGUMENT\"}")
                == "503")
    }

    @Test("leave a line each at debug")
    func debug() async {
        let bench = Bench(level: .debug)
        for _ in 0..<3 { _ = await bench.failure(.v2Encrypt, []) }
        #expect(bench.log.entries.map(\.level) == [.warning, .debug, .debug, .debug])
    }
}
