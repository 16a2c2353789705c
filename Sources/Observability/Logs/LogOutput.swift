public import Events
internal import Glibc
public import Logging
internal import Synchronization
private import Threads

/// How log lines are written.
public enum LogFormat: String, Sendable, CaseIterable {
    /// `journal` if standard error is connected to journald, else `text`.
    case auto
    /// One line of text on standard error.
    case text
    /// One JSON object per line on standard error.
    case json
    /// Native entries with their fields in the journal.
    case journal

    /// What `auto` means here, and whether a wish could not be met.
    ///
    /// - Parameters:
    ///   - journalStream: the environment's JOURNAL_STREAM, `device:inode` of what systemd connected.
    ///   - errorStream: device and inode of standard error.
    ///   - hasJournal: journald's socket exists.
    func resolved(
        journalStream: String?, errorStream: (device: UInt64, inode: UInt64)?, hasJournal: Bool
    ) -> (format: LogFormat, isFallback: Bool) {
        switch self {
        case .text, .json: return (self, false)
        case .journal: return hasJournal ? (.journal, false) : (.text, true)
        case .auto:
            guard hasJournal, let journalStream, let errorStream else { return (.text, false) }
            // A child whose standard error was redirected inherits the variable, not the stream.
            let isJournal = journalStream == "\(errorStream.device):\(errorStream.inode)"
            return (isJournal ? .journal : .text, false)
        }
    }
}

/// Why logging could not start.
public struct LogFailure: Error, CustomStringConvertible {
    /// One line: what failed, and why.
    public let description: String
}

/// The process's log: formats lines on the caller's thread, writes them on its own, so no reader can hold up a call.
public final class LogOutput: Sendable {
    private let format: LogFormat
    private let queue: LogQueue
    private let levelIndex: Atomic<Int>
    private let thread: Mutex<OwnedThread?>
    private let now: @Sendable () -> Timestamp
    /// The latest events, for who has no journal at hand.
    public let recent = RecentEvents()

    /// Starts the writer thread and makes this the process's swift-log backend.
    ///
    /// Call once, first thing.
    ///
    /// Throws if the process has no descriptor or thread left.
    public static func bootstrap(format: LogFormat, level: Logger.Level) throws(LogFailure) -> LogOutput {
        let (resolved, isFallback) = resolved(format)
        let output = try LogOutput(
            format: resolved, level: level,
            sink: resolved == .journal ? .journal : .stream(fd: STDERR_FILENO))
        LoggingSystem.bootstrap(
            { label, provider in output.handler(label: label, metadataProvider: provider) },
            metadataProvider: nil)
        if isFallback {
            Logger(label: "kmsward.log").event(
                .journalMissing, "journald is not here; logging text to standard error",
                metadata: [Names.LogKey.remedy: "set log.format to auto or text"])
        }
        return output
    }

    /// What `format` means for this process.
    private static func resolved(_ format: LogFormat) -> (format: LogFormat, isFallback: Bool) {
        var status = stat()
        let hasStatus = unsafe fstat(STDERR_FILENO, &status) == 0
        return format.resolved(
            journalStream: unsafe getenv("JOURNAL_STREAM").map { unsafe String(cString: $0) },
            errorStream: hasStatus ? (UInt64(status.st_dev), UInt64(status.st_ino)) : nil,
            hasJournal: unsafe access("/run/systemd/journal/socket", W_OK) == 0)
    }

    /// Sends entries to the journal at once, if standard error is connected to it; for the time before `bootstrap`.
    public static func sendToJournal(
        _ messages: [String], of event: Event, file: String = #fileID, function: String = #function,
        line: UInt = #line
    ) -> Bool {
        guard resolved(.auto).format == .journal else { return false }
        let isSent = messages.allSatisfy { message in
            LogQueue.sendToJournal(
                LogRecord(
                    time: .now, level: event.entry.level, logger: "kmsward", message: message,
                    metadata: [Names.LogKey.event: "\(event.code)"], file: file, function: function,
                    line: line
                ).journalFields)
        }
        if event.entry.level == .critical { letJournalLook() }
        return isSent
    }

    /// Waits a moment, before the process ends for a reason that it has just told: journald reads in /proc whose entry it is.
    public static func letJournalLook() {
        if resolved(.auto).format == .journal { usleep(100_000) }
    }

    init(
        format: LogFormat, level: Logger.Level, sink: LogSink, limits: LogQueue.Limits = LogQueue.Limits(),
        now: @escaping @Sendable () -> Timestamp = { .now }
    ) throws(LogFailure) {
        let queue = LogQueue(sink: sink, limits: limits) { lost in
            Self.item(
                LogRecord(
                    time: now(), level: .warning, logger: "kmsward.log",
                    message: "log lines were lost: their reader did not keep up",
                    metadata: [
                        Names.LogKey.event: "\(Event.logLinesLost.code)", Names.LogKey.count: "\(lost)",
                    ], file: #fileID, function: #function, line: #line
                ),
                format)
        }
        guard let queue else {
            throw LogFailure(description: "cannot start logging: eventfd: \(reason(of: errno))")
        }
        guard let thread = OwnedThread(name: "kmsward-log", run: { queue.run() }) else {
            throw LogFailure(description: "cannot start logging: no thread: \(reason(of: errno))")
        }
        self.format = format
        self.queue = queue
        self.now = now
        levelIndex = Atomic(level.index)
        self.thread = Mutex(consume thread)
    }

    /// The level below which nothing is logged; may change at any time.
    public var level: Logger.Level {
        get { Logger.Level.allCases[levelIndex.load(ordering: .relaxed)] }
        set { levelIndex.store(newValue.index, ordering: .relaxed) }
    }

    /// Log lines lost since the start because their reader did not keep up.
    public var droppedLines: UInt64 { queue.dropped }

    /// Shows `droppedLines` as a metric.
    public func report(to registry: PrometheusRegistry) {
        registry.counter(Names.Metric.logLinesDropped) { [queue] in queue.dropped }
    }

    /// Waits until what was logged before is written.
    ///
    /// Blocks the calling thread, at most for `limit`; for the end of the process.
    ///
    /// - Returns: false if the reader did not take everything in time.
    @discardableResult
    public func flush(within limit: Duration) -> Bool { queue.flush(within: limit) }

    /// Writes what is left, within `limit`, and ends the writer thread.
    ///
    /// Later lines are dropped.
    @discardableResult
    public func close(within limit: Duration) -> Bool {
        let isWritten = queue.flush(within: limit)
        if isWritten { queue.close() } else { queue.abandon() }
        let thread = self.thread.withLock { $0.take() }
        if let thread {
            // journald may hold the thread inside the kernel; a stream cannot.
            if isWritten || format != .journal { thread.join() } else { thread.abandon() }
        }
        return isWritten
    }

    /// A swift-log handler that writes here.
    public func handler(label: String, metadataProvider: Logger.MetadataProvider? = nil) -> any LogHandler {
        Handler(output: self, label: label, metadataProvider: metadataProvider)
    }

    private func write(_ record: LogRecord) {
        recent.add(record)
        queue.offer(Self.item(record, format))
    }

    private static func item(_ record: LogRecord, _ format: LogFormat) -> LogQueue.Item {
        switch format {
        case .auto, .text: [record.textLine]
        case .json: [record.jsonLine]
        case .journal: record.journalFields
        }
    }

    private struct Handler: LogHandler {
        let output: LogOutput
        let label: String
        var metadata: Logger.Metadata = [:]
        var metadataProvider: Logger.MetadataProvider?
        private var ownLevel: Logger.Level?

        init(output: LogOutput, label: String, metadataProvider: Logger.MetadataProvider?) {
            self.output = output
            self.label = label
            self.metadataProvider = metadataProvider
        }

        // The process's level, unless someone set one on this very logger.
        var logLevel: Logger.Level {
            get { ownLevel ?? output.level }
            set { ownLevel = newValue }
        }

        subscript(metadataKey key: String) -> Logger.Metadata.Value? {
            get { metadata[key] }
            set { metadata[key] = newValue }
        }

        func log(event: LogEvent) {
            var all = metadata
            if let provided = metadataProvider?.get() { all.merge(provided) { $1 } }
            if let given = event.metadata { all.merge(given) { $1 } }
            if let error = event.error, all[Names.LogKey.cause] == nil {
                // A plain struct prints all that it stores: only a text that someone wrote for readers is shown.
                let text = (error as? any CustomStringConvertible)?.description ?? "\(type(of: error))"
                all[Names.LogKey.cause] = .string(text)
            }
            // Not ours: our own go by `Logger.event`.
            if event.level >= .warning, all[Names.LogKey.event] == nil {
                all[Names.LogKey.event] = "\(Event.unclassified.code)"
            }
            output.write(
                LogRecord(
                    time: output.now(), level: event.level, logger: label, message: event.message.description,
                    metadata: all, file: event.file, function: event.function, line: event.line))
        }
    }
}

extension Logger.Level {
    fileprivate var index: Int {
        switch self {
        case .trace: 0
        case .debug: 1
        case .info: 2
        case .notice: 3
        case .warning: 4
        case .error: 5
        case .critical: 6
        }
    }
}
