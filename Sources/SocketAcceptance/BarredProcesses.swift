private import Glibc

/// One process among all that ever had its number.
struct PeerProcess: Hashable {
    private let uid: UInt32
    private let pid: Int32
    /// When it started, in the kernel's ticks since boot; nil if it has gone, or /proc does not tell.
    private let start: UInt64?

    init(uid: UInt32, pid: Int32, start: UInt64?) { (self.uid, self.pid, self.start) = (uid, pid, start) }

    /// The process behind a connection; nil if it cannot be told from others.
    ///
    /// Number 0 stands for every process of a PID namespace that we cannot see.
    init?(_ peer: PeerCredentials) {
        guard peer.pid > 0 else { return nil }
        self.init(uid: peer.uid, pid: peer.pid, start: Self.start(of: peer.pid))
    }

    private static func start(of pid: Int32) -> UInt64? {
        guard let file = OwnedDescriptor(adopting: unsafe open("/proc/\(pid)/stat", O_RDONLY | O_CLOEXEC))
        else { return nil }
        var bytes = [UInt8](repeating: 0, count: 1024)
        let count = unsafe bytes.withUnsafeMutableBytes { unsafe read(file.number, $0.baseAddress, $0.count) }
        return start(in: String(decoding: bytes.prefix(max(0, count)), as: UTF8.self))
    }

    /// Field 22 of proc(5)'s `stat`; the name before it, in parentheses, may hold anything.
    static func start(in stat: String) -> UInt64? {
        guard let name = stat.lastIndex(of: ")") else { return nil }
        let fields = stat[stat.index(after: name)...].split(separator: " ")
        return fields.count > 19 ? UInt64(fields[19]) : nil
    }
}

/// Which processes may not connect for a while, because they come back to do harm as often as they are cut: the rules,
/// without sockets or time.
///
/// The guard ends a flood soon, but an attacker reconnects at once, and without this the others would get only what
/// is left between two cuts. What must not happen is that an API server is kept out for one bad second. So the first cut
/// costs a breath only, in which the engine lets go of what it held and serves the others: half a second, after which a
/// gRPC client tries again by itself (its first backoff is one), well within the 3 s that an API server gives a call. A bar
/// takes a second cut within ten seconds, and each cut takes an engine that was kept from everybody by a peer with far more
/// unread than a client has under way. The first bar is short, and grows only for who goes on after it. It holds for one
/// process: another of the same user (kube-apiserver and most others run as user 0) is not concerned, nor is a restarted
/// one, nor those that cannot be told apart.
struct BarredProcesses {
    /// Two cuts no further apart than this are no accident.
    static let window = Duration.seconds(10)
    static let breath = Duration.milliseconds(500)
    static let shortest = Duration.seconds(10)
    static let longest = Duration.seconds(60)

    private struct Record {
        var lastCut: Duration
        var bar = BarredProcesses.breath
        var end: Duration

        /// Whether one more cut now is followed by a bar.
        func isWatched(at now: Duration) -> Bool {
            now
                <= (bar == BarredProcesses.breath
                    ? lastCut + BarredProcesses.window : end + BarredProcesses.longest)
        }
    }

    private let capacity: Int
    private var records: [PeerProcess: Record] = [:]

    init(capacity: Int = 64) { self.capacity = max(1, capacity) }

    /// Whether nobody has been cut lately: then there is no need to find out who connects.
    var isEmpty: Bool { records.isEmpty }

    /// A process was cut; returns for how long it is barred now, nil if only for a breath.
    mutating func cut(_ process: PeerProcess, at now: Duration) -> Duration? {
        forgetOutdated(at: now)
        guard var record = records[process] else {
            if records.count >= capacity,
                let oldest = records.min(by: { $0.value.lastCut < $1.value.lastCut })
            {
                records[oldest.key] = nil
            }
            records[process] = Record(lastCut: now, end: now + Self.breath)
            return nil
        }
        record.lastCut = now
        let isSameOffence = record.bar > Self.breath && now < record.end  // another connection of it
        if !isSameOffence {
            record.bar = record.bar == Self.breath ? Self.shortest : min(record.bar * 2, Self.longest)
            record.end = now + record.bar
        }
        records[process] = record
        return record.end - now
    }

    /// Whether it may not connect now.
    mutating func isBarred(_ process: PeerProcess, at now: Duration) -> Bool {
        forgetOutdated(at: now)
        return records[process].map { now < $0.end } ?? false
    }

    /// Lets go of those whose next cut is a first one again, also where none comes: whoever connects is looked up while
    /// there is a record.
    private mutating func forgetOutdated(at now: Duration) {
        records = records.filter { $0.value.isWatched(at: now) }
    }
}
