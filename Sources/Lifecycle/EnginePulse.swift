/// Decides whether the service manager's watchdog is fed: only if the engine thread has answered a probe since the
/// last time.
///
/// The shell posts a probe at each tick and hands in the number of probes answered so far.
struct EnginePulse {
    enum Action: Equatable {
        case feed
        case withhold
    }

    private var seen: UInt64?

    mutating func tick(answered: UInt64) -> Action {
        defer { seen = answered }
        guard let seen else { return .feed }
        return answered > seen ? .feed : .withhold
    }
}
