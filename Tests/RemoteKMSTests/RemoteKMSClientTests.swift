import CoreMetrics
import SecureMemory
public import TestSupport
import Testing

@testable public import RemoteKMS

extension ManualClock: DeadlineClock {}

/// A client over a scripted backend, with time by hand.
private struct Bench {
    let provider: ScriptedProvider
    let clock = ManualClock()
    let client: RemoteKMSClient

    init(
        _ provider: ScriptedProvider = ScriptedProvider(), callsAtOnce: Int = 16, callsWithoutCaller: Int = 8,
        limiter: ThrottleLimiter = ThrottleLimiter(),
        clock: ManualClock? = nil
    ) {
        self.provider = provider
        client = RemoteKMSClient(
            provider, key: "primary",
            limits: .init(callsAtOnce: callsAtOnce, callsWithoutCaller: callsWithoutCaller),
            limiter: limiter, clock: clock ?? self.clock, metrics: NOOPMetricsHandler.instance,
            random: { 0.5 })
    }

    /// A call under way; its result, with the answer as text.
    func call(
        for purpose: RemoteKMSClient.Purpose = .request, within budget: Duration = .milliseconds(2_850)
    ) -> Task<Result<String, RemoteKMSError>, Never> {
        let deadline = Deadline(clock.now + budget)
        return Task {
            do throws(RemoteKMSError) {
                let secret = try await client.unwrap(
                    [1], context: WrapContext(purpose: "test", keyID: "k"), for: purpose, by: deadline)
                return .success(
                    secret.bytes.withBytes { bytes in
                        String(
                            decoding: (0..<bytes.byteCount).map {
                                unsafe bytes.unsafeLoad(fromByteOffset: $0, as: UInt8.self)
                            }, as: UTF8.self)
                    })
            } catch { return .failure(error) }
        }
    }

    /// A call that fails for ever, to open the breaker.
    func failedCall() async {
        let before = provider.tries.count
        let call = call()
        for number in 1...3 {
            await provider.untilTried(before + number)
            // Deadline and second try; then the pause before the next.
            provider.fail(before + number - 1, .unavailable)
            if number < 3 {
                await clock.untilSleeping(3)
                clock.advance(by: .milliseconds(100))
            }
        }
        _ = await call.value
    }
}

extension RemoteKMSClient {
    /// Returns when no try is under way any more.
    fileprivate func quiesce() async { while slots.busy > 0 { await Task.yield() } }

    /// Returns when so many calls go on without their caller.
    fileprivate func untilWithoutCaller(_ count: Int) async {
        while withoutCaller.count < count { await Task.yield() }
    }
}

extension Result where Failure == RemoteKMSError {
    fileprivate var code: RemoteKMSError.Code? {
        if case .failure(let error) = self { error.code } else { nil }
    }
}

extension RemoteKMSClient {
    private func turn() {}

    /// Returns when what the client had to do at this instant is done: its jobs are run in order, and each may make one more.
    fileprivate func settle() async {
        for _ in 0..<8 {
            await Task { @concurrent in await self.turn() }.value
        }
    }
}

@Suite("RemoteKMSClient: tries")
struct RemoteKMSClientTryTests {
    @Test("an answer is the answer, after one try on whatever connection is there")
    func plain() async {
        let bench = Bench()
        let call = bench.call()
        await bench.provider.untilTried(1)
        bench.provider.answer(0, .success("hello"))
        #expect(await call.value == .success("hello"))
        #expect(bench.provider.tries.map(\.attempt.wantsFreshConnection) == [false])
    }

    @Test(
        "a late try gets another beside it on a connection of its own; the first good answer wins",
        arguments: [0, 1])
    func beside(winner: Int) async {
        let bench = Bench()
        let call = bench.call()
        await bench.provider.untilTried(1)
        await bench.clock.untilSleeping(2)
        // 40 % of 2.85 s.
        bench.clock.advance(by: .milliseconds(1_140))
        await bench.provider.untilTried(2)
        #expect(bench.provider.tries.map(\.attempt.wantsFreshConnection) == [false, true])
        #expect(!bench.provider.tries[0].isCancelled, "the first goes on: it may be about to answer")
        bench.provider.answer(winner, .success("hello"))
        #expect(await call.value == .success("hello"))
    }

    @Test("what is usual decides how late is late: three times the p95, but not under 300 ms")
    func patience() async {
        let bench = Bench()
        for _ in 0..<20 {
            let call = bench.call()
            await bench.provider.untilTried(bench.provider.tries.count + 1)
            bench.provider.answer(bench.provider.tries.count - 1, .success("x"))
            _ = await call.value
        }
        let before = bench.provider.tries.count
        let call = bench.call()
        await bench.provider.untilTried(before + 1)
        await bench.clock.untilSleeping(2)
        bench.clock.advance(by: .milliseconds(300))
        await bench.provider.untilTried(before + 2)
        bench.provider.answer(before, .success("x"))
        #expect(await call.value == .success("x"))
    }

    @Test("a call fails at its deadline, and its tries are cancelled")
    func late() async {
        let bench = Bench()
        let call = bench.call()
        await bench.provider.untilTried(1)
        await bench.clock.untilSleeping(2)
        bench.clock.advance(by: .milliseconds(2_850))
        let result = await call.value
        #expect(result.code == .deadlineExceeded)
        await bench.client.quiesce()
        #expect(bench.provider.tries.allSatisfy { $0.isCancelled })
    }

    @Test(
        "a passing failure is tried again, others are final",
        arguments: RemoteKMSError.Code.allCases)
    func again(code: RemoteKMSError.Code) async {
        let bench = Bench()
        let call = bench.call()
        await bench.provider.untilTried(1)
        bench.provider.fail(0, code, retryAfter: code == .throttled ? .milliseconds(100) : nil)
        switch code {
        case .unavailable, .malformedReply, .throttled:
            await bench.clock.untilSleeping(3)
            bench.clock.advance(by: .milliseconds(100))
            await bench.provider.untilTried(2)
            bench.provider.answer(1, .success("after all"))
            #expect(await call.value == .success("after all"))
        case .deadlineExceeded, .unauthenticated, .permissionDenied, .keyNotFound, .keyDisabled,
            .invalidCiphertext,
            .misconfigured:
            #expect(await call.value.code == code)
            #expect(bench.provider.tries.count == 1)
        }
    }

    @Test("a service that wants a longer pause than is left is not asked again")
    func longPause() async {
        let bench = Bench()
        let call = bench.call()
        await bench.provider.untilTried(1)
        bench.provider.fail(0, .unavailable, retryAfter: .seconds(10))
        #expect(await call.value.code == .unavailable)
        #expect(bench.provider.tries.count == 1)
    }

    @Test("three tries are the most")
    func threeTries() async {
        let bench = Bench()
        await bench.failedCall()
        #expect(bench.provider.tries.count == 3)
    }

    @Test(
        "refused credentials are renewed once, and the call is made once more",
        arguments: [true, false], [RemoteKMSError.Code.unauthenticated, .permissionDenied])
    func recovers(isRecoverable: Bool, code: RemoteKMSError.Code) async {
        let bench = Bench()
        if isRecoverable { bench.provider.makeRecoverable() }
        let call = bench.call()
        await bench.provider.untilTried(1)
        bench.provider.fail(0, code)
        if isRecoverable {
            await bench.provider.untilTried(2)
            bench.provider.fail(1, code)
        }
        #expect(await call.value.code == code)
        #expect(bench.provider.recoveries == 1)
        #expect(bench.provider.tries.count == (isRecoverable ? 2 : 1))
    }
}

@Suite("RemoteKMSClient: breaker and rate")
struct RemoteKMSClientGuardTests {
    @Test("a backend that only fails is left alone, then asked by one call, then by all")
    func breaker() async {
        let bench = Bench()
        for _ in 0..<5 { await bench.failedCall() }
        let tries = bench.provider.tries.count
        let refused = await bench.call().value
        guard case .failure(let error) = refused else {
            Issue.record("a call went through an open breaker")
            return
        }
        #expect(error.code == .unavailable)
        #expect(error.summary.contains("the script says unavailable"), "the last cause is told")
        #expect(bench.provider.tries.count == tries)

        bench.clock.advance(by: .seconds(2))
        let probe = bench.call()
        await bench.provider.untilTried(tries + 1)
        #expect(await bench.call().value.code == .unavailable, "one call finds out")
        bench.provider.answer(tries, .success("back"))
        #expect(await probe.value == .success("back"))
        let next = bench.call()
        await bench.provider.untilTried(tries + 2)
        bench.provider.answer(tries + 1, .success("again"))
        #expect(await next.value == .success("again"))
    }

    @Test(
        "an answer that refuses is an answer: it opens no breaker",
        arguments: [.invalidCiphertext, .permissionDenied, .keyDisabled] as [RemoteKMSError.Code])
    func refusals(code: RemoteKMSError.Code) async {
        let bench = Bench()
        for number in 0..<20 {
            let call = bench.call()
            await bench.provider.untilTried(number + 1)
            bench.provider.fail(number, code)
            #expect(await call.value.code == code)
        }
    }

    @Test("a call that had too little time to be fair opens no breaker")
    func unfair() async {
        let bench = Bench()
        for number in 0..<10 {
            let call = bench.call(within: .milliseconds(400))
            await bench.provider.untilTried(number + 1)
            await bench.clock.untilSleeping(1)
            bench.clock.advance(by: .milliseconds(400))
            #expect(await call.value.code == .deadlineExceeded)
            await bench.client.quiesce()
        }
    }

    /// A bench whose endpoint bears a call in 1.6 s only.
    private func slowed() -> Bench {
        let limiter = ThrottleLimiter()
        let bench = Bench(limiter: limiter)
        for _ in 0..<6 {
            limiter.throttled(for: .milliseconds(1), at: bench.clock.now)
            bench.clock.advance(by: .milliseconds(1))
        }
        return bench
    }

    @Test("another try after a failure waits for its turn, too")
    func rateOfTriesAgain() async {
        let bench = slowed()
        let call = bench.call()
        await bench.provider.untilTried(1)
        bench.provider.fail(0, .unavailable)
        // Deadline, second try and the pause.
        await bench.clock.untilSleeping(3)
        bench.clock.advance(by: .milliseconds(1_599))
        #expect(bench.provider.tries.count == 1)
        bench.clock.advance(by: .milliseconds(1))
        await bench.provider.untilTried(2)
        bench.provider.answer(1, .success("hello"))
        #expect(await call.value == .success("hello"))
    }

    @Test("the turn of another try is given back if the caller leaves first")
    func turnOfAnotherTry() async {
        let limiter = ThrottleLimiter()
        let bench = Bench(limiter: limiter)
        let call = bench.call()
        await bench.provider.untilTried(1)
        limiter.throttled(for: .seconds(1), at: bench.clock.now)
        bench.provider.fail(0, .unavailable)
        // Deadline, second try and the pause.
        await bench.clock.untilSleeping(3)
        call.cancel()
        #expect(await call.value.code == .deadlineExceeded)
        await bench.client.settle()
        #expect(limiter.book(at: bench.clock.now, atMost: .seconds(9)) == .after(.seconds(1)))
    }

    @Test("where calls are slowed down a late one gets no second beside it")
    func rateOfSecondTries() async {
        let bench = slowed()
        let call = bench.call()
        await bench.provider.untilTried(1)
        await bench.clock.untilSleeping(2)
        bench.clock.advance(by: .milliseconds(1_140))
        await bench.client.settle()
        bench.clock.advance(by: .milliseconds(1_710))
        #expect(await call.value.code == .deadlineExceeded)
        #expect(bench.provider.tries.count == 1)
    }

    @Test("what a key is for good is told without a try, and closes no breaker")
    func fixedDescription() async throws {
        let fixed = KeyDescription(identity: "k", version: "static", versionCreatedAt: "")
        let bench = Bench(ScriptedProvider(fixedDescription: fixed))
        for _ in 0..<5 { await bench.failedCall() }
        let tries = bench.provider.tries.count
        let deadline = Deadline(bench.clock.now + .seconds(1))
        try await #expect(bench.client.describe(by: deadline) == fixed)
        #expect(await bench.call().value.code == .unavailable)
        #expect(bench.provider.tries.count == tries, "neither was a try: the breaker is open still")
    }

    @Test("keys behind one endpoint and credential are slowed down together")
    func sharedRate() async {
        let limiter = ThrottleLimiter()
        let one = Bench(limiter: limiter)
        let other = Bench(limiter: limiter, clock: one.clock)
        let call = one.call()
        await one.provider.untilTried(1)
        one.provider.fail(0, .throttled, retryAfter: .seconds(60))
        #expect(await call.value.code == .throttled)
        #expect(await other.call().value.code == .throttled)
        #expect(other.provider.tries.isEmpty)
    }

    @Test("callers who leave before their turn at the endpoint's rate do not put off the turns of others")
    func turnsOfThoseWhoLeave() async {
        let limiter = ThrottleLimiter()
        let bench = Bench(limiter: limiter)
        limiter.throttled(for: .seconds(5), at: bench.clock.now)
        for _ in 0..<50 {
            let call = bench.call(for: .cacheable, within: .seconds(10))
            await bench.clock.untilSleeping(1)
            call.cancel()
            #expect(await call.value.code == .deadlineExceeded)
        }
        bench.clock.advance(by: .seconds(5))
        #expect(limiter.book(at: bench.clock.now, atMost: .zero) == .after(.zero))
        #expect(bench.provider.tries.isEmpty)
    }
}

@Suite("RemoteKMSClient: queue and callers")
struct RemoteKMSClientQueueTests {
    @Test("requests wait their turn, while upkeep has a slot of its own")
    func queue() async {
        let bench = Bench(callsAtOnce: 2)
        let first = bench.call()
        await bench.provider.untilTried(1)
        let second = bench.call()
        // Deadline and second try of the first, and the second's wait.
        await bench.clock.untilSleeping(3)
        #expect(bench.provider.tries.count == 1)
        let upkeep = bench.call(for: .upkeep)
        await bench.provider.untilTried(2)
        bench.provider.answer(1, .success("upkeep"))
        #expect(await upkeep.value == .success("upkeep"))
        bench.provider.answer(0, .success("first"))
        #expect(await first.value == .success("first"))
        await bench.provider.untilTried(3)
        bench.provider.answer(2, .success("second"))
        #expect(await second.value == .success("second"))
    }

    @Test("a call that would come too late is refused at once")
    func refused() async {
        let bench = Bench(callsAtOnce: 2)
        let slow = bench.call()
        await bench.provider.untilTried(1)
        bench.clock.advance(by: .seconds(1))
        bench.provider.answer(0, .success("a second each"))
        _ = await slow.value
        let running = bench.call()
        await bench.provider.untilTried(2)
        let hopeless = await bench.call(within: .milliseconds(900)).value
        #expect(hopeless.code == .unavailable)
        bench.provider.answer(1, .success("x"))
        _ = await running.value
        #expect(bench.provider.tries.count == 2)
    }

    @Test(
        "a call that waits is never sent once its caller has left or its time is over",
        arguments: [true, false])
    func leaves(byCancelling: Bool) async {
        let bench = Bench(callsAtOnce: 2)
        let running = bench.call(within: .seconds(60))
        await bench.provider.untilTried(1)
        let waiting = bench.call(for: .cacheable, within: .seconds(2))
        await bench.clock.untilSleeping(3)
        if byCancelling { waiting.cancel() } else { bench.clock.advance(by: .seconds(2)) }
        #expect(await waiting.value.code == .deadlineExceeded)
        bench.provider.answer(0, .success("x"))
        _ = await running.value
        await bench.client.quiesce()
        #expect(bench.provider.tries.count == 1)
    }

    @Test("a request's caller that leaves takes its call along")
    func cancelled() async {
        let bench = Bench()
        let call = bench.call()
        await bench.provider.untilTried(1)
        call.cancel()
        #expect(await call.value.code == .deadlineExceeded)
        await bench.client.quiesce()
        #expect(bench.provider.tries[0].isCancelled)
    }

    @Test("what others can use goes on without its caller, up to the limit of such calls")
    func cacheable() async {
        let bench = Bench(callsWithoutCaller: 1)
        let kept = bench.call(for: .cacheable, within: .seconds(10))
        await bench.provider.untilTried(1)
        kept.cancel()
        await bench.client.untilWithoutCaller(1)
        let dropped = bench.call(for: .cacheable, within: .seconds(10))
        await bench.provider.untilTried(2)
        dropped.cancel()
        #expect(await dropped.value.code == .deadlineExceeded)
        bench.provider.answer(0, .success("still of use"))
        #expect(await kept.value == .success("still of use"))
    }

    @Test("10,000 cancelled calls leave no slot, waiter or try behind")
    func manyCancelled() async {
        let bench = Bench(callsAtOnce: 4)
        for _ in 0..<100 {
            let calls = (0..<100).map { _ in bench.call() }
            for call in calls { call.cancel() }
            for call in calls { _ = await call.value }
        }
        await bench.client.quiesce()
        let tries = bench.provider.tries.count
        let call = bench.call()
        await bench.provider.untilTried(tries + 1)
        bench.provider.answer(tries, .success("x"))
        #expect(await call.value == .success("x"))
        #expect(bench.provider.tries.dropLast().allSatisfy { $0.isCancelled })
    }
}
