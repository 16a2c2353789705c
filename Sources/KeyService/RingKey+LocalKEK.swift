private import DEKCache
internal import EnvelopeCrypto
private import Events
private import FoundationEssentials
private import Logging
private import Observability
internal import RemoteKMS
private import SecureMemory
private import Synchronization

// The local KEK that a key encrypts with: made, proven, announced, renewed, taken up again.

extension RingKey {
    /// How many remembered local KEKs are tried before a new one is made.
    private static let adoptionTries = 16

    /// Goes on under the key_id announced before the restart while the version seen now settles; if that cannot be,
    /// announces the new one at once.
    func resume(_ former: String, seen: Sighting, at now: Moment) async throws(RemoteKMSError) {
        var resumed: Active?
        do throws(RemoteKMSError) {
            if let keyID = try? KeyID(parsing: former) { resumed = try await adopted(keyID) }
        } catch {
            switch error.code {
            // Neither version would do now.
            case .deadlineExceeded, .unavailable, .throttled, .malformedReply: throw error
            case .unauthenticated, .permissionDenied, .keyNotFound, .keyDisabled, .invalidCiphertext,
                .misconfigured:
                break
            }
        }
        guard let resumed else {
            state.withLock { $0.observer.cannotResume() }
            return try await activate(seen, at: now)
        }
        await swap(to: resumed, at: now)
        // Settling begins with this observation.
        _ = decision(on: seen, at: now)
    }

    /// Announces a version: with a remembered local KEK if one opens, else with a new one.
    func activate(_ seen: Sighting, at now: Moment) async throws(RemoteKMSError) {
        let active =
            if let adopted = try await adopted(seen.keyID) { adopted } else { try await made(seen, at: now) }
        state.withLock { $0.version = seen.description.version }
        await swap(to: active, at: now)
    }

    /// Looks after former versions, and renews a local KEK that has done its time; true if it did.
    func maintain(_ seen: Sighting, at now: Moment) async throws(RemoteKMSError) -> Bool {
        guard let active = state.withLock({ $0.active }) else { return false }
        await probeFormerVersion(than: active.keyID)

        guard active.writer != nil else { return false }
        let isDue =
            active.age(at: now.epochSeconds) >= settings.localKEKMaximumAge
            || active.uses >= settings.localKEKMaximumUses
        // While another version settles, a new local KEK would be wrapped under that one already.
        guard isDue, seen.keyID == active.keyID else { return false }
        await swap(to: try await made(seen, at: now), at: now)
        return true
    }

    /// Something that the backend wrapped before, and must still unwrap.
    enum Remembered {
        case localKEK(RememberedKEK)
        case probe(RememberedProbe)

        var keyID: String {
            switch self {
            case .localKEK(let kek): kek.keyID
            case .probe(let probe): probe.keyID
            }
        }
    }

    /// What is remembered of key `keyPart` and read by these settings, oldest first, local KEKs last.
    func remembered(of keyPart: String) -> [Remembered] {
        let past = history.history
        let probes = reads(.compatible) ? past.probes ?? [] : []
        return (probes.map(Remembered.probe) + past.localKEKs.map(Remembered.localKEK)).filter {
            (try? KeyID(parsing: $0.keyID))?.keyPart == keyPart
        }
    }

    /// Has the backend unwrap it; the local KEK if it is one.
    func unwrap(_ remembered: Remembered) async throws(RemoteKMSError) -> LocalKEK? {
        switch remembered {
        case .localKEK(let kek):
            guard let keyID = try? KeyID(parsing: kek.keyID), let suite = Suite(rawValue: kek.suite) else {
                return nil
            }
            return try await unwrap(
                [UInt8](kek.wrapped), keyID: keyID, suite: suite, deadline: .after(Self.callLimit))
        case .probe(let probe):
            let secret = try await client.unwrap(
                [UInt8](probe.wrapped), context: Self.compatibleContext, for: .upkeep,
                by: .after(Self.callLimit))
            guard secret.bytes.count == Self.compatibleProbeCount else { throw Self.unwrappedOtherwise }
            return nil
        }
    }

    /// Unwraps one thing remembered of a former key_id, the next one each time: a former version that was disabled must
    /// not first show when everything is read again.
    private func probeFormerVersion(than current: KeyID) async {
        var newest: [String: Remembered] = [:]
        var order: [String] = []
        for one in remembered(of: current.keyPart) where one.keyID != current.description {
            if newest.updateValue(one, forKey: one.keyID) == nil { order.append(one.keyID) }
        }
        guard !order.isEmpty else { return }
        let turn = state.withLock { state in
            state.probes += 1
            return state.probes
        }
        let keyID = order[turn % order.count]
        guard let one = newest[keyID] else { return }
        var trouble: RemoteKMSError?
        do throws(RemoteKMSError) { _ = try await unwrap(one) } catch {
            trouble = RemoteKMSError(
                error.code,
                "what was written under the former key_id \(keyID) cannot be read: \(error.summary)",
                remedy: error.remedy, reference: error.reference)
        }
        if Task.isCancelled { return }
        let before = state.withLock { state in
            defer { state.formerTroubles[keyID] = trouble }
            return state.formerTroubles[keyID]
        }
        if let trouble, before?.isSameTrouble(as: trouble) != true {
            logger.event(
                .keyFormerTrouble, "a former version of the key has trouble",
                metadata: [
                    Names.LogKey.keyID: "\(keyID)", Names.LogKey.code: "\(trouble.code)",
                    Names.LogKey.cause: "\(trouble.message)", Names.LogKey.remedy: "\(trouble.remedy)",
                ])
        }
    }

    /// The newest local KEK made here for this key_id that still opens.
    func adopted(_ keyID: KeyID) async throws(RemoteKMSError) -> Active? {
        if settings.writeFormat == .compatible {
            // Nothing is kept for it; what has to be known is that the backend serves.
            try await wrapProbe()
            try await unwrapProbe()
            return Active(compatible: keyID, madeAt: 0)
        }
        let ours = history.history.localKEKs.filter {
            $0.keyID == keyID.description && $0.suite == settings.suite.rawValue && $0.madeAt != nil
        }
        for remembered in ours.suffix(Self.adoptionTries).reversed() {
            let wrapped = [UInt8](remembered.wrapped)
            do throws(RemoteKMSError) {
                let kek = try await unwrapped(wrapped, keyID: keyID)
                return Active(try writer(kek, wrapped), madeAt: remembered.madeAt ?? 0)
            } catch {
                // Only the backend's word on these bytes lets us pass them over; any other trouble would make a
                // new local KEK at every restart.
                guard error.code == .invalidCiphertext || error.code == .keyNotFound else { throw error }
                logger.event(
                    .localKEKPassedOver, "a remembered local KEK does not open and is passed over",
                    metadata: [Names.LogKey.cause: "\(error)"])
            }
        }
        return nil
    }

    /// A remembered local KEK: after a start together with the requests that ask for it, so that all cost one call.
    private func unwrapped(_ wrapped: [UInt8], keyID: KeyID) async throws(RemoteKMSError) -> LocalKEK {
        let suite = settings.suite
        // Later it has to be proven, and what is in memory proves nothing; a candidate puts nothing there.
        let mayShare = state.withLock { $0.serves && $0.lastProof == nil }
        let digest = try? WrappedKeyDigest(
            keyPart: keyID.keyPart, wrappedKey: wrapped, clusterContext: clusterContext)
        if mayShare, let digest {
            do throws(CacheFailure) {
                let key = try await cache.prefetch(digest.cacheKey, in: scope) { _ throws(RemoteKMSError) in
                    UnwrappedKey(
                        .localKEK(
                            try await self.unwrap(
                                wrapped, keyID: keyID, suite: suite, deadline: .after(Self.callLimit))))
                }
                if case .localKEK(let kek) = key.content { return kek }
            } catch {
                switch error {
                case .load(let error), .remembered(let error): throw error
                case .revoked, .shutDown, .cancelled: break
                }
            }
        }
        return try await unwrap(wrapped, keyID: keyID, suite: suite, deadline: .after(Self.callLimit))
    }

    /// A new local KEK: wrapped, unwrapped and compared, and the version looked at again.
    ///
    /// A backend that lets us wrap but not unwrap would lose every write.
    func made(_ seen: Sighting, at now: Moment) async throws(RemoteKMSError) -> Active {
        let keyID = seen.keyID
        let kek: LocalKEK
        let payload: SharedSecret
        do throws(EnvelopeError) {
            kek = try LocalKEK(randomFor: keyID, suite: settings.suite, clusterContext: clusterContext)
            payload = SharedSecret(try kek.payload())
        } catch { throw RemoteKMSError(.misconfigured, "\(error)") }
        let wrapped = try await client.wrap(
            payload, context: Self.context(keyID), for: .upkeep, by: .after(Self.callLimit))
        let writer = try writer(kek, wrapped)
        let back = try await unwrap(
            wrapped, keyID: keyID, suite: settings.suite, deadline: .after(Self.callLimit))
        guard back.isSame(as: kek) else { throw Self.unwrappedOtherwise }
        guard try await client.describe(by: .after(Self.callLimit)) == seen.description else {
            throw RemoteKMSError(
                .unavailable, "the key changed its version while a local KEK was made",
                remedy: "nothing is to be done, it is tried again")
        }
        return Active(writer, madeAt: now.epochSeconds)
    }

    private func writer(_ kek: LocalKEK, _ wrapped: [UInt8]) throws(RemoteKMSError) -> EnvelopeWriter {
        do throws(EnvelopeError) {
            return try EnvelopeWriter(localKEK: kek, wrappedKey: wrapped)
        } catch { throw RemoteKMSError(.misconfigured, "\(error)") }
    }

    private func swap(to active: Active, at now: Moment) async {
        let (before, serves) = state.withLock { ($0.active, $0.serves) }
        // Written down first: an announced key_id that is not in the history could come back.
        if serves { write(active) }
        await keepOpened(active)
        state.withLock { state in
            state.observer.activated(active.keyID.description)
            state.active = active
            state.lastProof = now.epochSeconds
        }
        monitor.activated(at: now.uptime)
        guard serves else { return }
        if before?.keyID != active.keyID {
            if before != nil { record.rotated() }
            logger.event(.keyActive, "key_id is active", metadata: [Names.LogKey.keyID: "\(active.keyID)"])
        } else {
            logger.info("local KEK renewed", metadata: [Names.LogKey.keyID: "\(active.keyID)"])
        }
    }

    /// A candidate serves from now on: it announces what it encrypts with, if it does, in place of `former`.
    func enterService(after former: KeyID?) async {
        let active = state.withLock { state in
            state.serves = true
            return state.encrypts ? state.active : nil
        }
        client.publishGauges()
        guard let active else { return }
        write(active)
        await keepOpened(active)
        if active.keyID != former {
            if former != nil { record.rotated() }
            logger.event(.keyActive, "key_id is active", metadata: [Names.LogKey.keyID: "\(active.keyID)"])
        }
    }

    /// Writes down what is about to be announced.
    private func write(_ active: Active) {
        let (version, wrapped) = state.withLock { ($0.version, $0.probe?.wrapped) }
        if let version { history.saw(version: version, of: active.keyID.keyPart) }
        let made = active.writer.map { writer in
            RememberedKEK(
                keyID: active.keyID.description, suite: settings.suite.rawValue,
                wrapped: Data(writer.wrappedKey),
                madeAt: active.madeAt)
        }
        let keyID = active.keyID.description
        let probe =
            active.writer == nil ? wrapped.map { RememberedProbe(keyID: keyID, wrapped: Data($0)) } : nil
        history.activated(keyID, with: made, probe: probe)
        if let warning = history.save() {
            logger.event(
                .historyNotWritten, "the key history is not written",
                metadata: [Names.LogKey.cause: "\(warning)"])
        }
    }

    /// So that what was written under it opens without a call after the next swap.
    func keepOpened(_ active: Active) async {
        guard let writer = active.writer else { return }
        let digest = try? WrappedKeyDigest(
            keyPart: active.keyID.keyPart, wrappedKey: writer.wrappedKey, clusterContext: clusterContext)
        // Without SHA-256 there would be no key_id and no Active.
        if let digest { await keep(writer.localKEK, as: digest) }
    }

    func keep(_ kek: LocalKEK, as digest: WrappedKeyDigest) async {
        // What a candidate put in would be gone with it, for the key that serves too.
        guard state.withLock({ $0.serves }) else { return }
        await cache.keep(UnwrappedKey(.localKEK(kek)), for: digest.cacheKey, in: scope)
    }

    func unwrap(
        _ wrapped: [UInt8], keyID: KeyID, suite: Suite, for purpose: RemoteKMSClient.Purpose = .upkeep,
        deadline: Deadline
    ) async throws(RemoteKMSError) -> LocalKEK {
        let payload = try await client.unwrap(
            wrapped, context: Self.context(keyID), for: purpose, by: deadline)
        do throws(EnvelopeError) {
            return try LocalKEK(
                unwrapped: payload.bytes, keyID: keyID, suite: suite, clusterContext: clusterContext)
        } catch .cannotOpen {
            throw RemoteKMSError(
                .invalidCiphertext,
                "what the backend unwrapped is no local KEK of key_id \(keyID) and this cluster")
        } catch { throw RemoteKMSError(.misconfigured, "\(error)") }
    }

    private static func context(_ keyID: KeyID) -> WrapContext {
        WrapContext(purpose: "local-kek", keyID: keyID.description)
    }

    static let unwrappedOtherwise = RemoteKMSError(
        .invalidCiphertext, "the backend unwrapped other bytes than it had wrapped",
        remedy: "do not write with this key; ask whoever runs the backend")
}
