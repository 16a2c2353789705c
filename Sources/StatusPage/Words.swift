internal import Observability

/// Numbers and times as a person reads them.
enum Words {
    /// `12 s`, `4 min`, `3 h 12 min`, `5 days`; rounded down.
    static func span(_ seconds: Int64) -> String {
        let seconds = max(0, seconds)
        switch seconds {
        case ..<60: return "\(seconds) s"
        case ..<3600: return "\(seconds / 60) min"
        case ..<172_800:
            return "\(seconds / 3600) h" + (seconds % 3600 < 60 ? "" : " \(seconds % 3600 / 60) min")
        default: return "\(seconds / 86_400) days"
        }
    }

    static func ago(_ then: Int64, _ now: Int64) -> String { "\(span(now - then)) ago" }

    /// `2026-03-01 08:05:09 UTC`.
    static func time(_ seconds: Int64) -> String {
        let text = Timestamp(seconds: Int(seconds)).text
        return "\(text.prefix(10)) \(text.dropFirst(11).prefix(8)) UTC"
    }

    /// What the `datetime` attribute takes.
    static func machineTime(_ seconds: Int64) -> String { Timestamp(seconds: Int(seconds)).text }

    static func count(_ number: Int, _ one: String, _ many: String) -> String {
        "\(number) \(number == 1 ? one : many)"
    }

    /// With at most three figures that count: `0.042`, `8.25`, `812`, `12300`.
    static func number(_ value: Double) -> String {
        guard value.isFinite else { return "–" }
        let size = abs(value)
        let steps: Double =
            switch size {
            case 100...: 1
            case 10..<100: 10
            case 1..<10: 100
            default: 1000
            }
        let rounded = (value * steps).rounded() / steps
        return rounded == rounded.rounded() ? "\(Int64(rounded))" : "\(rounded)"
    }

    static func value(_ value: Double, _ unit: Curve.Unit) -> String {
        switch unit {
        case .perSecond: return "\(number(value)) per second"
        case .inAMinute: return "\(number(value)) in a minute"
        case .share: return "\(number(value * 100)) %"
        case .within:
            switch value {
            case .infinity: return "more than the histogram's last bound"
            case ..<0.001: return "\(number(value * 1e6)) µs"
            case ..<1: return "\(number(value * 1e3)) ms"
            default: return "\(number(value)) s"
            }
        }
    }
}
