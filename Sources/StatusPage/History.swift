public import Observability
private import Synchronization

/// An hour of the metrics that tell how the daemon does, in memory.
///
/// Some 80 KB. What it keeps are the counters themselves; rates and shares are worked out when somebody looks.
public final class History: Sendable {
    /// How often a sample is to be taken.
    public static let interval = Duration.seconds(15)
    static let span = Duration.seconds(3600)
    private static let capacity = Int(span / interval) + 1

    /// The counters at one moment, none of them a difference: calls go on while they are read.
    struct Sample {
        var at = Duration.zero
        var calls = 0.0
        var failedCalls = 0.0
        /// Decrypts that were refused for what they asked.
        var unreadable = 0.0
        /// Decrypts that were answered.
        var decrypts = 0.0
        /// Those that waited for an unwrapped key, whatever became of them.
        var lookups = 0.0
        var latency: [UInt64] = []
        var failedBackendCalls = 0.0
        var throttledBackendCalls = 0.0
        var backendLatency: [UInt64] = []
        var refused = 0.0
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
        var sample = Sample(at: elapsed())
        sample.calls = registry.total(requests)
        sample.failedCalls = registry.total(requests, [Names.Label.code: Names.Value.failures])
        sample.unreadable = registry.total(
            requests, [Names.Label.method: ["decrypt"], Names.Label.code: ["INVALID_ARGUMENT"]])
        sample.decrypts = registry.total(
            requests, [Names.Label.method: ["decrypt"], Names.Label.code: ["OK"]])
        sample.lookups = registry.total(
            Names.Metric.cacheRequests, [Names.Label.outcome: Names.Value.cacheResults.filter { $0 != "hit" }]
        )
        sample.latency = registry.tallies(
            Names.Metric.requestDuration, [Names.Label.method: ["encrypt", "decrypt"]])
        sample.failedBackendCalls = registry.total(backend, [Names.Label.outcome: Names.Value.troubles])
        sample.throttledBackendCalls = registry.total(backend, [Names.Label.outcome: ["throttled"]])
        sample.backendLatency = registry.tallies(Names.Metric.backendDuration)
        sample.refused = registry.total(
            Names.Metric.connectionsRefused, [Names.Label.reason: ["uid", "limit", "stalled", "barred"]])
        return sample
    }

    /// How much a counter has grown, as of now, since the last sample that is at least this many seconds old, or the first.
    func growth(of counter: (Sample) -> Double, within seconds: Int64) -> Int {
        let (now, before) = between(seconds)
        return Int(max(0, counter(now) - counter(before)))
    }

    /// Encrypts and Decrypts that took longer than `limit` seconds, a bound of the histogram, and all of them, likewise.
    func slowCalls(beyond limit: Double, within seconds: Int64) -> (slow: Int, all: Int) {
        let (now, before) = between(seconds)
        let counts = Quantile.growth(of: now.latency, since: before.latency)
        let slow = zip(Names.Buckets.request + [.infinity], counts).filter { $0.0 > limit }
        return (Int(slow.reduce(0) { $0 + $1.1 }), Int(counts.reduce(0, +)))
    }

    private func between(_ seconds: Int64) -> (now: Sample, before: Sample) {
        let now = sample()
        let before = samples.withLock { samples in
            samples.last { now.at - $0.at >= .seconds(seconds) } ?? samples.first
        }
        return (now, before ?? now)
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
        return [
            curve(
                "Calls", .perSecond, good: "As many as the API server makes; Status once a minute at least."
            ) { ($1.calls - $0.calls) / (($1.at - $0.at) / .seconds(1)) },
            curve("Failed calls", .inAMinute, good: "Good: none.", isBad: true) {
                $1.failedCalls - $0.failedCalls
            },
            curve("99 of 100 calls within", .within, good: "Encrypt and Decrypt. Good: 10 ms.") {
                Quantile.bound(0.99, of: $1.latency, since: $0.latency, Names.Buckets.request)
            },
            curve("Decrypts from memory", .share, good: "Good: near 100 %, but just after a start.") {
                from, to in
                // A look-up counts when it begins, a Decrypt when it ends.
                let (all, waited) = (to.decrypts - from.decrypts, to.lookups - from.lookups)
                return all > 0 ? min(max(0, 1 - waited / all), 1) : nil
            },
            curve(
                "Failed calls to the KMS", .inAMinute, good: "Tries that it did not answer well. Good: none.",
                isBad: true
            ) { $1.failedBackendCalls - $0.failedBackendCalls },
            curve(
                "99 of 100 calls to the KMS within", .within,
                good: "Good: far below the API server's timeout, 3 s by default."
            ) {
                Quantile.bound(0.99, of: $1.backendLatency, since: $0.backendLatency, Names.Buckets.backend)
            },
        ]
    }
}

/// How one thing went in the last hour.
struct Curve: Equatable {
    enum Unit: Equatable { case perSecond, inAMinute, share, within }

    struct Point: Equatable {
        /// Seconds ago.
        let age: Double
        /// Nil where there was nothing to measure; infinite beyond the last bound of a histogram.
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
    /// How much each tally has grown; of a histogram that began anew meanwhile, all of it.
    static func growth(of tallies: [UInt64], since before: [UInt64]) -> [UInt64] {
        tallies.enumerated().map { index, tally in
            let former = before.indices.contains(index) ? before[index] : 0
            return tally >= former ? tally - former : tally
        }
    }

    /// The bound below which a share of what was observed between two tallies lies; nil if nothing was, infinite if it lies
    /// beyond the last bound.
    ///
    /// A value within the bucket would be a guess: buckets are wide.
    static func bound(
        _ share: Double, of tallies: [UInt64], since before: [UInt64], _ bounds: [Double]
    ) -> Double? {
        let counts = growth(of: tallies, since: before)
        let total = counts.reduce(0, +)
        guard total > 0 else { return nil }
        var below: UInt64 = 0
        for (bound, count) in zip(bounds, counts) {
            below += count
            if Double(below) >= share * Double(total) { return bound }
        }
        return .infinity
    }
}
