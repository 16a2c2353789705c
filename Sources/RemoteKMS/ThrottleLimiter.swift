private import Synchronization

/// Slows calls down to what an endpoint bears, after it said that it was asked too often.
///
/// Such a limit belongs to an endpoint and a credential, so the keys behind both share one limiter. Until the first
/// refusal it costs nothing. Then: a pause, as long as the endpoint says or growing with each refusal; after it calls
/// at a rate that every answer raises and every refusal halves, until the limit is out of sight.
public final class ThrottleLimiter: Sendable {
    private let rate = Mutex(CallRate())

    /// A limiter that limits nothing yet.
    public init() {}

    func book(at now: ContinuousClock.Instant, atMost patience: Duration) -> CallRate.Booking {
        rate.withLock { $0.book(at: now, atMost: patience) }
    }

    func giveBack(at now: ContinuousClock.Instant) { rate.withLock { $0.giveBack(at: now) } }

    func throttled(for pause: Duration?, at now: ContinuousClock.Instant) {
        rate.withLock { $0.throttled(for: pause, at: now) }
    }

    func answered() { rate.withLock { $0.answered() } }
}

/// The rate of a `ThrottleLimiter`: no calls, no clock, no locks.
struct CallRate {
    typealias Instant = ContinuousClock.Instant

    enum Booking: Equatable {
        /// Call after so long.
        case after(Duration)
        /// The turn would come too late: after so long.
        case refused(Duration)
    }

    /// Between two calls; zero while nothing is limited.
    private var interval = Duration.zero
    private var pause = CallRate.firstPause
    private var nextTurn: Instant?
    /// Refusals of calls that were under way already are one refusal.
    private var pausedUntil: Instant?

    private static let firstPause = Duration.seconds(1)
    private static let longestPause = Duration.seconds(30)
    /// No endpoint is believed that asks for a longer pause: its next answer may be another.
    private static let longestObedience = Duration.seconds(120)
    private static let firstInterval = Duration.milliseconds(50)
    private static let longestInterval = Duration.seconds(2)
    private static let shortestInterval = Duration.milliseconds(5)

    mutating func book(at now: Instant, atMost patience: Duration) -> Booking {
        guard let turn = nextTurn else { return .after(.zero) }
        let wait = max(.zero, now.duration(to: turn))
        guard wait <= patience else { return .refused(wait) }
        nextTurn = interval > .zero ? now + wait + interval : nil
        return .after(wait)
    }

    /// Somebody who booked a turn left before it came.
    ///
    /// Else callers who give up and come again would put off everybody's turn, their own too, for as long as they come.
    mutating func giveBack(at now: Instant) {
        guard let turn = nextTurn else { return }
        nextTurn = max(turn - interval, pausedUntil ?? now, now)
    }

    mutating func throttled(for told: Duration?, at now: Instant) {
        if let pausedUntil, now < pausedUntil { return }
        interval = interval == .zero ? Self.firstInterval : min(interval * 2, Self.longestInterval)
        let end = now + min(told ?? pause, Self.longestObedience)
        pause = min(pause * 2, Self.longestPause)
        pausedUntil = end
        nextTurn = end
    }

    mutating func answered() {
        guard interval > .zero else { return }
        pause = Self.firstPause
        interval = interval * 0.8
        if interval < Self.shortestInterval {
            interval = .zero
            nextTurn = nil
        }
    }
}
