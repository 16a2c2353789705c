internal import CoreMetrics
private import Observability

/// What the probes and requests of one key leave behind: counters and durations, made once.
final class KeyRecord: Sendable {
    private let passed: Counter
    private let failed: Counter
    private let rotations: Counter
    private let formerDecrypts: Counter
    private let loads: CoreMetrics.Timer

    init(_ key: String, _ factory: any MetricsFactory) {
        let labels = [(Names.Label.key, key)]
        func counter(_ metric: String, _ more: [(String, String)] = []) -> Counter {
            Counter(label: metric, dimensions: labels + more, factory: factory)
        }
        passed = counter(Names.Metric.keyProbes, [(Names.Label.result, "ok")])
        failed = counter(Names.Metric.keyProbes, [(Names.Label.result, "failed")])
        rotations = counter(Names.Metric.keyRotations)
        formerDecrypts = counter(Names.Metric.formerKeyDecrypts)
        loads = CoreMetrics.Timer(
            label: Names.Metric.cacheLoadDuration, dimensions: labels, factory: factory)
    }

    /// Drops what is told: no key of this name is configured any more.
    func forget() {
        for counter in [passed, failed, rotations, formerDecrypts] { counter.destroy() }
        loads.destroy()
    }

    func probed(isWell: Bool) { (isWell ? passed : failed).increment() }

    /// Another key_id is announced in place of one.
    func rotated() { rotations.increment() }

    /// Something was opened that another key_id wrote than the one that encrypts.
    func openedFormer() { formerDecrypts.increment() }

    /// A request had what was not in memory after so long, or gave up.
    func loaded(in duration: Duration) { loads.recordNanoseconds(duration.nanoseconds) }
}

/// How long sealing and opening take.
struct CryptoTimes: Sendable {
    private let sealing: any TimerHandler
    private let opening: any TimerHandler
    private let now: @Sendable () -> ContinuousClock.Instant

    init(_ factory: any MetricsFactory, now: @escaping @Sendable () -> ContinuousClock.Instant) {
        func timer(_ operation: String) -> any TimerHandler {
            factory.makeTimer(
                label: Names.Metric.cryptoDuration, dimensions: [(Names.Label.operation, operation)])
        }
        sealing = timer("seal")
        opening = timer("open")
        self.now = now
    }

    var start: ContinuousClock.Instant { now() }
    func sealed(since start: ContinuousClock.Instant) {
        sealing.recordNanoseconds(start.duration(to: now()).nanoseconds)
    }
    func opened(since start: ContinuousClock.Instant) {
        opening.recordNanoseconds(start.duration(to: now()).nanoseconds)
    }
}
