// DEKCache: keys that the key-management service has unwrapped, kept for a while. Bounded, one load for each key at a
// time, nothing kept longer than its key is known to be allowed.
//
// Hit rates in percent of the eviction policy, by the simulation in this room's tests: N = 1,000 entries, Zipf over
// 10 N keys, 40 N to 200 N requests; LFU counts every key ever seen. A cycle is what a LIST of everything looks like.
//
//     trace                                  ours   W-TinyLFU   S3-FIFO   LRU   LFU
//     cycle over 2 N, 20 rounds, from cold     47          46         0     0     0
//     the same, full of other keys before      35          29         0     0     0    (49 once settled)
//     cycle over 1.2 N after one over 2 N      69          57        62     0     0
//     Zipf, exponent 0.6                       33          34        33    24    37
//     Zipf, exponent 0.8                       52          53        52    44    56
//     Zipf, exponent 1.0                       73          74        73    67    75
//     Zipf 0.9, every other request a scan     30          29        30    21    31    (50 is the most)
//     Zipf 0.9, every other of a cycle 2 N     40          41        30    21    24
//     the 10 N requests after a shift          45          43        50    53    36

public import CoreMetrics

/// Which configured key an entry belongs to: a small number that the caller gives out, the same for a key's whole life.
public typealias Scope = UInt16

/// A bounded cache of unwrapped keys with one load at a time for each.
///
/// Runs on the executor it is given, so that a hit from an actor of that executor crosses no thread. A value's life is
/// its own business (`SharedSecret` and local KEKs wipe their bytes at the end of it); the cache lets go of it on
/// eviction, `wipe`, `resize(to: 0)` and `shutdown()`, and holds it nowhere else.
public actor DEKCache<Value: AnyObject & Sendable, Failure: Error> {
    /// Gets a value that is not there, and takes no longer than `budget`.
    ///
    /// Runs on the cache's executor: what blocks must leave it by itself. Its task is cancelled when all who asked have left; it
    /// may go on all the same.
    public typealias Load = @Sendable (_ budget: Duration) async throws(Failure) -> Value

    private typealias Answer = Result<Value, DEKCacheFailure<Failure>>

    private struct LoadInFlight {
        /// Tells it from an earlier load of the same key, and older from newer.
        let sequence: UInt64
        var scope: Scope
        let startedAt: Duration
        let isReload: Bool
        /// For a second run, should those who asked first have left and others come.
        let work: Load
        var waiters: [UInt64: Waiter<Answer>] = [:]
        /// All who asked have left, and the load was told.
        var isLetGo = false
    }

    private struct ScopeState {
        var rideThrough: Duration
        var lastProof: Duration?
        /// Its key is configured no more, but calls under way may still ask.
        var isClosed = false
        /// From then on its entries are not used.
        var expiry: Duration? { lastProof.map { $0 + rideThrough } }
    }

    private let executor: any SerialExecutor
    private let now: @Sendable () -> Duration
    private let byteCount: @Sendable (Value) -> Int
    private let isNegative: @Sendable (Failure) -> Bool
    private var limits: CacheLimits
    private var table: EntryTable
    private var negatives: NegativeTable<Failure>
    private var scopes: [ScopeState] = []
    private var loads: [KeyDigest: LoadInFlight] = [:]
    /// Every load's task until it has ended, by the load's sequence.
    private var tasks: [UInt64: Task<Void, Never>] = [:]
    private var reloadsInFlight = 0
    private var lastSequence: UInt64 = 0
    private var isShutDown = false
    private var tally = CacheCounts()
    private var metrics: CacheMetrics

    /// The given executor, which must outlive the cache.
    public nonisolated var unownedExecutor: UnownedSerialExecutor {
        // `executor` is held for as long as the actor lives.
        unsafe executor.asUnownedSerialExecutor()
    }

    /// An empty cache on `executor`.
    ///
    /// `isNegative` says of a failure whether the ciphertext itself is at fault, so that trying again soon is of no use;
    /// `byteCount` how much secret memory a value holds; `now` is the time since some fixed instant, by a clock that never jumps,
    /// which all instants given to the cache are measured by.
    public init(
        on executor: any SerialExecutor, limits: CacheLimits = CacheLimits(),
        byteCount: @escaping @Sendable (Value) -> Int, isNegative: @escaping @Sendable (Failure) -> Bool,
        metrics factory: any MetricsFactory = MetricsSystem.factory,
        now: @escaping @Sendable () -> Duration
    ) {
        self.executor = executor
        self.now = now
        self.byteCount = byteCount
        self.isNegative = isNegative
        self.limits = limits
        table = EntryTable(capacity: max(1, limits.capacity))
        negatives = NegativeTable(capacity: limits.maximumFailures)
        metrics = CacheMetrics(factory)
    }

    // MARK: the way of a request

    /// The value, if it is there and nothing else is to be done about it; else `value(for:in:orLoad:)` knows more.
    ///
    /// The cheap way for a hit: it makes no closure, allocates nothing and never waits.
    public func hit(_ key: KeyDigest) -> Value? {
        guard let value = table.useFresh(key, at: now()) else { return nil }
        tally.hits += 1
        return object(value)
    }

    /// The value: from memory, else loaded, once for all who ask meanwhile.
    ///
    /// A load runs in a task of its own under a budget of its own, and fills the cache though all its callers have
    /// left; cancelling one of them ends that one's wait. Its failure goes to those who wait, and the next request
    /// loads again, unless the ciphertext is at fault. An entry older than the limit is given at once and loaded anew beside.
    public func value(
        for key: KeyDigest, in scope: Scope, orLoad load: @escaping Load
    ) async throws(DEKCacheFailure<Failure>) -> Value {
        let (answer, result) = try known(key, orLoadIn: scope, load)
        tally.count(result)
        if let answer { return try answer.get() }
        return try await wait(for: key)
    }

    /// Has the value loaded before anybody asks for it, if it is neither here nor being loaded; the same otherwise, but no request
    /// and not counted as one.
    @discardableResult public func prefetch(
        _ key: KeyDigest, in scope: Scope, by load: @escaping Load
    ) async throws(DEKCacheFailure<Failure>) -> Value {
        if let answer = try known(key, orLoadIn: scope, load).answer { return try answer.get() }
        return try await wait(for: key)
    }

    /// Keeps a value that came from elsewhere: made here, or unwrapped beside the requests.
    public func keep(_ value: Value, for key: KeyDigest, in scope: Scope) {
        guard !isShutDown else { return }
        let now = now()
        // A scope that was never proven counts from its first entry.
        update(scope) { $0.lastProof = $0.lastProof ?? now }
        lastSequence += 1
        store(value, for: key, in: scope, sequence: lastSequence, at: now)
    }

    // MARK: beside the requests

    /// The scope's key was seen to decrypt then; a load that succeeds says so by itself.
    public func proved(_ scope: Scope, at instant: Duration) {
        update(scope) { $0.lastProof = $0.lastProof.map { max($0, instant) } ?? instant }
    }

    /// Begins a scope anew, whose entries are used for so long after its last proof; `limits.rideThrough` for a scope
    /// that is not begun.
    public func open(_ scope: Scope, rideThrough: Duration) {
        update(scope) { $0 = ScopeState(rideThrough: rideThrough) }
    }

    /// Changes how long that scope's entries are used after its last proof.
    public func setRideThrough(_ duration: Duration, of scope: Scope) {
        update(scope) { $0.rideThrough = duration }
    }

    /// Ends a scope: lets go of its entries, and takes in no more.
    ///
    /// Loads under way, and those that callers who are late begin, still answer whoever waits for them.
    public func close(_ scope: Scope) {
        drop(scope, .removed)
        negatives.removeAll(in: scope)
        update(scope) { $0.isClosed = true }
    }

    /// Gives all that belongs to a scope, loads under way included, to another one that is open.
    ///
    /// For a key whose settings changed but not what it is. O(entries).
    public func handOver(_ scope: Scope, to heir: Scope) {
        guard Int(scope) < scopes.count else { return }
        table.move(from: scope, to: heir)
        for (key, load) in loads where load.scope == scope { loads[key]?.scope = heir }
        if let lastProof = scopes[Int(scope)].lastProof { proved(heir, at: lastProof) }
    }

    /// Whether nothing is kept.
    public var isOff: Bool { limits.capacity == 0 }

    /// Lets go of all that belongs to a scope, at once.
    ///
    /// Entries, remembered failures, and loads under way, which neither fill the cache nor reach their callers.
    public func wipe(_ scope: Scope, because reason: EvictionReason) {
        drop(scope, reason)
        negatives.removeAll(in: scope)
        revoke(.revoked) { $0.scope == scope }
    }

    /// Lets go of what has had its time, and publishes the metrics.
    ///
    /// To be called now and then: nothing else lets go of entries that nobody asks for. O(scopes), O(entries) if one
    /// has expired.
    public func sweep(at instant: Duration) {
        for scope in scopes.indices where table.isExpired(Scope(scope), at: instant) {
            drop(Scope(scope), .expired)
        }
        negatives.purge(at: instant)
        metrics.publish(counts)
    }

    /// Changes how many entries are kept; those asked for least go if they are too many, all if it is 0.
    public func resize(to capacity: Int) {
        guard capacity != limits.capacity else { return }
        limits.capacity = capacity
        if capacity > 0 {
            note(.capacity, table.resize(to: capacity))
        } else {
            note(.off, table.removeAll { _ in true })
            _ = table.resize(to: 1)
            negatives.removeAll()
        }
    }

    /// Lets go of everything, ends every wait, cancels the loads and returns when their tasks have ended.
    ///
    /// Nothing enters the cache afterwards.
    public func shutdown() async {
        isShutDown = true
        note(.shutdown, table.removeAll { _ in true })
        negatives.removeAll()
        revoke(.shutDown) { _ in true }
        metrics.publish(counts)
        for task in tasks.values { await task.value }
    }

    /// What it did and holds.
    public var counts: CacheCounts {
        var counts = tally
        counts.loadsInFlight = tasks.count
        counts.waiting = loads.values.reduce(0) { $0 + $1.waiters.count }
        counts.entries = table.count
        counts.failures = negatives.count
        counts.secretBytes = table.valueBytes
        counts.tableBytes = table.byteCount
        return counts
    }

    // MARK: loads

    /// What is known already; if nothing is, a load is under way afterwards.
    private func known(
        _ key: KeyDigest, orLoadIn scope: Scope, _ load: @escaping Load
    ) throws(DEKCacheFailure<Failure>) -> (
        answer: Result<Value, DEKCacheFailure<Failure>>?, result: LookupResult
    ) {
        guard !isShutDown else { throw .shutDown }
        let now = now()
        if let value = held(key, at: now, reloadingBy: load) { return (.success(value), .hit) }
        if let failure = negatives.failure(key, at: now) {
            return (.failure(.remembered(failure)), .negative)
        }
        // Nothing has been asked of anybody for this one yet.
        guard !Task.isCancelled else { throw .cancelled }
        guard loads[key] == nil else { return (nil, .coalesced) }
        start(load, for: key, in: scope, at: now, isReload: false)
        return (nil, .miss)
    }

    /// The value that is there, with a reload beside it if it is old and there is room for one.
    private func held(_ key: KeyDigest, at now: Duration, reloadingBy load: @escaping Load) -> Value? {
        guard let slot = table.slot(of: key) else { return nil }
        let entry = table.entry(slot)
        guard !table.isExpired(entry.scope, at: now) else {
            drop(entry.scope, .expired)
            return nil
        }
        if now >= entry.reloadFrom, loads[key] == nil, reloadsInFlight < limits.maximumReloads {
            start(load, for: key, in: entry.scope, at: now, isReload: true)
            // Until then hits need not look.
            table.setReloadFrom(now + limits.loadBudget, slot)
        }
        return object(table.use(slot))
    }

    private func start(
        _ load: @escaping Load, for key: KeyDigest, in scope: Scope, at now: Duration,
        isReload: Bool
    ) {
        lastSequence += 1
        let sequence = lastSequence
        loads[key] = LoadInFlight(
            sequence: sequence, scope: scope, startedAt: now, isReload: isReload, work: load)
        if isReload {
            reloadsInFlight += 1
            tally.reloads += 1
        }
        let budget = limits.loadBudget
        // Owned by `tasks`; ends with the load, and `shutdown()` waits for it.
        tasks[sequence] = Task(name: "load of an unwrapped key") {
            let result: Result<Value, Failure>
            do throws(Failure) { result = .success(try await load(budget)) } catch {
                result = .failure(error)
            }
            self.finish(key, sequence, result, isReload: isReload)
        }
    }

    private func finish(
        _ key: KeyDigest, _ sequence: UInt64, _ result: Result<Value, Failure>, isReload: Bool
    ) {
        tasks[sequence] = nil
        if isReload { reloadsInFlight -= 1 }
        // Wiped meanwhile: its waiters were told, and a later load of the same key is another one.
        guard let load = loads[key], load.sequence == sequence else { return }
        loads[key] = nil
        let answer: Answer
        switch result {
        case .success(let value):
            proved(load.scope, at: load.startedAt)
            answer = .success(stored(value, of: load, for: key))
        case .failure where load.isLetGo && !load.waiters.isEmpty:
            // Its end says nothing to those who came after it was let go.
            start(load.work, for: key, in: load.scope, at: now(), isReload: false)
            loads[key]?.waiters = load.waiters
            return
        case .failure(let failure):
            failed(load, for: key, failure)
            answer = .failure(.load(failure))
        }
        for waiter in load.waiters.values { waiter.settle(answer) }
    }

    /// Stores what a load brought, unless a newer value has come meanwhile; returns the one that counts.
    private func stored(_ value: Value, of load: LoadInFlight, for key: KeyDigest) -> Value {
        if let slot = table.slot(of: key), table.entry(slot).sequence > load.sequence {
            return object(table.value(slot))
        }
        store(value, for: key, in: load.scope, sequence: load.sequence, at: now())
        return value
    }

    private func failed(_ load: LoadInFlight, for key: KeyDigest, _ failure: Failure) {
        if load.isReload { tally.failedReloads += 1 }
        let now = now()
        if let slot = table.slot(of: key) {
            // What opened once is not corrupt: whatever the trouble is, the entry stays.
            if table.entry(slot).sequence < load.sequence {
                table.setReloadFrom(now + limits.reloadPause, slot)
            }
        } else if limits.capacity > 0, isNegative(failure), !isClosed(load.scope) {
            negatives.insert(
                failure, key, in: load.scope, until: now + limits.rememberFailures, at: now)
        }
    }

    private func wait(for key: KeyDigest) async throws(DEKCacheFailure<Failure>) -> Value {
        precondition(loads[key] != nil, "a wait for no load")
        lastSequence += 1
        let id = lastSequence
        let waiter = Waiter<Answer>()
        loads[key]?.waiters[id] = waiter
        let answer = await withTaskCancellationHandler {
            await waiter.answer()
        } onCancel: {
            waiter.settle(.failure(.cancelled))
        }
        if loads[key]?.waiters.removeValue(forKey: id) != nil { letGoIfUnwanted(key) }
        return try answer.get()
    }

    /// Tells a load that nobody waits for it any more: what has not been sent yet need not be, what has is of use to the
    /// next who asks, and its load goes on.
    private func letGoIfUnwanted(_ key: KeyDigest) {
        guard let load = loads[key], load.waiters.isEmpty, !load.isReload, !load.isLetGo else { return }
        loads[key]?.isLetGo = true
        tasks[load.sequence]?.cancel()
    }

    private func revoke(_ failure: DEKCacheFailure<Failure>, where isConcerned: (LoadInFlight) -> Bool) {
        for (key, load) in loads where isConcerned(load) {
            loads[key] = nil
            tasks[load.sequence]?.cancel()
            for waiter in load.waiters.values { waiter.settle(.failure(failure)) }
        }
    }

    // MARK: entries

    private func store(
        _ value: Value, for key: KeyDigest, in scope: Scope, sequence: UInt64,
        at now: Duration
    ) {
        guard limits.capacity > 0, !isClosed(scope) else { return }
        negatives.remove(key)
        let entry = EntryTable.Entry(
            key: key, scope: scope, byteCount: Int32(clamping: byteCount(value)), sequence: sequence,
            reloadFrom: now + limits.reloadAfter)
        if let reason = table.insert(value, entry) { note(reason, 1) }
    }

    private func drop(_ scope: Scope, _ reason: EvictionReason) {
        note(reason, table.removeAll { $0.scope == scope })
    }

    private func note(_ reason: EvictionReason, _ count: Int) {
        if count > 0 { tally.evictions[reason, default: 0] += count }
    }

    private func isClosed(_ scope: Scope) -> Bool {
        Int(scope) < scopes.count && scopes[Int(scope)].isClosed
    }

    /// The table's object by its class.
    private func object(_ value: AnyObject) -> Value {
        // `store` puts in nothing else.
        unsafe unsafeDowncast(value, to: Value.self)
    }

    private func update(_ scope: Scope, _ change: (inout ScopeState) -> Void) {
        while scopes.count <= Int(scope) { scopes.append(ScopeState(rideThrough: limits.rideThrough)) }
        change(&scopes[Int(scope)])
        table.setExpiry(scopes[Int(scope)].expiry, of: scope)
    }
}
