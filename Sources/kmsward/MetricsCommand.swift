internal import ArgumentParser
private import Observability

/// `kmsward metrics`.
struct MetricsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "metrics",
        abstract: "Print the metrics of /metrics with types, labels and meaning, as Markdown.")

    func run() { print(MetricsReference.markdown(), terminator: "") }
}
