import Testing

@testable import Observability

struct DurationTests {
    @Test(
        "durations are told in seconds, fractions only where there are some",
        arguments: [
            (.seconds(10), "10 s"), (.milliseconds(250), "0.25 s"), (.milliseconds(-1_500), "-1.5 s"),
            (.microseconds(999), "0 s"), (.zero, "0 s"),
        ] as [(Duration, String)])
    func inSeconds(_ duration: Duration, _ text: String) { #expect(duration.inSeconds == text) }
}
