import EnvelopeCrypto
import Glibc
import KMSWire
import RemoteKMS
import TestSupport
import Testing

@testable import KeyService

private let suites = EnvelopeCrypto.Suite.allCases.filter(\.isAvailable)

@Suite("Answers of the KMS API")
struct KeyServiceTests {
    @Test("Version is v1beta1, with a name and the semantic version of the daemon")
    func version() async throws {
        let plugin = Plugin(FakeProvider())
        guard
            case .version(let reply) = try await plugin.perform(.version)
        else { return #expect(Bool(false), "not a version") }
        #expect(reply == VersionReply(version: "v1beta1", runtimeName: "kmsward", runtimeVersion: "1.2.3"))
    }

    @Test(
        "Status is ok, of the configured API version, with a printable key_id",
        arguments: KeyService.V2Version.allCases)
    func status(_ version: KeyService.V2Version) async throws {
        let key = KeySettings(name: "primary", provider: FakeProvider(), suite: .aes256GCM)
        let plugin = Plugin(KeyRingSettings(keys: [key]), version: version)
        await plugin.observe()
        let status = try await plugin.status()
        #expect(status.version == version.rawValue)
        #expect(status.healthz == "ok")
        #expect(1...1024 ~= status.keyID.utf8.count)
        #expect(status.keyID.utf8.allSatisfy { 0x21...0x7e ~= $0 })
    }

    @Test("the very first Status names the key_id of the Encrypt that follows")
    func firstStatus() async throws {
        let plugin = await Plugin.started(FakeProvider())
        let status = try await plugin.status()
        #expect(try await plugin.encrypt(random(32)).keyID == status.keyID)
    }

    @Test(
        "plaintexts of every size that fits round-trip", arguments: suites, [1, 4, 16, 24, 32, 33, 64, 500])
    func roundTrip(_ suite: EnvelopeCrypto.Suite, _ count: Int) async throws {
        let plugin = Plugin(FakeProvider(), suite: suite, context: "cluster-1")
        await plugin.observe()
        let plaintext = random(count)
        for api in KMSAPI.allCases {
            let reply = try await plugin.encrypt(plaintext, api)
            #expect(reply.ciphertext.count <= (api == .v2 ? 1024 : 65_535))
            #expect(!reply.ciphertext.contains(plaintext) || count < 4)
            #expect(try await plugin.decrypt(reply, api) == plaintext)
        }
    }

    @Test(
        "a plaintext that does not fit is refused as the request's fault",
        arguments: [(KMSAPI.v2, 0), (.v2, 1024), (.v1beta1, 0), (.v1beta1, 65_535)])
    func refusedSize(_ api: KMSAPI, _ count: Int) async {
        let plugin = await Plugin.started(FakeProvider())
        #expect(
            await failure { () throws(KMSFailure) in _ = try await plugin.encrypt(random(count), api) }?.code
                == .invalidArgument)
    }

    @Test("1,000 Encrypts give 1,000 ciphertexts, of one plaintext too", arguments: [true, false])
    func distinct(_ isSame: Bool) async throws {
        let plugin = await Plugin.started(FakeProvider())
        var seen: Set<[UInt8]> = []
        let plaintext = random(32)
        for _ in 0..<1000 {
            seen.insert(try await plugin.encrypt(isSame ? plaintext : random(32)).ciphertext)
        }
        #expect(seen.count == 1000)
    }

    @Test(
        "a ciphertext with any byte changed is refused, never opened to something else",
        arguments: KMSAPI.allCases)
    func tampered(_ api: KMSAPI) async throws {
        let plugin = await Plugin.started(FakeProvider())
        let request = DecryptRequest(try await plugin.encrypt(random(32), api), api)
        for index in request.ciphertext.indices {
            var changed = request
            changed.ciphertext[index] ^= 1
            let refusal = await failure { () throws(KMSFailure) in _ = try await plugin.decrypt(changed) }
            #expect(refusal != nil, "byte \(index)")
        }
        for torn in [Array(request.ciphertext.dropLast()), request.ciphertext + [0], []] {
            var changed = request
            changed.ciphertext = torn
            #expect(
                await failure { () throws(KMSFailure) in _ = try await plugin.decrypt(changed) }?.code
                    == .invalidArgument)
        }
    }

    @Test("another key_id, another API or any change of the annotations is refused")
    func alteredRequest() async throws {
        let provider = FakeProvider()
        provider.set { $0.padding = 2_000 }
        let plugin = await Plugin.started(provider)
        let reply = try await plugin.encrypt(random(32))
        let good = DecryptRequest(reply)
        #expect(good.annotations.count == 1)
        #expect(try await plugin.decrypt(good).count == 32)

        var variants: [DecryptRequest] = []
        func vary(_ change: (inout DecryptRequest) -> Void) {
            var request = good
            change(&request)
            variants.append(request)
        }
        vary { $0.annotations = [] }
        vary { $0.annotations[0].value[0] ^= 1 }
        vary { $0.annotations[0].value.removeLast() }
        vary { $0.annotations[0].key = "other.kmsward.internal" }
        vary { $0.annotations.append(Annotation(key: "z.example.com", value: [])) }
        vary { $0.keyID = String($0.keyID.dropLast()) + ($0.keyID.last == "A" ? "Q" : "A") }
        vary { $0.keyID = $0.keyID.replacing(".0.", with: ".1.") }
        vary { $0.api = .v1beta1 }
        for variant in variants {
            #expect(
                await failure { () throws(KMSFailure) in _ = try await plugin.decrypt(variant) }?.code
                    == .invalidArgument)
        }
    }

    @Test("an unknown or empty key_id is refused without a call to any backend")
    func unknownKeyID() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider)
        let other = await Plugin.started(FakeProvider(identity: "key-2"))
        let foreign = DecryptRequest(try await other.encrypt(random(32)))
        let calls = provider.count(.unwrap)
        var empty = foreign
        empty.keyID = ""
        var arn = foreign
        arn.keyID = "arn:aws:kms:eu-west-1:1:key/1"
        for request in [
            foreign, empty, arn, DecryptRequest(try await other.encrypt(random(32), .v1beta1), .v1beta1),
        ] {
            #expect(
                await failure { () throws(KMSFailure) in _ = try await plugin.decrypt(request) }?.code
                    == .invalidArgument)
        }
        #expect(provider.count(.unwrap) == calls)
    }

    @Test("whatever is wrong behind a known key_id, the answer is the same")
    func oneText() async throws {
        let plugin = await Plugin.started(FakeProvider())
        let writer = await Plugin.started(FakeProvider())
        let request = DecryptRequest(try await writer.encrypt(random(32)))
        var texts: Set<String> = []
        // Salt, commitment, ciphertext, tag, and the wrapped key's last byte (part of the local KEK).
        let tail = 32 + 32 + 32 + 16
        for offset in [tail - 1, tail - 33, tail - 65, 1, tail + 1, tail + 40] {
            var changed = request
            changed.ciphertext[request.ciphertext.count - offset] ^= 1
            let refusal = await failure { () throws(KMSFailure) in _ = try await plugin.decrypt(changed) }
            #expect(refusal?.code == .invalidArgument)
            texts.insert(refusal?.message ?? "none")
        }
        #expect(texts.count == 1)
    }

    @Test("what another replica wrote costs one unwrap, then none; our own costs none")
    func unwrapOnce() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider)
        let replica = await Plugin.started(FakeProvider())
        let before = provider.count(.unwrap)
        #expect(try await plugin.decrypt(plugin.encrypt(random(32))).count == 32)
        #expect(provider.count(.unwrap) == before)
        for _ in 0..<5 { #expect(try await plugin.decrypt(replica.encrypt(random(32))).count == 32) }
        #expect(provider.count(.unwrap) == before + 1)
    }

    @Test("a local KEK that is not in memory is unwrapped with time of its own, whatever its caller has left")
    func ownBudget() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider)
        let foreign = DecryptRequest(try await Plugin.started(FakeProvider()).encrypt(random(32)))
        _ = try await plugin.perform(.decrypt(foreign), by: .after(.seconds(60)))
        #expect(provider.seen.deadline.map { (.zero ... .seconds(10)).contains($0.remaining) } == true)
    }

    @Test(
        "the key_id that answers is told for the log, of neither API one that was not accepted",
        arguments: KMSAPI.allCases)
    func acceptedKeyID(_ api: KMSAPI) async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider)
        let former = try await plugin.encrypt(random(32), api)
        #expect(plugin.acceptedKeyID == former.keyID)
        provider.rotate(to: "2")
        await plugin.settle()
        let current = try await plugin.encrypt(random(32), api)
        #expect(plugin.acceptedKeyID == current.keyID)
        #expect(current.keyID != former.keyID)
        _ = try await plugin.decrypt(former, api)
        #expect(plugin.acceptedKeyID == former.keyID, "what the envelope names, not what is active")

        let foreign = try await Plugin.started(FakeProvider(identity: "other")).encrypt(random(32), api)
        await #expect(throws: KMSFailure.self) { _ = try await plugin.decrypt(foreign, api) }
        #expect(plugin.acceptedKeyID == "")

        var damaged = current
        damaged.ciphertext[damaged.ciphertext.count - 1] ^= 1
        await #expect(throws: KMSFailure.self) { _ = try await plugin.decrypt(damaged, api) }
        #expect(plugin.acceptedKeyID == current.keyID, "damage behind the head is its trouble")

        provider.fail(.unwrap, .unavailable)
        let elsewhere = try await Plugin.started(FakeProvider()).encrypt(random(32), api)
        await #expect(throws: KMSFailure.self) { _ = try await plugin.decrypt(elsewhere, api) }
        #expect(plugin.acceptedKeyID == elsewhere.keyID, "a failure behind the acceptance names it too")
    }

    @Test("while the backend is down, what is known opens and what is not is refused with its class")
    func backendDown() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider)
        let own = try await plugin.encrypt(random(32))
        let foreign = try await Plugin.started(FakeProvider()).encrypt(random(32))
        for (code, expected) in [
            (RemoteKMSError.Code.unavailable, KMSFailure.Code.unavailable), (.throttled, .unavailable),
            (.deadlineExceeded, .deadlineExceeded), (.unauthenticated, .unauthenticated),
            (.permissionDenied, .permissionDenied), (.keyDisabled, .failedPrecondition),
            (.keyNotFound, .failedPrecondition), (.misconfigured, .failedPrecondition),
            // The last: what is said of the ciphertext itself is remembered for a while.
            (.malformedReply, .unavailable), (.invalidCiphertext, .invalidArgument),
        ] {
            provider.fail(.unwrap, code)
            #expect(try await plugin.decrypt(own).count == 32)
            #expect(
                await failure { () throws(KMSFailure) in _ = try await plugin.decrypt(foreign) }?.code
                    == expected)
        }
    }
}

@Suite("Health check of API v1")
struct PingTests {
    private let ping = Array("ping".utf8)

    @Test("ping round-trips without a backend call, and never the same way twice")
    func roundTrip() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider)
        let calls = [provider.count(.wrap), provider.count(.unwrap), provider.count(.describe)]
        let one = try await plugin.encrypt(ping, .v1beta1)
        let two = try await plugin.encrypt(ping, .v1beta1)
        #expect(one.ciphertext != two.ciphertext)
        #expect(try await plugin.decrypt(one, .v1beta1) == ping)
        #expect([provider.count(.wrap), provider.count(.unwrap), provider.count(.describe)] == calls)
        #expect(plugin.key.localKEKUses == 0)
    }

    @Test("ping is answered by the state of the write key")
    func verdict() async {
        let provider = FakeProvider()
        provider.fail(.describe, .permissionDenied)
        let plugin = await Plugin.started(provider)
        let refusal = await failure { () throws(KMSFailure) in _ = try await plugin.encrypt(ping, .v1beta1) }
        #expect(refusal?.code == .permissionDenied)
    }

    @Test("a ping of another process, a damaged one, or one in API v2 is refused")
    func foreign() async throws {
        let plugin = await Plugin.started(FakeProvider())
        let other = try await Plugin.started(FakeProvider()).encrypt(ping, .v1beta1)
        var damaged = try await plugin.encrypt(ping, .v1beta1)
        damaged.ciphertext[40] ^= 1
        for reply in [other, damaged] {
            #expect(
                await failure { () throws(KMSFailure) in _ = try await plugin.decrypt(reply, .v1beta1) }?.code
                    == .invalidArgument)
        }
        let own = try await plugin.encrypt(ping, .v1beta1)
        #expect(
            await failure { () throws(KMSFailure) in _ = try await plugin.decrypt(own, .v2) }?.code
                == .invalidArgument)
    }

    @Test("only exactly ping is one: other 4-byte keys, and ping in v2, are sealed like any key")
    func others() async throws {
        let plugin = await Plugin.started(FakeProvider())
        for (bytes, api) in [(Array("pong".utf8), KMSAPI.v1beta1), (ping, .v2)] {
            let reply = try await plugin.encrypt(bytes, api)
            #expect(Envelope.hasMagic(reply.ciphertext))
            #expect(try await plugin.decrypt(reply, api) == bytes)
        }
        #expect(plugin.key.localKEKUses == 2)
    }
}

@Suite("Before the first verdict")
struct StartingTests {
    @Test("Status waits two seconds, then is unavailable; no key_id is made up")
    func timeOut() async {
        let plugin = Plugin(FakeProvider())
        async let refusal = failure { () throws(KMSFailure) in _ = try await plugin.status() }
        await plugin.clock.untilSleeping()
        plugin.clock.advance(by: .seconds(2))
        #expect(await refusal?.code == .unavailable)
    }

    @Test("a Status that waits is answered as soon as the verdict is there")
    func answered() async throws {
        let plugin = Plugin(FakeProvider())
        async let status = plugin.status()
        await plugin.clock.untilSleeping()
        await plugin.observe()
        #expect(try await status.healthz == "ok")
    }

    @Test("Encrypt and Decrypt wait too, longer than Status")
    func waiting() async throws {
        let written = try await Plugin.started(FakeProvider()).encrypt(random(32))
        let plugin = Plugin(FakeProvider())
        async let sealed = plugin.encrypt(random(32))
        async let opened = plugin.decrypt(written)
        await plugin.clock.untilSleeping(2)
        plugin.clock.advance(by: .seconds(2))
        await plugin.observe()
        #expect(try await sealed.ciphertext.isEmpty == false)
        #expect(try await opened.count == 32)
    }

    @Test("a caller that gives up is let go, and the others wait on")
    func cancelled() async throws {
        let plugin = Plugin(FakeProvider())
        async let patient = plugin.status()
        await plugin.clock.untilSleeping(1)
        let caller = Task { await failure { () throws(KMSFailure) in _ = try await plugin.status() } }
        await plugin.clock.untilSleeping(2)
        caller.cancel()
        #expect(await caller.value?.code == .cancelled)
        await plugin.observe()
        #expect(try await patient.healthz == "ok")
    }

    @Test("a call whose time is over does not wait")
    func late() async {
        let plugin = Plugin(FakeProvider())
        let over = Deadline.after(.milliseconds(-1))
        #expect(
            await failure { () throws(KMSFailure) in _ = try await plugin.status(by: over) }?.code
                == .unavailable)
        #expect(
            await failure { () throws(KMSFailure) in _ = try await plugin.encrypt(random(32), by: over) }?
                .code == .unavailable)
    }

    @Test(
        "waiting for several keys that are not known yet ends together, by one clock",
        .timeLimit(.minutes(1)))
    func oneClock() async throws {
        let written = try await Plugin.started(FakeProvider(identity: "other")).encrypt(random(32))
        let keys = ["1", "2", "3"].map {
            KeySettings(name: "key-\($0)", provider: FakeProvider(identity: $0), suite: .aes256GCM)
        }
        let plugin = Plugin(KeyRingSettings(keys: keys))
        async let refusal = failure { () throws(KMSFailure) in _ = try await plugin.decrypt(written) }
        await plugin.clock.untilSleeping()
        plugin.clock.advance(by: .seconds(61))
        #expect(await refusal?.code == .unavailable)
    }

    @Test(
        "a key that fails at start makes Status an error with cause and remedy, and a later success heals it")
    func failed() async throws {
        let provider = FakeProvider()
        provider.fail(.describe, .permissionDenied)
        let plugin = await Plugin.started(provider)
        let refusal = await failure { () throws(KMSFailure) in _ = try await plugin.status() }
        #expect(refusal?.code == .permissionDenied)
        #expect(refusal?.message == "key primary: the fake says permissionDenied: tell it otherwise")
        #expect(plugin.key.state == .failed)
        provider.fail(.describe, nil)
        await plugin.observe()
        #expect(try await plugin.status().healthz == "ok")
        #expect(plugin.key.trouble == nil)
    }

    @Test(
        "a Status that fails never blames its request or its time",
        arguments: [
            (RemoteKMSError.Code.deadlineExceeded, KMSFailure.Code.unavailable),
            (.invalidCiphertext, .failedPrecondition),
        ])
    func blame(_ code: RemoteKMSError.Code, _ expected: KMSFailure.Code) async {
        let provider = FakeProvider()
        provider.fail(.unwrap, code)
        let plugin = await Plugin.started(provider)
        let refusal = await failure { () throws(KMSFailure) in _ = try await plugin.status() }
        #expect(refusal?.code == expected)
    }

    @Test("while the key is not known, a strange key_id is not called foreign")
    func undecided() async throws {
        let written = try await Plugin.started(FakeProvider()).encrypt(random(32))
        let provider = FakeProvider()
        provider.fail(.describe, .unavailable)
        let plugin = await Plugin.started(provider)
        #expect(
            await failure { () throws(KMSFailure) in _ = try await plugin.decrypt(written) }?.code
                == .unavailable)
    }
}

extension [UInt8] {
    /// Whether `part` stands anywhere in these bytes.
    func contains(_ part: [UInt8]) -> Bool {
        count >= part.count && indices.contains { self[$0...].starts(with: part) }
    }
}
