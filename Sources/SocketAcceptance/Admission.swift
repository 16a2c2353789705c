/// Which connections are waiting for their preface and which are being served: the rules, without sockets or time.
///
/// Served ones are limited; waiting ones are bounded apart from them, so that silent peers fill nothing.
struct Admission {
    typealias ID = UInt64

    enum OnPreface: Equatable { case handOver, refuse }
    enum OnEnd: Equatable { case wasPending, wasServed, unknown }

    private struct Pending {
        let id: ID
        let deadline: Duration
    }

    private let maxConnections: Int
    private let maxPending: Int
    private let handshakeTimeout: Duration
    private var pending: [Pending] = []  // by arrival, so by deadline too
    private var served: Set<ID> = []

    init(maxConnections: Int, maxPending: Int, handshakeTimeout: Duration) {
        self.maxConnections = max(1, maxConnections)
        self.maxPending = max(1, maxPending)
        self.handshakeTimeout = handshakeTimeout
    }

    var pendingCount: Int { pending.count }
    var servedCount: Int { served.count }
    var isFull: Bool { served.count >= maxConnections }
    var nextDeadline: Duration? { pending.first?.deadline }

    /// A connection came; returns the oldest waiting one if it must go in exchange.
    mutating func arrived(_ id: ID, at now: Duration) -> ID? {
        let dropped = pending.count >= maxPending ? pending.removeFirst().id : nil
        pending.append(Pending(id: id, deadline: now + handshakeTimeout))
        return dropped
    }

    /// Its preface is complete.
    mutating func prefaceComplete(_ id: ID) -> OnPreface {
        guard let index = pending.firstIndex(where: { $0.id == id }) else { return .refuse }
        pending.remove(at: index)
        guard !isFull else { return .refuse }
        served.insert(id)
        return .handOver
    }

    /// It is over, whoever ended it.
    mutating func ended(_ id: ID) -> OnEnd {
        if served.remove(id) != nil { return .wasServed }
        guard let index = pending.firstIndex(where: { $0.id == id }) else { return .unknown }
        pending.remove(at: index)
        return .wasPending
    }

    /// Those whose time is up, taken out.
    mutating func expire(at now: Duration) -> [ID] {
        let expired = pending.prefix { $0.deadline <= now }.map(\.id)
        pending.removeFirst(expired.count)
        return expired
    }
}

/// The 24 bytes with which every HTTP/2 client begins, without waiting for the server.
enum Preface: Equatable {
    case complete, partial, foreign

    static let bytes = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)

    /// Judges the first bytes of a connection.
    init(judging seen: some Collection<UInt8>) {
        if !zip(seen, Self.bytes).allSatisfy({ $0 == $1 }) {
            self = .foreign
        } else {
            self = seen.count >= Self.bytes.count ? .complete : .partial
        }
    }
}
