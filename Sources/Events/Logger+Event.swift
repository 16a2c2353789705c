public import Logging

extension Event {
    /// The metadata key under which a log line has its code.
    public static let logKey = "event"
}

extension Logger {
    /// Logs an event: at its own level unless another is given.
    ///
    /// The one way to log at warning or above; `make lint` sees to it.
    public func event(
        _ event: Event, _ message: @autoclosure () -> Logger.Message, level: Logger.Level? = nil,
        metadata: @autoclosure () -> Logger.Metadata = [:], file: String = #fileID,
        function: String = #function, line: UInt = #line
    ) {
        let level = level ?? event.entry.level
        guard logLevel <= level else { return }
        var metadata = metadata()
        metadata[Event.logKey] = .string(event.code)
        log(level: level, message(), metadata: metadata, file: file, function: function, line: line)
    }
}
