import Events
import Logging
import Testing

@testable import Observability

@Suite("The latest events") struct RecentEventsTests {
    private static func record(
        _ message: String, _ event: Event? = .keyUnavailable, _ level: Logger.Level = .error,
        at seconds: Int = 0,
        more: Logger.Metadata = [:]
    ) -> LogRecord {
        LogRecord(
            time: Timestamp(seconds: seconds), level: level, logger: "l", message: message,
            metadata: (event.map { [Event.logKey: "\($0.code)", "key": "k", "cause": "no route"] } ?? [:])
                .merging(more) { $1 },
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

    @Test(
        "what is told again is there once, in its latest words, with when it began and how often it happened")
    func repeats() throws {
        let recent = RecentEvents()
        for second in [1, 2, 3] {
            recent.add(
                Self.record(
                    "cannot be reached (request r\(second))", at: second,
                    more: second == 3 ? ["count": "40"] : [:]))
        }
        recent.add(Self.record("cannot be reached", .keyDenied, at: 4))
        #expect(recent.latest.count == 2)
        let entry = try #require(recent.latest.last)
        #expect((entry.first.seconds, entry.last.seconds, entry.count) == (1, 3, 43))
        #expect(
            entry.line.contains("(request r3)") && entry.line.hasSuffix("40 more since the last of these"))
    }

    @Test(
        "keys, callers, methods and key_ids that are announced tell one event from another; what a caller sends does not"
    )
    func identities() {
        let recent = RecentEvents()
        let others: [Logger.Metadata] = [
            ["key": "other"], ["peer_uid": "7"], ["changes": "allow.uids"], ["key_id": "kw1.a"],
            ["key_id": "kw1.b"],
            ["method": "decrypt"], ["method": "encrypt"],
        ]
        for more in others { recent.add(Self.record("told", more: more)) }
        #expect(recent.latest.count == others.count)
        for id in ["x", "y"] {
            recent.add(Self.record("told", more: ["method": "decrypt", "key_id": "\(id)", "uid": "\(id)"]))
        }
        #expect(recent.latest.count == others.count && recent.latest.first?.count == 3)
    }

    @Test("only events are kept, and only from notice on")
    func others() {
        let recent = RecentEvents()
        recent.add(Self.record("listening", nil, .info))
        recent.add(Self.record("listening", .keyWell, .info))
        recent.add(Self.record("a notice without a code", nil, .notice))
        #expect(recent.latest.isEmpty)
    }

    @Test("however many there are, memory is bounded, and the latest stay")
    func bounded() {
        let recent = RecentEvents()
        for number in 0..<200 { recent.add(Self.record("told", more: ["peer_uid": "\(number)"])) }
        #expect(recent.latest.count == RecentEvents.capacity)
        #expect(recent.latest.first?.line.contains("uid 199") == true)
    }
}
