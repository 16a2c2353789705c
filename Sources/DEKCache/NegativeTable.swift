/// Failures that are the ciphertext's own fault, remembered for a while.
///
/// Bounded, and full means full: a stream of ever new bad ciphertexts drives out none that is remembered, and none stays
/// longer than its time.
struct NegativeTable<Failure: Error> {
    private struct Entry {
        let failure: Failure
        let scope: Scope
        let until: Duration
    }

    private let capacity: Int
    private var entries: [KeyDigest: Entry] = [:]
    /// No entry ends before it.
    private var earliestEnd: Duration?

    init(capacity: Int) { self.capacity = capacity }

    var count: Int { entries.count }

    func failure(_ key: KeyDigest, at now: Duration) -> Failure? {
        guard let entry = entries[key], now < entry.until else { return nil }
        return entry.failure
    }

    mutating func insert(
        _ failure: Failure, _ key: KeyDigest, in scope: Scope, until: Duration,
        at now: Duration
    ) {
        if entries.count >= capacity { purge(at: now) }
        guard entries.count < capacity else { return }
        entries[key] = Entry(failure: failure, scope: scope, until: until)
        earliestEnd = min(earliestEnd ?? until, until)
    }

    mutating func remove(_ key: KeyDigest) { entries[key] = nil }

    mutating func removeAll(in scope: Scope) { entries = entries.filter { $0.value.scope != scope } }

    mutating func removeAll() { entries = [:] }

    /// Forgets what has had its time.
    mutating func purge(at now: Duration) {
        guard let earliestEnd, earliestEnd <= now else { return }
        entries = entries.filter { now < $0.value.until }
        self.earliestEnd = entries.values.map(\.until).min()
    }
}
