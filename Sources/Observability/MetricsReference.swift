/// The catalogue as a table of Markdown, for `kmsward metrics` and docs/metrics.md.
public enum MetricsReference {
    /// One row per metric: name, type, labels with their values, meaning.
    public static func markdown() -> String {
        let rows = Names.catalogue.map { entry in
            let labels =
                entry.labels.isEmpty
                ? "-" : entry.labels.map { text(of: $0, atMost: entry.maximumSeries) }.joined(separator: "; ")
            return "| `\(entry.name)` | \(entry.kind.rawValue) | \(labels) | \(entry.help) |\n"
        }
        return "| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n" + rows.joined()
    }

    private static func text(of label: Names.LabelRule, atMost series: Int) -> String {
        label.values.isEmpty
            ? "`\(label.name)` (bounded by \(series) series)"
            : "`\(label.name)` (\(label.values.joined(separator: ", ")))"
    }
}
