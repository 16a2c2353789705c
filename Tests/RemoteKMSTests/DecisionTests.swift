import Testing

@testable import RemoteKMS

private let start = ContinuousClock.now
private let budget = Duration.milliseconds(2_850)
private func cause(_ number: Int = 0) -> RemoteKMSError { RemoteKMSError(.unavailable, "cause \(number)") }

@Suite("Circuit breaker")
struct CircuitBreakerTests {
    @Test("opens after failures in a row only, and refuses with the last cause")
    func opens() {
        var breaker = CircuitBreaker(threshold: 3, firstPause: .seconds(1))
        for number in 1...2 {
            #expect(breaker.admit(at: start, budget: budget) == .go)
            let isOpened = breaker.failed(cause(number), budget: budget, isProbe: false, at: start, spread: 1)
            #expect(!isOpened)
        }
        breaker.answered()
        for number in 1...3 {
            #expect(breaker.admit(at: start, budget: budget) == .go)
            let isOpened = breaker.failed(cause(number), budget: budget, isProbe: false, at: start, spread: 1)
            #expect(isOpened == (number == 3))
        }
        #expect(!breaker.isClosed)
        #expect(
            breaker.admit(at: start + .milliseconds(400), budget: budget)
                == .refuse(cause(3), for: .milliseconds(600)))
    }

    @Test("lets one call probe after the pause; a failed probe doubles the pause up to its limit")
    func probes() {
        var breaker = CircuitBreaker(threshold: 1, firstPause: .seconds(1), longestPause: .seconds(4))
        var now = start
        _ = breaker.admit(at: now, budget: budget)
        _ = breaker.failed(cause(), budget: budget, isProbe: false, at: now, spread: 1)
        for pause in [1, 2, 4, 4] {
            now += .seconds(pause)
            #expect(
                breaker.admit(at: now - .milliseconds(1), budget: budget)
                    == .refuse(cause(), for: .milliseconds(1)))
            #expect(breaker.admit(at: now, budget: budget) == .probe)
            #expect(
                breaker.admit(at: now, budget: budget) == .refuse(cause(), for: .zero), "one probe at a time")
            // A call from before the pause that ends late decides nothing.
            let isOpened = breaker.failed(cause(), budget: budget, isProbe: false, at: now, spread: 1)
            #expect(!isOpened)
            _ = breaker.failed(cause(), budget: budget, isProbe: true, at: now, spread: 1)
        }
        now += .seconds(4)
        #expect(breaker.admit(at: now, budget: budget) == .probe)
        breaker.answered()
        #expect(breaker.admit(at: now, budget: budget) == .go)
    }

    @Test("what was late for some is open to those with far more time, until it is late for them, too")
    func lateness() {
        let late = RemoteKMSError(.deadlineExceeded, "late")
        var breaker = CircuitBreaker(threshold: 1)
        _ = breaker.failed(late, budget: budget, isProbe: false, at: start, spread: 1)
        #expect(breaker.admit(at: start, budget: budget + .seconds(1)) == .refuse(late, for: .seconds(1)))
        #expect(breaker.admit(at: start, budget: .seconds(10)) == .go)
        _ = breaker.failed(late, budget: .seconds(10), isProbe: false, at: start, spread: 1)
        #expect(breaker.admit(at: start, budget: .seconds(10)) == .refuse(late, for: .seconds(1)))
    }

    @Test("what fails without waiting is closed to all, however much time they have")
    func failuresThatAreNotLate() {
        let late = RemoteKMSError(.deadlineExceeded, "late")
        var breaker = CircuitBreaker(threshold: 2)
        _ = breaker.failed(cause(), budget: budget, isProbe: false, at: start, spread: 1)
        _ = breaker.failed(late, budget: budget, isProbe: false, at: start, spread: 1)
        #expect(breaker.admit(at: start, budget: .seconds(60)) == .refuse(late, for: .seconds(1)))
    }

    @Test("a probe whose caller left leaves its place to the next call")
    func abandonedProbe() {
        var breaker = CircuitBreaker(threshold: 1)
        _ = breaker.failed(cause(), budget: budget, isProbe: false, at: start, spread: 1)
        let later = start + .seconds(1)
        #expect(breaker.admit(at: later, budget: budget) == .probe)
        breaker.abandoned(at: later)
        #expect(breaker.admit(at: later, budget: budget) == .probe)
    }
}

@Suite("Rate after throttling")
struct CallRateTests {
    @Test("nothing is limited before the first refusal")
    func unlimited() {
        var rate = CallRate()
        for _ in 0..<1_000 { #expect(rate.book(at: start, atMost: .zero) == .after(.zero)) }
    }

    @Test(
        "a refusal pauses all calls, as long as was asked for, or longer each time",
        arguments: [
            (nil, [1, 2, 4, 8, 16, 30, 30]), (Duration.seconds(7), [7, 7]), (.seconds(3_600), [120]),
        ] as [(Duration?, [Int])])
    func pauses(told: Duration?, pauses: [Int]) {
        var rate = CallRate()
        var now = start
        for pause in pauses {
            rate.throttled(for: told, at: now)
            // Another refusal of the same burst changes nothing.
            rate.throttled(for: told, at: now)
            #expect(rate.book(at: now, atMost: .zero) == .refused(.seconds(pause)))
            now += .seconds(pause)
        }
    }

    @Test("after the pause calls go at a rate that answers raise until it limits no more")
    func recovers() {
        var rate = CallRate()
        rate.throttled(for: .seconds(1), at: start)
        var now = start + .seconds(1)
        #expect(rate.book(at: now, atMost: .seconds(1)) == .after(.zero))
        #expect(rate.book(at: now, atMost: .seconds(1)) == .after(.milliseconds(50)))
        #expect(rate.book(at: now, atMost: .milliseconds(60)) == .refused(.milliseconds(100)))
        now += .milliseconds(100)
        var answers = 0
        while rate.book(at: now, atMost: .zero) != .after(.zero)
            || rate.book(at: now, atMost: .zero) != .after(.zero)
        {
            rate.answered()
            answers += 1
            now += .seconds(1)
            guard answers < 1_000 else { break }
        }
        #expect((10..<100).contains(answers))
    }
}

@Suite("Slots")
struct CallSlotsTests {
    @Test("the last slot is for urgent calls, which wait behind urgent calls only")
    func urgent() {
        var slots = CallSlots(limit: 3)
        #expect(slots.take(isUrgent: false) == true)
        #expect(slots.take(isUrgent: false) == true)
        #expect(slots.take(isUrgent: false) == false)
        slots.wait(1, isUrgent: false)
        #expect(slots.take(isUrgent: true) == true)
        #expect(slots.take(isUrgent: true) == false)
        slots.wait(2, isUrgent: true)
        slots.wait(3, isUrgent: false)
        #expect(slots.release() == [2])
        #expect(slots.release() == [])
        #expect(slots.release() == [1])
        #expect(slots.waiting == 1)
    }

    @Test("first come, first served; nobody overtakes; who leaves is not served")
    func order() {
        var slots = CallSlots(limit: 2)
        #expect(slots.take(isUrgent: false) == true)
        for ticket in 1...3 { slots.wait(ticket, isUrgent: false) }
        #expect(slots.leave(2) == true)
        #expect(slots.leave(2) == false)
        #expect(slots.release() == [1])
        #expect(slots.take(isUrgent: false) == false)
        #expect(slots.release() == [3])
    }

    @Test(
        "the expected wait grows with the queue",
        arguments: [(0, 1), (1, 1), (2, 2), (3, 2), (4, 3)])
    func expectedWait(queued: Int, rounds: Int) {
        var slots = CallSlots(limit: 3)
        #expect(slots.expectedWait(isUrgent: false, typical: .seconds(1)) == .zero)
        #expect(slots.take(isUrgent: false) == true)
        #expect(slots.take(isUrgent: false) == true)
        for ticket in 0..<queued { slots.wait(ticket, isUrgent: false) }
        #expect(slots.expectedWait(isUrgent: false, typical: .seconds(1)) == .seconds(rounds))
    }
}

@Suite("Latency")
struct LatencyWindowTests {
    @Test("quantiles are of the last 128 answers")
    func quantiles() {
        var window = LatencyWindow()
        #expect(window.quantile(0.5) == nil)
        for _ in 0..<128 { window.add(.seconds(60)) }
        for number in 0..<128 { window.add(.milliseconds(number)) }
        #expect(window.quantile(0.5) == .milliseconds(64))
        #expect(window.quantile(0.95) == .milliseconds(121))
        #expect(window.quantile(1) == .milliseconds(127))
    }
}
