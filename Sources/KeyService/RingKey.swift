internal import CoreMetrics
internal import DEKCache
internal import EnvelopeCrypto
internal import FoundationEssentials
internal import KMSWire
internal import Logging
private import Observability
internal import RemoteKMS
internal import SecureMemory
private import Synchronization

/// One configured key: what is known of it, and the local KEK it encrypts with if it is the first.
final class RingKey: Sendable {
    /// How a call that needs the Active is to be answered.
    enum Verdict {
        case starting
        case ready(Active)
        case failed(KMSFailure)
    }

    private struct State {
        var observer: RotationObserver
        var acceptance: KeyAcceptance
        var observedID: KeyID?
        var active: Active?
        /// The trouble that was logged last, while it lasts.
        var reported: (trouble: RemoteKMSError, isServing: Bool, at: Duration)?
        var lastProof: Int64?
        /// Trouble with former versions, by key_id: it is told, but stops nothing.
        var formerTroubles: [String: RemoteKMSError] = [:]
        /// Counts the probes of former versions, to take them in turn.
        var probes = 0
        /// Counts the times that everything unwrapped was wiped.
        var wipes = 0
        /// What was wrapped last to prove that it can be, and the result (`compatible`).
        var probe: (secret: SharedSecret, wrapped: [UInt8])?
    }

    let settings: KeySettings
    /// Whether this is the key that encrypts.
    let encrypts: Bool
    /// Given when the first step has ended, well or badly.
    let firstVerdict = FirstVerdict()

    let client: RemoteKMSClient
    let monitor: HealthMonitor
    private let bounds: KeyHealth.Limits
    private let clusterContext: String
    private let history: HistoryFile
    private let configured: ConfiguredKeys
    private let cache: UnwrappedKeys
    private let scope: Scope
    private let logger: Logger
    private let state: Mutex<State>

    /// How long the backend may take for one call of a step; no caller waits for these.
    private static let callLimit = Duration.seconds(10)
    /// How many remembered local KEKs are tried before a new one is made.
    private static let adoptionTries = 16
    /// How often lasting trouble is logged again.
    private static let reportEvery = Duration.seconds(3_600)

    init(
        _ settings: KeySettings, encrypts: Bool, ring: KeyRingSettings, history: HistoryFile,
        cache: UnwrappedKeys, scope: Scope, configured: ConfiguredKeys, logger: Logger,
        metrics: any MetricsFactory
    ) {
        self.configured = configured
        self.settings = settings
        self.encrypts = encrypts
        client = RemoteKMSClient(
            settings.provider, key: settings.name, limits: settings.limits, limiter: settings.limiter,
            metrics: metrics)
        bounds = KeyHealth.Limits(
            rideThrough: settings.rideThrough, authGrace: settings.authGrace,
            storage: settings.provider.storage)
        monitor = HealthMonitor(bounds)
        clusterContext = ring.clusterContext
        self.history = history
        self.cache = cache
        self.scope = scope
        var logger = logger
        logger[metadataKey: Names.LogKey.key] = "\(settings.name)"
        self.logger = logger
        state = Mutex(
            State(
                observer: RotationObserver(
                    keyName: settings.name, storage: settings.provider.storage, epoch: settings.epoch,
                    settle: ring.settle),
                // No F is empty: until the key is described, only what the configuration lists is accepted.
                acceptance: KeyAcceptance(
                    keyPart: "", acceptIdentities: settings.acceptIdentities,
                    adoptKeyIDs: settings.adoptKeyIDs)))
    }

    // MARK: the way of a request

    /// What Status and Encrypt have to go by, now.
    var verdict: Verdict {
        let health = monitor.health
        if let stopped = health.stopped { return .failed(KMSFailure(refusing: stopped, key: settings.name)) }
        if let active { return .ready(active) }
        return health.trouble.map { .failed(KMSFailure(refusing: $0, key: settings.name)) } ?? .starting
    }

    /// What Encrypt uses now, if the key ever came so far.
    var active: Active? { state.withLock { $0.active } }

    /// Whether that key_id is this key's own.
    func owns(_ keyID: String) -> Bool {
        let (active, acceptance) = state.withLock { ($0.active, $0.acceptance) }
        // Nearly every request names the current key_id.
        return active?.keyID.description == keyID || acceptance.owns(keyID)
    }

    /// Whether this key answers for ciphertexts of that key_id: its own, or one that its configuration gives it.
    func accepts(_ keyID: String) -> Bool { state.withLock { $0.acceptance }.accepts(keyID) }

    /// Whether it reads ciphertexts of that format.
    func reads(_ format: CiphertextFormat) -> Bool { settings.acceptFormats.contains(format) }

    /// Whether it is known which key_ids are this key's; until then a strange one may be.
    var isDescribed: Bool { state.withLock { $0.observedID != nil } }

    /// Why it is not, if a step has tried.
    var failure: KMSFailure? {
        monitor.health.trouble.map { KMSFailure(refusing: $0, key: settings.name) }
    }

    /// The local KEK that an envelope was sealed with: from memory, else unwrapped by the backend.
    func localKEK(
        of envelope: Envelope, deadline: Deadline, clock: any Clock<Duration>
    ) async throws(KMSFailure) -> LocalKEK {
        let digest: KeyDigest
        do throws(EnvelopeError) {
            digest = try envelope.wrappedKeyDigest(clusterContext: clusterContext).cacheKey
        } catch { throw KMSFailure(error, key: settings.name) }
        let key: UnwrappedKey
        if let hit = await cache.hit(digest) {
            key = hit
        } else {
            key = try await loaded(digest, by: deadline, clock) { budget throws(RemoteKMSError) in
                try await self.unwrapped(envelope, by: .after(budget))
            }
        }
        guard case .localKEK(let kek) = key.content else { throw .damaged(key: settings.name) }
        return kek
    }

    /// Has the backend wrap a plaintext key, as `compatible` writes it.
    func wrapped(
        _ plaintext: borrowing SecretBytes, api: KMSAPI, deadline: Deadline
    ) async throws(KMSFailure) -> [UInt8] {
        let shared = SharedSecret(plaintext.withBytes { SecretBytes(copying: $0) })
        guard CiphertextFormat.compatiblePlaintexts.contains(shared.bytes.count) else {
            throw KMSFailure(
                .invalidArgument,
                "key \(settings.name): a plaintext of \(shared.bytes.count) bytes is no key of Kubernetes, and write_format "
                    + "compatible takes no other")
        }
        let wrapped: [UInt8]
        do throws(RemoteKMSError) {
            wrapped = try await client.wrap(
                shared, context: Self.compatibleContext, for: .request, by: deadline)
        } catch {
            if Task.isCancelled { throw KMSFailure(.cancelled, "key \(settings.name): the caller gave up") }
            throw KMSFailure(refusing: error, key: settings.name)
        }
        monitor.proved(.encryption)
        guard 1...EnvelopeWriter.ciphertextLimit(api) ~= wrapped.count else {
            throw KMSFailure(
                .failedPrecondition,
                "key \(settings.name): the backend wraps a key into \(wrapped.count) bytes, which fits no ciphertext"
            )
        }
        return wrapped
    }

    /// The plaintext key that the backend wrapped into `ciphertext`, from memory or unwrapped now.
    func plaintext(
        of ciphertext: [UInt8], deadline: Deadline, clock: any Clock<Duration>
    ) async throws(KMSFailure) -> SecretBytes {
        let digest: KeyDigest
        do throws(EnvelopeError) {
            digest =
                try WrappedKeyDigest(
                    keyPart: state.withLock { $0.acceptance }.keyPart, wrappedKey: ciphertext.span,
                    clusterContext: clusterContext, format: .compatible
                ).cacheKey
        } catch { throw KMSFailure(error, key: settings.name) }
        let key: UnwrappedKey
        if let hit = await cache.hit(digest) {
            key = hit
        } else {
            key = try await loaded(digest, by: deadline, clock) { budget throws(RemoteKMSError) in
                let secret = try await self.client.unwrap(
                    ciphertext, context: Self.compatibleContext, for: .cacheable, by: .after(budget))
                if !Task.isCancelled { self.monitor.proved(.decryption) }
                guard CiphertextFormat.compatiblePlaintexts.contains(secret.bytes.count) else {
                    throw RemoteKMSError(.invalidCiphertext, "what was unwrapped is no key of Kubernetes")
                }
                return UnwrappedKey(.plaintext(secret))
            }
        }
        guard case .plaintext(let secret) = key.content else { throw .damaged(key: settings.name) }
        return secret.bytes.withBytes { SecretBytes(copying: $0) }
    }

    /// The peers' formats name no key_id to the backend.
    private static let compatibleContext = WrapContext(purpose: "dek", keyID: "")

    /// Has the backend unwrap the local KEK of an envelope, and remembers it for the next start.
    private func unwrapped(
        _ envelope: Envelope, by deadline: Deadline
    ) async throws(RemoteKMSError) -> UnwrappedKey {
        let wrapped = envelope.wrappedKey
        let kek = try await unwrap(
            wrapped, keyID: envelope.keyID, suite: envelope.suite, for: .cacheable, deadline: deadline)
        // Wiped meanwhile, or nobody waits: then it proves nothing and is not remembered.
        guard !Task.isCancelled else { return UnwrappedKey(.localKEK(kek)) }
        monitor.proved(.decryption)
        history.met(
            RememberedKEK(
                keyID: envelope.keyID.description, suite: envelope.suite.rawValue, wrapped: Data(wrapped),
                madeAt: nil))
        return UnwrappedKey(.localKEK(kek))
    }

    /// What is not in memory yet, once for all who ask for it meanwhile; waits no longer than `deadline` allows.
    private func loaded(
        _ digest: KeyDigest, by deadline: Deadline, _ clock: any Clock<Duration>,
        _ load: @escaping UnwrappedKeys.Load
    ) async throws(KMSFailure) -> UnwrappedKey {
        let (cache, scope) = (cache, scope)
        let result = await withTaskGroup(of: Result<UnwrappedKey, CacheFailure>?.self) { group in
            group.addTask {
                do throws(CacheFailure) {
                    return .success(try await cache.value(for: digest, in: scope, orLoad: load))
                } catch { return .failure(error) }
            }
            group.addTask {
                // Cancelled when the value came first; then there is nothing to report.
                try? await clock.sleep(for: deadline.remaining)
                return nil
            }
            defer { group.cancelAll() }
            return await group.next() ?? nil
        }
        switch result {
        case .success(let key): return key
        case .failure(.load(let error)), .failure(.remembered(let error)):
            throw error.code == .invalidCiphertext
                ? .damaged(key: settings.name) : KMSFailure(error, key: settings.name)
        case .failure(.revoked):
            throw failure
                ?? KMSFailure(.unavailable, "key \(settings.name): it was wiped meanwhile; try again")
        case .failure(.shutDown):
            throw KMSFailure(.unavailable, "key \(settings.name): the daemon ends; another takes over")
        case .failure(.cancelled), nil:
            if Task.isCancelled { throw KMSFailure(.cancelled, "key \(settings.name): the caller gave up") }
            throw KMSFailure(
                .deadlineExceeded,
                "key \(settings.name): the backend has not unwrapped it in the time of this call; it is still asked, for the next"
            )
        }
    }

    // MARK: beside the requests

    /// Looks at the backend once and does what follows from it; returns at once if a step is running already.
    func step(at now: Moment) async {
        // One clock for the cache, the local KEK and Status.
        await cache.setRideThrough(bounds.forgetAfter, of: scope)
        let isTaken = await monitor.observe(at: now.uptime) { need in
            let finding = await self.observation(need, at: now)
            // A step that the shutdown interrupted says nothing about the key.
            return finding.isClean || !Task.isCancelled ? finding : nil
        }
        guard isTaken else { return }
        if monitor.health.mustForget { await forget() }
        await cache.sweep(at: now.uptime)
        report(at: now.uptime)
        firstVerdict.give()
    }

    /// Lets go of everything that was unwrapped with this key.
    private func forget() async {
        let hadSecrets = state.withLock { state in
            defer {
                state.active = nil
                state.wipes += 1
                state.observer.forgotten()
            }
            return state.active != nil
        }
        await cache.wipe(scope, because: monitor.health.trouble?.code == .keyDisabled ? .denied : .expired)
        if hadSecrets {
            logger.error(
                "what was unwrapped with the key is wiped: nothing written with it can be read until it serves again",
                metadata: [Names.LogKey.error: "\(monitor.health.trouble?.summary ?? "")"])
        }
    }

    func snapshot(at epochSeconds: Int64) -> KeySnapshot {
        let (active, observedID, former, lastProof) = state.withLock {
            ($0.active, $0.observedID, $0.formerTroubles.min { $0.key < $1.key }?.value, $0.lastProof)
        }
        let health = monitor.health
        let failure = health.trouble
        let phase: KeySnapshot.State =
            if encrypts {
                switch verdict {
                case .starting: .starting
                case .ready: .active
                case .failed: .failed
                }
            } else if failure != nil { .failed } else { observedID == nil ? .starting : .active }
        return KeySnapshot(
            name: settings.name, provider: client.name, encrypts: encrypts, state: phase,
            keyID: (active?.keyID ?? (encrypts ? nil : observedID))?.description,
            trouble: (failure ?? former)?.description, writesStopIn: health.writesStopIn,
            localKEKAge: active?.writer == nil ? nil : active?.age(at: epochSeconds),
            localKEKUses: active?.writer == nil ? nil : active?.uses, lastProof: lastProof)
    }

    /// Looks at the backend, proves that it still wraps and unwraps what we write, and does what follows.
    ///
    /// The proofs are tried whatever the look said: a backend may refuse the one and grant the other.
    private func observation(_ need: HealthMonitor.Need, at now: Moment) async -> KeyHealth.Finding {
        var finding = KeyHealth.Finding()
        var seen: Sighting?
        do throws(RemoteKMSError) { seen = try await look() } catch { finding.look = error }
        if let active {
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
            do throws(RemoteKMSError) { try await proveRemembered(at: now) } catch { finding.proof = error }
        }
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
    private struct Sighting {
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

    private func wrapProbe() async throws(RemoteKMSError) {
        // A key like those of Kubernetes, so that what is proven is what is asked for.
        let secret = SharedSecret(SecretBytes(randomCount: 32))
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

    private func unwrapProbe() async throws(RemoteKMSError) {
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

    private func decision(on seen: Sighting, at now: Moment) -> RotationObserver.Step {
        let past = history.history
        let last = past.activeKeyIDs.last.flatMap { try? KeyID(parsing: $0) }
        return state.withLock { state in
            state.observer.observed(
                seen.description, keyID: seen.keyID.description, at: now.uptime,
                past: .init(
                    keyIDs: past.activeKeyIDs, highestVersion: past.highestVersions[seen.keyID.keyPart],
                    ofThisKey: last?.keyPart == seen.keyID.keyPart ? last : nil,
                    stranger: encrypts ? last.flatMap { configured.knows($0.keyPart) ? nil : $0 } : nil))
        }
    }

    /// Goes on under the key_id announced before the restart while the version seen now settles; if that cannot be,
    /// announces the new one at once.
    private func resume(_ former: String, seen: Sighting, at now: Moment) async throws(RemoteKMSError) {
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
                keyPart: keyID.keyPart, acceptIdentities: settings.acceptIdentities,
                adoptKeyIDs: settings.adoptKeyIDs)
            state.observedID = keyID
            configured.learn(keyID.keyPart)
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

    /// Announces a version: with a remembered local KEK if one opens, else with a new one.
    private func activate(_ seen: Sighting, at now: Moment) async throws(RemoteKMSError) {
        let active =
            if let adopted = try await adopted(seen.keyID) { adopted } else { try await made(seen, at: now) }
        history.saw(version: seen.description.version, of: seen.keyID.keyPart)
        await swap(to: active, at: now)
    }

    /// Looks after former versions, and renews a local KEK that has done its time; true if it did.
    private func maintain(_ seen: Sighting, at now: Moment) async throws(RemoteKMSError) -> Bool {
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

    /// Unwraps one remembered local KEK of a former key_id, the next one each time: a former version that was disabled
    /// must not first show when everything is read again.
    private func probeFormerVersion(than current: KeyID) async {
        var newest: [String: RememberedKEK] = [:]
        var order: [String] = []
        for kek in history.history.localKEKs where kek.keyID != current.description {
            guard let keyID = try? KeyID(parsing: kek.keyID), keyID.keyPart == current.keyPart else {
                continue
            }
            if newest.updateValue(kek, forKey: kek.keyID) == nil { order.append(kek.keyID) }
        }
        guard !order.isEmpty else { return }
        let turn = state.withLock { state in
            state.probes += 1
            return state.probes
        }
        guard let kek = newest[order[turn % order.count]], let keyID = try? KeyID(parsing: kek.keyID),
            let suite = Suite(rawValue: kek.suite)
        else { return }
        var trouble: RemoteKMSError?
        do throws(RemoteKMSError) {
            _ = try await unwrap(
                [UInt8](kek.wrapped), keyID: keyID, suite: suite, deadline: .after(Self.callLimit))
        } catch {
            trouble = RemoteKMSError(
                error.code,
                "what was written under the former key_id \(keyID) cannot be read: \(error.summary)",
                remedy: error.remedy)
        }
        if Task.isCancelled { return }
        let before = state.withLock { state in
            defer { state.formerTroubles[kek.keyID] = trouble }
            return state.formerTroubles[kek.keyID]
        }
        if let trouble, trouble != before {
            logger.warning(
                "a former version of the key has trouble",
                metadata: [
                    Names.LogKey.keyID: "\(keyID)", Names.LogKey.code: "\(trouble.code)",
                    Names.LogKey.error: "\(trouble.summary)", Names.LogKey.remedy: "\(trouble.remedy)",
                ])
        }
    }

    /// The newest local KEK made here for this key_id that still opens.
    private func adopted(_ keyID: KeyID) async throws(RemoteKMSError) -> Active? {
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
                let kek = try await unwrap(
                    wrapped, keyID: keyID, suite: settings.suite, deadline: .after(Self.callLimit))
                return Active(try writer(kek, wrapped), madeAt: remembered.madeAt ?? 0)
            } catch {
                // Only the backend's word on these bytes lets us pass them over; any other trouble would make a
                // new local KEK at every restart.
                guard error.code == .invalidCiphertext || error.code == .keyNotFound else { throw error }
                logger.warning(
                    "a remembered local KEK does not open and is passed over",
                    metadata: [Names.LogKey.error: "\(error)"])
            }
        }
        return nil
    }

    /// A new local KEK: wrapped, unwrapped and compared, and the version looked at again.
    ///
    /// A backend that lets us wrap but not unwrap would lose every write.
    private func made(_ seen: Sighting, at now: Moment) async throws(RemoteKMSError) -> Active {
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
        let before = state.withLock { $0.active }
        let made = active.writer.map { writer in
            RememberedKEK(
                keyID: active.keyID.description, suite: settings.suite.rawValue,
                wrapped: Data(writer.wrappedKey),
                madeAt: active.madeAt)
        }
        // Written down first: an announced key_id that is not in the history could come back.
        history.activated(active.keyID.description, with: made)
        if let warning = history.save() {
            logger.warning("the key history is not written", metadata: [Names.LogKey.error: "\(warning)"])
        }
        await keepOpened(active)
        state.withLock { state in
            state.observer.activated(active.keyID.description)
            state.active = active
            state.lastProof = now.epochSeconds
        }
        monitor.activated(at: now.uptime)
        if before?.keyID != active.keyID {
            logger.notice("key_id is active", metadata: [Names.LogKey.keyID: "\(active.keyID)"])
        } else {
            logger.info("local KEK renewed", metadata: [Names.LogKey.keyID: "\(active.keyID)"])
        }
    }

    /// So that what was written under it opens without a call after the next swap.
    private func keepOpened(_ active: Active) async {
        guard let writer = active.writer else { return }
        let digest = try? WrappedKeyDigest(
            keyPart: active.keyID.keyPart, wrappedKey: writer.wrappedKey, clusterContext: clusterContext)
        // Without SHA-256 there would be no key_id and no Active.
        if let digest { await keep(writer.localKEK, as: digest) }
    }

    /// Opens one of the remembered local KEKs of a key which only decrypts, the next one each time: proof that it still
    /// does.
    private func proveRemembered(at now: Moment) async throws(RemoteKMSError) {
        let keyPart = state.withLock { $0.acceptance }.keyPart
        let ours = history.history.localKEKs.reversed().filter {
            (try? KeyID(parsing: $0.keyID))?.keyPart == keyPart
        }
        guard !ours.isEmpty else { return }
        let turn = state.withLock { state in
            defer { state.probes += 1 }
            return state.probes
        }
        let remembered = ours[turn % ours.count]
        guard let keyID = try? KeyID(parsing: remembered.keyID), let suite = Suite(rawValue: remembered.suite)
        else { return }
        let wrapped = [UInt8](remembered.wrapped)
        let kek = try await unwrap(wrapped, keyID: keyID, suite: suite, deadline: .after(Self.callLimit))
        if let digest = try? WrappedKeyDigest(
            keyPart: keyPart, wrappedKey: wrapped, clusterContext: clusterContext)
        {
            await keep(kek, as: digest)
        }
        await proved(at: now)
    }

    /// The key decrypts: what it unwrapped is good for another while.
    private func proved(at now: Moment) async {
        state.withLock { $0.lastProof = now.epochSeconds }
        await cache.proved(scope, at: now.uptime)
    }

    /// Opens the remembered local KEKs, newest first, so that after a restart a LIST of everything does not wait for
    /// them one by one; ends when all were tried, or when cancelled.
    ///
    /// Eight at a time and 50 a second: the backend has others to serve.
    func prefetch<C: Clock>(clock: C, retryEvery: Duration) async where C.Duration == Duration {
        var rest = history.history.localKEKs
        guard !rest.isEmpty else { return }
        await firstVerdict.wait()
        // Cancelled sleeps return at once, and the loops end.
        while !mayPrefetch, !Task.isCancelled { try? await clock.sleep(for: retryEvery) }
        var unopened: [RememberedKEK] = []
        for kek in rest where accepts(kek.keyID) {
            if await !isOpened(kek) { unopened.append(kek) }
        }
        rest = unopened
        while !rest.isEmpty, !Task.isCancelled {
            let batch = rest.suffix(Self.prefetchBatch)
            let isAnswered = await withTaskGroup(of: Bool.self) { group in
                for kek in batch { group.addTask { await self.open(kek) } }
                return await group.reduce(true) { $0 && $1 }
            }
            if isAnswered { rest.removeLast(batch.count) }
            try? await clock.sleep(for: isAnswered ? Self.prefetchPause : retryEvery)
        }
    }

    private static let prefetchBatch = 8
    private static let prefetchPause = Duration.milliseconds(160)

    /// Whether the backend has answered well enough for this key's work to be done, which comes first.
    private var mayPrefetch: Bool {
        state.withLock { $0.observedID != nil && (!encrypts || $0.active != nil) }
    }

    private func digest(of kek: RememberedKEK) -> WrappedKeyDigest? {
        guard let keyID = try? KeyID(parsing: kek.keyID) else { return nil }
        return try? WrappedKeyDigest(
            keyPart: keyID.keyPart, wrappedKey: [UInt8](kek.wrapped), clusterContext: clusterContext)
    }

    private func isOpened(_ kek: RememberedKEK) async -> Bool {
        guard let digest = digest(of: kek) else { return true }
        return await cache.hit(digest.cacheKey) != nil
    }

    private func keep(_ kek: LocalKEK, as digest: WrappedKeyDigest) async {
        await cache.keep(UnwrappedKey(.localKEK(kek)), for: digest.cacheKey, in: scope)
    }

    /// Opens one remembered local KEK; false if the backend does not serve us now.
    private func open(_ kek: RememberedKEK) async -> Bool {
        guard let keyID = try? KeyID(parsing: kek.keyID), let suite = Suite(rawValue: kek.suite),
            let digest = digest(of: kek)
        else { return true }
        let wipes = state.withLock { $0.wipes }
        do throws(RemoteKMSError) {
            let key = try await unwrap(
                [UInt8](kek.wrapped), keyID: keyID, suite: suite, deadline: .after(Self.callLimit))
            guard state.withLock({ $0.wipes }) == wipes else { return false }
            await keep(key, as: digest)
            return true
        } catch {
            switch error.code {
            case .deadlineExceeded, .unavailable, .throttled, .malformedReply, .unauthenticated,
                .permissionDenied:
                return false
            // Of these bytes or this version: the others may open.
            case .keyNotFound, .keyDisabled, .invalidCiphertext, .misconfigured: return true
            }
        }
    }

    private func unwrap(
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

    private static let unwrappedOtherwise = RemoteKMSError(
        .invalidCiphertext, "the backend unwrapped other bytes than it had wrapped",
        remedy: "do not write with this key; ask whoever runs the backend")

    /// Logs trouble when it comes, changes or goes, and hourly while it lasts.
    private func report(at now: Duration) {
        let isServing = if case .failed = verdict { false } else { true }
        let health = monitor.health
        let (trouble, writesStopIn, isDue) = state.withLock { state in
            let before = state.reported
            guard let trouble = health.trouble else {
                state.reported = nil
                return (nil as RemoteKMSError?, nil as Duration?, before != nil)
            }
            if let before, before.trouble == trouble, before.isServing == isServing,
                now - before.at < Self.reportEvery
            {
                return (trouble, nil, false)
            }
            state.reported = (trouble, isServing, now)
            return (trouble, health.writesStopIn, true)
        }
        guard isDue else { return }
        guard let trouble else {
            logger.notice("the key is well again")
            return
        }
        var metadata: Logger.Metadata = [
            Names.LogKey.code: "\(trouble.code)", Names.LogKey.error: "\(trouble.summary)",
            Names.LogKey.remedy: "\(trouble.remedy)",
        ]
        if isServing, let writesStopIn {
            metadata[Names.LogKey.limit] = "writes stop in \(writesStopIn.components.seconds / 60) min"
        }
        logger.log(
            level: isServing ? .warning : .error,
            isServing ? "the key has trouble and goes on with what it has" : "the key does not serve",
            metadata: metadata)
    }
}
