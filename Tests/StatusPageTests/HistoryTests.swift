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

    func counter(_ metric: String, _ labels: [(String, String)]) -> Counter {
        Counter(label: metric, dimensions: labels, factory: registry)
    }

    func time(_ duration: Duration) {
        Timer(
            label: Names.Metric.requestDuration, dimensions: [("api", "v2"), ("method", "decrypt")],
            factory: registry
        ).recordNanoseconds(duration.nanoseconds)
    }

    func calls(_ number: Int, _ code: String) {
        count(Names.Metric.requests, [("api", "v2"), ("method", "encrypt"), ("code", code)], number)
    }

    func curve(_ title: String) throws -> Curve { try #require(history.curves.first { $0.title == title }) }
}

private final class End: Sendable {
    let isHere = Atomic(false)
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

    @Test("where nothing was decrypted or measured there is no value, not a bad one")
    func gaps() throws {
        let rig = Rig()
        rig.history.takeSample()
        for step in 0..<3 {
            rig.pass(.seconds(15))
            if step == 1 {
                rig.count(Names.Metric.requests, [("api", "v2"), ("method", "decrypt"), ("code", "OK")], 4)
                rig.count(Names.Metric.cacheRequests, [("outcome", "hit")], 2)
                rig.count(Names.Metric.cacheRequests, [("outcome", "miss")], 1)
                rig.time(.microseconds(80))
            }
            rig.history.takeSample()
        }
        #expect(try rig.curve("Decrypts from memory").points.map(\.value) == [nil, 0.75, nil])
        #expect(try rig.curve("99 of 100 calls within").points.map(\.value) == [nil, 0.0001, nil])
    }

    @Test("calls that go on while they are counted are no failures, and no share is beyond the whole")
    func concurrent() async throws {
        let rig = Rig()
        let end = End()
        await withTaskGroup(of: Void.self) { group in
            group.addTask {
                let calls = ["OK", "CANCELLED"].map {
                    rig.counter(Names.Metric.requests, [("api", "v2"), ("method", "decrypt"), ("code", $0)])
                }
                while !end.isHere.load(ordering: .relaxed) {
                    for call in calls { call.increment() }
                    await Task.yield()
                }
            }
            group.addTask {
                while rig.registry.total(Names.Metric.requests) == 0 { await Task.yield() }
                for _ in 0..<300 {
                    rig.history.takeSample()
                    rig.pass(.seconds(1))
                    await Task.yield()
                }
                end.isHere.store(true, ordering: .relaxed)
            }
        }
        #expect(try rig.curve("Failed calls").points.allSatisfy { $0.value == 0 })
        let shares = try rig.curve("Decrypts from memory").points.compactMap(\.value)
        #expect(!shares.isEmpty && shares.allSatisfy { $0 == 1 })
        #expect(rig.history.growth(of: \.failedCalls, within: 300) == 0)
    }

    @Test("what happened lately is counted up to now, and forgotten after its time")
    func lately() {
        let rig = Rig()
        rig.history.takeSample()
        rig.calls(7, "UNAVAILABLE")
        #expect(rig.history.growth(of: \.failedCalls, within: 300) == 7)
        for _ in 0..<20 {
            rig.pass(.seconds(15))
            rig.history.takeSample()
        }
        #expect(
            rig.history.growth(of: \.failedCalls, within: 300) == 7, "they came after the sample of 300 s ago"
        )
        rig.pass(.seconds(15))
        #expect(rig.history.growth(of: \.failedCalls, within: 300) == 0)
    }

    @Test("Decrypts that were refused say nothing of memory")
    func refused() throws {
        let rig = Rig()
        rig.history.takeSample()
        rig.pass(.seconds(15))
        rig.count(
            Names.Metric.requests, [("api", "v2"), ("method", "decrypt"), ("code", "INVALID_ARGUMENT")], 200)
        rig.history.takeSample()
        #expect(try rig.curve("Decrypts from memory").points.map(\.value) == [nil])
    }

    @Test("slow calls are those beyond the bound, of all that were timed")
    func slow() {
        let rig = Rig()
        rig.time(.seconds(9))  // before anybody looked
        rig.history.takeSample()
        for duration in [Duration.milliseconds(1), .seconds(1), .milliseconds(1001), .seconds(60)] {
            rig.time(duration)
        }
        let lately = rig.history.slowCalls(beyond: 1, within: 300)
        #expect((lately.slow, lately.all) == (2, 4))
    }

    @Test(
        "of a share of calls it is said within what time they were, as far as the buckets tell",
        arguments: [
            // Counts in the buckets up to 1, 2, 4 and above.
            ([0, 0, 0, 0], nil), ([100, 0, 0, 0], 1), ([0, 100, 0, 0], 2), ([98, 1, 1, 0], 2),
            ([98, 0, 2, 0], 4),
            ([99, 1, 0, 0], 1), ([0, 0, 0, 5], .infinity), ([1, 0, 0, 99], .infinity),
        ] as [([UInt64], Double?)])
    func bound(tallies: [UInt64], expected: Double?) {
        #expect(Quantile.bound(0.99, of: tallies, since: [], [1, 2, 4]) == expected)
        let before: [UInt64] = [7, 8, 9, 10]
        let later = zip(tallies, before).map { $0 + $1 }
        #expect(
            Quantile.bound(0.99, of: later, since: before, [1, 2, 4]) == expected,
            "what was before does not count")
        #expect(Quantile.growth(of: [1], since: [5]) == [1], "a histogram that began anew ends nothing")
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
        #expect(well.extreme == "none in the last hour")
        #expect(!well.picture.text.contains("spark bad") && bad.picture.text.contains("spark bad"))
        #expect(bad.latest == "0 in a minute" && bad.extreme == "highest 4 in a minute, 15 min ago")
        #expect(
            bad.picture.text.contains(
                #"aria-label="T, last hour: now 0 in a minute, highest 4 in a minute, 15 min ago""#))
        #expect(Sparkline(curve: curve([0.9, 1], .share)).extreme == "lowest 90 %, 15 min ago")
        #expect(Sparkline(curve: curve([])).extreme == "nothing to measure yet")
        #expect(Sparkline(curve: curve([1, nil])).latest == "–")
        let beyond = Sparkline(curve: curve([2, .infinity], .within))
        #expect(
            beyond.latest == "more than the histogram's last bound"
                && beyond.picture.text.contains("L240.0 1.5"))
    }
}
