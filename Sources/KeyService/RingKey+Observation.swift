private import DEKCache
private import EnvelopeCrypto
internal import Events
private import KMSWire
private import Logging
private import Observability
internal import RemoteKMS
private import SecureMemory
private import Synchronization

// What is found out about a key beside the requests.

extension RingKey {
    /// How often lasting trouble is logged again.
    private static let reportEvery = Duration.seconds(3_600)

    /// Has what the key unwraps live by the clock that its local KEK and Status go by; once, before the first step.
    func enterCache() async {
        let isIn = state.withLock { state in
            defer { state.isInCache = true }
            return state.isInCache
        }
        if !isIn { await cache.open(scope, rideThrough: settings.bounds.forgetAfter) }
    }

    /// Looks at the backend once and does what follows from it; returns at once if a step is running already.
    func step(at now: Moment) async {
        let isTaken = await monitor.observe(at: now.uptime) { need in
            let finding = await self.observation(need, at: now)
            // A step that the shutdown interrupted says nothing about the key.
            return finding.isClean || !Task.isCancelled ? finding : nil
        }
        guard isTaken else { return }
        if monitor.health.mustForget { await forget() }
        await cache.sweep(at: now.uptime)
        let facts = await client.facts
        let told = state.withLock { state in
            defer {
                state.lastProbe = now.epochSeconds
                state.facts = facts
                state.credentialsEnd = facts.credentialsServeFor.map {
                    now.epochSeconds + $0.components.seconds
                }
            }
            return state.facts.reservation
        }
        if state.withLock({ $0.serves }) {
            record.probed(isWell: monitor.health.trouble == nil)
            report(at: now.uptime, news: facts.reservation, since: told)
        }
        firstVerdict.give()
    }

    /// Lets go of everything that was unwrapped with this key.
    private func forget() async {
        let hadSecrets = state.withLock { state in
            defer {
                state.active = nil
                state.observer.forgotten()
            }
            return state.active != nil
        }
        let isDenied = monitor.health.trouble.map { $0.code == .keyDisabled || $0.code.isForbidding } == true
        await cache.wipe(scope, because: isDenied ? .denied : .expired)
        if hadSecrets {
            logger.event(
                .keyWiped,
                "what was unwrapped with the key is wiped: nothing written with it can be read until it serves again",
                metadata: [Names.LogKey.cause: "\(monitor.health.trouble?.message ?? "")"])
        }
    }

    /// Looks at the backend, proves that it still wraps and unwraps what we write, and does what follows.
    ///
    /// The proofs are tried whatever the look said: a backend may refuse the one and grant the other.
    private func observation(_ need: HealthMonitor.Need, at now: Moment) async -> KeyHealth.Finding {
        var finding = KeyHealth.Finding()
        var seen: Sighting?
        do throws(RemoteKMSError) { seen = try await look() } catch { finding.look = error }
        let encrypts = encrypts
        if encrypts, let active {
            if need.encryption {
                do throws(RemoteKMSError) { try await proveEncryption(active) } catch {
                    finding.encryption = error
                }
            }
            // An envelope's local KEK is proven itself, whatever requests have unwrapped.
            if need.decryption || active.writer != nil {
                do throws(RemoteKMSError) { try await prove(active, at: now) } catch { finding.proof = error }
            }
        } else if !encrypts, seen != nil || isDescribed {
            do throws(RemoteKMSError) {
                let isTried = try await proveRemembered(at: now)
                // Nothing to try it with, and no request has: then being refused the look is all there is to go by.
                if !isTried, need.decryption, settings.forgetsWhenForbidden, let look = finding.look,
                    look.code.isForbidding
                {
                    throw look
                }
            } catch { finding.proof = error }
        }
        // A request saw it decrypt since the last look.
        if !need.decryption, finding.proof == nil { await proved(at: now) }
        guard encrypts, let seen else { return finding }
        do throws(RemoteKMSError) {
            // A local KEK that was taken up just now was proven just now.
            if try await advance(seen, isProven: finding.proof == nil, at: now) {
                finding.proof = nil
                finding.encryption = nil
            }
        } catch { finding.rotation = error }
        return finding
    }

    /// What a look at the backend found.
    struct Sighting {
        let description: KeyDescription
        let keyID: KeyID
    }

    private func look() async throws(RemoteKMSError) -> Sighting {
        guard settings.suite.isAvailable else {
            throw RemoteKMSError(
                .misconfigured, "the loaded OpenSSL has no \(settings.suite.configurationName)",
                remedy: "install one that has it, or configure another suite")
        }
        let description = try await client.describe(by: .after(Self.callLimit))
        let keyID = try keyID(of: description)
        try pin(keyID)
        state.withLock { $0.versions[keyID.description] = description.version }
        return Sighting(description: description, keyID: keyID)
    }

    /// Wraps something that stands for nothing, so that a missing permission shows before something is lost by it.
    private func proveEncryption(_ active: Active) async throws(RemoteKMSError) {
        switch active.form {
        case .envelope:
            _ = try await client.wrap(
                SharedSecret(SecretBytes(randomCount: Self.probeCount)),
                context: WrapContext(purpose: "probe", keyID: active.keyID.description), for: .upkeep,
                by: .after(Self.callLimit))
        case .compatible: try await wrapProbe()
        }
    }

    /// Neither a local KEK nor any key of Kubernetes has that many bytes.
    private static let probeCount = 40

    /// A key like those of Kubernetes, so that what is proven is what is asked for.
    static let compatibleProbeCount = 32

    func wrapProbe() async throws(RemoteKMSError) {
        let secret = SharedSecret(SecretBytes(randomCount: Self.compatibleProbeCount))
        let wrapped = try await client.wrap(
            secret, context: Self.compatibleContext, for: .upkeep, by: .after(Self.callLimit))
        guard wrapped.count <= EnvelopeWriter.ciphertextLimit(.v2) else {
            throw RemoteKMSError(
                .misconfigured,
                "the backend wraps a key into \(wrapped.count) bytes, more than the 1024 of a ciphertext",
                remedy: "use another kind of key, or write_format: envelope")
        }
        state.withLock { $0.probe = (secret, wrapped) }
    }

    func unwrapProbe() async throws(RemoteKMSError) {
        guard let (secret, wrapped) = state.withLock({ $0.probe }) else { return }
        let back = try await client.unwrap(
            wrapped, context: Self.compatibleContext, for: .upkeep, by: .after(Self.callLimit))
        guard back.bytes.isEqual(to: secret.bytes) else { throw Self.unwrappedOtherwise }
    }

    private func prove(_ active: Active, at now: Moment) async throws(RemoteKMSError) {
        switch active.form {
        case .envelope(let writer):
            let proven = try await unwrap(
                writer.wrappedKey, keyID: active.keyID, suite: settings.suite,
                deadline: .after(Self.callLimit))
            guard proven.isSame(as: writer.localKEK) else { throw Self.unwrappedOtherwise }
        case .compatible: try await unwrapProbe()
        }
        await proved(at: now)
    }

    /// Does what follows from a look; true if another local KEK was taken up.
    private func advance(
        _ seen: Sighting, isProven: Bool, at now: Moment
    ) async throws(RemoteKMSError) -> Bool {
        switch decision(on: seen, at: now) {
        case .refuse(let error): throw error
        case .activate:
            try await activate(seen, at: now)
            return true
        case .resume(let former):
            try await resume(former, seen: seen, at: now)
            return true
        case .stay: return isProven ? try await maintain(seen, at: now) : false
        }
    }

    func decision(on seen: Sighting, at now: Moment) -> RotationObserver.Step {
        let past = history.history
        let last = past.activeKeyIDs.last.flatMap { try? KeyID(parsing: $0) }
        return state.withLock { state in
            state.observer.observed(
                seen.description, keyID: seen.keyID.description, at: now.uptime,
                past: .init(
                    keyIDs: past.activeKeyIDs, highestVersion: past.highestVersions[seen.keyID.keyPart],
                    ofThisKey: last?.keyPart == seen.keyID.keyPart ? last : nil,
                    stranger: state.encrypts
                        ? last.flatMap { state.configured.knows($0.keyPart) ? nil : $0 } : nil))
        }
    }

    private func keyID(of description: KeyDescription) throws(RemoteKMSError) -> KeyID {
        do throws(CryptoFailure) {
            return try KeyID(
                provider: client.name, key: description, clusterContext: clusterContext,
                epoch: settings.epoch)
        } catch { throw RemoteKMSError(.misconfigured, "no key_id can be computed: \(error)") }
    }

    /// Keeps to the identity that was seen first: another one is another key, whatever its address.
    private func pin(_ keyID: KeyID) throws(RemoteKMSError) {
        let isSame = state.withLock { state in
            guard state.observedID == nil || state.acceptance.keyPart == keyID.keyPart else { return false }
            state.acceptance = KeyAcceptance(
                keyPart: keyID.keyPart, acceptIdentities: state.settings.acceptIdentities,
                adoptKeyIDs: state.settings.adoptKeyIDs)
            state.observedID = keyID
            state.configured.learn(keyID.keyPart)
            return true
        }
        guard isSame else {
            throw RemoteKMSError(
                .misconfigured, "the backend answers with another key than before",
                remedy:
                    "point the configuration at the former key, or restart with its F part in accept_identities"
            )
        }
    }

    /// Opens one of the things remembered of a key which only decrypts, the next one each time: proof that it still does; false
    /// if there is nothing.
    private func proveRemembered(at now: Moment) async throws(RemoteKMSError) -> Bool {
        let keyPart = state.withLock { $0.acceptance }.keyPart
        let ours = Array(remembered(of: keyPart).reversed())
        guard !ours.isEmpty else { return false }
        let turn = state.withLock { state in
            defer { state.probes += 1 }
            return state.probes
        }
        let one = ours[turn % ours.count]
        let kek = try await unwrap(one)
        if let kek, case .localKEK(let remembered) = one,
            let digest = try? WrappedKeyDigest(
                keyPart: keyPart, wrappedKey: [UInt8](remembered.wrapped), clusterContext: clusterContext)
        {
            await keep(kek, as: digest)
        }
        await proved(at: now)
        return true
    }

    /// The key decrypts: what it unwrapped is good for another while.
    private func proved(at now: Moment) async {
        state.withLock { $0.lastProof = now.epochSeconds }
        await cache.proved(scope, at: now.uptime)
    }

    /// Logs trouble when it comes, changes or goes, and hourly while it lasts; reservations of the provider when they come.
    private func report(at now: Duration, news: RemoteKMSError?, since told: RemoteKMSError?) {
        if let news, told?.isSameTrouble(as: news) != true {
            logger.event(
                .keyNeedsAttention, "the key serves, but its backend needs attention",
                metadata: [
                    Names.LogKey.code: "\(news.code)", Names.LogKey.cause: "\(news.message)",
                    Names.LogKey.remedy: "\(news.remedy)",
                ])
        } else if news == nil, told != nil {
            logger.event(
                .keyAttentionOver, "what needed attention at the key's backend is well again")
        }
        let isServing = if case .failed = verdict { false } else { true }
        let health = monitor.health
        let writesFail = isServing && writesFail(health)
        let (trouble, writesStopIn, isDue) = state.withLock { state in
            let before = state.reported
            guard let trouble = health.trouble else {
                state.reported = nil
                return (nil as RemoteKMSError?, nil as Duration?, before != nil)
            }
            if let before, before.trouble.isSameTrouble(as: trouble), before.isServing == isServing,
                before.writesFail == writesFail, now - before.at < Self.reportEvery
            {
                return (trouble, nil, false)
            }
            state.reported = (trouble, isServing, writesFail, now)
            return (trouble, health.writesStopIn, true)
        }
        guard isDue else { return }
        guard let trouble else {
            logger.event(.keyWell, "the key is well again")
            return
        }
        var metadata: Logger.Metadata = [
            Names.LogKey.code: "\(trouble.code)", Names.LogKey.cause: "\(trouble.message)",
            Names.LogKey.remedy: "\(trouble.remedy)",
        ]
        if isServing, let writesStopIn {
            let subject = writesFail ? "Status fails" : "writes stop"
            metadata[Names.LogKey.limit] = "\(subject) in \(writesStopIn.inWords)"
        }
        logger.event(
            Event(trouble.code),
            writesFail
                ? "the key does not encrypt: its backend has to wrap every message"
                : isServing ? "the key has trouble and goes on with what it has" : "the key does not serve",
            level: isServing && !writesFail ? .warning : .error, metadata: metadata)
    }
}

extension Event {
    /// Trouble of a key.
    init(_ code: RemoteKMSError.Code) {
        self =
            switch code {
            case .deadlineExceeded: .keyTimedOut
            case .unavailable: .keyUnavailable
            case .throttled: .keyThrottled
            case .unauthenticated: .keyUnauthenticated
            case .permissionDenied: .keyDenied
            case .keyNotFound: .keyNotFound
            case .keyDisabled: .keyDisabled
            case .invalidCiphertext: .keyCiphertext
            case .malformedReply: .keyMalformedReply
            case .misconfigured: .keyMisconfigured
            }
    }
}
