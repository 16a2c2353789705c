extension Duration {
    /// Whole nanoseconds, 292 years at most.
    public var nanoseconds: Int64 {
        let (seconds, attoseconds) = components
        let (whole, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        return overflow ? .max : whole &+ attoseconds / 1_000_000_000
    }

    /// `23 h 12 min`, `12 min`; rounded down, so that nobody waits too long.
    public var inWords: String {
        let minutes = components.seconds / 60
        return switch minutes {
        case ..<1: "less than a minute"
        case ..<60: "\(minutes) min"
        default: "\(minutes / 60) h \(minutes % 60) min"
        }
    }

    /// As an operator reads it: `10 s`, `0.25 s`.
    ///
    /// What is below a millisecond is dropped.
    public var inSeconds: String {
        let milliseconds = components.seconds * 1_000 + components.attoseconds / 1_000_000_000_000_000
        return milliseconds % 1_000 == 0 ? "\(milliseconds / 1_000) s" : "\(Double(milliseconds) / 1_000) s"
    }
}
