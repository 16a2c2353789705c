// Lifecycle: the order in which the daemon starts and stops, and what it tells the service manager about it. Each
// long-lived room becomes one service of a group; the group's order is the start order, reversed for the stop.

private import CSystemd

/// What the daemon tells whoever started it.
///
/// Outside systemd every call does nothing.
public protocol ServiceManager: Sendable {
    /// The first verdict on the keys is there, or its bounded wait is over.
    func ready(status: String)
    /// One line that an operator reads in `systemctl status`.
    func status(_ line: String)
    /// The start goes on, and takes no longer than this from now; to be said again if it does.
    func starting(status: String, atMost limit: Duration)
    /// A reload has begun; only after `ready`.
    func reloading()
    /// The reload has ended, well or not.
    func reloaded()
    /// The stop has begun.
    func stopping()
    /// The daemon is alive; only to be sent when that has been proven.
    func watchdog()
    /// How often `watchdog()` must be called; nil if nobody watches.
    var watchdogInterval: Duration? { get }
}

/// systemd, by NOTIFY_SOCKET and WATCHDOG_USEC.
public struct Systemd: ServiceManager {
    /// The interval that systemd asks for.
    public let watchdogInterval: Duration?

    /// Reads the environment once.
    public init() {
        var microseconds: UInt64 = 0
        let isWatched = unsafe sd_watchdog_enabled(0, &microseconds) > 0
        watchdogInterval = isWatched ? .microseconds(Int64(clamping: microseconds)) : nil
    }

    /// `READY=1`, and `STATUS=` in one line.
    public func ready(status: String) { notify("READY=1\nSTATUS=\(Self.oneLine(status))") }
    /// `STATUS=` in one line.
    public func status(_ line: String) { notify("STATUS=\(Self.oneLine(line))") }
    /// `EXTEND_TIMEOUT_USEC=`, and `STATUS=` in one line.
    public func starting(status: String, atMost limit: Duration) {
        notify("EXTEND_TIMEOUT_USEC=\(Int64(limit / .microseconds(1)))\nSTATUS=\(Self.oneLine(status))")
    }
    /// `RELOADING=1`.
    public func reloading() { notify("RELOADING=1") }
    /// `READY=1`.
    public func reloaded() { notify("READY=1") }
    /// `STOPPING=1`.
    public func stopping() { notify("STOPPING=1\nSTATUS=stopping") }
    /// `WATCHDOG=1`.
    public func watchdog() { notify("WATCHDOG=1") }

    private func notify(_ state: String) {
        // A service manager that is not there, or does not read, is no reason to stop serving.
        _ = unsafe sd_notify(0, state)
    }

    /// A newline would begin another assignment.
    private static func oneLine(_ text: String) -> String {
        String(text.map { $0.isNewline ? " " : $0 })
    }
}
