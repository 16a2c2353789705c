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
    let clock: any Clock<Duration>
    let logger: Logger

    private static let interval = Duration.seconds(10)

    func run() async throws {
        let ring = ring
        let (limit, clock) = (longestSilence, clock)
        let hasVerdict = await cancelWhenGracefulShutdown {
            await ring.waitForFirstVerdict(atMost: limit, clock: clock)
        }
        // Cut short by a stop: there is nobody to be ready for.
        guard !Task.isShuttingDownGracefully else { return }
        let line = text
        manager.ready(status: line)
        if !hasVerdict {
            logger.warning(
                "ready without a verdict on the keys: the API server may start, and is told the cause",
                metadata: [Names.LogKey.limit: "\(limit.inSeconds)"])
        } else if ring.snapshot().contains(where: { $0.encrypts && $0.state != .active }) {
            logger.warning(
                "ready, but the key that encrypts does not serve; the API server is told the cause")
        } else {
            logger.info("ready", metadata: [Names.LogKey.status: "\(line)"])
        }
        await untilShutdown(every: Self.interval, clock) {
            manager.status(text)
            // Memory is mapped as it is needed; the limit may be met long after the start.
            if let warning = SecureMemory.takeWarning() { logger.warning("\(warning)") }
        }
    }

    private var text: String {
        let now = ring.snapshot().map { $0.status }
        return (["serving"] + now + ["\(callsInFlight()) calls in flight"]).joined(separator: "; ")
    }
}
