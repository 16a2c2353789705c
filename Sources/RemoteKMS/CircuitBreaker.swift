/// Keeps calls from a backend that fails every time, so that they fail at once instead of late: no calls, no clock, no
/// locks.
///
/// Closed, it lets every call through; after `threshold` failures in a row it opens, and refuses with the last cause;
/// after a pause it lets one call through as a probe, whose end closes it or opens it for twice as long. If the failures
/// were but late, a call with far more time goes through all the same: a backend that takes 2.9 s is of no use to a write
/// with 2.8 s, and of every use to a load with 10 s.
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

    /// How much time the calls had that failed.
    private enum Spent {
        case nothing
        /// All were late, and none had more than this.
        case atMost(Duration)
        /// More would not have helped.
        case regardless

        mutating func add(_ cause: RemoteKMSError, _ budget: Duration) {
            switch self {
            case _ where cause.code != .deadlineExceeded: self = .regardless
            case .nothing: self = .atMost(budget)
            case .atMost(let most): self = .atMost(max(most, budget))
            case .regardless: break
            }
        }

        func wasTooLittle(for budget: Duration) -> Bool {
            if case .atMost(let most) = self { budget >= most * 2 } else { false }
        }
    }

    private enum State {
        case closed(failures: Int, Spent)
        case open(until: Instant, pause: Duration, cause: RemoteKMSError, Spent)
        case probing(pause: Duration, cause: RemoteKMSError, Spent)
    }

    private let threshold: Int
    private let firstPause: Duration
    private let longestPause: Duration
    private var state = State.closed(failures: 0, .nothing)

    init(
        threshold: Int = 5, firstPause: Duration = .seconds(1), longestPause: Duration = .seconds(30)
    ) {
        self.threshold = threshold
        self.firstPause = firstPause
        self.longestPause = longestPause
    }

    /// Whether calls go through.
    var isClosed: Bool { if case .closed = state { true } else { false } }

    /// Whether a call with so much time may go.
    mutating func admit(at now: Instant, budget: Duration) -> Admission {
        switch state {
        case .closed: return .go
        case .open(let until, let pause, let cause, let spent):
            if now >= until {
                state = .probing(pause: pause, cause: cause, spent)
                return .probe
            }
            return spent.wasTooLittle(for: budget) ? .go : .refuse(cause, for: now.duration(to: until))
        case .probing(_, let cause, let spent):
            return spent.wasTooLittle(for: budget) ? .go : .refuse(cause, for: .zero)
        }
    }

    /// A call that was let through got an answer, good or bad.
    mutating func answered() { state = .closed(failures: 0, .nothing) }

    /// A call that was let through and had so much time got none; true if this opened the breaker.
    ///
    /// `spread`, 0.8...1.2, keeps the replicas of a cluster from probing all at once.
    mutating func failed(
        _ cause: RemoteKMSError, budget: Duration, isProbe: Bool, at now: Instant, spread: Double
    ) -> Bool {
        switch state {
        case .closed(let failures, var spent):
            spent.add(cause, budget)
            guard failures + 1 >= threshold else {
                state = .closed(failures: failures &+ 1, spent)
                return false
            }
            open(for: firstPause, cause, spent, now, spread)
            return true
        case .probing(let pause, _, var spent) where isProbe:
            spent.add(cause, budget)
            open(for: min(pause * 2, longestPause), cause, spent, now, spread)
            return false
        // A straggler from before, or one that had more time: it counts for who comes.
        case .open(let until, let pause, let first, var spent):
            spent.add(cause, budget)
            state = .open(until: until, pause: pause, cause: first, spent)
            return false
        case .probing(let pause, let first, var spent):
            spent.add(cause, budget)
            state = .probing(pause: pause, cause: first, spent)
            return false
        }
    }

    /// A probe ended without finding out: its caller gave up.
    mutating func abandoned(at now: Instant) {
        if case .probing(let pause, let cause, let spent) = state {
            state = .open(until: now, pause: pause, cause: cause, spent)
        }
    }

    private mutating func open(
        for pause: Duration, _ cause: RemoteKMSError, _ spent: Spent, _ now: Instant, _ spread: Double
    ) {
        state = .open(until: now + pause * spread, pause: pause, cause: cause, spent)
    }
}
