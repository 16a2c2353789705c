/// The instant at which a call's answer is worth nothing any more; made once and handed down, so that nested
/// timeouts cannot add up.
public struct Deadline: Sendable, Equatable {
    /// The instant.
    public let instant: ContinuousClock.Instant

    /// A deadline at `instant`.
    public init(_ instant: ContinuousClock.Instant) { self.instant = instant }

    /// A deadline `duration` from now.
    public static func after(_ duration: Duration) -> Deadline { Deadline(ContinuousClock.now + duration) }

    /// Time left; negative when it has passed.
    public var remaining: Duration { ContinuousClock.now.duration(to: instant) }
}

/// A clock that deadlines can be told from: the system's, or a test's with time by hand.
public protocol DeadlineClock: Clock<Duration> where Instant == ContinuousClock.Instant {}

extension ContinuousClock: DeadlineClock {}
