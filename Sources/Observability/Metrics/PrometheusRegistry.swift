public import CoreMetrics
internal import Synchronization

/// Holds every metric of the process: a swift-metrics backend whose values Prometheus reads.
///
/// Recording through a handle takes no lock. Making a handle takes one, so make it once and keep it. What a metric is
/// comes from `Names.catalogue`; one that is not in there keeps the labels it came with, under the same limits.
public final class PrometheusRegistry: MetricsFactory, Sendable {
    /// A value worked out at scrape time.
    public struct Sample: Sendable {
        /// Name of a gauge or counter, as in `Names.Metric`.
        public let metric: String
        /// Label names and values.
        public let labels: [(String, String)]
        /// The value.
        public let value: Double

        /// A value of `metric` now.
        public init(_ metric: String, _ value: Double, labels: [(String, String)] = []) {
            self.metric = metric
            self.labels = labels
            self.value = value
        }
    }

    enum Series {
        case counter(CounterSeries)
        case gauge(GaugeSeries)
        case histogram(HistogramSeries)
        case computed(@Sendable () -> Double?)

        var object: AnyObject? {
            switch self {
            case .counter(let series): series
            case .gauge(let series): series
            case .histogram(let series): series
            case .computed: nil
            }
        }
    }

    struct Family {
        let entry: Names.Entry
        var series: [String: Series] = [:]  // by label text
    }

    private struct State {
        var families: [String: Family] = [:]
        var collectors: [@Sendable () -> [Sample]] = []
    }

    private static let catalogue = Dictionary(uniqueKeysWithValues: Names.catalogue.map { ($0.name, $0) })
    // Metrics of libraries that the catalogue does not know: enough for any, bounded for all.
    private static let maximumForeignFamilies = 256

    private let state = Mutex(State())

    /// An empty registry.
    ///
    /// - Parameter process: also report the process_* metrics, read from /proc at each scrape.
    public init(process: Bool = true) {
        if process { collect(ProcessMetrics.samples) }
    }

    // MARK: values worked out at scrape time

    /// Reports what `value` returns, asked at every scrape on the endpoint's thread; nil leaves the series out.
    ///
    /// It must not block. A second registration of the same name and labels replaces the first.
    public func gauge(
        _ name: String, _ labels: [(String, String)] = [], _ value: @escaping @Sendable () -> Double?
    ) {
        install(name, labels, .gauge, value)
    }

    /// Reports a count that is kept elsewhere, asked at every scrape on the endpoint's thread; it must not block.
    public func counter(
        _ name: String, _ labels: [(String, String)] = [], _ value: @escaping @Sendable () -> UInt64
    ) {
        install(name, labels, .counter) { Double(value()) }
    }

    /// Reports samples whose labels change while the process runs (a key_id after a rotation).
    ///
    /// `samples` is asked at every scrape on the endpoint's thread and must not block.
    public func collect(_ samples: @escaping @Sendable () -> [Sample]) {
        state.withLock { $0.collectors.append(samples) }
    }

    private func install(
        _ name: String, _ labels: [(String, String)], _ kind: Names.Kind,
        _ value: @escaping @Sendable () -> Double?
    ) {
        state.withLock { state in
            guard let name = Self.admit(name, kind, &state), let entry = state.families[name]?.entry else {
                return
            }
            let place = Self.place(for: labels, entry, &state)
            state.families[name]?.series[place] = .computed(value)
        }
    }

    // MARK: MetricsFactory

    /// Makes, or finds, the counter of these labels.
    public func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        counterSeries(label, dimensions)
    }

    /// Makes, or finds, the counter of these labels; it is the same that `makeCounter` finds.
    public func makeFloatingPointCounter(
        label: String, dimensions: [(String, String)]
    ) -> any FloatingPointCounterHandler {
        counterSeries(label, dimensions)
    }

    /// Makes, or finds, the gauge of these labels.
    public func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler {
        gaugeSeries(label, dimensions)
    }

    /// Makes, or finds, a gauge, or a histogram: what the catalogue says, else a histogram if `aggregate`.
    public func makeRecorder(
        label: String, dimensions: [(String, String)], aggregate: Bool
    ) -> any RecorderHandler {
        let kind = Self.catalogue[label]?.kind ?? (aggregate ? .histogram : .gauge)
        return kind == .histogram ? histogramSeries(label, dimensions) : gaugeSeries(label, dimensions)
    }

    /// Makes, or finds, the histogram, in seconds, of these labels.
    public func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        let known = Self.catalogue[label] != nil || label.hasSuffix("_seconds")
        return histogramSeries(known ? label : label + "_seconds", dimensions)
    }

    /// Drops the series.
    public func destroyCounter(_ handler: any CounterHandler) { drop(handler) }
    /// Drops the series.
    public func destroyFloatingPointCounter(_ handler: any FloatingPointCounterHandler) { drop(handler) }
    /// Drops the series.
    public func destroyMeter(_ handler: any MeterHandler) { drop(handler) }
    /// Drops the series.
    public func destroyRecorder(_ handler: any RecorderHandler) { drop(handler) }
    /// Drops the series.
    public func destroyTimer(_ handler: any TimerHandler) { drop(handler) }

    private func counterSeries(_ name: String, _ labels: [(String, String)]) -> CounterSeries {
        find(name, labels, .counter) { metric, labels, _ in
            CounterSeries(metric: metric, labels: labels)
        } existing: {
            if case .counter(let series)? = $0 { series } else { nil }
        } wrap: {
            .counter($0)
        }
    }

    private func gaugeSeries(_ name: String, _ labels: [(String, String)]) -> GaugeSeries {
        find(name, labels, .gauge) { metric, labels, _ in
            GaugeSeries(metric: metric, labels: labels)
        } existing: {
            if case .gauge(let series)? = $0 { series } else { nil }
        } wrap: {
            .gauge($0)
        }
    }

    private func histogramSeries(_ name: String, _ labels: [(String, String)]) -> HistogramSeries {
        find(name, labels, .histogram) { metric, labels, entry in
            let bounds = entry.buckets.isEmpty ? Names.Buckets.standard : entry.buckets
            return HistogramSeries(metric: metric, labels: labels, bounds: bounds)
        } existing: {
            if case .histogram(let series)? = $0 { series } else { nil }
        } wrap: {
            .histogram($0)
        }
    }

    /// The series of these labels, new or found.
    ///
    /// One that may not be shown (another kind of metric has the name, or there are too many names) works, unseen, and
    /// is counted.
    private func find<S: Sendable>(
        _ name: String, _ labels: [(String, String)], _ kind: Names.Kind,
        make: (String, String, Names.Entry) -> S, existing: (Series?) -> S?, wrap: (S) -> Series
    ) -> S {
        state.withLock { state in
            guard let name = Self.admit(name, kind, &state), let entry = state.families[name]?.entry else {
                return make(name, "", .foreign(name, kind))
            }
            let place = Self.place(for: labels, entry, &state)
            if let found = existing(state.families[name]?.series[place]) { return found }
            let made = make(name, place, entry)
            state.families[name]?.series[place] = wrap(made)
            return made
        }
    }

    private func drop(_ handler: any AnyObject & Sendable) {
        let (metric, labels) =
            switch handler {
            case let series as CounterSeries: (series.metric, series.labels)
            case let series as GaugeSeries: (series.metric, series.labels)
            case let series as HistogramSeries: (series.metric, series.labels)
            default: ("", "")
            }
        state.withLock { state in
            guard state.families[metric]?.series[labels]?.object === handler else { return }
            state.families[metric]?.series[labels] = nil
        }
    }

    // MARK: names and labels

    /// The name under which a metric is kept, its family made if need be; nil if it may not be shown.
    private static func admit(_ name: String, _ kind: Names.Kind, _ state: inout State) -> String? {
        let entry: Names.Entry
        if let known = catalogue[name] {
            entry = known
        } else {
            var proper = Exposition.metricName(name)
            if kind == .counter, !proper.hasSuffix("_total") { proper += "_total" }
            entry = catalogue[proper] ?? .foreign(proper, kind)
        }
        if let family = state.families[entry.name] {
            if family.entry.kind == kind { return entry.name }
            countFold(entry.name, &state)
            return nil
        }
        let isCrowded = entry.isForeign && state.families.count >= catalogue.count + maximumForeignFamilies
        guard entry.kind == kind, !isCrowded else {
            countFold(entry.isForeign ? Names.Value.other : entry.name, &state)
            return nil
        }
        state.families[entry.name] = Family(entry: entry)
        return entry.name
    }

    /// The label text of a series: known labels in the catalogue's order, unknown values and series beyond the limit
    /// folded into `other`.
    private static func place(
        for labels: [(String, String)], _ entry: Names.Entry, _ state: inout State
    ) -> String {
        let (text, isFolded) = Exposition.labelText(labels, entry)
        let series = state.families[entry.name]?.series
        if series?[text] != nil || (series?.count ?? 0) < entry.maximumSeries {
            if isFolded { countFold(entry.name, &state) }
            return text
        }
        countFold(entry.name, &state)
        let all = entry.labels.isEmpty ? labels.map(\.0) : entry.labels.map(\.name)
        return Exposition.labelText(all.map { ($0, Names.Value.other) }, entry).text
    }

    private static func countFold(_ metric: String, _ state: inout State) {
        guard let entry = catalogue[Names.Metric.seriesFolded] else { return }
        var family = state.families[entry.name] ?? Family(entry: entry)
        var (text, _) = Exposition.labelText([(Names.Label.metric, metric)], entry)
        if family.series[text] == nil, family.series.count >= entry.maximumSeries {
            text = Exposition.labelText([(Names.Label.metric, Names.Value.other)], entry).text
        }
        if case .counter(let series)? = family.series[text] {
            series.increment(by: 1 as Int64)
        } else {
            let series = CounterSeries(metric: entry.name, labels: text)
            series.increment(by: 1 as Int64)
            family.series[text] = .counter(series)
        }
        state.families[entry.name] = family
    }

    // MARK: reading

    /// The sum of a counter's or gauge's series whose labels all have one of the given values; zero if there are none.
    ///
    /// Of those that handles and single callbacks report, not of `collect`. A sum of counters never shrinks, which the
    /// difference of two sums may, since calls go on between them.
    public func total(_ name: String, _ labels: [String: [String]] = [:]) -> Double {
        series(name, labels).reduce(0) { sum, series in
            switch series {
            case .counter(let series): sum + series.value.real
            case .gauge(let series): sum + series.value.real
            case .computed(let compute): sum + (compute() ?? 0)
            case .histogram: sum
            }
        }
    }

    /// How many observations of the histogram's series whose labels all have one of the given values fell into each bucket,
    /// the last of which has no upper bound; empty if there are no such series.
    public func tallies(_ name: String, _ labels: [String: [String]] = [:]) -> [UInt64] {
        var sums: [UInt64] = []
        for case .histogram(let series) in series(name, labels) {
            let cumulative = series.snapshot.cumulative
            let counts = zip(cumulative, [0] + cumulative).map { $0 - $1 }
            sums = sums.isEmpty ? counts : zip(sums, counts).map(+)
        }
        return sums
    }

    private func series(_ name: String, _ labels: [String: [String]]) -> [Series] {
        let wanted = labels.map { label, values in
            values.map { ",\(label)=\"\(Exposition.escaped($0, quotes: true))\"," }
        }
        return state.withLock { state in
            (state.families[name]?.series ?? [:]).filter { place in
                let text = ",\(place.key),"
                return wanted.allSatisfy { $0.contains { text.contains($0) } }
            }.map(\.value)
        }
    }

    /// Every metric in `format`, families and series in the order of their names.
    ///
    /// Runs the callbacks on the calling thread, outside the registry's lock. Costs microseconds per series.
    public func render(_ format: ExpositionFormat) -> [UInt8] {
        var (families, collectors) = state.withLock { ($0.families, $0.collectors) }
        for sample in collectors.flatMap({ $0() }) {
            let entry =
                Self.catalogue[sample.metric] ?? .foreign(Exposition.metricName(sample.metric), .gauge)
            guard entry.kind != .histogram else { continue }
            var family = families[entry.name] ?? Family(entry: entry)
            let (text, _) = Exposition.labelText(sample.labels, entry)
            guard family.series[text] == nil, family.series.count < entry.maximumSeries else { continue }
            let value = sample.value
            family.series[text] = .computed { value }
            families[entry.name] = family
        }
        var exposition = Exposition(format)
        for family in families.values.sorted(by: { $0.entry.name < $1.entry.name }) {
            exposition.append(family)
        }
        return exposition.finished()
    }
}

extension Names.Entry {
    static func foreign(_ name: String, _ kind: Names.Kind) -> Self {
        Self(name, kind, "Not described.", isForeign: true)
    }
}
