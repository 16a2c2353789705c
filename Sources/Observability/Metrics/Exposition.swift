/// How metrics are written.
public enum ExpositionFormat: Sendable, Equatable {
    /// Prometheus text format 0.0.4.
    case text
    /// OpenMetrics 1.0.0.
    case openMetrics

    /// The media type of the format.
    public var contentType: String {
        switch self {
        case .text: "text/plain; version=0.0.4; charset=utf-8"
        case .openMetrics: "application/openmetrics-text; version=1.0.0; charset=utf-8"
        }
    }

    /// What an `Accept` header asks for: OpenMetrics if it is wanted at least as much as text, else text.
    public init(accept: String?) {
        var openMetrics = 0.0
        var text: Double?
        var anything = 0.0
        for offer in (accept ?? "").split(separator: ",") {
            let parts = offer.split(separator: ";").map { Self.trimmed($0).lowercased() }
            guard let type = parts.first else { continue }
            var quality = 1.0
            var version: String?
            for parameter in parts.dropFirst() {
                let pair = parameter.split(separator: "=", maxSplits: 1).map { Self.trimmed($0) }
                guard pair.count == 2 else { continue }
                if pair[0] == "q" { quality = Double(pair[1]).map { min(max($0, 0), 1) } ?? 0 }
                if pair[0] == "version" { version = pair[1] }
            }
            switch type {
            case "application/openmetrics-text" where version == nil || version == "1.0.0":
                openMetrics = max(openMetrics, quality)
            case "text/plain": text = max(text ?? 0, quality)
            case "text/*", "*/*": anything = max(anything, quality)
            default: break
            }
        }
        self = openMetrics > 0 && openMetrics >= text ?? anything ? .openMetrics : .text
    }

    private static func trimmed(_ text: Substring) -> String {
        let isBlank = { (character: Character) in character == " " || character == "\t" || character == "\"" }
        return String(text.drop(while: isBlank).reversed().drop(while: isBlank).reversed())
    }
}

/// A page of metrics being written.
struct Exposition {
    private let format: ExpositionFormat
    private var bytes: [UInt8] = []

    init(_ format: ExpositionFormat) {
        self.format = format
        bytes.reserveCapacity(16 * 1024)
    }

    mutating func append(_ family: PrometheusRegistry.Family) {
        let entry = family.entry
        var header = false
        for (labels, series) in family.series.sorted(by: { $0.key < $1.key }) {
            let value: Number
            switch series {
            case .counter(let counter): value = counter.value
            case .gauge(let gauge): value = gauge.value
            case .computed(let compute):
                guard let computed = compute() else { continue }
                value = .real(computed)
            case .histogram(let histogram):
                if !header { appendHeader(entry) }
                header = true
                append(histogram, labels)
                continue
            }
            if !header { appendHeader(entry) }
            header = true
            append(entry.name, labels, value)
        }
    }

    consuming func finished() -> [UInt8] {
        if format == .openMetrics { append("# EOF\n") }
        return bytes
    }

    /// OpenMetrics names a counter's family without the `_total` of its samples.
    private mutating func appendHeader(_ entry: Names.Entry) {
        let isPlainCounter =
            format == .openMetrics && entry.kind == .counter && entry.name.hasSuffix("_total")
        let name = isPlainCounter ? String(entry.name.dropLast("_total".count)) : entry.name
        append("# HELP \(name) \(Self.escaped(entry.help, quotes: format == .openMetrics))\n")
        append("# TYPE \(name) \(entry.kind.rawValue)\n")
    }

    private mutating func append(_ histogram: HistogramSeries, _ labels: String) {
        let (cumulative, sum) = histogram.snapshot
        let prefix = labels.isEmpty ? "" : labels + ","
        for (bound, count) in zip(histogram.bounds, cumulative) {
            // Always with a fraction ("1.0"), as OpenMetrics wants it, so that both formats give the same series.
            append("\(histogram.metric)_bucket{\(prefix)le=\"\(bound)\"} \(count)\n")
        }
        let count = cumulative.last ?? 0
        append("\(histogram.metric)_bucket{\(prefix)le=\"+Inf\"} \(count)\n")
        append(histogram.metric + "_sum", labels, .real(sum))
        append(histogram.metric + "_count", labels, .whole(Int64(clamping: count)))
    }

    private mutating func append(_ name: String, _ labels: String, _ value: Number) {
        append(name)
        if !labels.isEmpty { append("{\(labels)}") }
        append(" \(Self.text(of: value))\n")
    }

    private mutating func append(_ text: String) { bytes.append(contentsOf: text.utf8) }

    // MARK: pieces

    static func text(of number: Number) -> String {
        switch number {
        case .whole(let value): "\(value)"
        case .real(let value) where value.isNaN: "NaN"
        case .real(let value) where value.isInfinite: value > 0 ? "+Inf" : "-Inf"
        case .real(let value): Int64(exactly: value).map { "\($0)" } ?? "\(value)"
        }
    }

    static func escaped(_ text: String, quotes: Bool) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\"" where quotes: result += "\\\""
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }

    /// The text between the braces, and whether a value was not one of its label's and became `other`.
    ///
    /// A metric of the catalogue has its labels, all and only those, in that order; another keeps the labels it came
    /// with, sorted.
    static func labelText(
        _ labels: [(String, String)], _ entry: Names.Entry
    ) -> (text: String, isFolded: Bool) {
        var isFolded = false
        var pairs: [(String, String)] = []
        if entry.isForeign {
            var seen: Set<String> = []
            pairs = labels.map { (labelName($0.0), $0.1) }.sorted { $0.0 < $1.0 }
                .filter { seen.insert($0.0).inserted }
        } else {
            for rule in entry.labels {
                let value = labels.last { $0.0 == rule.name }?.1
                if let value, rule.values.isEmpty || rule.values.contains(value) {
                    pairs.append((rule.name, value))
                } else {
                    isFolded = true
                    pairs.append((rule.name, Names.Value.other))
                }
            }
        }
        let text = pairs.map { "\($0.0)=\"\(escaped($0.1, quotes: true))\"" }.joined(separator: ",")
        return (text, isFolded)
    }

    /// `name` made to fit [a-zA-Z_:][a-zA-Z0-9_:]*.
    static func metricName(_ name: String) -> String { proper(name, allowing: ":") }

    /// `name` made to fit [a-zA-Z_][a-zA-Z0-9_]*, and none of those that Prometheus keeps for itself.
    static func labelName(_ name: String) -> String {
        let name = proper(name, allowing: "_")
        return name.hasPrefix("__") || name == "le" || name == "quantile" ? "label_" + name : name
    }

    private static func proper(_ name: String, allowing extra: Unicode.Scalar) -> String {
        var result = ""
        for scalar in name.unicodeScalars {
            switch scalar {
            case "a"..."z", "A"..."Z", "_", extra: result.unicodeScalars.append(scalar)
            case "0"..."9":
                if result.isEmpty { result += "_" }
                result.unicodeScalars.append(scalar)
            default: result += "_"
            }
        }
        return result.isEmpty ? "_" : result
    }
}
