/// Remembers which refusals were logged: the first of each kind and user at once, later ones only counted.
///
/// Bounded: whoever can come as many users must not make us remember them all.
struct RefusalLog {
    enum Decision: Equatable {
        case log
        /// Log it, and say that it is the last new one.
        case logAsLast
        case countOnly
    }

    private struct Kind: Hashable {
        let reason: RefusalReason
        let uid: UInt32
    }

    private let capacity: Int
    private var seen: Set<Kind> = []

    init(capacity: Int = 64) { self.capacity = capacity }

    mutating func refused(_ reason: RefusalReason, uid: UInt32) -> Decision {
        guard seen.count < capacity else { return .countOnly }
        guard seen.insert(Kind(reason: reason, uid: uid)).inserted else { return .countOnly }
        return seen.count == capacity ? .logAsLast : .log
    }
}
