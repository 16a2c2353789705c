internal import Events
public import Logging
private import Synchronization

/// The latest events of the process, in memory: each once, in its latest words, with how often and when it was told.
///
/// What the log leaves out while a thing goes on is counted when it is told again.
public final class RecentEvents: Sendable {
    /// An event.
    public struct Entry: Sendable, Equatable {
        /// Its code, as `kmsward explain` takes it.
        public let code: String
        /// The level it was logged at last.
        public let level: Logger.Level
        /// What failed, for which key, why, what to do; as in the journal.
        public let line: String
        /// When it was told first.
        public let first: Timestamp
        /// When it was told last.
        public let last: Timestamp
        /// How often it was told, with what was left out before.
        public let count: Int
        fileprivate let identity: [String]
    }

    /// Entries at most.
    ///
    /// Some 10 KiB of text in all.
    public static let capacity = 50

    private let entries = Mutex<[Entry]>([])

    init() {}

    /// The latest first.
    public var latest: [Entry] { entries.withLock { $0.reversed() } }

    /// Takes up what is an event; costs microseconds and is for events, of which there are few.
    func add(_ record: LogRecord) {
        guard record.level >= .notice, let event = record.event else { return }
        let identity = record.identity
        entries.withLock { entries in
            let same = entries.firstIndex { $0.identity == identity }
            let former = same.map { entries.remove(at: $0) }
            if entries.count >= Self.capacity { entries.removeFirst() }
            entries.append(
                Entry(
                    code: event.code, level: record.level, line: record.told,
                    first: former?.first ?? record.time,
                    last: record.time, count: (former?.count ?? 0) + 1 + record.omitted, identity: identity))
        }
    }
}
