// Observability: metrics, health endpoint and log handlers; beside the path of a request, never in it.
// This file is the one place where metrics, labels and log keys get their names.

/// Names of metrics, labels and log metadata keys. Dashboards, rules and runbooks are checked against this file.
public enum Names {
    /// Metric names, Prometheus style: base unit in the name, counters end in `_total`.
    public enum Metric {}
    /// Label names.
    public enum Label {}
    /// Log metadata keys (journal fields are these in upper case with the prefix `KMSWARD_`).
    public enum LogKey {}
}
