internal import DEKCache
internal import EnvelopeCrypto
internal import Events
internal import Logging
private import Observability
internal import RemoteKMS
internal import SecureMemory
internal import Synchronization

/// One configured key: what is known of it, and the local KEK it encrypts with if it is the first.
final class RingKey: Sendable {
    /// How a call that needs the Active is to be answered.
    enum Verdict {
        case starting
        case ready(Active)
        case failed(KMSFailure)
    }

    struct State {
        var settings: KeySettings
        /// Whether this is the key that encrypts.
        var encrypts: Bool
        /// Whether it serves, and may write down what it encrypts with; a candidate only shows that it could.
        var serves: Bool
        var isInCache = false
        var configured: ConfiguredKeys
        var observer: RotationObserver
        var acceptance: KeyAcceptance
        var observedID: KeyID?
        /// What the backend calls the versions that were seen, by key_id.
        var versions: [String: String] = [:]
        /// When the last probe that has ended began, seconds since 1970.
        var lastProbe: Int64?
        var active: Active?
        /// The version that a candidate would encrypt under.
        var version: String?
        /// The trouble that was logged last, while it lasts.
        var reported: (trouble: RemoteKMSError, isServing: Bool, writesFail: Bool, at: Duration)?
        var lastProof: Int64?
        var facts = ProviderFacts()
        /// When the backend's credentials end, seconds since 1970.
        var credentialsEnd: Int64?
        /// Trouble with former versions, by key_id: it is told, but stops nothing.
        var formerTroubles: [String: RemoteKMSError] = [:]
        /// Counts the probes of former versions, to take them in turn.
        var probes = 0
        /// What was wrapped last to prove that it can be, and the result (`compatible`).
        var probe: (secret: SharedSecret, wrapped: [UInt8])?
    }

    let name: String
    /// Given when the first step has ended, well or badly.
    let firstVerdict = FirstVerdict()

    let client: RemoteKMSClient
    let monitor: HealthMonitor
    let clusterContext: String
    let history: HistoryFile
    let cache: UnwrappedKeys
    /// Its part of the cache, for as long as anybody may ask for it.
    private let lease: ScopeLease
    let record: KeyRecord
    let logger: Logger
    let state: Mutex<State>

    /// How long the backend may take for one call of a step; no caller waits for these.
    static let callLimit = Duration.seconds(10)

    init(
        _ settings: KeySettings, encrypts: Bool, serves: Bool, ring: KeyRingSettings, history: HistoryFile,
        cache: UnwrappedKeys, lease: ScopeLease, client: RemoteKMSClient, configured: ConfiguredKeys,
        record: KeyRecord, logger: Logger
    ) {
        name = settings.name
        self.client = client
        monitor = HealthMonitor(settings.bounds)
        clusterContext = ring.clusterContext
        self.history = history
        self.cache = cache
        self.lease = lease
        self.record = record
        var logger = logger
        logger[metadataKey: Names.LogKey.key] = "\(settings.name)"
        self.logger = logger
        state = Mutex(
            State(
                settings: settings, encrypts: encrypts, serves: serves, configured: configured,
                observer: RotationObserver(
                    keyName: settings.name, storage: settings.provider.storage, epoch: settings.epoch,
                    settle: ring.settle),
                // No F is empty: until it is known, only what the configuration lists is accepted.
                acceptance: KeyAcceptance(
                    keyPart: Self.configuredKeyPart(settings.provider, ring.clusterContext) ?? "",
                    acceptIdentities: settings.acceptIdentities,
                    adoptKeyIDs: settings.adoptKeyIDs)))
        if serves { client.publishGauges() }
    }

    private static func configuredKeyPart(_ provider: any Provider, _ clusterContext: String) -> String? {
        provider.configuredIdentity.flatMap {
            // Fails without SHA-256 only, as the first step will say.
            try? KeyID.keyPart(provider: provider.name, identity: $0, clusterContext: clusterContext)
        }
    }

    // MARK: the way of a request

    /// What Status and Encrypt have to go by, now.
    var verdict: Verdict {
        let health = monitor.health
        if let stopped = health.stopped { return .failed(KMSFailure(refusing: stopped, key: name)) }
        if let active { return .ready(active) }
        return health.trouble.map { .failed(KMSFailure(refusing: $0, key: name)) } ?? .starting
    }

    var settings: KeySettings { state.withLock { $0.settings } }

    var scope: Scope { lease.scope }

    /// Whether this is the key that encrypts.
    var encrypts: Bool { state.withLock { $0.encrypts } }

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
    func reads(_ format: CiphertextFormat) -> Bool {
        state.withLock { $0.settings.acceptFormats.contains(format) }
    }

    /// Whether it is known which key_ids are this key's; until then a strange one may be.
    var isDescribed: Bool { state.withLock { $0.observedID != nil } }

    /// Why it is not, if a step has tried.
    var failure: KMSFailure? {
        monitor.health.trouble.map { KMSFailure(refusing: $0, key: name) }
    }

    /// Whether Encrypt fails while Status does not yet: every message needs the backend.
    func writesFail(_ health: KeyHealth) -> Bool {
        guard encrypts, case .compatible = active?.form else { return false }
        return health.isRefusingToWrap
    }

    func snapshot(at epochSeconds: Int64) -> KeySnapshot {
        let state = state.withLock { $0 }
        let (encrypts, observedID) = (state.encrypts, state.observedID)
        let former = state.formerTroubles.min { $0.key < $1.key }?.value
        let health = monitor.health
        let failure = health.trouble
        let active = encrypts ? state.active : nil
        let trouble = failure ?? former ?? state.facts.reservation
        let phase: KeySnapshot.State =
            if encrypts {
                switch verdict {
                case .starting: .starting
                case .ready: .active
                case .failed: .failed
                }
            } else if failure != nil { .failed } else { observedID == nil ? .starting : .active }
        let keyID = active?.keyID ?? (encrypts ? nil : observedID)
        return KeySnapshot(
            name: name, provider: client.name, encrypts: encrypts, state: phase,
            keyID: keyID?.description,
            trouble: trouble?.description, troubleCode: trouble?.code.rawValue,
            writesStopIn: health.writesStopIn, writesFail: phase == .active && writesFail(health),
            localKEKAge: active?.writer == nil ? nil : active?.age(at: epochSeconds),
            localKEKUses: active?.writer == nil ? nil : active?.uses, lastProof: state.lastProof,
            credentialsEnd: state.credentialsEnd, clockOffset: state.facts.clockOffset,
            version: keyID.flatMap { state.versions[$0.description] }, epoch: state.settings.epoch,
            suite: state.settings.suite.configurationName, writeFormat: state.settings.writeFormat.rawValue,
            localKEKMaximumAge: active?.writer == nil ? nil : state.settings.localKEKMaximumAge,
            lastProbe: state.lastProbe, certificateEnd: state.facts.certificateEnd,
            callPrice: state.settings.callPrice, troubleEvent: trouble.map { Event($0.code) })
    }
}
