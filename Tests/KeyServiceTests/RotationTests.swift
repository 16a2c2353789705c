import EnvelopeCrypto
import KMSWire
import LocalProvider
import RemoteKMS
import Synchronization
import TestSupport
import Testing

@testable import KeyService

private final class Rotations: Sendable {
    let areOver = Atomic(false)
    let begun = Atomic(0)
}

@Suite("Decision about an observed version")
struct RotationObserverTests {
    private func version(_ version: String) -> KeyDescription {
        KeyDescription(identity: "key", version: version, versionCreatedAt: "")
    }

    /// Feeds versions, one every 30 s, and returns the versions that were activated.
    private func activations(
        _ versions: [String], settle: Duration = .seconds(90), past: RotationObserver.Past = .init()
    ) -> [String] {
        var observer = RotationObserver(keyName: "k", settle: settle)
        var past = past
        var activated: [String] = []
        for (index, name) in versions.enumerated() {
            let step = observer.observed(
                version(name), keyID: "id-\(name)", at: .seconds(30 * index), past: past)
            guard case .activate(let description, let keyID) = step else { continue }
            observer.activated(keyID)
            past.keyIDs.append(keyID)
            activated.append(description.version)
        }
        return activated
    }

    @Test(
        "the first version counts at once, a later one when it was seen for the settle time",
        arguments: [
            (["a"], ["a"]), (["a", "a", "a"], ["a"]), (["a", "b", "b", "b"], ["a"]),
            (["a", "b", "b", "b", "b"], ["a", "b"]), (["a", "b", "a", "b", "b", "b"], ["a"]),
            (["a", "b", "b", "c", "b", "b", "b"], ["a"]), (["a", "b", "b", "c", "c", "c", "c"], ["a", "c"]),
            (["a", "b", "b", "b", "b", "a", "a", "a", "a", "a"], ["a", "b"]),
        ])
    func settling(_ observed: [String], _ expected: [String]) {
        #expect(activations(observed) == expected)
    }

    @Test("without a settle time a new version counts at once")
    func noSettling() { #expect(activations(["a", "b"], settle: .zero) == ["a", "b"]) }

    @Test("a version below the highest seen is refused, where versions are numbers")
    func older() {
        let past = RotationObserver.Past(highestVersion: 7)
        #expect(activations(["6"], past: past) == [])
        #expect(activations(["7"], past: past) == ["7"])
        #expect(activations(["10"], past: past) == ["10"])
        #expect(activations(["v6"], past: past) == ["v6"])
    }

    @Test("a key_id of the past is refused unless it was the last one")
    func past() {
        let past = RotationObserver.Past(keyIDs: ["id-a", "id-b"])
        #expect(activations(["a"], past: past) == [])
        #expect(activations(["b"], past: past) == ["b"])
        #expect(activations(["c"], past: past) == ["c"])
    }
}

@Suite("Rotation")
struct RotationTests {
    @Test(
        "a new version is announced after the settle time, and everything older still opens, by a replica too"
    )
    func rotation() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider)
        let first = try await plugin.status().keyID
        var written: [(EncryptReply, KMSAPI)] = []
        for api in KMSAPI.allCases { written.append((try await plugin.encrypt(random(32), api), api)) }
        provider.rotate(to: "2")
        await plugin.observe(after: .seconds(30))
        #expect(try await plugin.status().keyID == first)
        await plugin.observe(after: .seconds(60))
        #expect(try await plugin.status().keyID == first)
        await plugin.observe(after: .seconds(30))
        let second = try await plugin.status().keyID
        #expect(second != first)
        #expect(try await plugin.encrypt(random(32)).keyID == second)
        let restarted = await Plugin.started(provider)
        for (reply, api) in written {
            #expect(try await plugin.decrypt(reply, api).count == 32)
            #expect(try await restarted.decrypt(reply, api).count == 32)
        }
    }

    @Test("a replica that has not seen the rotation reads what the others write")
    func lateReplica() async throws {
        let provider = FakeProvider()
        let late = await Plugin.started(provider)
        provider.rotate(to: "2")
        let early = await Plugin.started(provider)
        #expect(try await late.status().keyID != early.status().keyID)
        for api in KMSAPI.allCases {
            #expect(try await late.decrypt(early.encrypt(random(32), api), api).count == 32)
            #expect(try await early.decrypt(late.encrypt(random(32), api), api).count == 32)
        }
    }

    @Test(
        "callers during rotations see the key_ids in order, and Encrypt between two Status has one of theirs")
    func noFlap() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider)
        let rotations = Rotations()
        let sequences = try await withThrowingTaskGroup(of: [String].self) { group in
            for _ in 0..<4 {
                group.addTask {
                    var seen: [String] = []
                    repeat {
                        let begun = rotations.begun.load(ordering: .sequentiallyConsistent)
                        let before = try await plugin.status().keyID
                        let between = try await plugin.encrypt(random(32)).keyID
                        let after = try await plugin.status().keyID
                        // A caller that was held up for two rotations proves nothing.
                        if rotations.begun.load(ordering: .sequentiallyConsistent) == begun {
                            #expect(between == before || between == after)
                        }
                        for keyID in [before, between, after] where seen.last != keyID { seen.append(keyID) }
                        await Task.yield()
                    } while !rotations.areOver.load(ordering: .relaxed)
                    return seen
                }
            }
            for version in 2...20 {
                rotations.begun.add(1, ordering: .sequentiallyConsistent)
                provider.rotate(to: "\(version)")
                await plugin.settle()
            }
            rotations.areOver.store(true, ordering: .relaxed)
            return try await group.reduce(into: []) { $0.append($1) }
        }
        for seen in sequences { #expect(Set(seen).count == seen.count) }
        let last = try await plugin.status().keyID
        #expect(try await plugin.encrypt(random(32)).keyID == last)
    }

    @Test(
        "if a step of the rotation fails, the former key_id goes on, and it is tried again",
        arguments: ["wrap", "unwrap", "lie", "change", "size"])
    func failedStep(_ step: String) async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider)
        let first = try await plugin.status().keyID
        provider.rotate(to: "2")
        switch step {
        case "wrap": provider.fail(.wrap, .permissionDenied)
        case "unwrap": provider.fail(.unwrap, .permissionDenied)
        case "lie": provider.set { $0.lies = ["2"] }
        case "change": provider.set { $0.versionAfterWrap = "3" }
        default: provider.set { $0.padding = 40_000 }
        }
        await plugin.settle()
        #expect(try await plugin.status().keyID == first)
        #expect(try await plugin.encrypt(random(32)).keyID == first)
        #expect(plugin.key.state == .active)
        #expect(plugin.key.trouble != nil)
        provider.fail(.wrap, nil)
        provider.fail(.unwrap, nil)
        provider.set {
            $0.lies = []
            $0.versionAfterWrap = nil
            $0.padding = 0
        }
        await plugin.settle()
        #expect(try await plugin.status().keyID != first)
        #expect(plugin.key.trouble == nil)
    }

    @Test(
        "a local KEK that the backend wraps but does not unwrap is never written with",
        arguments: ["unwrap", "lie"])
    func neverUnproven(_ how: String) async {
        let provider = FakeProvider()
        if how == "lie" {
            provider.set { $0.lies = ["1"] }
        } else {
            provider.fail(.unwrap, .permissionDenied)
        }
        let plugin = await Plugin.started(provider)
        #expect(await failure { () throws(KMSFailure) in _ = try await plugin.status() } != nil)
        #expect(await failure { () throws(KMSFailure) in _ = try await plugin.encrypt(random(32)) } != nil)
    }

    @Test("a wrapped key that fits no ciphertext is refused at start, not at the first Encrypt")
    func measured() async {
        let provider = FakeProvider()
        provider.set { $0.padding = 40_000 }
        let plugin = await Plugin.started(provider)
        let refusal = await failure { () throws(KMSFailure) in _ = try await plugin.status() }
        #expect(refusal?.code == .failedPrecondition)
    }

    @Test("a former version put back is refused, now and after a restart, until the epoch is raised")
    func reinstated() async throws {
        let folder = TemporaryFolder()
        let provider = FakeProvider()
        provider.set {
            $0.version = "a"; $0.knownVersions = ["a", "b"]
        }
        let plugin = await Plugin.started(provider, state: folder.path)
        let first = try await plugin.encrypt(random(32))
        provider.set { $0.version = "b" }
        await plugin.settle()
        let second = try await plugin.status().keyID
        provider.set { $0.version = "a" }
        await plugin.settle()
        #expect(try await plugin.status().keyID == second)
        #expect(plugin.key.trouble?.contains("raise epoch in the shared configuration") == true)

        let restarted = await Plugin.started(provider, state: folder.path)
        let refusal = await failure { () throws(KMSFailure) in _ = try await restarted.status() }
        #expect(refusal?.code == .failedPrecondition)
        #expect(refusal?.message.contains("raise epoch in the shared configuration") == true)
        #expect(try await restarted.decrypt(first).count == 32)

        let raised = Plugin(provider, epoch: 1, state: folder.path)
        await raised.observe()
        let third = try await raised.status().keyID
        #expect(![first.keyID, second].contains(third))
        #expect(try await raised.decrypt(first).count == 32)
    }

    @Test("a version that came while the daemon was down settles first, if the former one still opens")
    func settlesAtStart() async throws {
        let folder = TemporaryFolder()
        let provider = FakeProvider()
        let first = try await Plugin.started(provider, state: folder.path).status().keyID
        provider.rotate(to: "2")
        let restarted = await Plugin.started(provider, state: folder.path)
        #expect(try await restarted.status().keyID == first)
        #expect(provider.count(.wrap) == 1)
        await restarted.observe(after: .seconds(60))
        #expect(try await restarted.status().keyID == first)
        await restarted.observe(after: .seconds(30))
        let second = try await restarted.status().keyID
        #expect(second != first)

        provider.set {
            $0.version = "3"
            $0.knownVersions = ["3"]
        }
        let again = await Plugin.started(provider, state: folder.path)
        #expect(![first, second].contains(try await again.status().keyID))
    }

    @Test("while it is not known whether the former version still opens, none is announced")
    func startsLater() async throws {
        let folder = TemporaryFolder()
        let provider = FakeProvider()
        let first = try await Plugin.started(provider, state: folder.path).status().keyID
        provider.rotate(to: "2")
        provider.fail(.unwrap, .unavailable)
        let restarted = await Plugin.started(provider, state: folder.path)
        #expect(
            await failure { () throws(KMSFailure) in _ = try await restarted.status() }?.code == .unavailable)
        provider.fail(.unwrap, nil)
        await restarted.observe(after: .seconds(1))
        #expect(try await restarted.status().keyID == first)
    }

    @Test("switching the write key and switching back is a key_id that comes back, and refused")
    func switchedBack() async throws {
        let folder = TemporaryFolder()
        let one = KeySettings(name: "one", provider: FakeProvider(identity: "1"), suite: .aes256GCM)
        let two = KeySettings(name: "two", provider: FakeProvider(identity: "2"), suite: .aes256GCM)
        for (keys, works) in [([one, two], true), ([two, one], true), ([one, two], false)] {
            let plugin = Plugin(KeyRingSettings(keys: keys, stateDirectory: folder.path))
            await plugin.observe()
            await plugin.observe(after: .seconds(1))  // the further key has said by now who it is
            #expect(
                await (failure { () throws(KMSFailure) in _ = try await plugin.status() } == nil) == works)
        }
    }

    @Test(
        "keys with equal versions, and one key in two clusters, have different key_ids; its name is not in it"
    )
    func differentKeys() async throws {
        var seen: Set<String> = []
        for (identity, context) in [("1", ""), ("2", ""), ("1", "c"), ("2", "c")] {
            let plugin = Plugin(FakeProvider(identity: identity), context: context)
            await plugin.observe()
            seen.insert(try await plugin.status().keyID)
        }
        #expect(seen.count == 4)
        let key = KeySettings(name: "renamed", provider: FakeProvider(identity: "1"), suite: .aes256GCM)
        let renamed = Plugin(KeyRingSettings(keys: [key]))
        await renamed.observe()
        #expect(seen.contains(try await renamed.status().keyID))
    }

    @Test("a backend that answers with another key than at start is not followed")
    func exchanged() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider)
        let first = try await plugin.status().keyID
        provider.set { $0.identity = "another" }
        await plugin.settle()
        #expect(try await plugin.status().keyID == first)
        #expect(plugin.key.trouble?.contains("another key") == true)
    }

    @Test("a key that its own KMS calls disabled encrypts no more, and does again when it is enabled")
    func disabled() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider)
        let written = try await plugin.encrypt(random(32))
        provider.fail(.describe, .keyDisabled)
        await plugin.observe(after: .seconds(30))
        #expect(
            await failure { () throws(KMSFailure) in _ = try await plugin.status() }?.code
                == .failedPrecondition)
        #expect(
            await failure { () throws(KMSFailure) in _ = try await plugin.encrypt(random(32)) }?.code
                == .failedPrecondition)
        #expect(try await plugin.decrypt(written).count == 32)
        provider.fail(.describe, nil)
        await plugin.observe(after: .seconds(30))
        #expect(try await plugin.status().keyID == written.keyID)
    }

    @Test("transient trouble leaves Status ok, and is told by the snapshot")
    func transient() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider)
        for operation in [FakeProvider.Operation.describe, .unwrap] {
            provider.fail(operation, .unavailable)
            await plugin.observe(after: .seconds(30))
            #expect(try await plugin.status().healthz == "ok")
            #expect(plugin.key.trouble == "the fake says unavailable: tell it otherwise")
            provider.fail(operation, nil)
        }
        let proof = plugin.key.lastProof
        await plugin.observe(after: .seconds(30))
        #expect(plugin.key.trouble == nil)
        #expect(plugin.key.lastProof == proof.map { $0 + 60 })
    }

    @Test("a former version that no longer unwraps is told while everything new goes on")
    func formerVersion() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider)
        for version in ["2", "3"] {
            provider.rotate(to: version)
            await plugin.settle()
        }
        let current = try await plugin.status().keyID
        provider.set { $0.knownVersions.remove("1") }
        for _ in 0..<2 { await plugin.observe(after: .seconds(30)) }
        #expect(plugin.key.trouble?.contains("former key_id") == true)
        #expect(plugin.key.state == .active)
        #expect(try await plugin.encrypt(random(32)).keyID == current)
        provider.set { $0.knownVersions.insert("1") }
        for _ in 0..<2 { await plugin.observe(after: .seconds(30)) }
        #expect(plugin.key.trouble == nil)
    }

    @Test(
        "a key that does not come up is tried after 1 s, then ever later up to the interval, for as long as it takes"
    )
    func retries() async {
        let provider = FakeProvider()
        provider.fail(.describe, .unavailable)
        let plugin = Plugin(provider)
        let watch = Task { await plugin.ring.run(clock: plugin.clock) }
        var pauses: [Duration] = []
        for attempt in 1...150 {
            await plugin.clock.untilSleeping()
            #expect(provider.count(.describe) == attempt)
            pauses.append(plugin.clock.untilNextWake)
            plugin.clock.advance(by: plugin.clock.untilNextWake)
        }
        #expect(Array(pauses.prefix(7)) == [1, 2, 4, 8, 16, 30, 30].map { .seconds($0) })
        #expect(pauses.last == .seconds(30))
        watch.cancel()
        await watch.value
    }

    @Test("the watch observes at start, then at its interval, and ends when cancelled")
    func run() async throws {
        let provider = FakeProvider()
        let plugin = Plugin(provider)
        let watch = Task { await plugin.ring.run(clock: plugin.clock) }
        #expect(await plugin.ring.waitForFirstVerdict(atMost: .seconds(60)))
        await plugin.clock.untilSleeping()
        #expect(provider.count(.describe) == 2)
        let first = try await plugin.status().keyID
        provider.rotate(to: "2")
        for _ in 0..<4 {
            #expect(try await plugin.status().keyID == first)
            plugin.pass(.seconds(30))
            await plugin.clock.untilSleeping()
        }
        #expect(try await plugin.status().keyID != first)
        watch.cancel()
        await watch.value
    }
}

@Suite("Local KEK")
struct LocalKEKLifeTests {
    private func plugin(_ provider: FakeProvider, maximumUses: UInt64 = 1 << 32) async -> Plugin {
        let key = KeySettings(
            name: "primary", provider: provider, suite: .aes256GCM, localKEKMaximumUses: maximumUses)
        let plugin = Plugin(KeyRingSettings(keys: [key]))
        await plugin.observe()
        return plugin
    }

    @Test("it is renewed at its age, under the same key_id")
    func age() async throws {
        let provider = FakeProvider()
        let plugin = await plugin(provider)
        let written = try await plugin.encrypt(random(32))
        await plugin.observe(after: .seconds(30 * 86_400 - 1))
        #expect(provider.count(.wrap) == 1)
        #expect(plugin.key.localKEKAge == .seconds(30 * 86_400 - 1))
        await plugin.observe(after: .seconds(1))
        #expect(provider.count(.wrap) == 2)
        #expect(plugin.key.localKEKAge == .zero)
        #expect(try await plugin.encrypt(random(32)).keyID == written.keyID)
        #expect(try await plugin.decrypt(written).count == 32)
    }

    @Test("it is renewed after its uses")
    func uses() async throws {
        let provider = FakeProvider()
        let plugin = await plugin(provider, maximumUses: 3)
        for _ in 0..<2 { _ = try await plugin.encrypt(random(32)) }
        await plugin.observe(after: .seconds(30))
        #expect(provider.count(.wrap) == 1)
        _ = try await plugin.encrypt(random(32), .v1beta1)
        #expect(plugin.key.localKEKUses == 3)
        await plugin.observe(after: .seconds(30))
        #expect(provider.count(.wrap) == 2)
        #expect(plugin.key.localKEKUses == 0)
    }

    @Test("a renewal that fails does not stop Encrypt")
    func failedRenewal() async throws {
        let provider = FakeProvider()
        let plugin = await plugin(provider)
        provider.fail(.wrap, .unavailable)
        await plugin.observe(after: .seconds(40 * 86_400))
        #expect(plugin.key.trouble != nil)
        #expect(try await plugin.encrypt(random(32)).ciphertext.isEmpty == false)
        provider.fail(.wrap, nil)
        await plugin.observe(after: .seconds(30))
        #expect(plugin.key.localKEKAge == .zero)
    }
}

@Suite("Several keys")
struct SeveralKeysTests {
    @Test("the first encrypts, all decrypt; a key that only decrypts is asked to wrap nothing")
    func several() async throws {
        let old = FakeProvider(identity: "old")
        let before = await Plugin.started(old)
        var written: [(EncryptReply, KMSAPI)] = []
        for api in KMSAPI.allCases { written.append((try await before.encrypt(random(32), api), api)) }
        let wraps = old.count(.wrap)
        let plugin = Plugin(
            KeyRingSettings(keys: [
                KeySettings(name: "new", provider: FakeProvider(identity: "new"), suite: .aes256GCM),
                KeySettings(name: "old", provider: old, suite: .aes256GCM),
            ]))
        await plugin.observe()
        for (reply, api) in written { #expect(try await plugin.decrypt(reply, api).count == 32) }
        #expect(try await plugin.encrypt(random(32)).keyID != written[0].0.keyID)
        #expect(old.count(.wrap) == wraps)
        #expect(plugin.ring.snapshot().map(\.encrypts) == [true, false])
        #expect(plugin.ring.snapshot().map(\.state) == [.active, .active])
    }

    @Test(
        "trouble with a key that only decrypts does not touch Status, Encrypt or the other key's ciphertexts")
    func readKeyDown() async throws {
        let old = FakeProvider(identity: "old")
        old.fail(.describe, .unavailable)
        let plugin = Plugin(
            KeyRingSettings(keys: [
                KeySettings(name: "new", provider: FakeProvider(identity: "new"), suite: .aes256GCM),
                KeySettings(name: "old", provider: old, suite: .aes256GCM),
            ]))
        await plugin.observe()
        #expect(try await plugin.status().healthz == "ok")
        #expect(try await plugin.decrypt(plugin.encrypt(random(32))).count == 32)
        #expect(plugin.ring.snapshot().map(\.state) == [.active, .failed])
    }

    @Test("ciphertexts of another identity open where accept_identities names its F part")
    func acceptedIdentity() async throws {
        let written = try await Plugin.started(FakeProvider(identity: "former")).encrypt(random(32))
        let part = try KeyID(parsing: written.keyID).keyPart
        for (accepted, opens) in [([part], true), ([], false)] {
            let key = KeySettings(
                name: "primary", provider: FakeProvider(identity: "moved"), suite: .aes256GCM,
                acceptIdentities: accepted)
            let plugin = Plugin(KeyRingSettings(keys: [key]))
            await plugin.observe()
            #expect(
                await (failure { () throws(KMSFailure) in _ = try await plugin.decrypt(written) } == nil)
                    == opens)
        }
    }

    @Test("the key that wrote a ciphertext reads it, though another one accepts its identity or key_id")
    func owner() async throws {
        let provider = FakeProvider(identity: "former")
        let written = try await Plugin.started(provider).encrypt(random(32))
        let other = FakeProvider(identity: "new")
        let keys = [
            KeySettings(
                name: "new", provider: other, suite: .aes256GCM,
                acceptIdentities: [try KeyID(parsing: written.keyID).keyPart], adoptKeyIDs: [written.keyID]),
            KeySettings(name: "former", provider: provider, suite: .aes256GCM),
        ]
        let plugin = Plugin(KeyRingSettings(keys: keys))
        await plugin.observe()
        let calls = (other.count(.unwrap), provider.count(.unwrap))
        #expect(try await plugin.decrypt(written).count == 32)
        #expect((other.count(.unwrap), provider.count(.unwrap)) == (calls.0, calls.1 + 1))
    }

    @Test("a cluster's ciphertexts do not open in another cluster, even where its key is accepted")
    func otherCluster() async throws {
        let one = Plugin(FakeProvider(), context: "one")
        await one.observe()
        let written = try await one.encrypt(random(32))
        let key = KeySettings(
            name: "primary", provider: FakeProvider(), suite: .aes256GCM,
            acceptIdentities: [try KeyID(parsing: written.keyID).keyPart])
        let two = Plugin(KeyRingSettings(keys: [key], clusterContext: "two"))
        await two.observe()
        #expect(
            await failure { () throws(KMSFailure) in _ = try await two.decrypt(written) }?.code
                == .invalidArgument)
    }
}

@Suite("With provider local")
struct LocalReplicaTests {
    private let folder = TemporaryFolder()
    private var path: String { "\(folder.path)/local.keys" }
    private var copy: String { "\(folder.path)/copy.keys" }

    private func copyFile() { folder.write(folder.text(of: "local.keys"), to: "copy.keys") }

    private func readEachOther(_ one: Plugin, _ two: Plugin) async throws {
        for (writer, reader) in [(one, two), (two, one)] {
            for api in KMSAPI.allCases {
                let plaintext = random(32)
                #expect(try await reader.decrypt(writer.encrypt(plaintext, api), api) == plaintext)
            }
        }
    }

    @Test(
        "replicas with copied files announce one key_id and read each other before, between and after a rotation",
        arguments: EnvelopeCrypto.Suite.allCases.filter(\.isAvailable))
    func replicas(_ suite: EnvelopeCrypto.Suite) async throws {
        try LocalKeyFile.create(at: path, suite: suite)
        copyFile()
        let one = Plugin(LocalProvider(path: path), suite: suite)
        let two = Plugin(LocalProvider(path: copy), suite: suite)
        await one.observe()
        await two.observe()
        #expect(try await one.status().keyID == two.status().keyID)
        try await readEachOther(one, two)

        let added = try LocalKeyFile.add(at: path)
        copyFile()
        await one.settle()
        await two.settle()
        #expect(try await one.status().keyID == two.status().keyID)
        try LocalKeyFile.activate(at: path, version: added.id)
        await one.settle()
        await two.settle()
        #expect(try await one.status().keyID != two.status().keyID)
        try await readEachOther(one, two)

        copyFile()
        await two.settle()
        #expect(try await one.status().keyID == two.status().keyID)
        try await readEachOther(one, two)
    }

    @Test("everything written under every version opens after a restart with nothing remembered")
    func coldRestart() async throws {
        try LocalKeyFile.create(at: path, suite: .aes256GCM)
        let plugin = await Plugin.started(LocalProvider(path: path))
        var written = [try await plugin.encrypt(random(32))]
        for _ in 0..<3 {
            try LocalKeyFile.activate(at: path, version: try LocalKeyFile.add(at: path).id)
            await plugin.settle()
            written.append(try await plugin.encrypt(random(32)))
        }
        #expect(Set(written.map(\.keyID)).count == 4)
        let restarted = await Plugin.started(LocalProvider(path: path))
        for reply in written { #expect(try await restarted.decrypt(reply).count == 32) }
    }

    @Test("a former file copied back is refused, and a missing one is told with its remedy")
    func copiedBack() async throws {
        try LocalKeyFile.create(at: path, suite: .aes256GCM)
        copyFile()
        let plugin = await Plugin.started(LocalProvider(path: path), state: folder.path)
        try LocalKeyFile.activate(at: path, version: try LocalKeyFile.add(at: path).id)
        await plugin.settle()
        let second = try await plugin.encrypt(random(32))
        folder.write(folder.text(of: "copy.keys"), to: "local.keys")
        await plugin.settle()
        #expect(try await plugin.status().keyID == second.keyID)
        #expect(try await plugin.decrypt(second).count == 32)
        let restarted = await Plugin.started(LocalProvider(path: path), state: folder.path)
        let older = await failure { () throws(KMSFailure) in _ = try await restarted.status() }
        #expect(older?.message.contains("put the newer key file back") == true)
        #expect(older?.message.contains("raise epoch") == false)

        try LocalKeyFile.create(at: "\(folder.path)/other", suite: .aes256GCM)
        let other = await Plugin.started(LocalProvider(path: "\(folder.path)/other"))
        let foreign = await failure { () throws(KMSFailure) in _ = try await other.decrypt(second) }
        #expect(foreign?.code == .invalidArgument)
        #expect(
            foreign?.message.contains("or put cluster_context back")
                == true)
        #expect(foreign?.message.contains("accept_identities") == false)

        let none = await Plugin.started(LocalProvider(path: "\(folder.path)/none"))
        let refusal = await failure { () throws(KMSFailure) in _ = try await none.status() }
        #expect(refusal?.code == .failedPrecondition)
        #expect(refusal?.message.contains("kmsward key init --file") == true)
    }
}
