/// Which connections are waiting for their preface and which are being served: the rules, without sockets or time.
///
/// Served ones are limited; waiting ones are bounded apart from them, so that silent peers fill nothing. When all
/// places are taken, a connection that does not use its place gives it up for the newcomer.
struct Admission {
    typealias ID = UInt64

    enum OnPreface: Equatable {
        case handOver
        /// Hand over after this served one, by now taken out, has been cut.
        case handOverInsteadOf(ID)
        case refuse
    }
    enum OnEnd: Equatable { case wasPending, wasServed, unknown }

    /// A process that connects.
    struct Holder: Hashable {
        let uid: UInt32
        let pid: Int32

        init(_ peer: PeerCredentials) { (uid, pid) = (peer.uid, peer.pid) }
    }

    private struct Pending {
        let id: ID
        let deadline: Duration
    }

    private struct Served {
        let holder: Holder
        var arrivals = 0
        var lastHeard: Duration

        var hasSpoken: Bool { arrivals > Admission.greetingArrivals }
    }

    /// Arrivals that prove nothing: the first may report the preface itself, the second the acknowledgement of our
    /// SETTINGS, which every client's library sends without being asked for anything.
    static let greetingArrivals = 2
    /// How long a connection that has spoken may be silent before it gives its place up to a newcomer: longer than an
    /// API server waits for an answer (3 s unless told otherwise), so that no call in flight is cut.
    static let idleGrace = Duration.seconds(10)

    private let maxConnections: Int
    private let maxPending: Int
    private let handshakeTimeout: Duration
    private var pending: [Pending] = []  // by arrival, so by deadline too
    private var served: [ID: Served] = [:]
    private var places: [Holder: Int] = [:]
    private var crowds: Set<Holder> = []

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
    mutating func prefaceComplete(_ id: ID, of holder: Holder, at now: Duration) -> OnPreface {
        guard let index = pending.firstIndex(where: { $0.id == id }) else { return .refuse }
        pending.remove(at: index)
        let idle = isFull ? leastUsed(at: now) : nil
        guard !isFull || idle != nil else { return .refuse }
        if let idle { leave(idle) }
        served[id] = Served(holder: holder, lastHeard: now)
        places[holder, default: 0] += 1
        return idle.map { .handOverInsteadOf($0) } ?? .handOver
    }

    /// Something came from a served connection.
    mutating func heard(_ id: ID, at now: Duration) {
        served[id]?.arrivals += 1
        served[id]?.lastHeard = now
    }

    /// Whether more has come from it than its greeting.
    func hasSpoken(_ id: ID) -> Bool { served[id]?.hasSpoken ?? false }

    /// Whether a process holds more than half of the places.
    func isCrowd(_ holder: Holder) -> Bool {
        places[holder].map { $0 > 1 && $0 > maxConnections / 2 } ?? false
    }

    /// The same; true once until it holds none.
    mutating func isNewCrowd(_ holder: Holder) -> Bool { isCrowd(holder) && crowds.insert(holder).inserted }

    /// It is over, whoever ended it.
    mutating func ended(_ id: ID) -> OnEnd {
        if leave(id) { return .wasServed }
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

    /// The served connection that misses its place least; nil if all use theirs.
    ///
    /// First those that never spoke beyond their greeting: of the process that holds most of them, so that a crowd
    /// pushes itself out and nobody else, the oldest. Then the one that has been silent for longest.
    private func leastUsed(at now: Duration) -> ID? {
        let mute = served.filter { !$0.value.hasSpoken }
        let crowds = mute.values.reduce(into: [Holder: Int]()) { $0[$1.holder, default: 0] += 1 }
        let oldestMute = mute.min { one, other in
            let (size, otherSize) = (crowds[one.value.holder] ?? 0, crowds[other.value.holder] ?? 0)
            return size != otherSize ? size > otherSize : one.key < other.key
        }
        if let oldestMute { return oldestMute.key }
        return served.filter { now - $0.value.lastHeard >= Self.idleGrace }
            .min { ($0.value.lastHeard, $0.key) < ($1.value.lastHeard, $1.key) }?.key
    }

    @discardableResult
    private mutating func leave(_ id: ID) -> Bool {
        guard let holder = served.removeValue(forKey: id)?.holder else { return false }
        places[holder, default: 0] -= 1
        if places[holder] == 0 {
            places[holder] = nil
            crowds.remove(holder)
        }
        return true
    }
}

/// How every HTTP/2 client begins without waiting for the server: 24 fixed bytes, then a SETTINGS frame (RFC 9113,
/// section 3.4).
///
/// Of the frame only the header is asked for.
enum Preface: Equatable {
    case complete, partial, foreign

    static let bytes = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8)
    static let frameHeaderLength = 9
    static let length = bytes.count + frameHeaderLength
    /// The longest frame that may be sent before the server has allowed longer ones.
    static let longestFrame = 16384

    /// Judges the first bytes of a connection.
    init(judging seen: some Collection<UInt8>) {
        let header = seen.dropFirst(Self.bytes.count)
        if !zip(seen, Self.bytes).allSatisfy({ $0 == $1 }) || !Self.beginsSettings(Array(header)) {
            self = .foreign
        } else {
            self = seen.count >= Self.length ? .complete : .partial
        }
    }

    /// Whether the bytes, as far as they have come, can be the header of a client's first SETTINGS.
    private static func beginsSettings(_ header: [UInt8]) -> Bool {
        if header.count >= 3 {
            let length = header.prefix(3).reduce(0) { $0 << 8 | Int($1) }
            // Each setting is 6 bytes long.
            guard length <= longestFrame, length.isMultiple(of: 6) else { return false }
        }
        if header.count >= 4, header[3] != 4 { return false }
        // An acknowledgement cannot come first.
        if header.count >= 5, header[4] & 1 != 0 { return false }
        // Stream 0; the topmost bit is reserved, to be ignored.
        if header.count >= 6, header[5] & 0x7f != 0 { return false }
        return header.dropFirst(6).prefix(3).allSatisfy { $0 == 0 }
    }
}
