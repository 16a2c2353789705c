internal import Events

/// Remembers which events were logged of which user: the first of each at once, later ones now and then, with their number.
///
/// Bounded: whoever can come as many users gets lines for the first of them, and shared ones after that.
struct EventLog {
    private struct Kind: Hashable {
        let event: Event
        let reason: RefusalReason?
        let uid: UInt32?
    }

    private let capacity: Int
    private var users: Set<UInt32> = []
    private var repeats = Repeats<Kind>()

    init(capacity: Int = 16) { self.capacity = capacity }

    /// How many were left out since the last that was logged; nil if this one is left out too.
    mutating func admit(_ event: Event, _ reason: RefusalReason?, uid: UInt32?, at now: Duration) -> Int? {
        if let uid, users.count < capacity { users.insert(uid) }
        let known = uid.flatMap { users.contains($0) ? $0 : nil }
        return repeats.admit(Kind(event: event, reason: reason, uid: known), at: now)
    }
}
