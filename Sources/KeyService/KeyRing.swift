public import CoreMetrics
internal import DEKCache
private import Events
private import Glibc
public import Logging
private import Observability
internal import RemoteKMS
internal import Synchronization

/// The cache of what the keys' backends unwrapped.
typealias UnwrappedKeys = DEKCache<UnwrappedKey, RemoteKMSError>
typealias CacheFailure = DEKCacheFailure<RemoteKMSError>

/// The configured keys: the first encrypts, all decrypt.
///
/// `run` watches them; Status and Encrypt read what it found. Nothing here calls a backend for a request, save a
/// Decrypt that meets a local KEK it has not seen. `apply` exchanges them while requests go on.
public final class KeyRing: Sendable {
    /// A key that `run` watches.
    struct Watch: Sendable {
        let key: RingKey
        /// Given when it is to end.
        let stop = FirstVerdict()
        /// Given when it has ended.
        let ended = FirstVerdict()
    }

    struct State {
        var keys: [RingKey]
        var watches: [Watch] = []
        /// Where `run` learns of further keys to watch; nil while it does not run.
        var beginnings: AsyncStream<Watch>.Continuation?

        mutating func beginWatching(_ key: RingKey) {
            guard let beginnings else { return }
            let watch = Watch(key: key)
            watches.append(watch)
            beginnings.yield(watch)
        }
    }

    let state: Mutex<State>
    let cache: UnwrappedKeys
    let history: HistoryFile
    let settings: KeyRingSettings
    let scopes = ScopeLease.Pool()
    let logger: Logger
    let factory: any MetricsFactory
    let metrics: KeyMetrics
    let epochSeconds: @Sendable () -> Int64
    private let uptime: @Sendable () -> Duration
    private let random: @Sendable () -> Double

    /// The keys of this moment; a request keeps to those that it began with.
    var keys: [RingKey] { state.withLock { $0.keys } }

    /// The time of this moment.
    var now: Moment { Moment(uptime: uptime(), epochSeconds: epochSeconds()) }

    /// A ring of at least one key; reads no file and calls no backend, since nobody is listened to yet.
    ///
    /// `executor`, which must outlive `run`, is that of the actors on the way of a request: so a look into the cache crosses no
    /// thread. `factory` makes its metrics: bootstrap the metrics system before. `epochSeconds` is the time of day in seconds
    /// since 1970: local KEKs are dated with it; `uptime` is like `stopwatch()`. `random` gives 0..<1, and spreads the probes of replicas.
    public init(
        _ settings: KeyRingSettings, on executor: any SerialExecutor, logger: Logger,
        metrics factory: any MetricsFactory = MetricsSystem.factory,
        epochSeconds: @escaping @Sendable () -> Int64 = KeyRing.timeOfDay,
        uptime: @escaping @Sendable () -> Duration = KeyRing.stopwatch(),
        random: @escaping @Sendable () -> Double = { .random(in: 0..<1) }
    ) {
        self.uptime = uptime
        self.random = random
        precondition(!settings.keys.isEmpty, "the configuration has at least one key")
        let history = HistoryFile(directory: settings.stateDirectory)
        cache = UnwrappedKeys(
            on: executor, limits: settings.cache, byteCount: { $0.byteCount },
            isNegative: { $0.code == .invalidCiphertext }, metrics: factory, now: uptime)
        let cache = cache
        let configured = ConfiguredKeys(accepted: settings.keys.flatMap(\.acceptIdentities))
        self.settings = settings
        self.history = history
        self.logger = logger
        self.epochSeconds = epochSeconds
        self.factory = factory
        metrics = KeyMetrics(factory)
        let scopes = scopes
        let keys = settings.keys.enumerated().map { index, key in
            RingKey(
                key, encrypts: index == 0, serves: true, ring: settings, history: history, cache: cache,
                lease: scopes.take(), client: key.client(factory), configured: configured,
                record: KeyRecord(key.name, factory), logger: logger)
        }
        state = Mutex(State(keys: keys))
    }

    /// The system's time of day, seconds since 1970.
    public static func timeOfDay() -> Int64 { Int64(time(nil)) }

    /// A clock that begins now and never jumps, and goes on while the host sleeps.
    public static func stopwatch() -> @Sendable () -> Duration {
        let start = timeSinceBoot()
        return { timeSinceBoot() - start }
    }

    private static func timeSinceBoot() -> Duration {
        var time = timespec()
        unsafe clock_gettime(CLOCK_BOOTTIME, &time)
        return Duration(
            secondsComponent: Int64(time.tv_sec), attosecondsComponent: Int64(time.tv_nsec) * 1_000_000_000)
    }

    /// Reads `keyring.json`, then observes every key until the task is cancelled, each at its own pace.
    public func run<C: Clock>(clock: C = ContinuousClock()) async where C.Duration == Duration {
        loadHistory()
        let (stream, beginnings) = AsyncStream<Watch>.makeStream()
        state.withLock { state in
            state.beginnings = beginnings
            for key in state.keys { state.beginWatching(key) }
        }
        await withDiscardingTaskGroup { group in
            for await watch in stream {  // ends with the task
                group.addTask {
                    await self.watch(watch, clock)
                    watch.ended.give()
                }
            }
        }
        let last = state.withLock { state in
            state.beginnings = nil
            return state.keys
        }
        saveHistory()
        for key in last { await key.client.close() }
        // Nothing unwrapped stays, and nothing runs on the executor any more.
        await cache.shutdown()
    }

    /// Has `run`, if it runs, watch a key.
    func beginWatching(_ key: RingKey) {
        state.withLock { $0.beginWatching(key) }
    }

    /// Ends the watch of these keys, and returns when no step of theirs is under way.
    func endWatching(_ keys: [RingKey]) async {
        let ending = state.withLock { state in
            let ending = state.watches.filter { watch in keys.contains { $0 === watch.key } }
            state.watches.removeAll { watch in keys.contains { $0 === watch.key } }
            return ending
        }
        for watch in ending { watch.stop.give() }
        for watch in ending { await watch.ended.wait() }
    }

    private func watch<C: Clock>(_ watch: Watch, _ clock: C) async where C.Duration == Duration {
        let key = watch.key
        await key.enterCache()
        await withTaskGroup(of: Void.self) { group in
            group.addTask { await key.prefetch(clock: clock, retryEvery: self.settings.observeEvery) }
            group.addTask {
                await key.monitor.run(every: self.settings.observeEvery, clock: clock, random: self.random) {
                    await self.step(key)
                    return key.snapshot(at: self.epochSeconds()).state == .active
                }
            }
            await watch.stop.wait()
            group.cancelAll()
        }
    }

    /// One observation of every key, as `run` makes them.
    func observeOnce() async {
        loadHistory()
        let keys = keys
        for key in keys { await key.enterCache() }
        await withTaskGroup(of: Void.self) { group in
            for key in keys { group.addTask { await self.step(key) } }
        }
    }

    /// What may be said of every key now, in the order of the configuration.
    public func snapshot() -> [KeySnapshot] {
        let now = epochSeconds()
        return keys.map { $0.snapshot(at: now) }
    }

    /// Waits until it is known whether the key that encrypts works, at most so long; true if it is known.
    public func waitForFirstVerdict(
        atMost limit: Duration, clock: any Clock<Duration> = ContinuousClock()
    ) async -> Bool {
        await keys[0].firstVerdict.wait(atMost: limit, on: clock)
    }

    /// The key that answers for ciphertexts of this key_id: the one whose own it is, else the first that accepts it.
    ///
    /// Decided from the configuration and what the keys are; no backend is asked, least of all the one that the
    /// key_id names.
    static func key<C: Clock>(
        of keys: [RingKey], accepting keyID: String, waitingAtMost limit: Duration, clock: C
    ) async throws(KMSFailure) -> RingKey where C.Duration == Duration {
        if let owner = keys.first(where: { $0.owns(keyID) }) { return owner }
        // A key that could not be looked at yet may be the one.
        let start = clock.now
        for key in keys where !key.isDescribed {
            _ = await key.firstVerdict.wait(atMost: limit - start.duration(to: clock.now), on: clock)
        }
        if let owner = keys.first(where: { $0.owns(keyID) }) { return owner }
        if let key = keys.first(where: { $0.accepts(keyID) }) { return key }
        if Task.isCancelled { throw KMSFailure(.cancelled, "the caller gave up") }
        if let unknown = keys.first(where: { !$0.isDescribed }) {
            throw unknown.failure ?? starting(unknown)
        }
        let name = (try? KeyID(parsing: keyID)).map { "key_id \($0)" } ?? "the key_id"
        let remedy =
            keys.allSatisfy { $0.settings.provider.storage == .file }
            ? "add the former key file as a further key, or put cluster_context back if it was changed"
            : "configure the key that wrote it, or put cluster_context back if it was changed; accept_identities and "
                + "adopt_key_ids name keys under which others wrote"
        throw KMSFailure(.invalidArgument, "\(name) belongs to no configured key: \(remedy)")
    }

    static func starting(_ key: RingKey) -> KMSFailure {
        KMSFailure(
            .unavailable, "key \(key.name): not known yet whether it works: try again in a moment",
            key: key.name)
    }

    private func step(_ key: RingKey) async {
        await key.step(at: now)
        saveHistory()
        publish(key)
    }

    /// Tells what is known of the key now.
    func publish(_ key: RingKey) {
        metrics.publish(key.snapshot(at: epochSeconds()), probedEvery: settings.observeEvery)
    }

    private func loadHistory() {
        if let warning = history.load() {
            logger.event(
                .historyNotRead, "the key history is not read", metadata: [Names.LogKey.cause: "\(warning)"])
        }
    }

    func saveHistory() {
        if let warning = history.save() {
            logger.event(
                .historyNotWritten, "the key history is not written",
                metadata: [Names.LogKey.cause: "\(warning)"])
        }
    }
}
