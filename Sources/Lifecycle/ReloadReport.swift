public import KeyService
public import SocketAcceptance

/// What became of a configuration that was read anew: for the log, the metrics, and whoever asked for it.
public struct ReloadReport: Sendable, Equatable, Codable {
    /// How it ended.
    public enum Result: String, Sendable, CaseIterable, Codable {
        /// Something changed, and is in effect.
        case applied
        /// It says what runs already, apart from what waits for a restart.
        case unchanged
        /// It cannot be used, or not now; nothing changed.
        case refused
    }

    /// How it ended.
    public var result: Result
    /// What is in effect now that was not before, one line.
    public var changes: String
    /// Options that differ from what runs and wait for a restart.
    public var waiting: [String]
    /// Why it is refused, one line each; at least one then, and else none.
    public var reasons: [String]
    /// What else is to be said of it, one line each.
    public var warnings: [String]

    /// A report.
    public init(
        _ result: Result, changes: String = "", waiting: [String] = [], reasons: [String] = [],
        warnings: [String] = []
    ) {
        self.result = result
        self.changes = changes
        self.waiting = waiting
        self.reasons = reasons
        self.warnings = warnings
    }
}

/// The parts of a running daemon that go by the configuration.
public struct RunningDaemon: Sendable {
    /// The keys.
    public let ring: KeyRing
    /// Who may connect.
    public let acceptor: SocketAcceptor
}

/// The configuration of a daemon, which others may change while it runs.
public protocol LiveConfiguration: Sendable {
    /// What tells one content from another, such as a digest.
    typealias Mark = [UInt8]

    /// The mark of the content that runs, or was refused last.
    var judged: Mark { get async }

    /// The mark of the content as it is now; that it cannot be read has a mark too.
    func look() async -> Mark

    /// Reads it, and has `daemon` go by it if it is right as a whole.
    func reload(_ daemon: RunningDaemon) async -> ReloadReport

    /// Closes what former configurations have left and nobody uses any more; now and then.
    func tidy() async
}
