/// The entries: found by digest, bounded by the eviction policy.
///
/// No clock of its own. Not generic, so that a hit asks the runtime for no metadata: values are any objects, the cache knows their class.
struct EntryTable {
    typealias Slot = EvictionPolicy.Slot

    struct Entry {
        let key: KeyDigest
        var scope: Scope
        let byteCount: Int32
        /// Number of the event that filled it: a load with a lower one is older.
        var sequence: UInt64
        /// From then on a hit asks for a reload.
        var reloadFrom: Duration
    }

    private var slots: [KeyDigest: Int32] = [:]
    private var entries: [Entry?] = []
    private var values: [AnyObject?] = []
    private var policy: EvictionPolicy
    /// By scope, from when on its entries are not used.
    private var expiries: [Duration?] = []
    private(set) var valueBytes = 0

    init(capacity: Int) { policy = EvictionPolicy(capacity: capacity) }

    var count: Int { policy.count }

    /// Bytes of memory without the values, about.
    var byteCount: Int {
        policy.byteCount + slots.capacity * 4 / 3 * (MemoryLayout<KeyDigest>.stride + 4)
            + entries.capacity * MemoryLayout<Entry?>.stride + values.capacity * 8
    }

    func slot(of key: KeyDigest) -> Slot? { slots[key].map(Int.init) }

    func entry(_ slot: Slot) -> Entry {
        guard let entry = entries[slot] else { preconditionFailure("a slot without an entry") }
        return entry
    }

    /// The value, used now, if nothing is to be done about its entry.
    mutating func useFresh(_ key: KeyDigest, at now: Duration) -> AnyObject? {
        guard let slot = slots[key].map(Int.init) else { return nil }
        let (reloadFrom, scope) = (entries[slot]?.reloadFrom, entries[slot]?.scope)
        guard let reloadFrom, let scope, now < reloadFrom, !isExpired(scope, at: now) else { return nil }
        policy.hit(slot)
        return values[slot]
    }

    func isExpired(_ scope: Scope, at now: Duration) -> Bool {
        guard Int(scope) < expiries.count, let expiry = expiries[Int(scope)] else { return false }
        return now >= expiry
    }

    mutating func setExpiry(_ instant: Duration?, of scope: Scope) {
        while expiries.count <= Int(scope) { expiries.append(nil) }
        expiries[Int(scope)] = instant
    }

    /// The value, without counting it as a use.
    func value(_ slot: Slot) -> AnyObject {
        guard let value = values[slot] else { preconditionFailure("a slot without a value") }
        return value
    }

    /// The value, used now.
    mutating func use(_ slot: Slot) -> AnyObject {
        policy.hit(slot)
        return value(slot)
    }

    mutating func setReloadFrom(_ instant: Duration, _ slot: Slot) {
        entries[slot]?.reloadFrom = instant
    }

    /// Puts a value in, in the place of the key's former one or of the entry to go; says which of them it cost.
    mutating func insert(_ value: AnyObject, _ entry: Entry) -> EvictionReason? {
        if let slot = slot(of: entry.key) {
            let former = values[slot]
            valueBytes += Int(entry.byteCount) - Int(self.entry(slot).byteCount)
            entries[slot] = entry
            values[slot] = value
            return former === value ? nil : .replaced
        }
        let victim = policy.makeRoom()
        if let victim { clear(victim) }
        let slot = policy.insert(UInt64(bitPattern: Int64(entry.key.hashValue)))
        if slot == entries.count {
            entries.append(entry)
            values.append(value)
        } else {
            entries[slot] = entry
            values[slot] = value
        }
        slots[entry.key] = Int32(slot)
        valueBytes += Int(entry.byteCount)
        return victim == nil ? nil : .capacity
    }

    /// Lets go of every entry that `isGone` says; returns how many.
    mutating func removeAll(where isGone: (Entry) -> Bool) -> Int {
        var removed = 0
        for slot in entries.indices {
            guard let entry = entries[slot], isGone(entry) else { continue }
            policy.remove(slot)
            clear(slot)
            removed += 1
        }
        return removed
    }

    /// Gives the entries of a scope to another one.
    mutating func move(from scope: Scope, to heir: Scope) {
        for slot in entries.indices where entries[slot]?.scope == scope { entries[slot]?.scope = heir }
    }

    /// The same entries in a table of another size, coldest first out; returns how many there was no room for.
    mutating func resize(to capacity: Int) -> Int {
        var resized = EntryTable(capacity: capacity)
        resized.expiries = expiries
        let order = policy.slots
        let kept = order.suffix(capacity)
        // What comes first into an empty table is taken for frequent.
        let passing = kept.prefix(EvictionPolicy.passingCapacity(of: capacity))
        for slot in kept.dropFirst(passing.count) + passing { _ = resized.insert(value(slot), entry(slot)) }
        self = resized
        return max(0, order.count - capacity)
    }

    private mutating func clear(_ slot: Slot) {
        let entry = entry(slot)
        slots[entry.key] = nil
        valueBytes -= Int(entry.byteCount)
        entries[slot] = nil
        values[slot] = nil
    }
}
