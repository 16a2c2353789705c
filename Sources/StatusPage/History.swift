public import Observability
private import Synchronization

/// An hour of the metrics that tell how the daemon does, in memory.
///
/// Some 60 KB. What it keeps are the counters themselves; rates and shares are worked out when somebody looks.
public final class History: Sendable {
    /// How often a sample is to be taken.
    public static let interval = Duration.seconds(15)
    static let span = Duration.seconds(3600)
    private static let capacity = Int(span / interval) + 1

    /// The counters at one moment.
    private struct Sample {
        let at: Duration
        let calls: Double
        let failedCalls: Double
        let latency: [UInt64]
        let hits: Double
        let lookups: Double
        let backendCalls: Double
        let failedBackendCalls: Double
        let backendLatency: [UInt64]
    }

    private let registry: PrometheusRegistry
    private let elapsed: @Sendable () -> Duration
    private let samples = Mutex<[Sample]>([])

    /// Nothing is known yet; `elapsed` is the time since any moment, by a clock that does not jump.
    public init(of registry: PrometheusRegistry, elapsed: @escaping @Sendable () -> Duration) {
        self.registry = registry
        self.elapsed = elapsed
    }

    /// Takes a sample.
    ///
    /// Costs some ten microseconds; to be called every `interval`.
    public func takeSample() {
        let sample = sample()
        samples.withLock { samples in
            samples.append(sample)
            samples.removeAll { sample.at - $0.at > Self.span }
            if samples.count > Self.capacity { samples.removeFirst(samples.count - Self.capacity) }
        }
    }

    private func sample() -> Sample {
        let (requests, backend) = (Names.Metric.requests, Names.Metric.backendCalls)
        let calls = registry.total(requests)
        // Ended by the caller, or nothing that we could have answered: neither is a failure of ours.
        let good = ["OK", "CANCELLED", "INVALID_ARGUMENT"].reduce(0) {
            $0 + registry.total(requests, [(Names.Label.code, $1)])
        }
        let tallies = ["encrypt", "decrypt"].map {
            registry.tallies(Names.Metric.requestDuration, [(Names.Label.method, $0)])
        }
        let backendCalls = registry.total(backend)
        return Sample(
            at: elapsed(), calls: calls, failedCalls: calls - good, latency: Self.sum(tallies),
            hits: registry.total(Names.Metric.cacheRequests, [(Names.Label.outcome, "hit")]),
            lookups: registry.total(Names.Metric.cacheRequests), backendCalls: backendCalls,
            failedBackendCalls: backendCalls - registry.total(backend, [(Names.Label.outcome, "ok")]),
            backendLatency: registry.tallies(Names.Metric.backendDuration))
    }

    private static func sum(_ tallies: [[UInt64]]) -> [UInt64] {
        tallies.reduce([]) { sum, next in
            sum.isEmpty ? next : next.isEmpty ? sum : zip(sum, next).map { $0 + $1 }
        }
    }

    /// Calls that failed, as of now, since the last sample that is older than this many seconds, or the first of all.
    func failedCalls(within seconds: Int64) -> Int {
        let now = sample()
        let before = samples.withLock { samples in
            samples.last { now.at - $0.at >= .seconds(seconds) } ?? samples.first
        }
        return Int(now.failedCalls - (before?.failedCalls ?? 0))
    }

    /// The hour in curves.
    var curves: [Curve] {
        let (samples, now) = (samples.withLock { $0 }, elapsed())
        func curve(
            _ title: String, _ unit: Curve.Unit, good: String, isBad: Bool = false,
            _ value: (_ from: Sample, _ to: Sample) -> Double?
        ) -> Curve {
            // Failures are counted over a minute: three in 15 s are three, not twelve a minute.
            let least = unit == .inAMinute ? Duration.seconds(60) : .zero
            let points = samples.indices.dropFirst().map { index in
                let to = samples[index]
                let from = samples[..<index].last { to.at - $0.at >= least } ?? samples[0]
                return Curve.Point(age: (now - to.at) / .seconds(1), value: value(from, to))
            }
            return Curve(title: title, unit: unit, good: good, isBad: isBad, points: points)
        }
        let request = Names.Buckets.request
        return [
            curve(
                "Calls", .perSecond, good: "As many as the API server makes; Status once a minute at least."
            ) { from, to in
                (to.calls - from.calls) / ((to.at - from.at) / .seconds(1))
            },
            curve("Failed calls", .inAMinute, good: "Good: none.", isBad: true) {
                $1.failedCalls - $0.failedCalls
            },
            curve("Latency, 99th percentile", .seconds, good: "Encrypt and Decrypt. Good: below 10 ms.") {
                Quantile.value(0.99, of: $1.latency, since: $0.latency, request)
            },
            curve("Answered from cache", .share, good: "Good: near 100 %, but just after a start.") {
                from, to in
                to.lookups > from.lookups ? (to.hits - from.hits) / (to.lookups - from.lookups) : nil
            },
            curve(
                "Failed calls to the KMS", .inAMinute, good: "Tries that it did not answer well. Good: none.",
                isBad: true
            ) {
                $1.failedBackendCalls - $0.failedBackendCalls
            },
            curve(
                "KMS latency, 99th percentile", .seconds,
                good: "Good: far below the API server's timeout, 3 s by default."
            ) {
                Quantile.value(0.99, of: $1.backendLatency, since: $0.backendLatency, Names.Buckets.backend)
            },
        ]
    }
}

/// How one thing went in the last hour.
struct Curve: Equatable {
    enum Unit: Equatable { case perSecond, inAMinute, share, seconds }

    struct Point: Equatable {
        /// Seconds ago.
        let age: Double
        /// Nil where there was nothing to measure.
        let value: Double?
    }

    let title: String
    let unit: Unit
    /// What good looks like.
    let good: String
    /// Whether anything but zero is a failure.
    let isBad: Bool
    /// Oldest first.
    let points: [Point]
}

/// What a histogram says of the slowest.
enum Quantile {
    /// The `share` quantile of what was observed between two tallies, as PromQL's histogram_quantile works it out; nil if
    /// nothing was.
    static func value(
        _ share: Double, of tallies: [UInt64], since before: [UInt64], _ bounds: [Double]
    ) -> Double? {
        let counts = tallies.enumerated().map { $1 - (before.indices.contains($0) ? before[$0] : 0) }
        let total = counts.reduce(0, +)
        guard total > 0 else { return nil }
        let rank = share * Double(total)
        var below: UInt64 = 0
        for (bound, (lower, count)) in zip(bounds, zip([0] + bounds, counts)) {
            if Double(below + count) >= rank, count > 0 {
                return lower + (bound - lower) * (rank - Double(below)) / Double(count)
            }
            below += count
        }
        return bounds.last
    }
}
