internal import CoreMetrics
private import DEKCache
internal import Logging
private import RemoteKMS
private import Synchronization

/// Why keys were not exchanged: the first that cannot do its work.
public struct KeyRefusal: Error, Sendable, Equatable, CustomStringConvertible {
    /// The key's name.
    public let key: String
    /// Cause and remedy, one line.
    public let reason: String

    /// `key NAME: REASON`.
    public var description: String { "key \(key): \(reason)" }
}

/// What became of the keys, by name.
public struct KeyChanges: Sendable, Equatable {
    /// Not there before.
    public var added: [String] = []
    /// Not there any more.
    public var removed: [String] = []
    /// There before under other settings.
    public var changed: [String] = []
    /// The one that encrypts now, if it is another one.
    public var encrypts: String?

    /// One line: `added b; removed a; b encrypts now`; nil if nothing changed but perhaps the order of those that only
    /// decrypt.
    public var summary: String? {
        var parts = [("added", added), ("removed", removed), ("changed", changed)].compactMap { verb, names in
            names.isEmpty ? nil : "\(verb) \(names.joined(separator: ", "))"
        }
        if let encrypts { parts.append("\(encrypts) encrypts now") }
        return parts.isEmpty ? nil : parts.joined(separator: "; ")
    }
}

// Exchanging the keys while requests go on: the new ones show what they can before anything changes.

extension KeyRing {
    /// How one of the new keys comes to be.
    private struct Successor {
        let key: RingKey
        let settings: KeySettings
        /// Made anew, so that it has to prove itself.
        let isCandidate: Bool
        /// The one that it takes the place of.
        var former: RingKey?
    }

    /// Has these keys serve in place of those that do, at least one of which encrypts: the first.
    ///
    /// A key that is reached and writes as before goes on as it is: with its connection, what is in memory, and what is known
    /// of its health; also in another place or with other bounds, though a key that is to encrypt now must first show that it
    /// can. Every other one
    /// must encrypt and decrypt, or at least answer, within `limit`; else this throws, and nothing has changed. Then all are
    /// exchanged at once. Requests under way end with the keys they began with. What was unwrapped with keys that are gone is
    /// wiped; a key with other settings that is still the same key keeps it.
    ///
    /// Not to be called twice at a time.
    public func apply(
        _ settings: [KeySettings], within limit: Duration = .seconds(20),
        clock: any Clock<Duration> = ContinuousClock()
    ) async throws(KeyRefusal) -> KeyChanges {
        precondition(!settings.isEmpty, "the configuration has at least one key")
        let before = keys
        let configured = ConfiguredKeys(accepted: settings.flatMap(\.acceptIdentities))
        var after = settings.enumerated().map { index, key in
            successor(key, encrypts: index == 0, among: before, configured)
        }
        for next in after where !next.isCandidate { next.key.shareIdentity(with: configured) }
        do throws(KeyRefusal) {
            // Together with them it is known which key_ids are those of others.
            try await prove(after.dropFirst().filter(\.isCandidate).map(\.key), within: limit, clock)
            try await prove(after.prefix(1).filter(\.isCandidate).map(\.key), within: limit, clock)
        } catch {
            for next in after where next.isCandidate { await discard(next.key, before) }
            throw error
        }
        // Cut short by the end of the daemon: a step could not be waited for.
        if Task.isCancelled {
            for next in after where next.isCandidate { await discard(next.key, before) }
            throw KeyRefusal(key: after[0].key.name, reason: "the daemon ends")
        }
        // A key that was given another name, or moved to another place, is known by what it is.
        for index in after.indices where after[index].isCandidate {
            let key = after[index].key
            after[index].former =
                before.first { $0.name == key.name && $0.isSameKey(as: key) }
                ?? before.first { $0.isSameKey(as: key) }
        }
        return await exchange(before, for: after, configured)
    }

    /// Changes how many unwrapped keys are kept at most; 0 turns the cache off.
    public func resizeCache(to entries: Int) async { await cache.resize(to: entries) }

    private func successor(
        _ settings: KeySettings, encrypts: Bool, among keys: [RingKey], _ configured: ConfiguredKeys
    ) -> Successor {
        if let same = keys.first(where: { $0.settings.isSameWriter(as: settings) }),
            same.encrypts || !encrypts
        {
            return Successor(key: same, settings: settings, isCandidate: false, former: same)
        }
        let client = keys.first { $0.settings.isSameClient(as: settings) }?.client ?? settings.client(factory)
        return Successor(
            key: RingKey(
                settings, encrypts: encrypts, serves: false, ring: self.settings, history: history,
                cache: cache, lease: scopes.take(), client: client, configured: configured,
                record: KeyRecord(settings.name, factory), logger: logger),
            settings: settings, isCandidate: true)
    }

    private func prove(
        _ candidates: [RingKey], within limit: Duration, _ clock: any Clock<Duration>
    ) async throws(KeyRefusal) {
        guard !candidates.isEmpty else { return }
        for key in candidates { await key.enterCache() }
        let now = now
        await withTaskGroup(of: Void.self) { group in
            group.addTask {
                await withTaskGroup(of: Void.self) { steps in
                    for key in candidates { steps.addTask { await key.step(at: now) } }
                }
            }
            // Cancelled when all steps have ended.
            group.addTask { try? await clock.sleep(for: limit) }
            await group.next()
            group.cancelAll()
        }
        for key in candidates {
            if let reason = key.unfitness(after: limit) {
                throw KeyRefusal(key: key.name, reason: reason)
            }
        }
    }

    private func discard(_ candidate: RingKey, _ keys: [RingKey]) async {
        await cache.close(candidate.scope)
        await leave(candidate, to: keys)
    }

    private func exchange(
        _ before: [RingKey], for after: [Successor], _ configured: ConfiguredKeys
    ) async -> KeyChanges {
        let keys = after.map(\.key)
        let changes = changes(before.map(\.settings), after.map(\.settings))
        let gone = before.filter { key in !keys.contains { $0 === key } }
        let isDemoted = before[0] === keys[0] ? false : !gone.contains { $0 === before[0] }
        // No step of theirs may write down another key_id from here on.
        await endWatching(gone + (isDemoted ? [before[0]] : []))
        for next in after where next.isCandidate {
            await next.key.enterService(after: before[0].active?.keyID)
        }
        saveHistory()
        for next in after where !next.isCandidate {
            next.key.belong(to: configured)
            await next.key.goBy(next.settings)
        }
        state.withLock { $0.keys = keys }
        if isDemoted { before[0].onlyDecrypts() }
        for next in after where next.isCandidate {
            if let former = next.former, former !== next.key {
                await cache.handOver(former.scope, to: next.key.scope)
            }
        }
        for key in gone {
            await cache.close(key.scope)
            await leave(key, to: keys)
        }
        for next in after where next.isCandidate { beginWatching(next.key) }
        if isDemoted { beginWatching(before[0]) }
        for key in keys { publish(key) }
        return changes
    }

    /// Ends what only this key had, and not the keys that go on.
    private func leave(_ key: RingKey, to keys: [RingKey]) async {
        if !keys.contains(where: { $0.client === key.client }) { await key.client.close() }
        guard !keys.contains(where: { $0.name == key.name }) else { return }
        key.client.forgetMetrics()
        metrics.forget(key.name)
        key.record.forget()
    }

    private func changes(_ before: [KeySettings], _ after: [KeySettings]) -> KeyChanges {
        var changes = KeyChanges()
        for key in after {
            guard let former = before.first(where: { $0.name == key.name }) else {
                changes.added.append(key.name)
                continue
            }
            if !former.isSame(as: key) { changes.changed.append(key.name) }
        }
        changes.removed = before.map(\.name).filter { name in !after.contains { $0.name == name } }
        if before[0].name != after[0].name { changes.encrypts = after[0].name }
        return changes
    }
}

extension RingKey {
    /// Whether both are known to be one key, however it is reached.
    fileprivate func isSameKey(as other: RingKey) -> Bool {
        guard isDescribed, other.isDescribed else { return false }
        return keyPart == other.keyPart
    }

    private var keyPart: String { state.withLock { $0.acceptance.keyPart } }

    /// Why it must not take service; nil if it may.
    fileprivate func unfitness(after limit: Duration) -> String? {
        guard firstVerdict.isGiven else {
            return "it did not show within \(limit.components.seconds) s that it works"
        }
        if let trouble = monitor.health.trouble { return trouble.description }
        return isDescribed && (!encrypts || active != nil) ? nil : "it has not shown that it works"
    }

    /// It is one of these keys too; what it is may be known already.
    fileprivate func shareIdentity(with configured: ConfiguredKeys) {
        if isDescribed { configured.learn(keyPart) }
    }

    /// It is one of these keys now.
    fileprivate func belong(to configured: ConfiguredKeys) {
        state.withLock { state in
            state.configured = configured
            if state.observedID != nil { configured.learn(state.acceptance.keyPart) }
        }
    }

    /// Goes by other settings that ask for no proof.
    fileprivate func goBy(_ settings: KeySettings) async {
        let former = state.withLock { state in
            defer {
                state.settings = settings
                state.acceptance = KeyAcceptance(
                    keyPart: state.acceptance.keyPart, acceptIdentities: settings.acceptIdentities,
                    adoptKeyIDs: settings.adoptKeyIDs)
            }
            return state.settings
        }
        guard former.bounds != settings.bounds else { return }
        monitor.setLimits(settings.bounds)
        await cache.setRideThrough(settings.bounds.forgetAfter, of: scope)
    }

    /// Another one encrypts; requests that began before go on with what this one encrypts with.
    fileprivate func onlyDecrypts() { state.withLock { $0.encrypts = false } }
}
