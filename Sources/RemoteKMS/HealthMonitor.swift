private import Synchronization

/// Knows how one key is, at any moment and without asking anybody: probes it beside the requests, on a schedule of its
/// own, one probe at a time.
public actor HealthMonitor {
    /// What a probe must find out, since no request has proven it since the last.
    public struct Need: Sendable, Equatable {
        /// That the key encrypts.
        public var encryption: Bool
        /// That it decrypts.
        public var decryption: Bool
    }

    /// What a request may prove.
    public enum Half: Sendable {
        /// That the key encrypts.
        case encryption
        /// That it decrypts.
        case decryption
    }

    private struct State {
        var health: KeyHealth
        var need = Need(encryption: true, decryption: true)
    }

    private nonisolated let state: Mutex<State>
    private var isProbing = false

    /// Pause after a probe of a key that does not serve yet; doubled until it is the interval.
    private static let firstRetry = Duration.seconds(1)

    /// A monitor that has seen nothing yet.
    public init(_ limits: KeyHealth.Limits) { state = Mutex(State(health: KeyHealth(limits))) }

    /// How the key is, as of the last probe; from memory.
    public nonisolated var health: KeyHealth { state.withLock { $0.health } }

    /// Other limits hold from now on; a key that has stopped because its time was over goes on if longer ones leave it some.
    public nonisolated func setLimits(_ limits: KeyHealth.Limits) {
        state.withLock { $0.health.setLimits(limits) }
    }

    /// A request saw the key do this: the next probe need not.
    public nonisolated func proved(_ half: Half) {
        state.withLock { state in
            switch half {
            case .encryption: state.need.encryption = false
            case .decryption: state.need.decryption = false
            }
        }
    }

    /// A local KEK was taken up, `now` after the start, its unwrap proven.
    public nonisolated func activated(at now: Duration) { state.withLock { $0.health.activated(at: now) } }

    /// Probes the key, `now` after the start, and takes in what was found; nothing if a probe is under way or `probe`
    /// gives nil, because it was interrupted.
    ///
    /// - Returns: whether something was taken in.
    public func observe(
        at now: Duration, _ probe: @Sendable (Need) async -> KeyHealth.Finding?
    ) async -> Bool {
        guard !isProbing else { return false }
        isProbing = true
        defer { isProbing = false }
        let need = state.withLock { state in
            defer { state.need = Need(encryption: true, decryption: true) }
            return state.need
        }
        guard let finding = await probe(need) else { return false }
        state.withLock { $0.health.observed(finding, at: now) }
        return true
    }

    /// Repeats `step` until the task is cancelled: about every `interval`, sooner while it returns false, for a key that does
    /// not serve.
    ///
    /// `random` gives 0..<1: replicas started together must not ask together for ever.
    public nonisolated func run<C: Clock>(
        every interval: Duration, clock: C, random: @Sendable () -> Double, _ step: @Sendable () async -> Bool
    ) async where C.Duration == Duration {
        var retry = Self.firstRetry
        while !Task.isCancelled {
            let isServing = await step()
            let pause = isServing ? interval * (0.9 + 0.2 * random()) : min(retry, interval)
            retry = isServing ? Self.firstRetry : min(retry * 2, interval)
            // Cancelled: the loop ends.
            try? await clock.sleep(for: pause)
        }
    }
}
