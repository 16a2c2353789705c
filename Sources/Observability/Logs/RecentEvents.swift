internal import Events
public import Logging
private import Synchronization

/// The latest events of the process, in memory: each once, with how often and when it was told.
public final class RecentEvents: Sendable {
    /// An event, with all that was said of it.
    public struct Entry: Sendable, Equatable {
        /// Its code, as `kmsward explain` takes it.
        public let code: String
        /// The level it was logged at.
        public let level: Logger.Level
        /// What failed, for which key, why, what to do; as in the journal.
        public let line: String
        /// When it was told first.
        public var first: Timestamp
        /// When it was told last.
        public var last: Timestamp
        /// How often it was told.
        public var count: Int
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
        var entry = Entry(
            code: event.code, level: record.level, line: record.told, first: record.time, last: record.time,
            count: 1)
        entries.withLock { entries in
            if let same = entries.firstIndex(where: { $0.code == entry.code && $0.line == entry.line }) {
                entry.first = entries[same].first
                entry.count += entries.remove(at: same).count
            } else if entries.count >= Self.capacity {
                // What is only to be known must not push out what went wrong.
                entries.remove(at: entries.firstIndex { $0.level == .notice } ?? 0)
            }
            entries.append(entry)
        }
    }
}
