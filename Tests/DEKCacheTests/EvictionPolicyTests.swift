import Testing

@testable import DEKCache

@Suite("Eviction policy")
struct EvictionPolicyTests {
    // MARK: hit rates

    @Test("a cycle over twice the capacity hits at least 40 %, from cold", arguments: [100, 1_000, 3_000])
    func cycle(_ capacity: Int) {
        var cache = Shipped(capacity: capacity)
        let rate = cache.hitRate(Traces.cycle(keys: 2 * capacity, count: 20 * capacity))
        #expect(rate >= 40)
    }

    @Test("the simpler policies hit nothing on that cycle, which is why none of them was chosen")
    func simplerPolicies() {
        let trace = Traces.cycle(keys: 2_000, count: 20_000)
        var (lru, lfu, s3) = (LRU(capacity: 1_000), LFU(capacity: 1_000), S3FIFO(capacity: 1_000))
        #expect([lru.hitRate(trace), lfu.hitRate(trace), s3.hitRate(trace)] == [0, 0, 0])
    }

    @Test(
        "such a cycle also does so when the cache was full of other traffic, within twelve rounds",
        arguments: [100, 1_000], [Before.popular, .anotherCycle, .scan])
    func cycleAfterOtherTraffic(_ capacity: Int, _ before: Before) {
        var cache = Shipped(capacity: capacity)
        _ = cache.hitRate(before.trace(capacity))
        let round = 2 * capacity
        _ = cache.hitRate(Traces.cycle(keys: round, count: 12 * round))
        let rate = cache.hitRate(Traces.cycle(keys: round, count: 5 * round))
        #expect(rate >= 40)
    }

    enum Before: Sendable {
        case popular, anotherCycle, scan

        func trace(_ capacity: Int) -> [Int] {
            switch self {
            case .popular:
                Traces.zipf(keys: 10 * capacity, exponent: 0.9, count: 30 * capacity, from: 1_000_000)
            case .anotherCycle: Traces.cycle(keys: 2 * capacity, count: 33 * capacity, from: 1_000_000)
            case .scan: Traces.cycle(keys: 30 * capacity, count: 30 * capacity, from: 1_000_000)
            }
        }
    }

    @Test(
        "on a Zipf trace it is within 5 points of the best of LRU and LFU",
        arguments: [0.6, 0.8, 1.0, 1.2], [(1_000, 2), (1_000, 10), (1_000, 50), (200, 30)])
    func zipf(_ exponent: Double, _ size: (capacity: Int, universe: Int)) {
        let trace = Traces.zipf(
            keys: size.universe * size.capacity, exponent: exponent, count: 40 * size.capacity)
        var (shipped, lru, lfu) = (
            Shipped(capacity: size.capacity), LRU(capacity: size.capacity), LFU(capacity: size.capacity)
        )
        let best = max(lru.hitRate(trace), lfu.hitRate(trace))
        #expect(shipped.hitRate(trace) >= best - 5)
    }

    @Test("a scan mixed into a Zipf stream, request by request, costs it at most 5 points")
    func scanBeside() {
        let capacity = 1_000
        let popular = Traces.zipf(keys: 10 * capacity, exponent: 0.9, count: 40 * capacity)
        let scan = Traces.cycle(keys: popular.count, count: popular.count, from: 1_000_000)
        var (alone, disturbed, lru) = (
            Shipped(capacity: capacity), Shipped(capacity: capacity), LRU(capacity: capacity)
        )
        let rate = alone.hitRate(popular)
        // Every other request is the scan's and cannot hit.
        let mixed = Traces.mix(popular, scan, everyOther: 1)
        #expect(2 * disturbed.hitRate(mixed) >= rate - 5)
        #expect(2 * lru.hitRate(mixed) < rate - 5)
    }

    @Test("when another set becomes popular it has adapted after twenty times its capacity of requests")
    func shift() {
        let capacity = 1_000
        let before = Traces.zipf(keys: 10 * capacity, exponent: 0.9, count: 40 * capacity)
        let after = Traces.zipf(
            keys: 10 * capacity, exponent: 0.9, count: 40 * capacity, seed: 2, from: 1_000_000)
        var (shifted, fresh) = (Shipped(capacity: capacity), Shipped(capacity: capacity))
        _ = shifted.hitRate(before)
        _ = shifted.hitRate(after.prefix(20 * capacity))
        _ = fresh.hitRate(after.prefix(20 * capacity))
        let settled = fresh.hitRate(after.suffix(20 * capacity))
        #expect(shifted.hitRate(after.suffix(20 * capacity)) >= settled - 2)
    }

    // MARK: the structure

    @Test("slots and counts stay right under random use", arguments: [1, 2, 3, 10, 100, 250])
    func randomUse(_ capacity: Int) {
        var policy = EvictionPolicy(capacity: capacity)
        var keyOf: [Int: Int] = [:]
        var slotOf: [Int: Int] = [:]
        var generator = SeededGenerator(seed: UInt64(capacity))
        for _ in 0..<20_000 {
            let key = Int.random(in: 0..<capacity * 4, using: &generator)
            if let slot = slotOf[key] {
                if Int.random(in: 0..<10, using: &generator) == 0 {
                    policy.remove(slot)
                    slotOf[key] = nil
                    keyOf[slot] = nil
                } else {
                    policy.hit(slot)
                }
            } else {
                let isFull = slotOf.count == capacity
                let victim = policy.makeRoom()
                #expect((victim != nil) == isFull)
                if let victim, let gone = keyOf.removeValue(forKey: victim) { slotOf[gone] = nil }
                // Few fingerprints: they collide all the time.
                let slot = policy.insert(UInt64(key % max(1, capacity)))
                #expect(keyOf[slot] == nil && slot < capacity)
                slotOf[key] = slot
                keyOf[slot] = key
            }
            #expect(policy.count == slotOf.count)
        }
        #expect(Set(policy.slots) == Set(keyOf.keys))
        #expect(policy.slots.count == policy.count)
    }

    @Test("the same requests always give the same hits")
    func determinism() {
        let trace = Traces.zipf(keys: 1_000, exponent: 0.8, count: 10_000)
        var (a, b) = (Shipped(capacity: 100), Shipped(capacity: 100))
        #expect(trace.map { a.request($0) } == trace.map { b.request($0) })
    }

    @Test("ten thousand entries and all that is remembered beside them take less than 2 MiB")
    func memory() {
        var policy = EvictionPolicy(capacity: 10_000)
        for key in 0..<100_000 {
            _ = policy.makeRoom()
            _ = policy.insert(UInt64(key))
        }
        #expect(policy.byteCount < 2 << 20)
    }

    @Test("no slots, no policy")
    func noSlots() async {
        await #expect(processExitsWith: .failure) { _ = EvictionPolicy(capacity: 0) }
    }
}
