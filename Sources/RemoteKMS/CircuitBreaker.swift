/// Keeps calls from a backend that fails every time, so that they fail at once instead of late: no calls, no clock, no
/// locks.
///
/// Closed, it lets every call through; after `threshold` failures in a row it opens, and refuses with the last cause;
/// after a pause it lets one call through as a probe, whose end closes it or opens it for twice as long.
struct CircuitBreaker {
    typealias Instant = ContinuousClock.Instant

    /// What a call may do.
    enum Admission: Equatable {
        case go
        /// Go, as the one that finds out.
        case probe
        /// Do not: the last cause, and how long nobody will.
        case refuse(RemoteKMSError, for: Duration)
    }

    private enum State {
        case closed(failures: Int)
        case open(until: Instant, pause: Duration, cause: RemoteKMSError)
        case probing(pause: Duration, cause: RemoteKMSError)
    }

    private let threshold: Int
    private let firstPause: Duration
    private let longestPause: Duration
    private var state = State.closed(failures: 0)

    init(
        threshold: Int = 5, firstPause: Duration = .seconds(1), longestPause: Duration = .seconds(30)
    ) {
        self.threshold = threshold
        self.firstPause = firstPause
        self.longestPause = longestPause
    }

    /// Whether calls go through.
    var isClosed: Bool { if case .closed = state { true } else { false } }

    mutating func admit(at now: Instant) -> Admission {
        switch state {
        case .closed: return .go
        case .open(let until, let pause, let cause):
            guard now >= until else { return .refuse(cause, for: now.duration(to: until)) }
            state = .probing(pause: pause, cause: cause)
            return .probe
        case .probing(_, let cause): return .refuse(cause, for: .zero)
        }
    }

    /// A call that was let through got an answer, good or bad.
    mutating func answered() { state = .closed(failures: 0) }

    /// A call that was let through got none; true if this opened the breaker.
    ///
    /// `spread`, 0.8...1.2, keeps the replicas of a cluster from probing all at once.
    mutating func failed(_ cause: RemoteKMSError, isProbe: Bool, at now: Instant, spread: Double) -> Bool {
        switch state {
        case .closed(let failures):
            guard failures + 1 >= threshold else {
                state = .closed(failures: failures &+ 1)
                return false
            }
            open(for: firstPause, cause, now, spread)
            return true
        case .probing(let pause, _) where isProbe:
            open(for: min(pause * 2, longestPause), cause, now, spread)
            return false
        case .open, .probing: return false  // a straggler from before
        }
    }

    /// A probe ended without finding out: its caller gave up.
    mutating func abandoned(at now: Instant) {
        if case .probing(let pause, let cause) = state {
            state = .open(until: now, pause: pause, cause: cause)
        }
    }

    private mutating func open(
        for pause: Duration, _ cause: RemoteKMSError, _ now: Instant, _ spread: Double
    ) {
        state = .open(until: now + pause * spread, pause: pause, cause: cause)
    }
}
