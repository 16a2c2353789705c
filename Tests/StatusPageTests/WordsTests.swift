import Testing

@testable import StatusPage

struct WordsTests {
    @Test(
        "a span is rounded down to what a person reads",
        arguments: [
            (-5, "0 s"), (0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"),
            (11_520, "3 h 12 min"),
            (86_400, "24 h"), (172_799, "47 h 59 min"), (172_800, "2 days"), (2_592_000, "30 days"),
        ] as [(Int64, String)])
    func span(seconds: Int64, expected: String) { #expect(Words.span(seconds) == expected) }

    @Test(
        "a number has three figures that count, or all before the point",
        arguments: [
            (0, "0"), (0.0421, "0.042"), (0.5, "0.5"), (8.2549, "8.25"), (81.26, "81.3"), (812.4, "812"),
            (12_300.4, "12300"), (-3.333, "-3.33"), (.infinity, "–"), (.nan, "–"),
        ] as [(Double, String)])
    func number(value: Double, expected: String) { #expect(Words.number(value) == expected) }

    @Test(
        "a value has its unit",
        arguments: [
            (264.2, .perSecond, "264 per second"), (3, .inAMinute, "3 in a minute"),
            (0.9985, .share, "99.9 %"),
            (1, .share, "100 %"), (0.000222, .within, "222 µs"), (0.0042, .within, "4.2 ms"),
            (2.5, .within, "2.5 s"),
        ] as [(Double, Curve.Unit, String)])
    func value(value: Double, unit: Curve.Unit, expected: String) {
        #expect(Words.value(value, unit) == expected)
    }

    @Test("a time is UTC and says so")
    func time() {
        #expect(Words.time(1_772_352_309) == "2026-03-01 08:05:09 UTC")
        #expect(Words.machineTime(1_772_352_309) == "2026-03-01T08:05:09.000Z")
    }
}
