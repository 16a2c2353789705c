import Events
import Logging
import Testing

@testable import Observability

@Suite("The latest events") struct RecentEventsTests {
    private static func record(
        _ message: String, _ event: Event? = .keyUnavailable, _ level: Logger.Level = .error,
        at seconds: Int = 0
    ) -> LogRecord {
        LogRecord(
            time: Timestamp(seconds: seconds), level: level, logger: "l", message: message,
            metadata: event.map { [Event.logKey: "\($0.code)", "key": "k", "cause": "no route"] } ?? [:],
            file: "f",
            function: "g", line: 1)
    }

    @Test("an event is told in one line as in the journal, the latest first")
    func lines() throws {
        let recent = RecentEvents()
        recent.add(Self.record("cannot be reached", at: 5))
        recent.add(Self.record("is well again", .keyWell, .notice, at: 9))
        #expect(recent.latest.map(\.code) == ["KW-KEY-WELL", "KW-KEY-UNAVAILABLE"])
        let entry = try #require(recent.latest.last)
        #expect(entry.line == "key k: cannot be reached: no route")
        #expect(entry.level == .error && entry.count == 1 && entry.last.seconds == 5)
    }

    @Test("what is told again is there once, with when and how often")
    func repeats() throws {
        let recent = RecentEvents()
        for second in [1, 2, 3] { recent.add(Self.record("cannot be reached", at: second)) }
        recent.add(Self.record("cannot be reached", .keyDenied, at: 4))
        #expect(recent.latest.count == 2)
        let entry = try #require(recent.latest.last)
        #expect((entry.first.seconds, entry.last.seconds, entry.count) == (1, 3, 3))
    }

    @Test("only events are kept, and only from notice on")
    func others() {
        let recent = RecentEvents()
        recent.add(Self.record("listening", nil, .info))
        recent.add(Self.record("listening", .keyWell, .info))
        recent.add(Self.record("a notice without a code", nil, .notice))
        #expect(recent.latest.isEmpty)
    }

    @Test("however many there are, memory is bounded, and what went wrong stays longest")
    func bounded() {
        let recent = RecentEvents()
        recent.add(Self.record("first error"))
        for number in 0..<200 { recent.add(Self.record("notice \(number)", .keyWell, .notice)) }
        #expect(recent.latest.count == RecentEvents.capacity)
        #expect(recent.latest.last?.line.contains("first error") == true)
        for number in 0..<200 { recent.add(Self.record("error \(number)")) }
        #expect(recent.latest.count == RecentEvents.capacity)
        #expect(recent.latest.first?.line.contains("error 199") == true)
        #expect(!recent.latest.contains { $0.line.contains("first error") })
    }
}
