private import Events
public import GRPCEngine
private import Glibc
internal import Logging
private import Observability
internal import ServiceLifecycle
public import SocketAcceptance
internal import StatusPage
private import Threads

extension EngineThread: EngineProgress {}

/// The path of a request: stops accepting and drains when the daemon is asked to end.
struct Serving: Service {
    /// How long peers that were told to go away are waited for at most: those that do not care must not hold the stop up.
    private static let farewell = Duration.seconds(2)
    private static let step = Duration.milliseconds(5)
    private static let look = Duration.milliseconds(50)

    let clock: any Clock<Duration>
    let acceptor: SocketAcceptor
    let server: Server
    let grace: Duration
    let state: DaemonState
    let reloads: ReloadRequests
    let manager: any ServiceManager
    let logger: Logger

    func run() async throws {
        try await gracefulShutdown()
        manager.stopping()
        state.beginStopping()
        // A call that waits for a reload is nothing to wait for.
        reloads.close()
        // Whoever asks again means at once. Nothing is lost by it: the next start replaces the socket left behind.
        await SecondSignal.endsTheProcess()
        logger.info(
            "stopping: calls in flight may finish",
            metadata: [
                Names.LogKey.callsInFlight: "\(server.callsInFlight)",
                Names.LogKey.limit: "\(grace.inSeconds)",
            ])
        await acceptor.stopAccepting()
        let begun = ContinuousClock.now
        await letPeersGo()
        let left = max(.zero, grace - (ContinuousClock.now - begun))
        async let isPeerless: Void = endConnections(within: left)
        let isDrained = await server.drain(grace: left)
        if isDrained {
            logger.info("stopped")
        } else {
            state.abandonCalls()
            logger.event(
                .stopIncomplete,
                "calls or connections did not end though they were cancelled; the process ends without them",
                metadata: [Names.LogKey.callsInFlight: "\(server.callsInFlight)"])
        }
        await isPeerless
        await acceptor.close()
    }

    /// Ends the connections that are of no use any more once no call is in flight, and all of them when the time is over.
    private func endConnections(within left: Duration) async {
        let end = ContinuousClock.now + left
        var wasQuiet = false
        while ContinuousClock.now < end {
            if await acceptor.counts.connections == 0 { return }
            let isQuiet = server.callsInFlight == 0
            // Twice, a moment apart: what was answered last has been written by then.
            if isQuiet && wasQuiet { await acceptor.endServed(all: false) }
            wasQuiet = isQuiet
            // Cancelled: no time is left.
            do { try await clock.sleep(for: Self.look) } catch { break }
        }
        await acceptor.endServed(all: true)
    }

    /// Says GOAWAY, and serves on until the peers have closed their connections.
    ///
    /// A client does that once its last call is answered. Until it has read the GOAWAY, which may take a busy machine long,
    /// it begins new calls; libgrpc cancels those that it reads after it was told to shut down.
    private func letPeersGo() async {
        await server.takeConnections()  // or our GOAWAY would come before libgrpc's SETTINGS
        for _ in 0..<max(1, Int(min(grace, Self.farewell) / Self.step)) {
            await acceptor.sayGoAway()
            if await acceptor.counts.connections == 0 { return }
            // Cancelled: no time is left for manners.
            do { try await clock.sleep(for: Self.step) } catch { return }
        }
    }
}

/// What SIGINT and SIGTERM do once the daemon is stopping.
private enum SecondSignal {
    /// Gives them their usual effect, and a thread that lets them in: the others may all have them blocked, and then whoever
    /// waited for the first one would take the second one too.
    static func endsTheProcess() async {
        for number in [SIGINT, SIGTERM] { signal(number, SIG_DFL) }
        await withCheckedContinuation { ready in
            let thread = OwnedThread(name: "signals") {
                var both = sigset_t()
                unsafe sigemptyset(&both)
                for number in [SIGINT, SIGTERM] { unsafe sigaddset(&both, number) }
                unsafe pthread_sigmask(SIG_UNBLOCK, &both, nil)
                ready.resume()
                while true { pause() }
            }
            switch consume thread {
            case let thread?: thread.abandon()
            // No thread left: the stop goes on as it does, only not faster.
            case nil: ready.resume()
            }
        }
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
            case .withhold:
                logger.event(.engineStalled, "the engine thread does not turn; the watchdog is not fed")
            }
            engine.postProbe()
        }
    }
}

/// Keeps the hour of metrics that the status page shows.
struct HistoryKeeping: Service {
    let history: History
    let clock: any Clock<Duration>

    func run() async throws {
        await untilShutdown(every: History.interval, clock) { history.takeSample() }
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
