import CoreMetrics
import Observability
import Testing

@testable import DEKCache
@testable import SecureMemory

@Suite("Cache of unwrapped keys")
struct DEKCacheTests {
    typealias Cache = DEKCache<Secret, Trouble>
    typealias Answer = Result<Secret, DEKCacheFailure<Trouble>>

    private let executor = CountingExecutor()
    private let time = ManualTime()
    private let kms = GatedKMS()
    private let living = LivingSecrets()
    private let store = MetricStore()

    private func cache(_ change: (inout CacheLimits) -> Void = { _ in }) -> Cache {
        var limits = CacheLimits()
        change(&limits)
        return Cache(
            on: executor, limits: limits, byteCount: { _ in 32 }, isNegative: { $0 == .corrupt },
            metrics: store, now: { [time] in time.now })
    }

    private func key(_ number: Int) -> KeyDigest {
        var bytes = [UInt8](repeating: 0, count: 32)
        for index in 0..<8 { bytes[31 - index] = UInt8(truncatingIfNeeded: number >> (8 * index)) }
        return KeyDigest(bytes.span)
    }

    /// A request whose load, if it comes to one, the gated KMS answers.
    private func request(_ cache: Cache, _ number: Int = 1, in scope: Scope = 0) -> Task<Answer, Never> {
        let key = key(number)
        return Task { [kms] in
            do throws(DEKCacheFailure<Trouble>) {
                return .success(
                    try await cache.value(for: key, in: scope) { budget throws(Trouble) in
                        try await kms.unwrap(within: budget)
                    })
            } catch { return .failure(error) }
        }
    }

    /// Fills the cache by a load that is answered at once.
    private func fill(_ cache: Cache, _ number: Int = 1, in scope: Scope = 0) async throws -> Int {
        let value = Secret(number, countedBy: living)
        return try await cache.value(for: key(number), in: scope) { _ throws(Trouble) in value }.id
    }

    /// What is loaded ahead, and how that ends.
    private func ahead(_ cache: Cache, _ number: Int = 1) -> Task<DEKCacheFailure<Trouble>?, Never> {
        let key = key(number)
        return Task { [kms] in
            do throws(DEKCacheFailure<Trouble>) {
                try await cache.prefetch(key, in: 0) { budget throws(Trouble) in
                    try await kms.unwrap(within: budget)
                }
                return nil
            } catch { return error }
        }
    }

    private func until(_ cache: Cache, _ isSo: @Sendable (CacheCounts) -> Bool) async {
        while await !isSo(cache.counts) { await Task.yield() }
    }

    private func failure(_ result: Answer) -> DEKCacheFailure<Trouble>? {
        switch result {
        case .success: nil
        case .failure(let failure): failure
        }
    }

    // MARK: hits and loads

    @Test("a miss loads, a hit does not, and both give the same object")
    func missThenHit() async throws {
        let cache = cache()
        let first = request(cache)
        await kms.untilCalled()
        kms.answer(1, .success(Secret(7)))
        let loaded = try await first.value.get()
        #expect(await cache.hit(key(1)) === loaded)
        #expect(try await request(cache).value.get() === loaded)
        #expect(await cache.hit(key(2)) == nil)
        let counts = await cache.counts
        #expect(counts.hits == 2 && counts.misses == 1 && kms.calls == 1)
        #expect(counts.entries == 1 && counts.secretBytes == 32 && counts.loadsInFlight == 0)
    }

    @Test("a hit from an actor of the same executor crosses no thread")
    func noHop() async throws {
        let cache = cache()
        _ = try await fill(cache)
        let jobs = try await Caller(on: executor).jobs(ofHits: 1_000, on: key(1), in: cache)
        #expect(jobs == 0)
    }

    private actor Caller {
        private let executor: CountingExecutor
        nonisolated var unownedExecutor: UnownedSerialExecutor {
            // `executor` is held for as long as the actor lives.
            unsafe executor.asUnownedSerialExecutor()
        }

        init(on executor: CountingExecutor) { self.executor = executor }

        /// What 1,000 hits by either way gave the executor to do.
        func jobs(ofHits count: Int, on key: KeyDigest, in cache: Cache) async throws -> Int {
            let before = executor.jobs
            for _ in 0..<count {
                _ = try #require(await cache.hit(key))
                _ = try await cache.value(for: key, in: 0) { _ throws(Trouble) in throw .unreachable }
            }
            return executor.jobs - before
        }
    }

    @Test("200 concurrent requests make one load, under a budget of its own")
    func singleFlight() async throws {
        let cache = cache()
        let requests = (0..<200).map { _ in request(cache) }
        await until(cache) { $0.waiting == 200 }
        await kms.untilCalled()
        kms.answer(1, .success(Secret(7)))
        var values: [Secret] = []
        for request in requests { values.append(try await request.value.get()) }
        #expect(values.allSatisfy { $0 === values[0] })
        #expect(kms.calls == 1)
        #expect(kms.budgets == [CacheLimits().loadBudget])
        let counts = await cache.counts
        #expect(counts.misses == 1 && counts.coalesced == 199 && counts.waiting == 0)
    }

    @Test("what is loaded ahead is nobody's request, and those who ask meanwhile join it")
    func prefetch() async throws {
        let cache = cache()
        let ahead = ahead(cache)
        await kms.untilCalled()
        let joined = request(cache)
        await until(cache) { $0.waiting == 2 }
        kms.answer(1, .success(Secret(7)))
        #expect(await ahead.value == nil)
        #expect(try await joined.value.get().id == 7)
        // There already: no call.
        #expect(await self.ahead(cache).value == nil)
        let counts = await cache.counts
        #expect(kms.calls == 1 && counts.misses == 0 && counts.coalesced == 1 && counts.hits == 0)

        let torn = self.ahead(cache, 2)
        await kms.untilCalled(2)
        kms.answer(2, .failure(.corrupt))
        #expect(await torn.value == .load(.corrupt))
        #expect(await self.ahead(cache, 2).value == .remembered(.corrupt))
        #expect(await cache.counts.negativeHits == 0 && kms.calls == 2)
    }

    @Test("10,000 cancelled waiters leave nothing behind, and the load they left fills the cache")
    func cancelledWaiters() async throws {
        let cache = cache()
        let requests = (0..<10_000).map { _ in request(cache) }
        await until(cache) { $0.waiting == 10_000 }
        for request in requests { request.cancel() }
        for request in requests { #expect(failure(await request.value) == .cancelled) }
        await until(cache) { $0.waiting == 0 }
        #expect(await cache.counts.loadsInFlight == 1)
        // The load is told, once, and decides for itself whether to go on.
        #expect(kms.cancellations == 1)
        await kms.untilCalled()
        kms.answer(1, .success(Secret(7)))
        await until(cache) { $0.loadsInFlight == 0 }
        #expect(await cache.hit(key(1))?.id == 7)
    }

    @Test("a load that gives up because all have left is made again for those who came meanwhile")
    func letGo() async throws {
        let cache = cache()
        let gone = request(cache)
        await until(cache) { $0.waiting == 1 }
        await kms.untilCalled()
        gone.cancel()
        #expect(failure(await gone.value) == .cancelled)
        await until(cache) { $0.waiting == 0 }
        let late = request(cache)
        await until(cache) { $0.waiting == 1 }
        kms.answer(1, .failure(.unreachable))
        await kms.untilCalled(2)
        kms.answer(2, .success(Secret(8)))
        #expect(try await late.value.get().id == 8)
        #expect(await cache.counts.loadsInFlight == 0)
    }

    @Test("a cancelled waiter ends alone")
    func oneCancelled() async throws {
        let cache = cache()
        let (gone, staying) = (request(cache), request(cache))
        await until(cache) { $0.waiting == 2 }
        gone.cancel()
        #expect(failure(await gone.value) == .cancelled)
        await kms.untilCalled()
        kms.answer(1, .success(Secret(7)))
        #expect(try await staying.value.get().id == 7)
    }

    @Test("a request that was cancelled before it asked makes no load")
    func cancelledBefore() async throws {
        let cache = cache()
        let asked = Task { [kms, key = key(1)] in
            unsafe withUnsafeCurrentTask { unsafe $0?.cancel() }
            do throws(DEKCacheFailure<Trouble>) {
                _ = try await cache.value(for: key, in: 0) { budget throws(Trouble) in
                    try await kms.unwrap(within: budget)
                }
                return nil as DEKCacheFailure<Trouble>?
            } catch { return error }
        }
        #expect(await asked.value == .cancelled)
        #expect(kms.calls == 0)
    }

    @Test("a failure goes to all who wait and to nobody else")
    func failureIsNotSticky() async throws {
        let cache = cache()
        let (a, b) = (request(cache), request(cache))
        await until(cache) { $0.waiting == 2 }
        await kms.untilCalled()
        kms.answer(1, .failure(.unreachable))
        #expect(failure(await a.value) == .load(.unreachable))
        #expect(failure(await b.value) == .load(.unreachable))
        let next = request(cache)
        await kms.untilCalled(2)
        kms.answer(2, .success(Secret(8)))
        #expect(try await next.value.get().id == 8)
    }

    // MARK: remembered failures

    @Test("a failure by the ciphertext's own fault is remembered for a minute, no longer")
    func negative() async throws {
        let cache = cache()
        let first = request(cache)
        await kms.untilCalled()
        kms.answer(1, .failure(.corrupt))
        #expect(failure(await first.value) == .load(.corrupt))
        time.advance(by: .seconds(59))
        #expect(failure(await request(cache).value) == .remembered(.corrupt))
        #expect(await cache.counts.negativeHits == 1)
        time.advance(by: .seconds(1))
        let next = request(cache)
        await kms.untilCalled(2)
        kms.answer(2, .success(Secret(1)))
        #expect(try await next.value.get().id == 1)
    }

    @Test("ever new bad ciphertexts drive out no failure that is remembered, and never more are than may be")
    func negativeScan() async throws {
        let cache = cache { $0.maximumFailures = 10 }
        for number in 0..<1_000 {
            await #expect(throws: DEKCacheFailure<Trouble>.load(.corrupt)) {
                _ = try await cache.value(for: key(number), in: 0) { _ throws(Trouble) in throw .corrupt }
            }
        }
        #expect(await cache.counts.failures == 10)
        for number in 0..<10 {
            #expect(failure(await request(cache, number).value) == .remembered(.corrupt))
        }
        time.advance(by: .seconds(60))
        await cache.sweep(at: time.now)
        #expect(await cache.counts.failures == 0)
    }

    @Test("a wipe forgets the failures of its scope alone")
    func negativeWipe() async throws {
        let cache = cache()
        for scope in 0..<2 {
            await #expect(throws: DEKCacheFailure<Trouble>.load(.corrupt)) {
                _ = try await cache.value(for: key(scope), in: Scope(scope)) { _ throws(Trouble) in
                    throw .corrupt
                }
            }
        }
        await cache.wipe(0, because: .removed)
        #expect(await cache.counts.failures == 1)
        #expect(failure(await request(cache, 1, in: 1).value) == .remembered(.corrupt))
    }

    // MARK: age

    @Test("a hit on an old entry is served at once and starts one reload, which replaces it")
    func softLimit() async throws {
        let cache = cache()
        #expect(try await fill(cache, 1) == 1)
        time.advance(by: CacheLimits().reloadAfter)
        #expect(await cache.hit(key(1)) == nil)  // there is something to do
        for _ in 0..<3 { #expect(try await request(cache).value.get().id == 1) }
        #expect(await cache.hit(key(1))?.id == 1)
        await kms.untilCalled()
        #expect(kms.calls == 1)
        kms.answer(1, .success(Secret(2)))
        await until(cache) { $0.loadsInFlight == 0 }
        #expect(await cache.hit(key(1))?.id == 2)
        let counts = await cache.counts
        #expect(counts.reloads == 1 && counts.failedReloads == 0 && counts.evictions == [.replaced: 1])
    }

    @Test("a reload that fails keeps the entry and is tried again after a pause, no sooner")
    func failedReload() async throws {
        let cache = cache()
        _ = try await fill(cache)
        time.advance(by: CacheLimits().reloadAfter)
        for attempt in 1...2 {
            #expect(try await request(cache).value.get().id == 1)
            await kms.untilCalled(attempt)
            kms.answer(attempt, .failure(attempt == 1 ? .unreachable : .corrupt))
            await until(cache) { $0.loadsInFlight == 0 }
            time.advance(by: CacheLimits().reloadPause - .nanoseconds(1))
            #expect(try await request(cache).value.get().id == 1)
            #expect(kms.calls == attempt)
            time.advance(by: .nanoseconds(1))
        }
        let counts = await cache.counts
        #expect(counts.failedReloads == 2 && counts.failures == 0)
    }

    @Test("entries that grow old together are reloaded a few at a time")
    func reloadsAreBounded() async throws {
        let cache = cache { $0.maximumReloads = 2 }
        for number in 1...5 { _ = try await fill(cache, number) }
        time.advance(by: CacheLimits().reloadAfter)
        for number in 1...5 { #expect(try await request(cache, number).value.get().id == number) }
        await kms.untilCalled(2)
        #expect(await cache.counts.reloads == 2)
        kms.answer(1, .success(Secret(1)))
        await until(cache) { $0.loadsInFlight == 1 }
        for number in 1...5 { #expect(try await request(cache, number).value.get().id == number) }
        #expect(await cache.counts.reloads == 3)
        await kms.untilCalled(3)
        for call in 2...3 { kms.answer(call, .success(Secret(0))) }
    }

    @Test("entries are used until the ride-through after the last proof has passed, however old they are")
    func hardLimit() async throws {
        let cache = cache {
            $0.rideThrough = .seconds(100)
            $0.reloadAfter = .seconds(100_000)
        }
        _ = try await fill(cache, 1)
        _ = try await fill(cache, 2, in: 1)
        time.advance(by: .seconds(99))
        await cache.proved(0, at: time.now)
        await cache.proved(0, at: time.now - .seconds(50))  // an older proof takes nothing back
        time.advance(by: .seconds(99))
        #expect(await cache.hit(key(1))?.id == 1)
        #expect(await cache.hit(key(2)) == nil)
        await cache.sweep(at: time.now)
        #expect(await cache.counts.evictions == [.expired: 1])
        #expect(living.now == 1)
        time.advance(by: .seconds(1))
        let next = request(cache)  // wiped at the access, without a sweep
        await kms.untilCalled()
        #expect(living.now == 0)
        kms.answer(1, .success(Secret(3)))
        #expect(try await next.value.get().id == 3)
        #expect(await cache.hit(key(1))?.id == 3)
    }

    @Test(
        "a load that succeeds is a proof, as of when it was asked for; and each scope has its own ride-through"
    )
    func loadIsProof() async throws {
        let cache = cache()
        await cache.open(3, rideThrough: .seconds(100))
        let loading = request(cache, 1, in: 3)
        await kms.untilCalled()
        time.advance(by: .seconds(40))
        kms.answer(1, .success(Secret(1)))
        _ = try await loading.value.get()
        time.advance(by: .seconds(59))
        #expect(await cache.hit(key(1)) != nil)
        time.advance(by: .seconds(1))
        #expect(await cache.hit(key(1)) == nil)
        await cache.setRideThrough(.seconds(200), of: 3)
        #expect(await cache.hit(key(1)) != nil)
    }

    // MARK: scopes

    @Test("a scope that is closed lets go of its entries and takes in none, but answers who waits")
    func close() async throws {
        let cache = cache()
        _ = try await fill(cache, 1, in: 1)
        _ = try await fill(cache, 2)
        let waiting = request(cache, 3, in: 1)
        await kms.untilCalled()
        await cache.close(1)
        #expect(await cache.hit(key(1)) == nil)
        #expect(await cache.hit(key(2)) != nil)
        let late = request(cache, 4, in: 1)
        await kms.untilCalled(2)
        kms.answer(1, .success(Secret(3)))
        kms.answer(2, .success(Secret(4)))
        #expect(try await waiting.value.get().id == 3)
        #expect(try await late.value.get().id == 4)
        let counts = await cache.counts
        #expect(counts.entries == 1 && counts.evictions == [.removed: 1])

        await cache.open(1, rideThrough: .seconds(10))
        _ = try await fill(cache, 1, in: 1)
        #expect(await cache.hit(key(1)) != nil)
    }

    @Test("what is handed over lives by its heir's clock: entries, loads under way and the last proof")
    func handOver() async throws {
        let cache = cache()
        await cache.open(1, rideThrough: .seconds(1_000))
        await cache.open(2, rideThrough: .seconds(10))
        _ = try await fill(cache, 1, in: 1)
        let waiting = request(cache, 2, in: 1)
        await kms.untilCalled()
        await cache.handOver(1, to: 2)
        await cache.close(1)
        kms.answer(1, .success(Secret(2)))
        #expect(try await waiting.value.get().id == 2)
        for number in [1, 2] { #expect(await cache.hit(key(number)) != nil) }
        time.advance(by: .seconds(10))
        for number in [1, 2] { #expect(await cache.hit(key(number)) == nil) }
    }

    // MARK: wiping

    @Test("a wipe drops the scope's entries and what is being loaded for it, and nothing else")
    func wipe() async throws {
        let cache = cache()
        _ = try await fill(cache, 1)
        _ = try await fill(cache, 2, in: 1)
        let (a, b) = (request(cache, 3), request(cache, 3))
        await until(cache) { $0.waiting == 2 }
        await kms.untilCalled()
        await cache.wipe(0, because: .denied)
        #expect(failure(await a.value) == .revoked)
        #expect(failure(await b.value) == .revoked)
        #expect(kms.cancellations == 1)
        kms.answer(1, .success(Secret(3, countedBy: living)))
        await until(cache) { $0.loadsInFlight == 0 }
        #expect(await cache.hit(key(3)) == nil)
        #expect(await cache.hit(key(2)) != nil)
        #expect(living.now == 1)
        #expect(await cache.counts.evictions == [.denied: 1])
    }

    @Test("a load from before a wipe neither answers nor ends the one after it")
    func generations() async throws {
        let cache = cache()
        let before = request(cache)
        await kms.untilCalled(1)
        await cache.wipe(0, because: .denied)
        #expect(failure(await before.value) == .revoked)
        let after = request(cache)
        await kms.untilCalled(2)
        kms.answer(1, .success(Secret(1)))
        await until(cache) { $0.loadsInFlight == 1 }
        #expect(await cache.hit(key(1)) == nil)
        kms.answer(2, .success(Secret(2)))
        #expect(try await after.value.get().id == 2)
        #expect(await cache.hit(key(1))?.id == 2)
    }

    @Test("a load does not overwrite what was kept after it began, and its callers get the newer value")
    func newerValueWins() async throws {
        let cache = cache()
        let loading = request(cache)
        await kms.untilCalled()
        await cache.keep(Secret(2), for: key(1), in: 0)
        kms.answer(1, .success(Secret(1)))
        #expect(try await loading.value.get().id == 2)
        #expect(await cache.hit(key(1))?.id == 2)
    }

    @Test("turned off, every request loads, still one at a time for a key; failures are not remembered")
    func off() async throws {
        let cache = cache { $0.capacity = 0 }
        for call in 1...2 {
            let (a, b) = (request(cache), request(cache))
            await until(cache) { $0.waiting == 2 }
            await kms.untilCalled(call)
            kms.answer(call, call == 1 ? .success(Secret(1, countedBy: living)) : .failure(.corrupt))
            _ = (await a.value, await b.value)
        }
        #expect(kms.calls == 2)
        #expect(living.now == 0)
        let counts = await cache.counts
        #expect(counts.entries == 0 && counts.failures == 0 && counts.hits == 0)
    }

    @Test("a smaller capacity keeps what is asked for, 0 lets go of all, and a larger one fills again")
    func resize() async throws {
        let cache = cache { $0.capacity = 1_000 }
        for number in 0..<1_000 { _ = try await fill(cache, number) }
        for _ in 0..<3 { for number in 500..<600 { _ = await cache.hit(key(number)) } }
        await cache.resize(to: 200)
        #expect(living.now == 200)
        for number in 500..<600 { #expect(await cache.hit(key(number))?.id == number) }
        await cache.resize(to: 0)
        #expect(living.now == 0)
        await cache.resize(to: 10)
        for number in 0..<20 { _ = try await fill(cache, number) }
        #expect(living.now == 10)
        #expect(await cache.counts.evictions == [.capacity: 810, .off: 200])
    }

    @Test("nothing but the cache keeps a value: it ends with eviction, wipe and shutdown")
    func valuesEnd() async throws {
        let cache = cache { $0.capacity = 100 }
        for number in 0..<1_000 { _ = try await fill(cache, number, in: Scope(number % 2)) }
        #expect(living.now == 100)
        #expect(await cache.counts.secretBytes == 3_200)
        await cache.wipe(0, because: .denied)
        #expect(await living.now == cache.counts.entries)
        #expect(living.now < 100)
        weak let last = await cache.hit(key(999))
        #expect(last != nil)
        await cache.shutdown()
        #expect(last == nil)
        #expect(living.now == 0)
        #expect(await cache.counts.secretBytes == 0)
    }

    @Test("shutdown ends every wait, cancels the loads, waits for their tasks and lets nothing in any more")
    func shutdown() async throws {
        let cache = cache()
        let waiting = request(cache)
        await kms.untilCalled()
        let ending = Task { await cache.shutdown() }
        #expect(failure(await waiting.value) == .shutDown)
        kms.answer(1, .success(Secret(1, countedBy: living)))
        await ending.value
        #expect(await cache.counts.loadsInFlight == 0)
        #expect(kms.cancellations == 1)
        await cache.keep(Secret(2, countedBy: living), for: key(2), in: 0)
        #expect(living.now == 0)
        #expect(failure(await request(cache).value) == .shutDown)
        #expect(kms.calls == 1)
    }

    // MARK: numbers

    @Test("the sweep publishes the numbers, every series from the start")
    func metrics() async throws {
        let cache = cache { $0.capacity = 10 }
        for reason in EvictionReason.allCases {
            #expect(store["kmsward_cache_evictions_total{reason=\(reason.rawValue)}"] == 0)
        }
        for number in 0..<15 { _ = try await fill(cache, number) }
        _ = try await fill(cache, 14)
        for _ in 0..<2 { await cache.sweep(at: time.now) }
        #expect(store["kmsward_cache_requests_total{outcome=miss}"] == 15)
        #expect(store["kmsward_cache_requests_total{outcome=hit}"] == 1)
        #expect(store["kmsward_cache_requests_total{outcome=negative}"] == 0)
        #expect(store["kmsward_cache_evictions_total{reason=capacity}"] == 5)
        #expect(store["kmsward_cache_reloads_total{outcome=failed}"] == 0)
        #expect(store["kmsward_cache_entries"] == 10)
        #expect(store["kmsward_cache_secret_bytes"] == 320)
        #expect(store["kmsward_cache_loads_in_flight"] == 0)
    }

    @Test("ten thousand entries take less than 4 MiB beside their values, however many were seen")
    func memory() async throws {
        let cache = cache()
        for number in 0..<40_000 { await cache.keep(Secret(number), for: key(number), in: 0) }
        let counts = await cache.counts
        #expect(counts.entries == 10_000)
        #expect(counts.tableBytes < 4 << 20)
    }

    @Test("ten thousand secrets of 32 bytes fit five chunks of locked memory, which are used again")
    func lockedMemory() {
        let arena = LockedArena { _, _ in 0 }
        for _ in 0..<3 {
            let cells = unsafe (0..<10_000).map { _ in unsafe arena.allocate(32) }
            #expect(arena.ledger.mappedBytes == 5 * 65_536)
            unsafe cells.forEach { unsafe arena.free($0) }
        }
    }

    @Test("the names of results and reasons are those of the metrics' catalogue")
    func labels() {
        #expect(Names.Value.cacheResults == LookupResult.allCases.map(\.rawValue))
        #expect(Names.Value.cacheEvictions == EvictionReason.allCases.map(\.rawValue))
    }
}
