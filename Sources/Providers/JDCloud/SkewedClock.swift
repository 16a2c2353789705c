private import Glibc
private import Synchronization

/// The time as the service has it: this machine's, and what the service's answers taught of its error.
final class SkewedClock: Sendable {
    private let system: @Sendable () -> Int64
    private let learned = Mutex<Int64>(0)

    init(_ system: @escaping @Sendable () -> Int64) { self.system = system }

    /// Seconds since 1970.
    var now: Int64 { system() + offset }

    /// What is added to this machine's time, in seconds.
    var offset: Int64 { learned.withLock { $0 } }

    /// What the offset would have to be for a service whose time is `seconds` now.
    func offset(toReach seconds: Int64) -> Int64 { seconds - system() }

    /// Takes up an offset.
    func set(_ offset: Int64) { learned.withLock { $0 = offset } }

    /// This machine's time.
    static let system: @Sendable () -> Int64 = { Int64(time(nil)) }
}
