@testable import DEKCache

/// A cache of key numbers without values: true for a hit; after a miss the key has been let in, or not.
protocol SimulatedCache {
    init(capacity: Int)
    mutating func request(_ key: Int) -> Bool
}

extension SimulatedCache {
    /// The share of hits in percent.
    mutating func hitRate(_ trace: some Collection<Int>) -> Double {
        let hits = trace.reduce(into: 0) { hits, key in if request(key) { hits += 1 } }
        return 100 * Double(hits) / Double(trace.count)
    }
}

/// The policy that ships.
struct Shipped: SimulatedCache {
    private var policy: EvictionPolicy
    private var slots: [Int: Int] = [:]
    private var keys: [Int: Int] = [:]

    init(capacity: Int) { policy = EvictionPolicy(capacity: capacity) }

    mutating func request(_ key: Int) -> Bool {
        if let slot = slots[key] {
            policy.hit(slot)
            return true
        }
        if let victim = policy.makeRoom(), let gone = keys.removeValue(forKey: victim) { slots[gone] = nil }
        let slot = policy.insert(UInt64(key))
        slots[key] = slot
        keys[slot] = key
        return false
    }
}

/// Keys in an order: the first in is the first out, unless it is taken and put in again.
struct KeyQueue {
    private var next: [Int: Int] = [:]
    private var previous: [Int: Int] = [:]
    private static let end = -1

    private(set) var count = 0

    init() {
        next[Self.end] = Self.end
        previous[Self.end] = Self.end
    }

    func contains(_ key: Int) -> Bool { next[key] != nil }

    mutating func append(_ key: Int) {
        let last = previous[Self.end, default: Self.end]
        next[last] = key
        previous[key] = last
        next[key] = Self.end
        previous[Self.end] = key
        count += 1
    }

    @discardableResult mutating func remove(_ key: Int) -> Bool {
        guard let before = previous.removeValue(forKey: key), let after = next.removeValue(forKey: key)
        else { return false }
        next[before] = after
        previous[after] = before
        count -= 1
        return true
    }

    mutating func popFirst() -> Int? {
        guard let first = next[Self.end], first != Self.end else { return nil }
        remove(first)
        return first
    }
}

/// The least recently used goes.
struct LRU: SimulatedCache {
    private let capacity: Int
    private var queue = KeyQueue()

    init(capacity: Int) { self.capacity = capacity }

    mutating func request(_ key: Int) -> Bool {
        let isHit = queue.remove(key)
        queue.append(key)
        if queue.count > capacity { _ = queue.popFirst() }
        return isHit
    }
}

/// The least often used goes, by an exact count of everything ever asked for; a newcomer that was asked for less does
/// not even enter.
struct LFU: SimulatedCache {
    private let capacity: Int
    private var counts: [Int: Int] = [:]
    /// What is held, by its count.
    private var held: [Int: KeyQueue] = [:]
    private var isHeld: Set<Int> = []
    private var lowest = 1

    init(capacity: Int) { self.capacity = capacity }

    mutating func request(_ key: Int) -> Bool {
        let count = counts[key, default: 0] + 1
        counts[key] = count
        if isHeld.contains(key) {
            held[count - 1]?.remove(key)
            held[count, default: KeyQueue()].append(key)
            return true
        }
        if isHeld.count == capacity {
            while held[lowest, default: KeyQueue()].count == 0 { lowest += 1 }
            guard count >= lowest, let victim = held[lowest]?.popFirst() else { return false }
            isHeld.remove(victim)
        }
        isHeld.insert(key)
        held[count, default: KeyQueue()].append(key)
        lowest = min(lowest, count)
        return false
    }
}

/// S3-FIFO: three queues, the third of ghosts.
///
/// For comparison.
struct S3FIFO: SimulatedCache {
    private let capacity: Int
    private let smallCapacity: Int
    private var small = KeyQueue()
    private var main = KeyQueue()
    private var ghosts = KeyQueue()
    private var uses: [Int: Int] = [:]

    init(capacity: Int) {
        self.capacity = capacity
        smallCapacity = max(1, capacity / 10)
    }

    mutating func request(_ key: Int) -> Bool {
        if let used = uses[key] {
            uses[key] = min(used + 1, 3)
            return true
        }
        if uses.count == capacity { makeRoom() }
        if ghosts.remove(key) { main.append(key) } else { small.append(key) }
        uses[key] = 0
        return false
    }

    private mutating func makeRoom() {
        while uses.count == capacity {
            if small.count >= smallCapacity || main.count == 0, let key = small.popFirst() {
                if uses[key, default: 0] > 0 {
                    uses[key] = 0
                    main.append(key)
                } else {
                    uses[key] = nil
                    ghosts.append(key)
                    if ghosts.count > capacity - smallCapacity { _ = ghosts.popFirst() }
                }
            } else if let key = main.popFirst() {
                if let used = uses[key], used > 0 {
                    uses[key] = used - 1
                    main.append(key)
                } else {
                    uses[key] = nil
                }
            }
        }
    }
}
