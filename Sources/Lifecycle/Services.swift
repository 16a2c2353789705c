public import GRPCEngine
private import Glibc
internal import Logging
private import Observability
internal import ServiceLifecycle
public import SocketAcceptance

extension EngineThread: EngineProgress {}

/// The path of a request: stops accepting and drains when the daemon is asked to end.
struct Serving: Service {
    /// How often a peer that is behind with reading is waited for before it is told nothing.
    private static let rounds = 20

    let clock: any Clock<Duration>
    let acceptor: SocketAcceptor
    let server: Server
    let grace: Duration
    let state: DaemonState
    let manager: any ServiceManager
    let logger: Logger

    func run() async throws {
        try await gracefulShutdown()
        manager.stopping()
        state.beginStopping()
        // Whoever asks again means at once. Nothing is lost by it: the next start replaces the socket left behind.
        for number in [SIGINT, SIGTERM] { signal(number, SIG_DFL) }
        logger.info(
            "stopping: calls in flight may finish",
            metadata: [Names.LogKey.callsInFlight: "\(server.callsInFlight)", Names.LogKey.limit: "\(grace)"])
        await acceptor.stopAccepting()
        for _ in 0..<Self.rounds where await !acceptor.sayGoAway() {
            // Cancelled: no time is left for manners.
            do { try await clock.sleep(for: .milliseconds(5)) } catch { break }
        }
        if await server.drain(grace: grace) {
            logger.info("stopped")
        } else {
            state.abandonCalls()
            logger.error(
                "calls did not end though they were cancelled; the process ends without them",
                metadata: [Names.LogKey.callsInFlight: "\(server.callsInFlight)"])
        }
        await acceptor.close()
    }
}

/// Feeds the service manager's watchdog for as long as the engine thread turns.
struct Watchdog: Service {
    let engine: any EngineProgress
    let manager: any ServiceManager
    let clock: any Clock<Duration>
    let logger: Logger

    func run() async throws {
        guard let interval = manager.watchdogInterval else { return try await gracefulShutdown() }
        var pulse = EnginePulse()
        // Four chances in one interval, so that one late tick is no death sentence.
        await untilShutdown(every: interval / 4, clock) {
            switch pulse.tick(answered: engine.answeredProbes) {
            case .feed: manager.watchdog()
            case .wait: break
            case .withhold: logger.error("the engine thread does not turn; the watchdog is not fed")
            }
            engine.postProbe()
        }
    }
}

/// Does `body` now and then every `interval`, until the daemon is asked to end.
func untilShutdown(
    every interval: Duration, _ clock: any Clock<Duration>, _ body: () async -> Void
) async {
    do {
        while !Task.isShuttingDownGracefully && !Task.isCancelled {
            await body()
            try await cancelWhenGracefulShutdown { try await clock.sleep(for: interval) }
        }
    } catch {
        // Cancelled: the daemon ends.
    }
}
