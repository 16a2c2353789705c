import DEKCache
import EnvelopeCrypto
import KMSWire
import Logging
import RemoteKMS
import TestSupport
import Testing

@testable import KeyService

@Suite("Keys exchanged while requests go on", .timeLimit(.minutes(1)))
struct ReloadTests {
    private func key(
        _ name: String, _ provider: any Provider, _ change: (inout KeySettings) -> Void = { _ in }
    ) -> KeySettings {
        var key = KeySettings(name: name, provider: provider, suite: .aes256GCM, limits: .local)
        change(&key)
        return key
    }

    private func started(_ keys: [KeySettings], state: String? = nil) async -> Plugin {
        let plugin = Plugin(KeyRingSettings(keys: keys, stateDirectory: state))
        await plugin.observe()
        return plugin
    }

    private func refusal(_ plugin: Plugin, _ keys: [KeySettings]) async -> KeyRefusal? {
        do throws(KeyRefusal) { _ = try await plugin.ring.apply(keys, clock: plugin.clock) } catch {
            return error
        }
        return nil
    }

    private static let changes: [@Sendable (inout KeySettings) -> Void] = [
        { $0.name = "other" }, { $0.provider = FakeProvider() }, { $0.suite = .sm4CTRHMACSM3 },
        { $0.writeFormat = .compatible }, { $0.acceptFormats = [.compatible] }, { $0.epoch = 1 },
        { $0.acceptIdentities = ["AAAAAAAAAAAAAAAAAAAAAA"] }, { $0.adoptKeyIDs = ["x"] },
        { $0.localKEKMaximumAge = .seconds(1) }, { $0.localKEKMaximumUses = 1 },
        { $0.rideThrough = .seconds(1) }, { $0.authGrace = .seconds(1) }, { $0.forgetsWhenForbidden = true },
        { $0.limits.tries = 7 },
        { $0.limiter = ThrottleLimiter() }, { $0.callPrice = 1 },
    ]

    @Test("a key is the same only if everything about it is", arguments: changes.indices)
    func sameness(_ index: Int) {
        let before = key("a", FakeProvider())
        var after = before
        #expect(after.isSame(as: before))
        Self.changes[index](&after)
        #expect(after.isSame(as: before) == false)
        #expect(Self.changes.count == Mirror(reflecting: before).children.count, "a field without a row")
    }

    @Test("a key whose settings are the same goes on as it is, whatever comes beside it")
    func unchanged() async throws {
        let (first, second) = (FakeProvider(), FakeProvider(identity: "key-2"))
        let plugin = await started([key("a", first)])
        let before = try await plugin.encrypt(random(32))
        let (ringKey, calls) = (plugin.ring.keys[0], first.seen.calls)

        let changes = try await plugin.ring.apply([key("a", first), key("b", second)], clock: plugin.clock)
        #expect(changes == KeyChanges(added: ["b"]))
        #expect(changes.summary == "added b")
        #expect(plugin.ring.keys[0] === ringKey && plugin.ring.keys.map(\.settings.name) == ["a", "b"])
        #expect(first.seen.calls == calls)
        #expect(try await plugin.status().keyID == before.keyID)
        #expect(plugin.ring.snapshot().map(\.state) == [.active, .active])

        let again = try await plugin.ring.apply([key("a", first), key("b", second)], clock: plugin.clock)
        #expect(again == KeyChanges() && again.summary == nil)
    }

    @Test(
        "a new key that does not work is refused with its reason, and nothing changes",
        arguments: [true, false], RemoteKMSError.Code.allCases)
    func refused(_ isFirst: Bool, _ code: RemoteKMSError.Code) async throws {
        let folder = TemporaryFolder()
        let (first, second) = (FakeProvider(), FakeProvider(identity: "key-2"))
        let plugin = await started([key("a", first)], state: folder.path)
        let before = try await plugin.encrypt([1, 2, 3])
        let (keys, history, calls) = (plugin.ring.keys, folder.text(of: "keyring.json"), first.seen.calls)

        second.fail(isFirst ? .unwrap : .describe, code)
        let wanted = [key("a", first), key("b", second)]
        let refusal = try #require(await refusal(plugin, isFirst ? wanted.reversed() : wanted))
        #expect(refusal.description == "key b: the fake says \(code): tell it otherwise")

        #expect(plugin.ring.keys.count == 1 && plugin.ring.keys[0] === keys[0])
        #expect(first.seen.calls == calls)
        #expect(folder.text(of: "keyring.json") == history)
        #expect(try await plugin.status().keyID == before.keyID)
        #expect(try await plugin.decrypt(before) == [1, 2, 3])
        await plugin.observe()
        #expect(plugin.ring.snapshot().map(\.name) == ["a"])
    }

    @Test("a new key that does not answer is refused after its time")
    func silent() async throws {
        let (first, second) = (FakeProvider(), FakeProvider(identity: "key-2"))
        let plugin = await started([key("a", first)])
        second.gate.close()
        async let refusal = refusal(plugin, [key("a", first), key("b", second)])
        await plugin.clock.untilSleeping()
        #expect(plugin.clock.untilNextWake == .seconds(20))
        plugin.clock.advance(by: .seconds(20))
        #expect(await refusal == KeyRefusal(key: "b", reason: "it did not show within 20 s that it works"))
        #expect(plugin.ring.keys.count == 1)
    }

    @Test("another first key encrypts at once under its own key_id, and the former one still opens")
    func anotherFirst() async throws {
        let folder = TemporaryFolder()
        let (first, second) = (FakeProvider(), FakeProvider(identity: "key-2"))
        let (a, b) = (key("a", first), key("b", second))
        let plugin = await started([a, b], state: folder.path)
        let before = try await plugin.encrypt([1])
        let ringKey = plugin.ring.keys[0]

        let changes = try await plugin.ring.apply([b, a], clock: plugin.clock)
        #expect(changes.summary == "b encrypts now")
        #expect(plugin.ring.keys[1] === ringKey)
        let after = try await plugin.encrypt([2])
        #expect(after.keyID != before.keyID)
        #expect(try await plugin.status().keyID == after.keyID)
        #expect(try await plugin.decrypt(before) == [1])
        #expect(try await plugin.decrypt(after) == [2])
        #expect(first.count(.unwrap) == 1, "what was in memory stays there")

        // The former one is looked at as one that only decrypts.
        let probes = (first.count(.probe), second.count(.probe))
        await plugin.observe(after: .seconds(30))
        #expect((first.count(.probe), second.count(.probe)) == (probes.0, probes.1 + 1))
        #expect(plugin.ring.snapshot().map(\.encrypts) == [true, false])

        // A key_id that comes back would never be noticed by an API server.
        let back = try #require(await refusal(plugin, [a, b]))
        #expect(back.key == "a" && back.reason.contains("may never come back"))
        do {
            var raised = a
            raised.epoch = 1
            _ = try await plugin.ring.apply([raised, b], clock: plugin.clock)
        }
        #expect(try await plugin.status().keyID.contains(".1."))
        #expect(try await plugin.decrypt(before) == [1])

        // A restart sees the same.
        let again = Plugin(
            KeyRingSettings(keys: [key("a", first) { $0.epoch = 1 }, b], stateDirectory: folder.path))
        await again.observe()
        #expect(try await again.status().keyID == plugin.status().keyID)
    }

    @Test("a first key whose service is gone can be replaced, and stays to decrypt from memory")
    func leavingADeadKey() async throws {
        let (first, second) = (FakeProvider(), FakeProvider(identity: "key-2"))
        let (a, b) = (key("a", first), key("b", second))
        let plugin = await started([a])
        let before = try await plugin.encrypt([1])
        for operation in FakeProvider.Operation.allCases { first.fail(operation, .unavailable) }
        await plugin.observe(after: .seconds(30))
        _ = try await plugin.ring.apply([b, a], clock: plugin.clock)
        #expect(try await plugin.encrypt([2]).keyID != before.keyID)
        #expect(try await plugin.decrypt(before) == [1])
    }

    @Test(
        "a key with other settings that is still the same key keeps key_id, local KEK and what is in memory",
        arguments: [
            { @Sendable in $0.name = "z" }, { @Sendable in $0.limits.callsAtOnce = 3 },
            { @Sendable in $0.limiter = ThrottleLimiter() },
        ] as [@Sendable (inout KeySettings) -> Void])
    func sameIdentity(_ change: @Sendable (inout KeySettings) -> Void) async throws {
        let provider = FakeProvider()
        let plugin = await started([key("a", provider)])
        let other = try await written(elsewhere: provider)
        #expect(try await plugin.decrypt(other) == [9])
        let before = try await plugin.encrypt([1])
        let (wraps, unwraps) = (provider.count(.wrap), provider.count(.unwrap))

        _ = try await plugin.ring.apply([key("a", provider, change)], clock: plugin.clock)
        #expect(provider.count(.wrap) == wraps && provider.count(.unwrap) == unwraps + 1)
        #expect(try await plugin.status().keyID == before.keyID)
        #expect(try await plugin.decrypt(before) == [1])
        #expect(try await plugin.decrypt(other) == [9])
        #expect(provider.count(.unwrap) == unwraps + 1, "the local KEK of the other replica was in memory")
    }

    @Test("bounds and what is accepted change in an outage too, with the key as it is")
    func boundsInAnOutage() async throws {
        let provider = FakeProvider()
        let plugin = await started([key("a", provider) { $0.rideThrough = .seconds(100) }])
        let ringKey = plugin.ring.keys[0]
        for operation in FakeProvider.Operation.allCases { provider.fail(operation, .unavailable) }
        await plugin.observe(after: .seconds(90))
        let wanted = key("a", provider) {
            $0.rideThrough = .seconds(300)
            $0.adoptKeyIDs = ["written by another plugin"]
            $0.acceptFormats = [.envelope, .compatible]
        }
        #expect(try await plugin.ring.apply([wanted], clock: plugin.clock).summary == "changed a")
        #expect(plugin.ring.keys[0] === ringKey)
        #expect(ringKey.accepts("written by another plugin") && ringKey.reads(.compatible))
        await plugin.observe(after: .seconds(200))
        #expect(plugin.key.state == .active && plugin.key.writesStopIn == .seconds(10))
        await plugin.observe(after: .seconds(10))
        #expect(plugin.key.state == .failed)

        // A key that has stopped goes on, if the new bound says so.
        var longer = wanted
        longer.rideThrough = .seconds(310)
        _ = try await plugin.ring.apply([longer], clock: plugin.clock)
        await plugin.observe(after: .seconds(5))
        #expect(plugin.key.state == .active)
        await plugin.observe(after: .seconds(5))
        #expect(plugin.key.state == .failed)
    }

    @Test("the same key behind another provider, as under other credentials, keeps what is in memory")
    func anotherWay() async throws {
        let plugin = await started([key("a", FakeProvider())])
        let other = try await written(elsewhere: FakeProvider())
        #expect(try await plugin.decrypt(other) == [9])
        let way = FakeProvider()
        let changes = try await plugin.ring.apply([key("a", way)], clock: plugin.clock)
        #expect(changes.summary == "changed a")
        let unwraps = way.count(.unwrap)
        #expect(try await plugin.decrypt(other) == [9])
        #expect(way.count(.unwrap) == unwraps)
    }

    @Test("a key that is gone lets go of what it unwrapped, and its objects are refused")
    func removed() async throws {
        let (first, second) = (FakeProvider(), FakeProvider(identity: "key-2"))
        let (a, b) = (key("a", first), key("b", second))
        let plugin = await started([b, a])
        let of = try await written(elsewhere: first)
        #expect(try await plugin.decrypt(of) == [9])
        let entries = await plugin.ring.cache.counts.entries

        let changes = try await plugin.ring.apply([b], clock: plugin.clock)
        #expect(changes.summary == "removed a")
        #expect(await plugin.ring.cache.counts.entries == entries - 1)
        let refused = await failure { () throws(KMSFailure) in _ = try await plugin.decrypt(of) }
        #expect(refused?.code == .invalidArgument)
    }

    @Test("a request under way ends with the key it began with, and leaves nothing in memory")
    func underWay() async throws {
        let (first, second) = (FakeProvider(), FakeProvider(identity: "key-2"))
        let (a, b) = (key("a", first), key("b", second))
        let plugin = await started([b, a])
        let of = try await written(elsewhere: first)
        let entries = await plugin.ring.cache.counts.entries
        first.gate.close()
        async let answer = plugin.decrypt(of)
        while await plugin.ring.cache.counts.loadsInFlight == 0 { await Task.yield() }
        _ = try await plugin.ring.apply([b], clock: plugin.clock)
        first.gate.open()
        #expect(try await answer == [9])
        #expect(await plugin.ring.cache.counts.entries == entries)
    }

    @Test("whoever was told the new key_id by Status gets it from Encrypt, and never fails meanwhile")
    func agreement() async throws {
        let providers = (0..<20).map { FakeProvider(identity: "key-\($0)") }
        let plugin = await started([key("k0", providers[0])])
        try await withThrowingTaskGroup { group in
            for _ in 0..<4 {
                group.addTask {
                    var order: [String] = []
                    while order.count < 20 {
                        let told = try await plugin.status().keyID
                        if order.last != told { order.append(told) }
                        let used = try await plugin.encrypt([1]).keyID
                        // Not one that was left before.
                        #expect(!order.dropLast().contains(used))
                        if order.last != used { order.append(used) }
                        if plugin.ring.keys[0].settings.name == "k19" { return }
                        await Task.yield()
                    }
                }
            }
            for index in 1..<20 {
                let keys = (0...index).reversed().map { key("k\($0)", providers[$0]) }
                _ = try await plugin.ring.apply(keys, clock: plugin.clock)
            }
            try await group.waitForAll()
        }
    }

    @Test("keys are watched from when they serve until they do not")
    func watching() async throws {
        let (first, second) = (FakeProvider(), FakeProvider(identity: "key-2"))
        let (a, b) = (key("a", first), key("b", second))
        let plugin = Plugin(KeyRingSettings(keys: [a]))
        let run = Task { await plugin.ring.run(clock: plugin.clock) }
        await plugin.clock.untilSleeping()
        _ = try await plugin.ring.apply([b, a], clock: plugin.clock)
        // `b` is watched by now, `a` again: each looks at once.
        await plugin.clock.untilSleeping(2)
        _ = try await plugin.ring.apply([b], clock: plugin.clock)
        let looks = first.count(.describe)
        let others = second.count(.describe)
        await plugin.clock.untilSleeping(1)
        plugin.pass(.seconds(33))
        while second.count(.describe) == others { await Task.yield() }
        #expect(first.count(.describe) == looks)
        run.cancel()
        await run.value
    }

    @Test("places in the cache are given out again, not ever new ones")
    func places() async throws {
        let provider = FakeProvider()
        let plugin = await started([key("a", provider)])
        for age in 1...100 {
            _ = try await plugin.ring.apply(
                [key("a", provider) { $0.limits.callsAtOnce = 1 + age }], clock: plugin.clock)
            #expect(plugin.ring.keys[0].scope < 3)
        }
    }

    /// What another replica wrote with the same key: under a local KEK of its own.
    private func written(elsewhere provider: FakeProvider) async throws -> EncryptReply {
        let way = FakeProvider(identity: provider.seen.identity)
        return try await started([key("elsewhere", way)]).encrypt([9])
    }
}
