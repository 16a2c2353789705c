import DEKCache
import EnvelopeCrypto
import FoundationEssentials
import Glibc
import KMSWire
import RemoteKMS
import Synchronization
import TestSupport
import Testing

@testable import KeyService

@Suite("History")
struct HistoryTests {
    private let folder = TemporaryFolder()

    @Test("a restart takes up the remembered local KEK: no new one is wrapped")
    func adoption() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider, state: folder.path)
        let written = try await plugin.encrypt(random(32))
        #expect(provider.count(.wrap) == 1)
        let restarted = Plugin(provider, state: folder.path, startingAt: 1_000_500)
        await restarted.observe()
        #expect(provider.count(.wrap) == 1)
        #expect(restarted.key.localKEKAge == .seconds(500))
        let calls = provider.count(.unwrap)
        #expect(try await restarted.decrypt(written).count == 32)
        #expect(provider.count(.unwrap) == calls)
        #expect(try await plugin.decrypt(restarted.encrypt(random(32))).count == 32)
    }

    @Test("Decrypts that come while the remembered local KEK is taken up wait for the same unwrap")
    func sharedAdoption() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider, state: folder.path)
        let written = try await plugin.encrypt(random(32))
        let calls = provider.count(.unwrap)
        let restarted = Plugin(provider, state: folder.path)
        provider.unwrapGate.close()
        async let observed: Void = restarted.observe()
        while !restarted.ring.keys[0].isDescribed { await Task.yield() }
        try await withThrowingTaskGroup(of: Int.self) { group in
            for _ in 1...8 { group.addTask { try await restarted.decrypt(written).count } }
            while await restarted.ring.cache.counts.waiting < 8 { await Task.yield() }
            provider.unwrapGate.open()
            for try await count in group { #expect(count == 32) }
        }
        await observed
        #expect(provider.count(.unwrap) == calls + 1)
        #expect(restarted.key.state == .active)
    }

    @Test(
        "a remembered local KEK that no longer opens is passed over, the next newest is taken",
        arguments: [1, 2])
    func passedOver(_ broken: Int) async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider, state: folder.path)
        await plugin.observe(after: .seconds(30 * 86_400))
        #expect(provider.count(.wrap) == 2)
        var history = reading(folder.path).history
        for index in history.localKEKs.indices.suffix(broken) { history.localKEKs[index].wrapped[0] ^= 0xff }
        let text = String(decoding: try JSONEncoder().encode(history), as: UTF8.self)
        folder.write(text, to: "keyring.json")
        let restarted = await Plugin.started(provider, state: folder.path)
        #expect(try await restarted.status().healthz == "ok")
        #expect(provider.count(.wrap) == (broken == 2 ? 3 : 2))
    }

    @Test("while the backend is down at start, no new local KEK takes the place of the remembered one")
    func notReplaced() async throws {
        let provider = FakeProvider()
        _ = await Plugin.started(provider, state: folder.path)
        provider.fail(.unwrap, .unavailable)
        let restarted = await Plugin.started(provider, state: folder.path)
        #expect(
            await failure { () throws(KMSFailure) in _ = try await restarted.status() }?.code == .unavailable)
        provider.fail(.unwrap, nil)
        await restarted.observe(after: .seconds(1))
        #expect(try await restarted.status().healthz == "ok")
        #expect(provider.count(.wrap) == 1)
    }

    @Test(
        "where the configuration tells whose it is, a Decrypt after a restart waits for its unwrap and no look at the key"
    )
    func undescribed() async throws {
        let provider = FakeProvider(isConfigured: true)
        let former = await Plugin.started(provider, state: folder.path)
        let written = try await former.encrypt(random(32))
        for answers in [true, false] {
            provider.fail(.describe, .unavailable)
            if !answers { provider.fail(.unwrap, .unavailable) }
            let unwraps = provider.count(.unwrap)
            let restarted = Plugin(
                KeyRingSettings(keys: [KeySettings(name: "primary", provider: provider, suite: .aes256GCM)]))
            if answers {
                #expect(try await restarted.decrypt(written).count == 32)
            } else {
                await #expect(throws: KMSFailure.self) { _ = try await restarted.decrypt(written) }
            }
            #expect(provider.count(.unwrap) > unwraps, "it was asked, though nothing is known of the key")
        }
    }

    @Test("a remembered local KEK of another suite is not taken up")
    func otherSuite() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider, state: folder.path)
        let written = try await plugin.encrypt(random(32))
        let changed = Plugin(provider, suite: .sm4CTRHMACSM3, state: folder.path)
        await changed.observe()
        #expect(provider.count(.wrap) == 2)
        #expect(try await changed.decrypt(written).count == 32)
        #expect(try await changed.decrypt(changed.encrypt(random(32))).count == 32)
    }

    @Test(
        "a damaged or foreign history is a warning, is put aside, and is written anew",
        arguments: [
            "", "{", "[]", "{\"format\":2}", "{\"format\":1,\"local_keks\":[{\"wrapped\":\"!\"}]}", "\0\0",
        ])
    func damaged(_ text: String) async throws {
        folder.write(text, to: "keyring.json")
        #expect(reading(folder.path).warning?.contains("keyring.json.damaged") == true)
        let plugin = await Plugin.started(FakeProvider(), state: folder.path)
        #expect(try await plugin.status().healthz == "ok")
        let written = reading(folder.path)
        #expect(written.warning == nil)
        #expect(written.history.activeKeyIDs == [try await plugin.status().keyID])
        #expect(written.history.localKEKs.count == 1)
    }

    @Test("a missing history is a first start: no warning, and the state directory is made")
    func firstStart() async throws {
        let state = "\(folder.path)/state"
        #expect(reading(state).warning == nil)
        let plugin = await Plugin.started(FakeProvider(), state: state)
        #expect(reading(state).history.activeKeyIDs == [try await plugin.status().keyID])
    }

    @Test(
        "another key in the place of the one that served here is refused, until the former is configured beside it"
    )
    func exchangedKey() async throws {
        let former = FakeProvider(identity: "former")
        let old = await Plugin.started(former, state: folder.path)
        let written = try await old.encrypt(random(32))

        let exchanged = await Plugin.started(FakeProvider(identity: "other"), state: folder.path)
        await #expect(throws: KMSFailure.self) { _ = try await exchanged.status() }
        await #expect(throws: KMSFailure.self) { _ = try await exchanged.encrypt(random(32)) }
        let trouble = try #require(exchanged.ring.snapshot().first?.trouble)
        #expect(trouble.contains("put back what was there"))

        let keys = [
            KeySettings(name: "new", provider: FakeProvider(identity: "other"), suite: .aes256GCM),
            KeySettings(name: "old", provider: former, suite: .aes256GCM),
        ]
        let both = Plugin(KeyRingSettings(keys: keys, stateDirectory: folder.path))
        await both.observe()
        await both.observe()  // at the first look the further key may not have said yet who it is
        #expect(try await both.status().keyID != written.keyID)
        #expect(try await both.decrypt(written).count == 32)
    }

    @Test(
        "a history that cannot be written does not stop the plugin",
        arguments: ["directory in its place", "no folder"])
    func unwritable(_ how: String) async throws {
        if how == "no folder" {
            let plugin = await Plugin.started(FakeProvider(), state: "\(folder.path)/none/none")
            #expect(try await plugin.status().healthz == "ok")
        } else {
            folder.makeDirectory("keyring.json")
            let plugin = await Plugin.started(FakeProvider(), state: folder.path)
            #expect(try await plugin.status().healthz == "ok")
        }
    }

    @Test("what other replicas wrapped is remembered too, but never written with")
    func met() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider, state: folder.path)
        let replica = await Plugin.started(FakeProvider())
        _ = try await plugin.decrypt(replica.encrypt(random(32)))
        await plugin.observe(after: .seconds(30))
        let history = reading(folder.path).history
        #expect(history.localKEKs.map { $0.madeAt == nil } == [false, true])
        let restarted = await Plugin.started(provider, state: folder.path)
        let own = DecryptRequest(try await restarted.encrypt(random(32)))
        #expect(try Envelope(parsing: own).wrappedKey == Array(history.localKEKs[0].wrapped))
    }

    @Test(
        "of every key_id the first probe is kept, of key_ids the latest few, and files without any are read")
    func probes() throws {
        var history = History()
        func probe(_ keyID: String, _ byte: UInt8) -> RememberedProbe {
            RememberedProbe(keyID: keyID, wrapped: Data([byte]))
        }
        for byte in [1, 2] as [UInt8] { history.remember(probe("id", byte)) }
        #expect(history.probes == [probe("id", 1)])
        for number in 0..<History.maximumProbes { history.remember(probe("\(number)", 3)) }
        #expect(history.probes?.count == History.maximumProbes)
        #expect(history.probes?.first == probe("0", 3))

        folder.write(
            #"{"format":1,"active_key_ids":["a"],"highest_versions":{},"local_keks":[]}"#, to: "keyring.json")
        let read = reading(folder.path)
        #expect(read.warning == nil && read.history.activeKeyIDs == ["a"] && read.history.probes == nil)
    }

    @Test("at its limit it forgets the oldest that another replica made, then the oldest")
    func limit() {
        var history = History()
        func kek(_ number: Int, madeAt: Int64?) -> RememberedKEK {
            RememberedKEK(keyID: "id", suite: 1, wrapped: Data("\(number)".utf8), madeAt: madeAt)
        }
        history.remember(kek(-1, madeAt: 1))
        for number in 0..<History.maximumLocalKEKs { history.remember(kek(number, madeAt: nil)) }
        #expect(history.localKEKs.count == History.maximumLocalKEKs)
        #expect(history.localKEKs.first == kek(-1, madeAt: 1))
        #expect(history.localKEKs[1] == kek(1, madeAt: nil))
        let before = history
        history.remember(kek(7, madeAt: nil))
        #expect(history == before)
    }

    @Test("whatever was remembered, the file is smaller than what is accepted at reading, and ours are kept")
    func bytes() throws {
        var history = History()
        func kek(_ number: Int, madeAt: Int64?) -> RememberedKEK {
            RememberedKEK(
                keyID: "id", suite: 1, wrapped: Data("\(number)".utf8) + Data(repeating: 0xff, count: 32_000),
                madeAt: madeAt)
        }
        let ours = kek(-1, madeAt: 1)
        history.remember(new: [ours] + (0..<1_000).map { kek($0, madeAt: nil) })
        for number in 0..<History.maximumKeyIDs + 1 { history.activated("\(number)") }
        #expect(history.activeKeyIDs.count == History.maximumKeyIDs)
        #expect(history.localKEKs.first == ours)
        #expect(history.localKEKs.last == kek(999, madeAt: nil))
        let file = HistoryFile(directory: folder.path)
        file.activated("id", with: ours)
        for kek in history.localKEKs { file.met(kek) }
        #expect(file.save() == nil)
        let read = reading(folder.path)
        #expect(read.warning == nil)
        #expect(read.history.localKEKs.count == history.localKEKs.count)
    }

    @Test("a history that cannot be read is never overwritten; once it can be, both are kept")
    func unreadable() async throws {
        let provider = FakeProvider()
        let first = try await Plugin.started(provider, state: folder.path).status().keyID
        let good = folder.text(of: "keyring.json")
        folder.write(String(repeating: "x", count: HistoryFile.maximumBytes + 1), to: "keyring.json")
        #expect(reading(folder.path).warning?.contains("is too large") == true)
        provider.rotate(to: "2")
        let plugin = await Plugin.started(provider, state: folder.path)
        let second = try await plugin.status().keyID
        await plugin.observe(after: .seconds(30))
        #expect(folder.text(of: "keyring.json").hasPrefix("xxx"))
        #expect(reading(folder.path).warning?.contains("is too large") == true)
        folder.write(good, to: "keyring.json")
        await plugin.observe(after: .seconds(30))
        let history = reading(folder.path).history
        #expect(history.activeKeyIDs == [first, second])
        #expect(history.localKEKs.map(\.keyID) == [first, second])
    }

    @Test("whoever saves finds its own change in the file, whoever else saves meanwhile")
    func concurrentSaves() async {
        let file = HistoryFile(directory: folder.path)
        await withTaskGroup(of: Void.self) { group in
            for task in 0..<4 {
                group.addTask {
                    for turn in 0..<25 {
                        let name = "key-\(task)-\(turn)"
                        file.activated(
                            name,
                            with: RememberedKEK(keyID: name, suite: 1, wrapped: Data(name.utf8), madeAt: 1))
                        #expect(file.save() == nil)
                        #expect(reading(self.folder.path).history.activeKeyIDs.contains(name))
                    }
                }
            }
        }
    }

    @Test(
        "nothing is read before the ring runs: a state directory that hangs keeps nobody from being listened to"
    )
    func readLate() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider, state: folder.path)
        let text = folder.text(of: "keyring.json")
        folder.write("not yet", to: "keyring.json")
        let restarted = Plugin(provider, state: folder.path)
        folder.write(text, to: "keyring.json")
        let watch = Task { await restarted.ring.run(clock: restarted.clock) }
        #expect(await restarted.ring.waitForFirstVerdict(atMost: .seconds(60)))
        #expect(try await restarted.status().keyID == plugin.status().keyID)
        #expect(provider.count(.wrap) == 1, "the local KEK is the remembered one")
        watch.cancel()
        await watch.value
        #expect(reading(folder.path).history.activeKeyIDs == [try await plugin.status().keyID])
    }

    @Test("the file is synced before it takes its name, the directory after it")
    func synced() throws {
        let seen = Mutex<[String]>([])
        let folder = folder
        let file = HistoryFile(directory: folder.path) { descriptor in
            var facts = stat()
            _ = unsafe fstat(descriptor, &facts)
            let kind = facts.st_mode & S_IFMT == S_IFDIR ? "directory" : "file"
            let isNamed = unsafe access("\(folder.path)/keyring.json", F_OK) == 0
            seen.withLock { $0.append("\(kind), \(isNamed ? "with" : "without") the name") }
            return fsync(descriptor)
        }
        file.activated("id", with: RememberedKEK(keyID: "id", suite: 1, wrapped: Data([1]), madeAt: 1))
        #expect(file.save() == nil)
        #expect(seen.withLock { $0 } == ["file, without the name", "directory, with the name"])
    }

    @Test(
        "a change that may not survive a power cut is told and written again, at either step",
        arguments: [1, 2])
    func unsynced(_ failing: Int) {
        let count = Mutex(0)
        let file = HistoryFile(directory: folder.path) { descriptor in
            let isDue = count.withLock { count in
                count += 1
                return count == failing
            }
            errno = EIO
            return isDue ? -1 : fsync(descriptor)
        }
        file.activated("id", with: RememberedKEK(keyID: "id", suite: 1, wrapped: Data([1]), madeAt: 1))
        #expect(file.save()?.contains("cannot be written") == true)
        #expect(file.save() == nil)
        #expect(count.withLock { $0 } == failing + 2)
        #expect(reading(folder.path).history.activeKeyIDs == ["id"])
    }

    @Test(
        "after a start the remembered local KEKs are opened, 64 at once and then 50 a second",
        .timeLimit(.minutes(1)))
    func prefetch() async throws {
        let provider = FakeProvider()
        let plugin = await Plugin.started(provider, state: folder.path)
        var written: [EncryptReply] = []
        for _ in 0..<76 {
            written.append(try await Plugin.started(FakeProvider()).encrypt(random(32)))
            #expect(try await plugin.decrypt(written[written.count - 1]).count == 32)
        }
        await plugin.observe(after: .seconds(30))

        let restarted = Plugin(provider, state: folder.path)
        let before = provider.count(.unwrap)
        let watch = Task { await restarted.ring.run(clock: restarted.clock) }
        for opened in [64, 72, 76] {
            await restarted.clock.untilSleeping(2)
            #expect(provider.count(.unwrap) == before + 1 + opened)
            #expect(restarted.clock.untilNextWake == .milliseconds(160))
            restarted.clock.advance(by: .milliseconds(160))
        }
        for reply in written { #expect(try await restarted.decrypt(reply).count == 32) }
        #expect(provider.count(.unwrap) == before + 77)
        watch.cancel()
        await watch.value
    }

    @Test(
        "in a year of restarts and outages each replica makes a local KEK a month, and who has none of their history unwraps each once"
    )
    func year() async throws {
        let day = Int64(86_400)
        let outages: Set<Int64> = [20, 95, 96, 180, 181, 240, 241, 242, 330]
        let provider = FakeProvider()
        let folders = (0..<3).map { _ in TemporaryFolder() }
        var replicas: [Plugin] = []
        for folder in folders { replicas.append(await Plugin.started(provider, state: folder.path)) }
        var written: [EncryptReply] = []
        for today in 1...Int64(365) {
            let isOut = outages.contains(today)
            for operation in FakeProvider.Operation.allCases {
                provider.fail(operation, isOut ? .unavailable : nil)
            }
            for (number, folder) in folders.enumerated() {
                if (today + Int64(2 * number)) % 7 == 0 {
                    replicas[number] = Plugin(
                        provider, state: folder.path, startingAt: 1_000_000 + today * day)
                    await replicas[number].observe()
                } else {
                    await replicas[number].observe(after: .seconds(day))
                }
                // What was taken up by the first is renewed by the next.
                await replicas[number].observe()
            }
            guard !isOut else { continue }
            written.append(try await replicas[Int(today % 3)].encrypt(random(32)))
            for replica in replicas {
                #expect(try await replica.decrypt(written[written.count - 1]).count == 32)
            }
        }
        let wrapped = Set(try written.map { try Envelope(parsing: DecryptRequest($0)).wrappedKey })
        #expect(wrapped.count == 3 * 13)
        let fresh = await Plugin.started(provider)
        let before = provider.count(.unwrap)
        for _ in 0..<2 { for reply in written { #expect(try await fresh.decrypt(reply).count == 32) } }
        #expect(provider.count(.unwrap) - before == wrapped.count)
    }
}

/// What a start would read.
private func reading(_ directory: String) -> (history: History, warning: String?) {
    let file = HistoryFile(directory: directory)
    let warning = file.load()
    return (file.history, warning)
}
