internal import RemoteKMS

/// What the service is asked for, by its own names.
enum Operation: String, Sendable {
    case describeKey = "DescribeKey"
    case describeKeyDetail = "DescribeKeyDetail"
    case encrypt = "Encrypt"
    case decrypt = "Decrypt"
    case assumeRole = "AssumeRole"

    /// Whether it only asks about the key.
    var describes: Bool { self == .describeKey || self == .describeKeyDetail }
}

/// Holds the credentials in use and renews them: ahead of their end, when their source changes, and when they are refused.
///
/// One fetch at a time, whoever waits for it. While the old ones serve nobody waits; a fetch that fails leaves them in use,
/// and new ones that the service refuses are given up for them again: of a pair, one half may have been written already.
actor CredentialKeeper {
    /// Credentials, and which ones in the order of time.
    struct Numbered: Sendable {
        let credentials: Credentials
        var generation: Int
        /// What the service has taken that was signed with them.
        var taken: Set<Operation> = []
        /// They are new, and others that served before still could.
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
    /// When others were fetched last because the current ones were refused.
    private var renewedAt: ContinuousClock.Instant?
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
    /// How soon credentials that the service took for nothing are fetched anew when they are refused.
    private static let pauseAfterRefusal = Duration.seconds(10)
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
    ///
    /// New ones are seen to when they were taken for all that the former were, for one half of the permissions is lost as
    /// easily as all of them; and for Encrypt and Decrypt where the former were only asked about the key.
    func accepted(_ generation: Int, for operation: Operation) {
        guard var current, current.numbered.generation == generation else { return }
        current.numbered.taken.insert(operation)
        self.current = current
        guard let former else { return }
        var needed = former.numbered.taken
        if needed.allSatisfy(\.describes) { needed.formUnion([.encrypt, .decrypt]) }
        guard current.numbered.taken.isSuperset(of: needed) else { return }
        self.former = nil
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
        if flight == nil {
            // Fetched for that reason a moment ago, and nothing was taken that they signed: the next would fare no better.
            if let renewedAt, current?.numbered.taken.isEmpty == true,
                renewedAt.duration(to: clock.now) < Self.pauseAfterRefusal
            {
                return false
            }
            renewedAt = clock.now
            startFetch()
        }
        await fetchEnded(by: deadline)
        return current.map { $0.numbered.generation != generation } ?? false
    }

    /// How long the credentials still serve; nil where that has no end, or there are none.
    var timeLeft: Duration? { current?.endsAt.map { clock.now.duration(to: $0) } }

    /// What somebody should look at though there are credentials that serve.
    var reservation: RemoteKMSError? {
        // Of a refusal and a later failure to get any, the later one is how it is.
        guard let failure, usable() != nil else { return rejection }
        return RemoteKMSError(
            failure.error.code, "no new credentials, and the former ones go on: \(failure.error.summary)",
            remedy: failure.error.remedy)
    }

    private func usable() -> Numbered? {
        guard let current, isUsable(current) else { return nil }
        var numbered = current.numbered
        numbered.isOnTrial = former.map(isUsable) ?? false
        return numbered
    }

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
            } else if former.map(isUsable) != true, !current.numbered.taken.isEmpty {
                // Those that are on trial themselves do not take the place of those that served.
                former = current
            }
        }
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
