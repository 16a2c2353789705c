import CoreMetrics
import Observability
import Synchronization
import TestSupport
import Testing

@testable import Observability

@Suite("Metrics") struct PrometheusRegistryTests {
    let registry = PrometheusRegistry(process: false)

    private func page(_ format: ExpositionFormat = .text) -> String {
        String(decoding: registry.render(format), as: UTF8.self)
    }

    private func lines(_ metric: String, _ format: ExpositionFormat = .text) -> [String] {
        page(format).split(separator: "\n").map(String.init).filter { $0.hasPrefix(metric) }
    }

    // MARK: reading

    @Test("a total is that of the series with all of the labels, and of no label that only looks like them")
    func totals() {
        for (key, outcome, count) in [
            ("a", "ok", 1), ("a", "throttled", 2), ("aa", "ok", 4), ("a\",outcome=\"ok", "throttled", 8),
        ] {
            Counter(
                label: Names.Metric.backendCalls,
                dimensions: [
                    ("key", key), ("operation", "wrap"), ("outcome", outcome), ("attempt", "first"),
                ],
                factory: registry
            ).increment(by: count)
        }
        registry.gauge(Names.Metric.connections) { 3 }
        #expect(registry.total(Names.Metric.backendCalls) == 15)
        #expect(registry.total(Names.Metric.backendCalls, ["key": ["a"]]) == 3)
        #expect(registry.total(Names.Metric.backendCalls, ["outcome": ["ok"]]) == 5)
        #expect(registry.total(Names.Metric.backendCalls, ["key": ["a"], "outcome": ["ok"]]) == 1)
        #expect(registry.total(Names.Metric.backendCalls, ["key": ["b"]]) == 0)
        #expect(registry.total(Names.Metric.backendCalls, ["key": ["a", "aa"], "outcome": ["ok"]]) == 5)
        #expect(registry.total(Names.Metric.backendCalls, ["key": []]) == 0)
        #expect(registry.total(Names.Metric.connections) == 3)
    }

    @Test("tallies of several series are added up, and of none there are none")
    func tallies() {
        for method in ["encrypt", "decrypt"] {
            let timer = Timer(
                label: Names.Metric.requestDuration, dimensions: [("api", "v2"), ("method", method)],
                factory: registry)
            for nanoseconds in [40_000, 80_000, 80_000, 60_000_000_000] as [Int64] {
                timer.recordNanoseconds(nanoseconds)
            }
        }
        let all = registry.tallies(Names.Metric.requestDuration)
        #expect(all.count == Names.Buckets.request.count + 1)
        #expect(all.prefix(2) == [2, 4] && all.last == 2 && all.reduce(0, +) == 8)
        #expect(registry.tallies(Names.Metric.requestDuration, ["method": ["encrypt"]]).reduce(0, +) == 4)
        #expect(registry.tallies(Names.Metric.requestDuration, ["method": ["status"]]).isEmpty)
    }

    // MARK: format

    @Test("a page in text format 0.0.4 has every kind of metric, byte for byte")
    func textPage() {
        fill()
        #expect(
            page(.text) == """
                # HELP kmsward_backend_duration_seconds Time of one call to the key-management service.
                # TYPE kmsward_backend_duration_seconds histogram
                \(histogram)
                # HELP kmsward_connections Open connections on the KMS socket.
                # TYPE kmsward_connections gauge
                kmsward_connections 3
                # HELP kmsward_key_info \(keyInfoHelp)
                # TYPE kmsward_key_info gauge
                kmsward_key_info{key="a\\\\b\\"c\\nd",key_id="kw1.é",\(made)} 1
                # HELP kmsward_requests_total KMS calls answered, by API version, method and gRPC status.
                # TYPE kmsward_requests_total counter
                kmsward_requests_total{api="v1beta1",method="encrypt",code="UNAVAILABLE"} 1
                kmsward_requests_total{api="v2",method="decrypt",code="OK"} 41

                """)
    }

    @Test("a page in OpenMetrics names counters' families without _total and ends in # EOF")
    func openMetricsPage() {
        fill()
        #expect(
            page(.openMetrics) == """
                # HELP kmsward_backend_duration_seconds Time of one call to the key-management service.
                # TYPE kmsward_backend_duration_seconds histogram
                \(histogram)
                # HELP kmsward_connections Open connections on the KMS socket.
                # TYPE kmsward_connections gauge
                kmsward_connections 3
                # HELP kmsward_key_info \(keyInfoHelp)
                # TYPE kmsward_key_info gauge
                kmsward_key_info{key="a\\\\b\\"c\\nd",key_id="kw1.é",\(made)} 1
                # HELP kmsward_requests KMS calls answered, by API version, method and gRPC status.
                # TYPE kmsward_requests counter
                kmsward_requests_total{api="v1beta1",method="encrypt",code="UNAVAILABLE"} 1
                kmsward_requests_total{api="v2",method="decrypt",code="OK"} 41
                # EOF

                """)
    }

    /// 0.4 ms, exactly 1 ms (a bound belongs to its bucket), 7 s, and a minute beyond every bound.
    private func fill() {
        let timer = Timer(
            label: Names.Metric.backendDuration, dimensions: [("operation", "unwrap"), ("key", "primary")],
            factory: registry)
        for nanoseconds in [400_000, 1_000_000, 7_000_000_000, 60_000_000_000] as [Int64] {
            timer.recordNanoseconds(nanoseconds)
        }
        Meter(label: Names.Metric.connections, factory: registry).set(3)
        Gauge(
            label: Names.Metric.keyInfo, dimensions: making + [("key_id", "kw1.é"), ("key", "a\\b\"c\nd")],
            factory: registry
        ).record(1)
        let requests = [("code", "OK"), ("api", "v2"), ("method", "decrypt")]
        Counter(label: Names.Metric.requests, dimensions: requests, factory: registry).increment(by: 41)
        let failed = [("code", "UNAVAILABLE"), ("api", "v1beta1"), ("method", "encrypt")]
        Counter(label: Names.Metric.requests, dimensions: failed, factory: registry).increment()
    }

    private let keyInfoHelp = Names.catalogue.first { $0.name == Names.Metric.keyInfo }?.help ?? ""
    /// What else is told of a key.
    private let making = [
        ("version", "1"), ("epoch", "0"), ("suite", "sm4-gcm"), ("write_format", "envelope"),
        ("role", "encrypts"), ("provider", "local"),
    ]
    private var made: String { making.map { "\($0)=\"\($1)\"" }.joined(separator: ",") }

    private var histogram: String {
        let counts = [
            ("0.0005", 1), ("0.001", 2), ("0.0025", 2), ("0.005", 2), ("0.01", 2), ("0.025", 2), ("0.05", 2),
            ("0.1", 2), ("0.25", 2), ("0.5", 2), ("1.0", 2), ("1.5", 2), ("2.0", 2),
            ("2.5", 2), ("3.0", 2), ("5.0", 2), ("10.0", 3), ("30.0", 3),
            ("+Inf", 4),
        ]
        let labels = "key=\"primary\",operation=\"unwrap\""
        let name = Names.Metric.backendDuration
        return
            (counts.map { "\(name)_bucket{\(labels),le=\"\($0.0)\"} \($0.1)" }
            + ["\(name)_sum{\(labels)} 67.0014", "\(name)_count{\(labels)} 4"]).joined(separator: "\n")
    }

    @Test(
        "numbers are written as both formats read them",
        arguments: [
            (Number.whole(0), "0"), (.whole(.max), "9223372036854775807"), (.real(3), "3"),
            (.real(0.1), "0.1"),
            (.real(-2.5), "-2.5"), (.real(5e-05), "5e-05"), (.real(1e300), "1e+300"),
            (.real(.infinity), "+Inf"),
            (.real(-.infinity), "-Inf"), (.real(.nan), "NaN"),
        ])
    func numbers(_ number: Number, _ text: String) { #expect(Exposition.text(of: number) == text) }

    @Test("help text is escaped as its format demands")
    func helpEscapes() {
        #expect(Exposition.escaped("a\\b\"c\nd", quotes: false) == "a\\\\b\"c\\nd")
        #expect(Exposition.escaped("a\\b\"c\nd", quotes: true) == "a\\\\b\\\"c\\nd")
    }

    @Test(
        "the Accept header chooses the format",
        arguments: [
            (nil, ExpositionFormat.text), ("", .text), ("*/*", .text), ("text/plain", .text),
            ("application/openmetrics-text", .openMetrics),
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", .openMetrics),
            ("application/openmetrics-text; version=\"1.0.0\"", .openMetrics),
            ("application/openmetrics-text;version=0.0.1", .text),
            ("application/openmetrics-text;version=2.0.0", .text),
            ("APPLICATION/OpenMetrics-Text", .openMetrics),
            ("application/openmetrics-text;q=0", .text), ("application/openmetrics-text;q=0,*/*;q=0", .text),
            ("application/openmetrics-text;q=0.4,text/plain;q=0.5", .text),
            ("application/openmetrics-text;q=0.5,text/plain;q=0.5", .openMetrics),
            ("application/openmetrics-text;q=rubbish", .text), (";;,,;q=1,=", .text),
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
                    + "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", .openMetrics
            ),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", .text),
        ] as [(String?, ExpositionFormat)])
    func negotiation(_ accept: String?, _ format: ExpositionFormat) {
        #expect(ExpositionFormat(accept: accept) == format)
    }

    @Test(
        "names of libraries are made to fit",
        arguments: [
            ("a.b-c", "a_b_c"), ("9lives", "_9lives"), ("", "_"), ("a:b", "a:b"), ("é", "_"),
        ])
    func metricNames(_ given: String, _ proper: String) { #expect(Exposition.metricName(given) == proper) }

    @Test(
        "label names that Prometheus keeps for itself are renamed",
        arguments: [
            ("le", "label_le"), ("quantile", "label_quantile"), ("__name__", "label___name__"),
            ("a:b", "a_b"),
            ("http.code", "http_code"),
        ])
    func labelNames(_ given: String, _ proper: String) { #expect(Exposition.labelName(given) == proper) }

    // MARK: tools

    @Test("promtool finds nothing to complain about")
    func promtool() async throws {
        let tool = try #require(Command.find("promtool"), "promtool is not here: make test-deps installs it")
        let page = everything().render(.text)
        let outcome = await onThread { Command.run([tool, "check", "metrics"], input: page) }
        #expect(outcome.status == 0)
        #expect(outcome.output == "")
    }

    @Test("the strict OpenMetrics parser reads every family and every value")
    func strictParser() async throws {
        let tool = try #require(Python.path, "no Python with prometheus_client: make test-deps makes one")
        let page = everything().render(.openMetrics)
        let script = """
            import sys
            from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
            families = list(parse(sys.stdin.buffer.read().decode("utf-8")))
            for family in families:
                print(family.name, family.type, len(family.samples))
            labels = [s.labels for f in families if f.name == "kmsward_key_info" for s in f.samples]
            assert [(one["key"], one["key_id"]) for one in labels] == [('a\\\\b"c\\nd', "kw1.\\u00e9")], labels
            """
        let outcome = await onThread { Command.run([tool, "-c", script], input: page) }
        #expect(outcome.status == 0, "\(outcome.output)")
        let families = Set(
            outcome.output.split(separator: "\n").compactMap { $0.split(separator: " ").first })
        let expected = Names.catalogue.map { entry in
            entry.kind == .counter ? String(entry.name.dropLast("_total".count)) : entry.name
        }
        #expect(families.isSuperset(of: expected.map { Substring($0) }))
    }

    /// A registry in which every metric of the catalogue has a series, and a library's has too.
    private func everything() -> PrometheusRegistry {
        let registry = PrometheusRegistry()
        for entry in Names.catalogue where !entry.name.hasPrefix("process_") {
            let labels = entry.labels.map { ($0.name, $0.values.first ?? "primary") }
            switch entry.kind {
            case .counter where entry.name == Names.Metric.seriesFolded:
                Counter(
                    label: Names.Metric.connectionsRefused, dimensions: [("reason", "?")], factory: registry
                )
                .increment()
            case .counter: Counter(label: entry.name, dimensions: labels, factory: registry).increment()
            case .gauge where entry.name == Names.Metric.keyInfo:
                registry.gauge(entry.name, [("key", "a\\b\"c\nd"), ("key_id", "kw1.é")] + making) { 1 }
            case .gauge: Gauge(label: entry.name, dimensions: labels, factory: registry).record(0.25)
            case .histogram:
                Timer(label: entry.name, dimensions: labels, factory: registry).recordMilliseconds(3)
            }
        }
        FloatingPointCounter(label: "library.work_seconds", factory: registry).increment(by: 0.5)
        Timer(label: "library.wait", dimensions: [("le", "1"), ("kind", "x\ny")], factory: registry)
            .recordMilliseconds(1)
        return registry
    }

    // MARK: labels

    @Test("labels in any order find the same series")
    func labelOrder() {
        let one = [("api", "v2"), ("method", "status"), ("code", "OK")]
        Counter(label: Names.Metric.requests, dimensions: one, factory: registry).increment()
        Counter(label: Names.Metric.requests, dimensions: one.reversed(), factory: registry).increment()
        #expect(
            lines("kmsward_requests_total") == [
                "\(Names.Metric.requests){api=\"v2\",method=\"status\",code=\"OK\"} 2"
            ])
    }

    @Test(
        "a value that is not one of its label's becomes other, and is counted",
        arguments: [
            (
                [("api", "v9"), ("method", "status"), ("code", "OK")],
                "{api=\"other\",method=\"status\",code=\"OK\"}"
            ),
            (
                [("api", "v2"), ("method", "rm -rf"), ("code", "OK")],
                "{api=\"v2\",method=\"other\",code=\"OK\"}"
            ),
            ([("api", "v2"), ("method", "status")], "{api=\"v2\",method=\"status\",code=\"other\"}"),
        ])
    func unknownValue(_ labels: [(String, String)], _ text: String) {
        Counter(label: Names.Metric.requests, dimensions: labels, factory: registry).increment()
        #expect(lines("kmsward_requests_total") == ["kmsward_requests_total\(text) 1"])
        #expect(
            lines("kmsward_metrics_series_folded_total")
                == ["kmsward_metrics_series_folded_total{metric=\"kmsward_requests_total\"} 1"])
    }

    @Test("a label that the catalogue does not give the metric is left out")
    func surplusLabel() {
        Counter(label: Names.Metric.connectionsAccepted, dimensions: [("peer", "1000")], factory: registry)
            .increment()
        #expect(lines("kmsward_connections_accepted") == ["kmsward_connections_accepted_total 1"])
    }

    @Test("series beyond a metric's limit fold into one, and the folds are counted")
    func seriesLimit() {
        let limit = Names.catalogue.first { $0.name == Names.Metric.keyReady }?.maximumSeries ?? 0
        for index in 0..<limit + 50 {
            Gauge(label: Names.Metric.keyReady, dimensions: [("key", "k\(index)")], factory: registry).record(
                1)
        }
        let series = lines("kmsward_key_ready")
        #expect(series.count == limit + 1)
        #expect(series.contains("kmsward_key_ready{key=\"other\"} 1"))
        #expect(
            lines("kmsward_metrics_series_folded_total")
                == ["kmsward_metrics_series_folded_total{metric=\"kmsward_key_ready\"} 50"])
    }

    @Test("a flood of unknown metric names stays bounded and is counted")
    func foreignLimit() {
        for index in 0..<2000 {
            Counter(label: "flood\(index)", dimensions: [("n", "\(index)")], factory: registry).increment()
        }
        #expect(lines("flood").count <= Names.catalogue.count + 256)
        #expect(lines("flood").count >= 200)
        #expect(lines("kmsward_metrics_series_folded_total").count == 1)
    }

    @Test("a name used for another kind of metric is not shown under a false type")
    func wrongKind() {
        Counter(label: Names.Metric.connections, factory: registry).increment()
        Meter(label: Names.Metric.connectionsAccepted, factory: registry).set(7)
        Timer(label: Names.Metric.requestsInFlight, factory: registry).recordMilliseconds(1)
        #expect(lines("kmsward_connections") == [])
        #expect(lines("kmsward_requests_in_flight") == [])
        #expect(lines("kmsward_metrics_series_folded_total").count == 3)
    }

    @Test("a library's counter gets _total and its timer is in seconds")
    func foreignMetrics() {
        Counter(label: "lib.things", dimensions: [("b", "2"), ("a", "1")], factory: registry).increment(by: 2)
        Timer(label: "lib.wait", factory: registry).recordMilliseconds(20)
        #expect(lines("lib_things") == ["lib_things_total{a=\"1\",b=\"2\"} 2"])
        #expect(lines("lib_wait_seconds_sum") == ["lib_wait_seconds_sum 0.02"])
    }

    @Test("a destroyed series is gone, the others stay")
    func destroyed() {
        let first = Gauge(label: Names.Metric.keyReady, dimensions: [("key", "a")], factory: registry)
        let second = Gauge(label: Names.Metric.keyReady, dimensions: [("key", "b")], factory: registry)
        first.record(1)
        second.record(1)
        first.destroy()
        #expect(lines("kmsward_key_ready") == ["kmsward_key_ready{key=\"b\"} 1"])
    }

    // MARK: values

    @Test("a counter never goes down and takes no nonsense")
    func counterOnlyGrows() {
        let counter = Counter(label: Names.Metric.connectionsAccepted, factory: registry)
        counter.increment(by: 5)
        counter.increment(by: -3)
        let fraction = FloatingPointCounter(label: Names.Metric.connectionsAccepted, factory: registry)
        fraction.increment(by: 0.5)
        fraction.increment(by: -1)
        #expect(lines("kmsward_connections_accepted") == ["kmsward_connections_accepted_total 5.5"])
        counter.reset()
        #expect(lines("kmsward_connections_accepted") == ["kmsward_connections_accepted_total 0"])
    }

    @Test("a gauge goes up and down")
    func gauge() {
        let meter = Meter(label: Names.Metric.requestsInFlight, factory: registry)
        meter.increment(by: 3)
        meter.decrement(by: 1)
        #expect(lines("kmsward_requests_in_flight") == ["kmsward_requests_in_flight 2"])
    }

    @Test("a histogram counts negative durations as none, and ignores what is not a number")
    func oddObservations() {
        let timer = Timer(
            label: Names.Metric.backendDuration, dimensions: [("key", "k"), ("operation", "wrap")],
            factory: registry)
        timer.recordNanoseconds(-5)
        let recorder = Recorder(
            label: Names.Metric.backendDuration, dimensions: [("key", "k"), ("operation", "wrap")],
            factory: registry)
        recorder.record(Double.nan)
        recorder.record(0.002)
        let name = Names.Metric.backendDuration
        #expect(lines("\(name)_count") == ["\(name)_count{key=\"k\",operation=\"wrap\"} 2"])
        #expect(lines("\(name)_sum") == ["\(name)_sum{key=\"k\",operation=\"wrap\"} 0.002"])
        #expect(lines("\(name)_bucket").first?.hasSuffix("le=\"0.0005\"} 1") == true)
    }

    @Test("computed values are asked at every scrape, may be absent, and replace one another")
    func computed() {
        registry.gauge(Names.Metric.localKEKAge, [("key", "a")]) { 1 }
        registry.gauge(Names.Metric.localKEKAge, [("key", "b")]) { nil }
        let source = Source()
        registry.gauge(Names.Metric.localKEKAge, [("key", "a")]) {
            Double(source.value.load(ordering: .relaxed))
        }
        #expect(lines("kmsward_local_kek_age") == ["kmsward_local_kek_age_seconds{key=\"a\"} 5"])
        source.value.store(6, ordering: .relaxed)
        #expect(lines("kmsward_local_kek_age") == ["kmsward_local_kek_age_seconds{key=\"a\"} 6"])
    }

    private final class Source: Sendable {
        let value = Atomic<Int>(5)
    }

    @Test("a metric whose values are all absent leaves no header behind")
    func absent() {
        registry.gauge(Names.Metric.localKEKAge, [("key", "b")]) { nil }
        #expect(page() == "")
        #expect(page(.openMetrics) == "# EOF\n")
    }

    @Test("collected samples follow labels that change, within the limit")
    func collected() {
        registry.collect {
            (0..<400).map {
                PrometheusRegistry.Sample(
                    Names.Metric.keyInfo, 1, labels: [("key", "k"), ("key_id", "\($0)")])
            }
        }
        #expect(lines("kmsward_key_info").count == 256)
    }

    // MARK: threads

    @Test("nothing is lost when many threads record while others read")
    func stress() async {
        let threads = 8
        let rounds = 20_000
        let registry = registry
        await withTaskGroup { group in
            for _ in 0..<threads {
                group.addTask {
                    await onThread {
                        let labels = [("api", "v2"), ("method", "decrypt"), ("code", "OK")]
                        let counter = Counter(
                            label: Names.Metric.requests, dimensions: labels, factory: registry)
                        let part = FloatingPointCounter(label: "part", factory: registry)
                        let meter = Meter(label: Names.Metric.requestsInFlight, factory: registry)
                        let timer = Timer(
                            label: Names.Metric.requestDuration, dimensions: Array(labels.prefix(2)),
                            factory: registry)
                        for round in 0..<rounds {
                            meter.increment()
                            counter.increment()
                            part.increment(by: 0.5)
                            timer.recordNanoseconds(Int64(round % 3) * 1_000_000)
                            meter.decrement()
                        }
                    }
                }
            }
            group.addTask {
                await onThread { for _ in 0..<50 { _ = registry.render(.openMetrics) } }
            }
        }
        let total = threads * rounds
        #expect(lines("kmsward_requests_total").first?.hasSuffix(" \(total)") == true)
        #expect(lines("part_total").first == "part_total \(total / 2)")
        #expect(lines("kmsward_requests_in_flight") == ["kmsward_requests_in_flight 0"])
        #expect(lines("kmsward_request_duration_seconds_count").first?.hasSuffix(" \(total)") == true)
    }

    // MARK: catalogue and process

    @Test("every row of the catalogue keeps the naming rules", arguments: Names.catalogue.map(\.name))
    func catalogue(_ name: String) throws {
        let entry = try #require(Names.catalogue.first { $0.name == name })
        #expect(Names.catalogue.count { $0.name == name } == 1)
        #expect(Exposition.metricName(name) == name)
        #expect(name.hasPrefix("kmsward_") || name.hasPrefix("process_"))
        #expect(name.hasSuffix("_total") == (entry.kind == .counter))
        #expect(entry.help.hasSuffix("."))
        #expect(entry.labels.allSatisfy { Exposition.labelName($0.name) == $0.name })
        #expect(entry.buckets.isEmpty == (entry.kind != .histogram))
        #expect(zip(entry.buckets, entry.buckets.dropFirst()).allSatisfy { $0 < $1 })
        let combinations = entry.labels.reduce(1) { $0 * max($1.values.count, 1) }
        #expect(combinations <= entry.maximumSeries)
    }

    @Test("the process metrics are plausible")
    func process() throws {
        let samples = ProcessMetrics.samples()
        func value(_ name: String) throws -> Double {
            try #require(samples.first { $0.metric == name }).value
        }
        #expect(try value(Names.Metric.processResidentMemory) > 1_000_000)
        #expect(try value(Names.Metric.processVirtualMemory) >= value(Names.Metric.processResidentMemory))
        #expect(try value(Names.Metric.processCPU) > 0)
        #expect(try value(Names.Metric.processOpenFDs) >= 3)
        #expect(try value(Names.Metric.processMaxFDs) >= value(Names.Metric.processOpenFDs))
        #expect(try value(Names.Metric.processThreads) >= 1)
        #expect(try value(Names.Metric.processStartTime) > 1_700_000_000)
        #expect(try value(Names.Metric.processStartTime) <= Double(Timestamp.now.seconds + 1))
    }

    @Test(
        "a command name with blanks and parentheses does not shift the fields of stat",
        arguments: [
            "kmsward", "a b", "a) R 1 (", ")",
        ])
    func stat(_ command: String) throws {
        let text = "42 (\(command)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 0 1900 2000 21 99 0\n"
        let stat = try #require(ProcessMetrics.Stat(parsing: text))
        #expect(stat.threads == 17)
        #expect(stat.startTicks == 1900)
        #expect(stat.virtualBytes == 2000)
        #expect(stat.residentPages == 21)
    }

    @Test("a stat that is cut short is not believed", arguments: ["", "42 (x) S 1 2", "no parenthesis"])
    func tornStat(_ text: String) { #expect(ProcessMetrics.Stat(parsing: text) == nil) }
}
