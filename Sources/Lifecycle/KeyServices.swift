private import Events
internal import KeyService
internal import Logging
private import Observability
private import SecureMemory
internal import ServiceLifecycle

/// Watches the keys until the daemon is asked to end.
struct KeyObservation: Service {
    let ring: KeyRing

    func run() async throws {
        await cancelWhenGracefulShutdown { await ring.run() }
    }
}

/// Tells the service manager when the daemon is ready, and one line about how it is.
struct StatusLine: Service {
    let ring: KeyRing
    let callsInFlight: @Sendable () -> Int
    let longestSilence: Duration
    let manager: any ServiceManager
    let state: DaemonState
    let clock: any Clock<Duration>
    let epochSeconds: @Sendable () -> Int64
    let logger: Logger

    private static let interval = Duration.seconds(10)
    /// Between words that the start goes on; each of them holds for longer than the next one takes to come.
    private static let patience = Duration.seconds(2)
    private static let startLimit = Duration.seconds(30)

    func run() async throws {
        let ring = ring
        let (limit, clock) = (longestSilence, clock)
        let hasVerdict = await cancelWhenGracefulShutdown {
            await withTaskGroup(of: Void.self) { group in
                group.addTask {
                    repeat {
                        manager.starting(status: text(since: "starting"), atMost: Self.startLimit)
                        // Cancelled: there is a verdict, or no time left for one.
                        do { try await clock.sleep(for: Self.patience) } catch { break }
                    } while !Task.isCancelled
                }
                defer { group.cancelAll() }
                return await ring.waitForFirstVerdict(atMost: limit, clock: clock)
            }
        }
        // Cut short by a stop: there is nobody to be ready for.
        guard !Task.isShuttingDownGracefully else { return }
        let line = text(since: "serving")
        manager.ready(status: line)
        state.announceReadiness()
        if !hasVerdict {
            logger.event(
                .readyWithoutKey,
                "ready without a verdict on the keys: the API server may start, and is told the cause",
                metadata: [Names.LogKey.limit: "\(limit.inSeconds)"])
        } else if ring.snapshot().contains(where: { $0.encrypts && $0.state != .active }) {
            logger.event(
                .readyWithoutKey,
                "ready, but the key that encrypts does not serve; the API server is told the cause")
        } else {
            logger.info("ready", metadata: [Names.LogKey.status: "\(line)"])
        }
        await untilShutdown(every: Self.interval, clock) {
            manager.status(text(since: "serving"))
            // Memory is mapped as it is needed; the limit may be met long after the start.
            if let warning = SecureMemory.takeWarning() { logger.event(.memoryNotLocked, "\(warning)") }
        }
    }

    private func text(since life: String) -> String {
        let now = epochSeconds()
        let keys = ring.snapshot().map { $0.status(at: now) }
        return ([life] + keys + ["\(callsInFlight()) calls in flight"]).joined(separator: "; ")
    }
}
