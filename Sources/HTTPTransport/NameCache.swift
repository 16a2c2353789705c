/// Addresses of names: asked for once, however many wait, and kept so that an outage of the name service does not
/// become one of the KMS.
///
/// Pure: it says what to do, and is told what happened.
struct NameCache {
    /// What a request that needs an address does.
    enum Step: Equatable {
        /// Goes there.
        case use([IPAddress])
        /// Waits for the lookup; at `orUseOldAt` it goes to the addresses known before.
        case wait(orUseOldAt: ContinuousClock.Instant?)
    }

    /// What a lookup found.
    enum Answer: Equatable, Sendable {
        case addresses([IPAddress])
        /// The name service says that there is none.
        case noSuchName(String)
        /// The name service did not say.
        case unknown(String)
    }

    private struct Entry {
        var addresses: [IPAddress] = []
        var answeredAt: ContinuousClock.Instant?
        var askedAt: ContinuousClock.Instant?
        var askAgainAt: ContinuousClock.Instant?
    }

    /// For so long an answer is taken as it is.
    ///
    /// Names of KMS endpoints move in minutes, and connections are kept.
    static let fresh = Duration.seconds(60)
    /// For so long old addresses serve while the name service is silent: as long as cached keys do.
    static let usable = Duration.seconds(24 * 3600)
    /// So long a request waits for a newer answer than the one at hand.
    static let patience = Duration.milliseconds(200)
    /// So long the name service is left alone after it failed, if there are old addresses.
    static let pause = Duration.seconds(5)
    /// Lookups at once.
    ///
    /// One that hangs holds a thread until the resolver gives up.
    static let maximumLookups = 8
    /// Names kept; a plugin has a handful.
    static let maximumNames = 256

    private var entries: [String: Entry] = [:]
    private var queue: [String] = []
    private var lookups = 0

    /// What to do about `name`.
    mutating func ask(_ name: String, now: ContinuousClock.Instant) -> Step {
        if entries[name] == nil, entries.count >= Self.maximumNames {
            entries = entries.filter { $0.value.askedAt != nil }
        }
        var entry = entries[name] ?? Entry()
        let age = entry.answeredAt.map { $0.duration(to: now) }
        if let age, age < Self.fresh { return .use(entry.addresses) }
        let hasOld = age.map { $0 < Self.usable } ?? false
        if entry.askedAt == nil {
            if hasOld, let again = entry.askAgainAt, now < again { return .use(entry.addresses) }
            entry.askedAt = now
            queue.append(name)
            entries[name] = entry
        }
        guard hasOld else { return .wait(orUseOldAt: nil) }
        let end = (entry.askedAt ?? now) + Self.patience
        return end <= now ? .use(entry.addresses) : .wait(orUseOldAt: end)
    }

    /// The next name to look up, if another lookup may begin.
    mutating func nextLookup() -> String? {
        guard lookups < Self.maximumLookups, !queue.isEmpty else { return nil }
        lookups += 1
        return queue.removeFirst()
    }

    /// Takes an answer in; returns what those who wait get.
    mutating func answer(_ name: String, _ answer: Answer, now: ContinuousClock.Instant) -> Answer {
        lookups -= 1
        var entry = entries[name] ?? Entry()
        entry.askedAt = nil
        defer { entries[name] = entry }
        switch answer {
        case .addresses(let addresses):
            entry = Entry(addresses: addresses, answeredAt: now)
            return answer
        case .noSuchName:
            entry = Entry()
            return answer
        case .unknown:
            entry.askAgainAt = now + Self.pause
            guard let answeredAt = entry.answeredAt, answeredAt.duration(to: now) < Self.usable else {
                return answer
            }
            return .addresses(entry.addresses)
        }
    }

    /// The addresses known before, for a request that has waited long enough.
    func old(_ name: String) -> [IPAddress] { entries[name]?.addresses ?? [] }
}
