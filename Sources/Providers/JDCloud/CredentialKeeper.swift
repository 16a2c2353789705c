internal import RemoteKMS

/// Holds the credentials in use and renews them: ahead of their end, when their source changes, and when they are refused.
///
/// One fetch at a time, whoever waits for it. While the old ones serve nobody waits; a fetch that fails leaves them in use.
actor CredentialKeeper {
    /// Credentials, and which ones in the order of time.
    struct Numbered: Sendable {
        let credentials: Credentials
        let generation: Int
    }

    private struct Current {
        var numbered: Numbered
        var renewAt: ContinuousClock.Instant?
        var endsAt: ContinuousClock.Instant?
    }

    private let source: any CredentialSource
    private let clock: any DeadlineClock
    private var current: Current?
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

    /// Fetches others than those of `generation`, which were refused; true if there are.
    func renew(after generation: Int, by deadline: Deadline) async -> Bool {
        if let current, current.numbered.generation != generation { return true }
        if flight == nil { startFetch() }
        await fetchEnded(by: deadline)
        return current.map { $0.numbered.generation != generation } ?? false
    }

    /// How long the credentials still serve; nil where that has no end, or there are none.
    var timeLeft: Duration? { current?.endsAt.map { clock.now.duration(to: $0) } }

    private func usable() -> Numbered? {
        guard let current else { return nil }
        if let endsAt = current.endsAt, clock.now.duration(to: endsAt) < Self.margin { return nil }
        return current.numbered
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
        var generation = current?.numbered.generation ?? 0
        // The same credentials once more are no reason for another try.
        if current?.numbered.credentials.isEqual(to: fetched.credentials) != true { generation += 1 }
        current = Current(
            numbered: Numbered(credentials: fetched.credentials, generation: generation),
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
