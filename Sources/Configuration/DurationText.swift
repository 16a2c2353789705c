/// Durations as operators write them: whole numbers with units, largest first, as in `90s`, `1h30m` or `30d`.
enum DurationText {
    /// The units with their milliseconds, largest first.
    private static let units: [(name: String, milliseconds: Int64)] = [
        ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1),
    ]

    /// The duration, or nil when the text is not one (or is beyond 64 bits of milliseconds).
    static func parse(_ text: String) -> Duration? {
        var rest = Substring(text)
        var allowed = units[...]
        var total: Int64 = 0
        repeat {
            let digits = rest.prefix { $0.isASCII && $0.isNumber }
            rest = rest[digits.endIndex...]
            let name = rest.prefix { $0.isLetter }
            rest = rest[name.endIndex...]
            guard let count = Int64(digits), let unit = allowed.firstIndex(where: { $0.name == name }) else {
                return nil
            }
            let (part, overflow) = count.multipliedReportingOverflow(by: allowed[unit].milliseconds)
            let (sum, sumOverflow) = total.addingReportingOverflow(part)
            guard !overflow, !sumOverflow else { return nil }
            total = sum
            allowed = allowed[(unit + 1)...]
        } while !rest.isEmpty
        return .milliseconds(total)
    }

    /// The text in the largest unit that leaves no remainder; what is below a millisecond is dropped.
    static func render(_ duration: Duration) -> String {
        let (seconds, attoseconds) = duration.components
        let milliseconds = seconds * 1000 + attoseconds / 1_000_000_000_000_000
        guard milliseconds != 0 else { return "0s" }
        let unit = units.first { milliseconds % $0.milliseconds == 0 } ?? ("ms", 1)
        return "\(milliseconds / unit.milliseconds)\(unit.name)"
    }
}
