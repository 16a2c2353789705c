/// Decides whether the service manager's watchdog is fed: only if the engine thread has answered a probe since the
/// last time.
///
/// The shell posts a probe at each tick and hands in the number of probes answered so far.
struct EnginePulse {
    enum Action: Equatable {
        case feed
        case withhold
        /// The first tick: nothing has been asked yet.
        case wait
    }

    private var seen: UInt64?

    mutating func tick(answered: UInt64) -> Action {
        defer { seen = answered }
        guard let seen else { return .wait }
        return answered > seen ? .feed : .withhold
    }
}
