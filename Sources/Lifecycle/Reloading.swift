internal import CoreMetrics
private import Events
internal import Logging
private import Observability
internal import ServiceLifecycle

/// Decides when a content that somebody changed is to be taken: once it is seen the second time, so that one that is being
/// written is not.
struct ContentWatch: Equatable {
    private var candidate: [UInt8]?

    /// Whether the content seen now, other than `judged`, is to be taken.
    mutating func sees(_ mark: [UInt8], judged: [UInt8]) -> Bool {
        guard mark != judged, mark == candidate else {
            candidate = mark == judged ? nil : mark
            return false
        }
        candidate = nil
        return true
    }
}

/// Takes a changed configuration while the daemon runs: at SIGHUP, when somebody asks for it over the socket, and by itself
/// when the file is another one.
///
/// One reload at a time.
struct Reloading<Hangups: AsyncSequence & Sendable>: Service
where Hangups.Element: Sendable, Hangups.Failure == Never {
    let configuration: any LiveConfiguration
    let daemon: RunningDaemon
    let hangups: Hangups
    let requests: ReloadRequests
    let manager: any ServiceManager
    let state: DaemonState
    let clock: any Clock<Duration>
    let epochSeconds: @Sendable () -> Int64
    let metrics: ReloadMetrics
    let logger: Logger

    private enum Event { case hangup, request, look }

    /// How often the file is looked at.
    private static var interval: Duration { .seconds(2) }

    func run() async throws {
        metrics.runs(since: epochSeconds())
        await cancelWhenGracefulShutdown {
            let (events, sink) = AsyncStream<Event>.makeStream()
            requests.open { sink.yield(.request) }
            defer { requests.close() }
            await withDiscardingTaskGroup { group in
                group.addTask { for await _ in hangups { sink.yield(.hangup) } }
                // From the end of one look to the next, however long a reload between them takes: two that follow each other
                // at once would find the same half of a file.
                @Sendable func look() async {
                    // Cancelled: the daemon ends.
                    if (try? await clock.sleep(for: Self.interval)) != nil { sink.yield(.look) }
                }
                group.addTask { await look() }
                var watch = ContentWatch()
                for await event in events {
                    await act(on: event, &watch)
                    if event == .look { group.addTask { await look() } }
                }
            }
        }
    }

    private func act(on event: Event, _ watch: inout ContentWatch) async {
        switch event {
        case .hangup: await reload()
        case .request:
            let waiting = requests.take()
            // Answered already by the reload before.
            guard !waiting.isEmpty else { return }
            let report = await reload()
            for one in waiting { one.resume(returning: Task.isCancelled ? nil : report) }
        case .look:
            if watch.sees(await configuration.look(), judged: await configuration.judged) { await reload() }
            await configuration.tidy()
        }
    }

    @discardableResult private func reload() async -> ReloadReport {
        let isAnnounced = state.isReady
        if isAnnounced { manager.reloading() }
        let report = await configuration.reload(daemon)
        // Before the report: whoever waits for it looks at the unit next.
        if isAnnounced, state.isReady { manager.reloaded() }
        // Cut short by the stop.
        guard !Task.isCancelled else { return report }
        metrics.ended(report.result, at: epochSeconds())
        tell(report.warnings, .configurationRemark)
        switch report.result {
        case .applied:
            logger.event(
                .configurationTaken, "the new configuration is in effect",
                metadata: [Names.LogKey.changes: "\(report.changes)"])
        case .unchanged where report.waiting.isEmpty:
            logger.info("the configuration is read again, and is as before")
        case .unchanged: break  // what has changed waits, as said below
        case .refused:
            tell(Array(report.reasons.dropFirst()), .configurationRefused)
            logger.event(
                .configurationRefused, "the new configuration is refused; the former one goes on",
                metadata: [
                    Names.LogKey.reason: "\(report.reasons.first ?? "")",
                    Names.LogKey.remedy: "correct it; if what it names came later: kmsward reload",
                ])
        }
        if !report.waiting.isEmpty {
            logger.event(
                .configurationWaits, "restart to apply: these options do not change while the daemon runs",
                metadata: [Names.LogKey.changes: "\(report.waiting.joined(separator: ", "))"])
        }
        return report
    }

    private func tell(_ remarks: [String], _ event: Events.Event) {
        for remark in remarks {
            logger.event(
                event, "the new configuration was looked through",
                metadata: [Names.LogKey.cause: "\(remark)"])
        }
    }
}

/// How reloads end, as metrics.
struct ReloadMetrics: Sendable {
    private let results: [ReloadReport.Result: Counter]
    private let succeeded: Gauge
    private let since: Gauge

    init(factory: any MetricsFactory = MetricsSystem.factory) {
        // Every series from the start: a rate over one that appears with its first event would miss it.
        results = Dictionary(
            uniqueKeysWithValues: ReloadReport.Result.allCases.map { result in
                let labels = [(Names.Label.result, result.rawValue)]
                return (result, Counter(label: Names.Metric.reloads, dimensions: labels, factory: factory))
            })
        succeeded = Gauge(label: Names.Metric.reloadSucceeded, factory: factory)
        since = Gauge(label: Names.Metric.reloadedAt, factory: factory)
        for counter in results.values { counter.increment(by: 0) }
    }

    /// What was read at the start runs.
    func runs(since epochSeconds: Int64) {
        succeeded.record(1)
        since.record(Double(epochSeconds))
    }

    func ended(_ result: ReloadReport.Result, at epochSeconds: Int64) {
        results[result]?.increment()
        switch result {
        case .applied, .unchanged: runs(since: epochSeconds)
        case .refused: succeeded.record(0)
        }
    }
}
