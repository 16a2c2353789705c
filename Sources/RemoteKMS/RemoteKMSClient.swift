public import CoreMetrics
private import Observability
public import SecureMemory

/// Calls one key of a key-management service so that a slow, throttled or dead one hardly shows.
///
/// A call waits its turn, goes out, gets a second try beside it if it is late, another one if it failed for a passing
/// reason, and ends by its deadline; a backend that only fails is left alone for a while. What each call costs beside
/// the backend: tens of microseconds. Cancelling a caller ends its call, unless that is to go on (`Purpose.cacheable`).
public actor RemoteKMSClient {
    /// The bounds of a client.
    public struct Limits: Sendable, Equatable {
        /// Calls at once; one of these slots is kept for urgent calls.
        public var callsAtOnce: Int
        /// Calls that go on after their caller has left.
        public var callsWithoutCaller: Int
        /// Tries of one call, the one beside included.
        public var tries: Int
        /// Calls that fail in a row until the backend is left alone for a while; 0: it never is.
        public var failuresInARow: Int

        /// Bounds; the defaults are those for a service on a network.
        public init(
            callsAtOnce: Int = 16, callsWithoutCaller: Int = 8, tries: Int = 3, failuresInARow: Int = 5
        ) {
            self.callsAtOnce = callsAtOnce
            self.callsWithoutCaller = callsWithoutCaller
            self.tries = tries
            self.failuresInARow = failuresInARow
        }

        /// For a key on this host, which fails again if it failed.
        public static let local = Limits(tries: 1, failuresInARow: 0)
    }

    /// What a call is for.
    public enum Purpose: Sendable {
        /// A request waits for it.
        case request
        /// Others have a use for the answer too: once it has had its turn, it goes on though its caller was cancelled
        /// (who still waits for it), unless `callsWithoutCaller` calls do so already or the client is closed.
        case cacheable
        /// Probes and the wrap of a new local KEK: they do not wait behind requests.
        case upkeep
    }

    /// The provider's name.
    public nonisolated let name: String
    /// Where the key lives.
    public nonisolated let storage: KeyStorage

    private let provider: any Provider
    private let key: String
    private let limits: Limits
    private let limiter: ThrottleLimiter?
    private let clock: any DeadlineClock
    private let random: @Sendable () -> Double
    private let record: ClientRecord

    private(set) var slots: CallSlots
    private var breaker: CircuitBreaker
    private var latency = LatencyWindow()
    private var waiters: [Int: CheckedContinuation<Bool, Never>] = [:]
    private var lastTicket = 0
    /// What ends the calls that go on without their caller.
    private(set) var withoutCaller: [Int: @Sendable () -> Void] = [:]
    private var isClosed = false

    /// With less than this left no try is begun.
    private static let shortestTry = Duration.milliseconds(250)
    /// The second try begins no sooner.
    private static let shortestPatience = Duration.milliseconds(300)
    /// A try that had less time than this and was late says nothing about the backend.
    private static let fairTry = Duration.seconds(1)
    private static let shortestPause = Duration.milliseconds(50)

    /// A client of the key named `key`.
    ///
    /// `limiter` is shared by the keys behind the same endpoint and credential; nil for a backend that never throttles. `random` gives 0..<1, and spreads pauses.
    public init(
        _ provider: any Provider, key: String, limits: Limits = Limits(),
        limiter: ThrottleLimiter? = nil, clock: any DeadlineClock = ContinuousClock(),
        metrics: any MetricsFactory = MetricsSystem.factory,
        random: @escaping @Sendable () -> Double = { .random(in: 0..<1) }
    ) {
        self.provider = provider
        self.key = key
        self.limits = limits
        self.limiter = limiter
        self.clock = clock
        self.random = random
        name = provider.name
        storage = provider.storage
        slots = CallSlots(limit: limits.callsAtOnce)
        breaker = CircuitBreaker(threshold: limits.failuresInARow == 0 ? .max : limits.failuresInARow)
        record = ClientRecord(key: key, metrics: metrics)
    }

    // MARK: Calls

    /// Reads the key's identity and the version it wraps with now.
    public func describe(by deadline: Deadline) async throws(RemoteKMSError) -> KeyDescription {
        if let fixed = provider.fixedDescription { return fixed }
        let provider = provider
        return try await call(.describe, .upkeep, by: deadline) { attempt throws(RemoteKMSError) in
            try await provider.describe(attempt)
        }
    }

    /// Wraps `plaintext` under the key's current version.
    public func wrap(
        _ plaintext: SharedSecret, context: WrapContext, for purpose: Purpose, by deadline: Deadline
    ) async throws(RemoteKMSError) -> [UInt8] {
        let provider = provider
        return try await call(.wrap, purpose, by: deadline) { attempt throws(RemoteKMSError) in
            try await provider.wrap(plaintext.bytes, context: context, attempt: attempt)
        }
    }

    /// Unwraps what `wrap` returned.
    public func unwrap(
        _ wrapped: [UInt8], context: WrapContext, for purpose: Purpose, by deadline: Deadline
    ) async throws(RemoteKMSError) -> SharedSecret {
        let provider = provider
        return try await call(.unwrap, purpose, by: deadline) { attempt throws(RemoteKMSError) in
            SharedSecret(try await provider.unwrap(wrapped, context: context, attempt: attempt))
        }
    }

    /// What the provider says of itself now.
    public nonisolated var facts: ProviderFacts {
        get async {
            let facts = await provider.facts
            if let billed = facts.billedCalls { record.billed(billed) }
            return facts
        }
    }

    // MARK: One call

    private typealias Try<T> = @Sendable @concurrent (Attempt) async throws(RemoteKMSError) -> T

    private func call<T: Sendable>(
        _ operation: ClientRecord.Operation, _ purpose: Purpose, by deadline: Deadline,
        _ work: @escaping Try<T>
    ) async throws(RemoteKMSError) -> T {
        let isProbe = try admission(by: deadline)
        let from = clock.now
        do throws(RemoteKMSError) { try await enter(purpose, by: deadline) } catch {
            record.queued(for: from.duration(to: clock.now))
            if isProbe { breaker.abandoned(at: clock.now) }
            throw error
        }
        record.queued(for: from.duration(to: clock.now))
        // From here the slot is the first try's, which gives it back.
        let begun = Task { await self.tries(operation, isProbe: isProbe, by: deadline, work) }
        let result = await withTaskCancellationHandler {
            await begun.value
        } onCancel: {
            Task { await self.callerLeft(begun, purpose) }
        }
        return try result.get()
    }

    /// Whether the breaker lets a call through; true if it is the one that finds out.
    private func admission(by deadline: Deadline) throws(RemoteKMSError) -> Bool {
        let now = clock.now
        switch breaker.admit(at: now, budget: now.duration(to: deadline.instant)) {
        case .go: return false
        case .probe: return true
        case .refuse(let cause, let pause):
            record.decided(.refusedByBreaker)
            let reference = "it has only failed of late and is asked again in \(pause.inSeconds)"
            throw RemoteKMSError(
                .unavailable, cause.summary, remedy: cause.remedy,
                reference: [cause.reference, reference].compactMap { $0 }.joined(separator: "; "))
        }
    }

    private func callerLeft<T>(_ call: Task<Result<T, RemoteKMSError>, Never>, _ purpose: Purpose) async {
        guard case .cacheable = purpose, !isClosed, withoutCaller.count < limits.callsWithoutCaller else {
            record.decided(.endedWithCaller)
            return call.cancel()
        }
        record.decided(.outlivedCaller)
        lastTicket += 1
        let ticket = lastTicket
        withoutCaller[ticket] = { call.cancel() }
        _ = await call.value
        withoutCaller[ticket] = nil
    }

    /// Ends the calls that go on without their caller, and lets none do so any more: the daemon ends.
    public func close() {
        isClosed = true
        record.endTelling()
        for cancel in withoutCaller.values { cancel() }
    }

    /// The key serves: its gauges tell of this client from now on.
    public nonisolated func publishGauges() { record.beginTelling() }

    /// Drops the gauges: no key of this name is configured any more.
    public nonisolated func forgetMetrics() { record.forget() }

    // MARK: The queue

    /// Waits for a slot and for the endpoint's rate.
    private func enter(_ purpose: Purpose, by deadline: Deadline) async throws(RemoteKMSError) {
        let isUrgent = if case .upkeep = purpose { true } else { false }
        if !slots.take(isUrgent: isUrgent) {
            let left = clock.now.duration(to: deadline.instant)
            let typical = latency.quantile(0.5) ?? .zero
            let wait = slots.expectedWait(isUrgent: isUrgent, typical: typical)
            guard wait + typical < left else {
                record.decided(.refusedByQueue)
                throw RemoteKMSError(
                    .unavailable, "too many calls wait for it already",
                    reference:
                        "\(slots.waiting), and this one would wait \(wait.inSeconds) with \(left.inSeconds) left"
                )
            }
            guard await turn(isUrgent: isUrgent, by: deadline) else {
                throw RemoteKMSError(
                    .deadlineExceeded, "no turn came in time behind the calls that wait for it")
            }
        }
        do throws(RemoteKMSError) { try await keepRate(by: deadline) } catch {
            leaveSlot()
            throw error
        }
    }

    /// Waits in the queue; false if the deadline came or the caller left before the turn did.
    private func turn(isUrgent: Bool, by deadline: Deadline) async -> Bool {
        lastTicket += 1
        let ticket = lastTicket
        let clock = clock
        let bound = Task {
            // Cancelled as soon as the turn has come.
            try? await clock.sleep(until: deadline.instant, tolerance: nil)
            self.giveUp(ticket)
        }
        defer { bound.cancel() }
        return await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                guard !Task.isCancelled else { return continuation.resume(returning: false) }
                slots.wait(ticket, isUrgent: isUrgent)
                waiters[ticket] = continuation
                record.waiting(slots.waiting)
            }
        } onCancel: {
            Task { await self.giveUp(ticket) }
        }
    }

    private func giveUp(_ ticket: Int) {
        guard slots.leave(ticket) else { return }
        record.waiting(slots.waiting)
        waiters.removeValue(forKey: ticket)?.resume(returning: false)
    }

    private func leaveSlot() {
        for ticket in slots.release() { waiters.removeValue(forKey: ticket)?.resume(returning: true) }
        record.waiting(slots.waiting)
    }

    private func keepRate(by deadline: Deadline) async throws(RemoteKMSError) {
        guard let limiter else { return }
        let left = clock.now.duration(to: deadline.instant) - Self.shortestTry
        switch limiter.book(at: clock.now, atMost: left) {
        case .after(.zero): return
        case .after(let wait):
            do { try await clock.sleep(for: wait) } catch {
                limiter.giveBack(at: clock.now)
                throw Self.abandoned
            }
        case .refused(let wait):
            record.decided(.refusedByRate)
            throw RemoteKMSError(
                .throttled, "it asked for fewer calls, and the next turn comes too late",
                remedy: "raise the quota of the credential or the account, or wait",
                reference: "in \(wait.inSeconds)")
        }
    }

    // MARK: The tries of one call

    private enum Event<T: Sendable>: Sendable {
        case ended(Int, begun: ContinuousClock.Instant, Result<T, RemoteKMSError>)
        case secondIsDue
        case nextIsDue
        case late
    }

    private func tries<T: Sendable>(
        _ operation: ClientRecord.Operation, isProbe: Bool, by deadline: Deadline, _ work: @escaping Try<T>
    ) async -> Result<T, RemoteKMSError> {
        let budget = clock.now.duration(to: deadline.instant)
        let result = await race(operation, by: deadline, work)
        let now = clock.now
        switch result {
        case .success:
            if !breaker.isClosed { record.breaker(isOpen: false) }
            breaker.answered()
        case .failure(let error)
        where error == Self.abandoned || error.code == .deadlineExceeded && budget < Self.fairTry:
            // It has had no chance, so it says nothing of the backend.
            if isProbe { breaker.abandoned(at: now) }
        case .failure(let error):
            switch error.code {
            case .unavailable, .deadlineExceeded, .malformedReply:
                let spread = 0.8 + 0.4 * random()
                if breaker.failed(error, budget: budget, isProbe: isProbe, at: now, spread: spread) {
                    record.decided(.openedBreaker)
                    record.breaker(isOpen: true)
                }
            // An answer all the same: the backend is there.
            case .throttled, .unauthenticated, .permissionDenied, .keyNotFound, .keyDisabled,
                .invalidCiphertext,
                .misconfigured:
                if !breaker.isClosed { record.breaker(isOpen: false) }
                breaker.answered()
            }
        }
        return result
    }

    private func race<T: Sendable>(
        _ operation: ClientRecord.Operation, by deadline: Deadline, _ work: @escaping Try<T>
    ) async -> Result<T, RemoteKMSError> {
        let clock = clock
        let begun = clock.now
        let (events, sink) = AsyncStream<Event<T>>.makeStream()
        var tasks: [Task<Void, Never>] = []
        defer { for task in tasks { task.cancel() } }
        func remind(of event: Event<T>, at instant: ContinuousClock.Instant) {
            tasks.append(
                Task {
                    guard (try? await clock.sleep(until: instant, tolerance: nil)) != nil else { return }
                    sink.yield(event)
                })
        }

        var running: [Int: ClientRecord.Kind] = [:]
        var tries = 0
        func start(_ kind: ClientRecord.Kind) {
            tries += 1
            running[tries] = kind
            let number = tries
            let attempt = Attempt(deadline: deadline, wantsFreshConnection: kind != .first)
            let from = clock.now
            tasks.append(
                Task {
                    let result: Result<T, RemoteKMSError>
                    do throws(RemoteKMSError) { result = .success(try await work(attempt)) } catch {
                        result = .failure(error)
                    }
                    // A try that nobody waits for any more still holds its slot until here.
                    self.ended(operation, kind, from, result)
                    sink.yield(.ended(number, begun: from, result))
                })
        }

        start(.first)
        remind(of: .late, at: deadline.instant)
        let second = begun + patience(for: begun.duration(to: deadline.instant))
        if second < deadline.instant { remind(of: .secondIsDue, at: second) }

        var last: RemoteKMSError?
        var hasRecovered = false
        // For a turn at the endpoint's rate, which others may have if nothing comes of it.
        var isWaiting = false
        defer { if isWaiting { limiter?.giveBack(at: clock.now) } }
        func mayTryAgain() -> Bool {
            tries < limits.tries && clock.now.duration(to: deadline.instant) >= Self.shortestTry
        }

        for await event in events {
            switch event {
            case .ended(let number, _, .success(let value)):
                if running[number] == .beside { record.decided(.besideWon) }
                return .success(value)
            case .ended(let number, _, .failure(let error)):
                running[number] = nil
                last = error
                if error.code == .unauthenticated || error.code == .permissionDenied, !hasRecovered {
                    hasRecovered = true
                    if await provider.recover(from: error, deadline: deadline), !Task.isCancelled,
                        mayTryAgain(), slots.take(isUrgent: true)
                    {
                        record.decided(.recovered)
                        start(.again)
                        continue
                    }
                }
                guard error.code.isTransient else {
                    // Of the key or the bytes themselves it is the last word; else the try beside may do better.
                    let isFinal = error.code == .keyDisabled || error.code == .invalidCiphertext
                    if isFinal || running.isEmpty { return .failure(error) }
                    continue
                }
                if !isWaiting, mayTryAgain(), let pause = pause(after: error, by: deadline) {
                    isWaiting = true
                    remind(of: .nextIsDue, at: clock.now + pause)
                } else if running.isEmpty, !isWaiting {
                    return .failure(error)
                }
            case .nextIsDue:
                isWaiting = false
                if slots.take(isUrgent: false) {
                    record.decided(.triedAgain)
                    start(.again)
                } else {
                    limiter?.giveBack(at: clock.now)
                    if running.isEmpty { return .failure(last ?? Self.abandoned) }
                }
            case .secondIsDue:
                // The first is not cut: a service that takes 2.9 s is about to answer.
                guard running.count == 1, mayTryAgain(), slots.take(isUrgent: false) else {
                    break
                }
                // Where calls are slowed down, a try that may be superfluous waits for no turn.
                guard limiter?.book(at: clock.now, atMost: .zero) ?? .after(.zero) == .after(.zero) else {
                    leaveSlot()
                    break
                }
                record.decided(.triedBeside)
                start(.beside)
            case .late:
                let before = last.map { "; before that: \($0.summary)" } ?? ""
                let reference = "within \(begun.duration(to: deadline.instant).inSeconds)"
                return .failure(
                    RemoteKMSError(
                        .deadlineExceeded, "\(name) did not answer \(operation) in time\(before)",
                        remedy: last?.remedy ?? "see whether it is up and how long it takes from this host",
                        reference: [reference, last?.reference].compactMap { $0 }.joined(separator: "; ")))
            }
        }
        return .failure(Self.abandoned)  // cancelled: the stream has ended
    }

    private func ended<T>(
        _ operation: ClientRecord.Operation, _ kind: ClientRecord.Kind, _ begun: ContinuousClock.Instant,
        _ result: Result<T, RemoteKMSError>
    ) {
        let now = clock.now
        leaveSlot()
        var failure: RemoteKMSError?
        switch result {
        case .success:
            latency.add(begun.duration(to: now))
            limiter?.answered()
        case .failure(let error):
            failure = error
            if error.code == .throttled { limiter?.throttled(for: error.retryAfter, at: now) }
        }
        record.ended(operation, kind, failure, after: begun.duration(to: now))
    }

    /// How long to wait before another try; nil if none is to be made.
    ///
    /// Books its turn at the endpoint's rate, so ask only if the try will be made.
    private func pause(after error: RemoteKMSError, by deadline: Deadline) -> Duration? {
        let wanted: Duration
        switch error.code {
        // The limiter has heard of it already, and knows when.
        case .throttled: wanted = limiter == nil ? error.retryAfter ?? Self.shortestPause : .zero
        case .unavailable, .malformedReply:
            wanted = error.retryAfter ?? Self.shortestPause * (1 + 2 * random())
        // Its time is over.
        case .deadlineExceeded: return nil
        case .unauthenticated, .permissionDenied, .keyNotFound, .keyDisabled, .invalidCiphertext,
            .misconfigured:
            return nil
        }
        let left = clock.now.duration(to: deadline.instant) - Self.shortestTry
        guard wanted <= left else { return nil }
        guard let limiter else { return wanted }
        guard case .after(let wait) = limiter.book(at: clock.now, atMost: left) else { return nil }
        return max(wanted, wait)
    }

    /// After how long a call with that much time gets a second try beside the first.
    private func patience(for budget: Duration) -> Duration {
        let usual = latency.quantile(0.95).map { min($0 * 3, budget * 0.4) } ?? budget * 0.4
        return max(usual, Self.shortestPatience)
    }

    private static let abandoned = RemoteKMSError(.deadlineExceeded, "the caller gave up")
}
