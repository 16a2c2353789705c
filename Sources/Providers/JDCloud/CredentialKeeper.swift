internal import RemoteKMS

/// Holds the credentials in use and renews them: ahead of their end, when their source changes, and when they are refused.
///
/// One fetch at a time, whoever waits for it. While the old ones serve nobody waits; a fetch that fails leaves them in use,
/// and new ones that the service refuses are given up for them again: of a pair, one half may have been written already.
actor CredentialKeeper {
    /// Credentials, and which ones in the order of time.
    struct Numbered: Sendable {
        let credentials: Credentials
        var generation: Int
        /// The service has taken a request that was signed with them.
        var isProven = false
        /// They are new, and others served before.
        var isOnTrial = false
    }

    private struct Current {
        var numbered: Numbered
        var renewAt: ContinuousClock.Instant?
        var endsAt: ContinuousClock.Instant?
    }

    private let source: any CredentialSource
    private let clock: any DeadlineClock
    private var current: Current?
    /// What served before, until the current ones are seen to.
    private var former: Current?
    /// New ones were refused, and the former ones go on.
    private var rejection: RemoteKMSError?
    private var flight: Task<Void, Never>?
    private var waiters: [Int: CheckedContinuation<Void, Never>] = [:]
    private var lastTicket = 0
    private var failure: (error: RemoteKMSError, at: ContinuousClock.Instant)?

    /// Longer than this no fetch takes.
    private static let fetchBudget = Duration.seconds(5)
    /// A failed fetch is not repeated sooner.
    private static let pause = Duration.seconds(2)
    /// Credentials that end sooner are as good as ended: a request has to arrive.
    private static let margin = Duration.seconds(10)

    init(_ source: any CredentialSource, clock: any DeadlineClock) {
        self.source = source
        self.clock = clock
    }

    /// Credentials that serve now.
    func credentials(by deadline: Deadline) async throws(RemoteKMSError) -> Numbered {
        if let numbered = usable(), !source.hasChanged() {
            if let renewAt = current?.renewAt, clock.now >= renewAt, mayFetch { startFetch() }
            return numbered
        }
        if flight == nil, usable() == nil, !mayFetch, let failure { throw failure.error }
        if flight == nil { startFetch() }
        await fetchEnded(by: deadline)
        if let numbered = usable() { return numbered }
        if flight == nil, let failure { throw failure.error }
        throw RemoteKMSError(
            .deadlineExceeded, "no credentials came in time", remedy: "see whether their source answers")
    }

    /// The service took a request that was signed with those of `generation`.
    func accepted(_ generation: Int) {
        guard current?.numbered.generation == generation else { return }
        current?.numbered.isProven = true
        current?.numbered.isOnTrial = false
        former = nil
        rejection = nil
    }

    /// Gets others than those of `generation`, which were refused with `error`: the former ones, or fetched anew; true if
    /// there are.
    func renew(after generation: Int, _ error: RemoteKMSError, by deadline: Deadline) async -> Bool {
        if let current, current.numbered.generation != generation { return true }
        if var again = former, isUsable(again) {
            rejection = RemoteKMSError(
                error.code, "new credentials are refused, and the former ones go on: \(error.summary)",
                remedy: "give both halves of a pair that the service takes")
            again.numbered.generation = generation + 1
            current = again
            former = nil
            return true
        }
        if flight == nil { startFetch() }
        await fetchEnded(by: deadline)
        return current.map { $0.numbered.generation != generation } ?? false
    }

    /// How long the credentials still serve; nil where that has no end, or there are none.
    var timeLeft: Duration? { current?.endsAt.map { clock.now.duration(to: $0) } }

    /// What somebody should look at though there are credentials that serve.
    var reservation: RemoteKMSError? {
        if let rejection { return rejection }
        guard let failure, usable() != nil else { return nil }
        return RemoteKMSError(
            failure.error.code, "no new credentials, and the former ones go on: \(failure.error.summary)",
            remedy: failure.error.remedy)
    }

    private func usable() -> Numbered? { current.flatMap { isUsable($0) ? $0.numbered : nil } }

    private func isUsable(_ one: Current) -> Bool {
        one.endsAt.map { clock.now.duration(to: $0) >= Self.margin } ?? true
    }

    private var mayFetch: Bool { failure.map { $0.at.duration(to: clock.now) >= Self.pause } ?? true }

    private func startFetch() {
        guard flight == nil else { return }
        let deadline = Deadline(clock.now + Self.fetchBudget)
        flight = Task { await self.fetch(by: deadline) }
    }

    private func fetch(by deadline: Deadline) async {
        do throws(RemoteKMSError) {
            let fetched = try await source.fetch(by: deadline)
            take(fetched)
            failure = nil
        } catch {
            failure = (error, clock.now)
        }
        flight = nil
        let waiting = waiters.values
        waiters = [:]
        for waiter in waiting { waiter.resume() }
    }

    private func take(_ fetched: FetchedCredentials) {
        let now = clock.now
        var numbered = Numbered(
            credentials: fetched.credentials, generation: (current?.numbered.generation ?? 0) + 1)
        if let current {
            if current.numbered.credentials.isEqual(to: fetched.credentials) {
                // The same once more are no reason for another try.
                numbered = current.numbered
                rejection = nil
            } else if current.numbered.isProven {
                former = current
            }
        }
        numbered.isOnTrial = !numbered.isProven && former != nil
        current = Current(
            numbered: numbered,
            renewAt: fetched.lifetime.map { now + $0 - min(.seconds(600), $0 / 4) },
            endsAt: fetched.lifetime.map { now + $0 })
    }

    /// Returns when the fetch under way has ended, the deadline has passed or the task is cancelled.
    private func fetchEnded(by deadline: Deadline) async {
        lastTicket += 1
        let ticket = lastTicket
        let clock = clock
        let bound = Task {
            // Cancelled as soon as the fetch has ended.
            try? await clock.sleep(until: deadline.instant, tolerance: nil)
            self.leave(ticket)
        }
        defer { bound.cancel() }
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                guard flight != nil, !Task.isCancelled else { return continuation.resume() }
                waiters[ticket] = continuation
            }
        } onCancel: {
            Task { await self.leave(ticket) }
        }
    }

    private func leave(_ ticket: Int) { waiters.removeValue(forKey: ticket)?.resume() }
}
