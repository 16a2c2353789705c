import CoreMetrics
import Observability
import Synchronization
import Testing

@testable import StatusPage

/// A registry, a history of it, and a clock that only the test moves.
private final class Rig: Sendable {
    let registry = PrometheusRegistry(process: false)
    let history: History
    private let clock: TestTime

    final class TestTime: Sendable {
        let now = Mutex(Duration.zero)
    }

    init() {
        let clock = TestTime()
        self.clock = clock
        history = History(of: registry) { clock.now.withLock { $0 } }
    }

    func pass(_ duration: Duration) { clock.now.withLock { $0 += duration } }

    func count(_ metric: String, _ labels: [(String, String)], _ count: Int) {
        Counter(label: metric, dimensions: labels, factory: registry).increment(by: count)
    }

    func calls(_ number: Int, _ code: String) {
        count(Names.Metric.requests, [("api", "v2"), ("method", "encrypt"), ("code", code)], number)
    }

    func curve(_ title: String) throws -> Curve { try #require(history.curves.first { $0.title == title }) }
}

struct HistoryTests {
    @Test(
        "rates are those between two samples, and what the caller gave up or got wrong is no failure of ours")
    func rates() throws {
        let rig = Rig()
        rig.calls(1000, "OK")  // before the first sample: of no hour that is shown
        rig.history.takeSample()
        for (good, failed) in [(30, 0), (60, 5)] {
            rig.pass(.seconds(15))
            rig.calls(good - 3, "OK")
            rig.calls(1, "CANCELLED")
            rig.calls(2, "INVALID_ARGUMENT")
            rig.calls(failed, "UNAVAILABLE")
            rig.history.takeSample()
        }
        #expect(try rig.curve("Calls").points.map(\.value) == [2, 65.0 / 15])
        #expect(try rig.curve("Failed calls").points.map(\.value) == [0, 5])
        #expect(try rig.curve("Calls").points.map(\.age) == [15, 0])
    }

    @Test("failures are counted over the last minute")
    func failures() throws {
        let rig = Rig()
        rig.history.takeSample()
        for failed in [1, 2, 4, 8, 16, 32, 0] {
            rig.pass(.seconds(15))
            rig.calls(failed, "UNAVAILABLE")
            rig.history.takeSample()
        }
        #expect(try rig.curve("Failed calls").points.map(\.value) == [1, 3, 7, 15, 30, 60, 56])
    }

    @Test("an hour is kept and no more")
    func hour() throws {
        let rig = Rig()
        for _ in 0..<1000 {
            rig.history.takeSample()
            rig.pass(History.interval)
        }
        let points = try rig.curve("Calls").points
        #expect(points.count == 240)
        #expect(points.first?.age == 3600 && points.last?.age == 15)
    }

    @Test("where nothing was looked up or measured there is no value, not a bad one")
    func gaps() throws {
        let rig = Rig()
        let latency = Timer(
            label: Names.Metric.requestDuration, dimensions: [("api", "v2"), ("method", "decrypt")],
            factory: rig.registry)
        rig.history.takeSample()
        for step in 0..<3 {
            rig.pass(.seconds(15))
            if step == 1 {
                rig.count(Names.Metric.cacheRequests, [("outcome", "hit")], 3)
                rig.count(Names.Metric.cacheRequests, [("outcome", "miss")], 1)
                latency.recordNanoseconds(80_000)
            }
            rig.history.takeSample()
        }
        #expect(try rig.curve("Answered from cache").points.map(\.value) == [nil, 0.75, nil])
        let measured = try rig.curve("Latency, 99th percentile").points.map(\.value)
        #expect(measured[0] == nil && measured[2] == nil)
        let value = try #require(measured[1])
        #expect(value > 0.00005 && value <= 0.0001, "within its bucket")
    }

    @Test("calls that failed lately are counted up to now, and forgotten after five minutes")
    func lately() {
        let rig = Rig()
        rig.history.takeSample()
        rig.calls(7, "UNAVAILABLE")
        #expect(rig.history.failedCalls(within: 300) == 7)
        for _ in 0..<20 {
            rig.pass(.seconds(15))
            rig.history.takeSample()
        }
        #expect(rig.history.failedCalls(within: 300) == 7, "they came after the sample of 300 s ago")
        rig.pass(.seconds(15))
        #expect(rig.history.failedCalls(within: 300) == 0)
    }

    @Test(
        "a quantile is that of PromQL's histogram_quantile",
        arguments: [
            // Counts in the buckets up to 1, 2, 4 and above; expected: lower + (upper - lower) * (rank - below) / count.
            ([0, 0, 0, 0], nil), ([100, 0, 0, 0], 0.99), ([0, 100, 0, 0], 1.99), ([50, 0, 50, 0], 3.96),
            ([99, 1, 0, 0], 1), ([0, 0, 0, 5], 4), ([1, 0, 0, 99], 4),
        ] as [([UInt64], Double?)])
    func quantile(tallies: [UInt64], expected: Double?) {
        let value = Quantile.value(0.99, of: tallies, since: [], [1, 2, 4])
        #expect(value.map { ($0 * 1e6).rounded() } == expected.map { ($0 * 1e6).rounded() })
        let before: [UInt64] = [7, 8, 9, 10]
        let later = zip(tallies, before).map { $0 + $1 }
        #expect(
            Quantile.value(0.99, of: later, since: before, [1, 2, 4]) == value,
            "what was before does not count")
    }
}

struct SparklineTests {
    private func curve(_ values: [Double?], _ unit: Curve.Unit = .perSecond, isBad: Bool = false) -> Curve {
        Curve(
            title: "T", unit: unit, good: "", isBad: isBad,
            points: values.enumerated().map {
                Curve.Point(age: Double(values.count - 1 - $0) * 900, value: $1)
            })
    }

    @Test("the newest is on the right, the highest on top, and what is not known is left out")
    func path() {
        let picture = Sparkline(curve: curve([0, 10, nil, 5, 10])).picture.text
        #expect(picture.contains(#"d="M0.0 46.5h0L60.0 1.5M180.0 24.0h0L240.0 1.5""#), "\(picture)")
    }

    @Test("a share is drawn against the whole, not against its own highest")
    func share() {
        let picture = Sparkline(curve: curve([0.5, 0.5], .share)).picture.text
        #expect(picture.contains("M180.0 24.0h0L240.0 24.0"), "\(picture)")
    }

    @Test("only failures are drawn as such, and words tell what the picture shows")
    func words() {
        let well = Sparkline(curve: curve([0, 0], .inAMinute, isBad: true))
        let bad = Sparkline(curve: curve([4, 0], .inAMinute, isBad: true))
        #expect(!well.picture.text.contains("spark bad") && bad.picture.text.contains("spark bad"))
        #expect(bad.latest == "0 in a minute" && bad.extreme == "highest 4 in a minute, 15 min ago")
        #expect(
            bad.picture.text.contains(
                #"aria-label="T, last hour: now 0 in a minute, highest 4 in a minute, 15 min ago""#))
        #expect(Sparkline(curve: curve([0.9, 1], .share)).extreme == "lowest 90 %, 15 min ago")
        #expect(Sparkline(curve: curve([])).extreme == "nothing to measure yet")
        #expect(Sparkline(curve: curve([1, nil])).latest == "–")
    }
}
