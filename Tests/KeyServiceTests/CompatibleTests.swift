import EnvelopeCrypto
import KMSWire
import RemoteKMS
import TestSupport
import Testing

@testable import KeyService

@Suite("Ciphertexts of the format compatible")
struct CompatibleTests {
    private func key(
        _ provider: FakeProvider, _ write: CiphertextFormat = .compatible,
        reads: Set<CiphertextFormat>? = nil, name: String = "primary"
    ) -> KeySettings {
        KeySettings(
            name: name, provider: provider, suite: .aes256GCM, writeFormat: write, acceptFormats: reads)
    }

    private func started(_ keys: KeySettings...) async -> Plugin {
        let plugin = Plugin(KeyRingSettings(keys: keys))
        await plugin.observe()
        return plugin
    }

    @Test(
        "what is written is what the backend returned, and every replica reads it", arguments: KMSAPI.allCases
    )
    func roundTrip(_ api: KMSAPI) async throws {
        let provider = FakeProvider()
        let plugin = await started(key(provider))
        let plaintext = random(32)
        let written = try await plugin.encrypt(plaintext, api)
        // The fake's own format: version, the key_id it was told (none), the bytes.
        #expect(written.ciphertext == [1] + Array("1".utf8) + [0] + plaintext)
        #expect(written.annotations.isEmpty)
        #expect(try await plugin.status().keyID == written.keyID)

        let other = FakeProvider()
        let replica = await started(key(other))
        let before = other.count(.unwrap)
        for _ in 0..<3 { #expect(try await replica.decrypt(written, api) == plaintext) }
        #expect(other.count(.unwrap) == before + 1, "once, then from memory")
    }

    @Test("Encrypt keeps nothing: a store without reads holds no keys")
    func encryptKeepsNothing() async throws {
        let provider = FakeProvider()
        let plugin = await started(key(provider))
        let written = try await plugin.encrypt(random(32))
        let before = provider.count(.unwrap)
        _ = try await plugin.decrypt(written)
        #expect(provider.count(.unwrap) == before + 1)
    }

    @Test("a key may read both formats, and the bytes tell which it is", arguments: KMSAPI.allCases)
    func both(_ api: KMSAPI) async throws {
        let provider = FakeProvider()
        let envelopes = await started(key(provider, .envelope))
        let blobs = await started(key(provider))
        let either = await started(key(provider, .envelope, reads: [.envelope, .compatible]))
        let plaintext = random(32)
        let envelope = try await envelopes.encrypt(plaintext, api)
        let blob = try await blobs.encrypt(plaintext, api)
        #expect(try await either.decrypt(envelope, api) == plaintext)
        #expect(try await either.decrypt(blob, api) == plaintext)

        // What begins as an envelope is one, and never tried as anything else.
        let before = provider.count(.unwrap)
        let refused = await failure { () throws(KMSFailure) in _ = try await blobs.decrypt(envelope, api) }
        #expect(refused?.code == .invalidArgument)
        #expect(refused?.message.contains("accept_formats") == true)
        #expect(provider.count(.unwrap) == before)
        let foreign = await failure { () throws(KMSFailure) in _ = try await envelopes.decrypt(blob, api) }
        #expect(foreign?.code == .invalidArgument)
        #expect(provider.count(.unwrap) == before)
    }

    @Test(
        "a wrapped local KEK cannot be passed off as a key: it would open every envelope",
        arguments: KMSAPI.allCases)
    func localKEK(_ api: KMSAPI) async throws {
        let provider = FakeProvider()
        let plugin = await started(key(provider, .envelope, reads: [.envelope, .compatible]))
        let written = try await plugin.encrypt(random(32), api)
        let wrapped = try Envelope(parsing: DecryptRequest(written, api)).wrappedKey
        // The fake checks what it is told of the key_id; a backend without such data would not.
        let bare = [1] + Array("1".utf8) + [0] + wrapped.dropFirst(2 + 1 + written.keyID.utf8.count)
        var request = DecryptRequest(written, api)
        request.ciphertext = bare
        let refused = await failure { () throws(KMSFailure) in _ = try await plugin.decrypt(request) }
        #expect(refused?.code == .invalidArgument)
    }

    @Test(
        "only keys of Kubernetes are taken",
        arguments: [(1, false), (16, true), (24, true), (32, true), (72, false)])
    func sizes(_ count: Int, _ isTaken: Bool) async throws {
        let plugin = await started(key(FakeProvider()))
        let refused = await failure { () throws(KMSFailure) in _ = try await plugin.encrypt(random(count)) }
        #expect(refused?.code == (isTaken ? nil : .invalidArgument))
    }

    @Test("a v1 ciphertext names no key, so the first key that reads the format answers")
    func oneKey() async throws {
        let (first, second) = (FakeProvider(identity: "1"), FakeProvider(identity: "2"))
        let plugin = await started(
            key(first, .envelope, name: "new"), key(second, .envelope, reads: [.compatible], name: "old"))
        let old = await started(key(FakeProvider(identity: "2")))
        let plaintext = random(32)
        let written = try await old.encrypt(plaintext, .v1beta1)
        #expect(try await plugin.decrypt(written, .v1beta1) == plaintext)
        #expect(first.seen.unwrapped.contains(written.ciphertext) == false)
    }

    @Test(
        "in an outage nothing is written, what was read is read for a day, and Status tells after two minutes"
    )
    func outage() async throws {
        let provider = FakeProvider()
        let plugin = await started(key(provider))
        let read = try await plugin.encrypt(random(32))
        let unread = try await plugin.encrypt(random(32))
        _ = try await plugin.decrypt(read)
        await plugin.observe(after: .seconds(30))
        for operation in FakeProvider.Operation.allCases { provider.fail(operation, .deadlineExceeded) }
        await plugin.observe(after: .seconds(90))
        #expect(try await plugin.status().healthz == "ok")
        #expect(plugin.key.writesFail && plugin.key.writesStopIn == .seconds(30))
        #expect(
            await failure { () throws(KMSFailure) in _ = try await plugin.encrypt(random(32)) }?.code
                == .unavailable)
        await plugin.observe(after: .seconds(30))
        #expect(
            await failure { () throws(KMSFailure) in _ = try await plugin.status() }?.code == .unavailable)
        #expect(try await plugin.decrypt(read).count == 32)
        #expect(
            await failure { () throws(KMSFailure) in _ = try await plugin.decrypt(unread) }?.code
                == .deadlineExceeded)
        await plugin.observe(after: .seconds(86_400 - 120))
        #expect(await failure { () throws(KMSFailure) in _ = try await plugin.decrypt(read) } != nil)

        for operation in FakeProvider.Operation.allCases { provider.fail(operation, nil) }
        await plugin.observe(after: .seconds(30))
        #expect(try await plugin.encrypt(random(32)).keyID == read.keyID)
        #expect(try await plugin.decrypt(read).count == 32)
    }

    @Test(
        "what requests see decrypt is the last proof, whether or not a probe was needed", arguments: [0, 1])
    func proofByTraffic(_ index: Int) async throws {
        let writer = await started(key(FakeProvider()))
        let encrypting = key(FakeProvider(), .compatible)
        let reading = key(FakeProvider(identity: "other"), .envelope, name: "other")
        let plugin = await started(
            index == 0 ? encrypting : reading, index == 0 ? reading : encrypting)
        for minutes in 1...3 {
            let written = try await writer.encrypt(random(32))
            #expect(try await plugin.decrypt(written).count == 32)
            await plugin.observe(after: .seconds(60))
            #expect(plugin.ring.snapshot()[index].lastProof == Int64(1_000_000 + 60 * minutes))
        }
    }

    @Test("a former version that was disabled shows at a probe, after a restart too, and stops nothing")
    func formerVersion() async throws {
        let state = TemporaryFolder()
        let provider = FakeProvider()
        func daemon() -> Plugin {
            Plugin(KeyRingSettings(keys: [key(provider)], stateDirectory: state.path))
        }
        let before = daemon()
        await before.observe()
        provider.rotate(to: "2")
        await before.settle()
        #expect(before.key.trouble == nil)

        provider.set { $0.disabledVersions = ["1": RemoteKMSError(.keyDisabled, "version 1 is off")] }
        let after = daemon()
        for plugin in [before, after] {
            for _ in 0..<2 { await plugin.observe(after: .seconds(30)) }
            #expect(plugin.key.trouble?.contains("version 1 is off") == true)
            #expect(try await plugin.encrypt(random(32)).keyID == plugin.key.keyID)
        }
        provider.set { $0.disabledVersions = [:] }
        await after.observe(after: .seconds(30))
        #expect(after.key.trouble == nil)
    }

    @Test("a key that only reads and may no longer decrypt shows at the next probe")
    func readingKey() async throws {
        let state = TemporaryFolder()
        let (old, new) = (FakeProvider(identity: "old"), FakeProvider(identity: "new"))
        await Plugin(KeyRingSettings(keys: [key(old)], stateDirectory: state.path)).observe()
        let plugin = Plugin(
            KeyRingSettings(
                keys: [key(new, .envelope, name: "new"), key(old, name: "old")], stateDirectory: state.path))
        await plugin.observe()
        var reading: KeySnapshot { plugin.ring.snapshot()[1] }
        #expect(reading.state == .active && reading.lastProof == Int64(1_000_000))
        old.fail(.unwrap, .permissionDenied)
        await plugin.observe(after: .seconds(30))
        #expect(reading.state == .failed && reading.troubleCode == "permissionDenied")
        #expect(plugin.key.state == .active)
        old.fail(.unwrap, nil)
        old.set { $0.truncates = true }
        await plugin.observe(after: .seconds(30))
        #expect(
            reading.troubleCode == "invalidCiphertext",
            "what is unwrapped must be as long as what was wrapped")
    }

    @Test("while only the unwrap fails, writes go on until their time is over")
    func mayNotDecrypt() async throws {
        let provider = FakeProvider()
        let plugin = await started(key(provider))
        provider.fail(.unwrap, .permissionDenied)
        await plugin.observe(after: .seconds(30))
        #expect(try await plugin.encrypt(random(32)).keyID == plugin.key.keyID)
        #expect(!plugin.key.writesFail && plugin.key.writesStopIn == .seconds(870))
    }

    @Test("a disabled key stops writes at first sight, and what was read is wiped at the second")
    func disabled() async throws {
        let provider = FakeProvider()
        let plugin = await started(key(provider))
        let read = try await plugin.encrypt(random(32))
        _ = try await plugin.decrypt(read)
        for operation in FakeProvider.Operation.allCases { provider.fail(operation, .keyDisabled) }
        await plugin.observe(after: .seconds(30))
        #expect(
            await failure { () throws(KMSFailure) in _ = try await plugin.status() }?.code
                == .failedPrecondition)
        #expect(try await plugin.decrypt(read).count == 32)
        await plugin.observe(after: .seconds(30))
        #expect(
            await failure { () throws(KMSFailure) in _ = try await plugin.decrypt(read) }?.code
                == .failedPrecondition)
    }

    @Test("another version is another key_id, and what was written before is read")
    func rotation() async throws {
        let provider = FakeProvider()
        let plugin = await started(key(provider))
        let before = try await plugin.encrypt(random(32))
        provider.rotate(to: "2")
        await plugin.settle()
        let after = try await plugin.encrypt(random(32))
        #expect(after.keyID != before.keyID)
        #expect(try await plugin.decrypt(before).count == 32)
        #expect(try await plugin.decrypt(after).count == 32)
    }
}
