internal import CoreMetrics
private import Observability

/// A cache's numbers as metrics: what was added since they were published last.
///
/// Not at each request: a hit costs less than a counter.
struct CacheMetrics {
    private let requests: [LookupResult: Counter]
    private let evictions: [EvictionReason: Counter]
    private let reloads: [Bool: Counter]
    private let entries: Gauge
    private let secretBytes: Gauge
    private let loadsInFlight: Gauge
    private var published = CacheCounts()

    init(_ factory: any MetricsFactory) {
        // Every series from the start: a rate over one that appears with its first event would miss it.
        requests = Dictionary(
            uniqueKeysWithValues: LookupResult.allCases.map { result in
                let labels = [(Names.Label.outcome, result.rawValue)]
                return (
                    result, Counter(label: Names.Metric.cacheRequests, dimensions: labels, factory: factory)
                )
            })
        evictions = Dictionary(
            uniqueKeysWithValues: EvictionReason.allCases.map { reason in
                let labels = [(Names.Label.reason, reason.rawValue)]
                return (
                    reason, Counter(label: Names.Metric.cacheEvictions, dimensions: labels, factory: factory)
                )
            })
        reloads = Dictionary(
            uniqueKeysWithValues: [true, false].map { isFailed in
                let labels = [(Names.Label.outcome, isFailed ? "failed" : "started")]
                return (
                    isFailed, Counter(label: Names.Metric.cacheReloads, dimensions: labels, factory: factory)
                )
            })
        entries = Gauge(label: Names.Metric.cacheEntries, factory: factory)
        secretBytes = Gauge(label: Names.Metric.cacheSecretBytes, factory: factory)
        loadsInFlight = Gauge(label: Names.Metric.cacheLoadsInFlight, factory: factory)
        publish(published)
    }

    mutating func publish(_ counts: CacheCounts) {
        for (result, counter) in requests {
            counter.increment(by: Int64(counts.requests(result) - published.requests(result)))
        }
        for (reason, counter) in evictions {
            counter.increment(
                by: Int64(counts.evictions[reason, default: 0] - published.evictions[reason, default: 0]))
        }
        reloads[false]?.increment(by: Int64(counts.reloads - published.reloads))
        reloads[true]?.increment(by: Int64(counts.failedReloads - published.failedReloads))
        entries.record(counts.entries)
        secretBytes.record(counts.secretBytes)
        loadsInFlight.record(counts.loadsInFlight)
        published = counts
    }
}
