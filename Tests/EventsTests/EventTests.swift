import Glibc
import InMemoryLogging
import Logging
import TestSupport
import Testing

@testable import Events

@Suite("events") struct EventTests {
    @Test("each has a code that can be searched for, and a message id of its own")
    func identities() {
        for event in Event.allCases {
            let (code, id) = (event.code, event.entry.messageID)
            #expect(code.hasPrefix("KW-"))
            #expect(code.allSatisfy { $0 == "-" || $0.isASCII && $0.isUppercase })
            #expect(id.count == 32 && id.allSatisfy { $0.isHexDigit && !$0.isUppercase }, "\(code)")
        }
        #expect(Set(Event.allCases.map(\.code)).count == Event.allCases.count)
        #expect(Set(Event.allCases.map(\.entry.messageID)).count == Event.allCases.count)
    }

    @Test("what was given away is not changed: journals are kept for years")
    func contracts() {
        #expect(Event.keyDisabled.code == "KW-KEY-DISABLED")
        #expect(Event.keyDisabled.entry.messageID == "c37fbdf92f754bda8794ced7292bf5bf")
    }

    @Test("each says in plain lines what it is, what it does and what to do", arguments: Event.allCases)
    func texts(_ event: Event) {
        let entry = event.entry
        for text in [entry.subject, entry.cause, entry.meaning] + entry.steps {
            #expect(!text.isEmpty && !text.contains("\n"), "\(event.code): \(text)")
        }
        #expect(!entry.subject.hasSuffix("."))
        #expect((1...4).contains(entry.steps.count), "\(event.code)")
        #expect(!entry.title.contains("@"), "\(entry.title)")
        #expect(!event.plainExplanation.contains("@KMSWARD_"), "without a journal nobody fills it in")
        for line in event.explanation.split(separator: "\n") {
            #expect(line.count <= 100 || !line.dropFirst(11).contains(" "), "\(line)")
        }
    }

    @Test("each has a runbook that names it, and the index leads there", arguments: Event.allCases)
    func runbooks(_ event: Event) {
        let page = Repository.text("runbooks/\(event.entry.runbook).md")
        #expect(page.contains("`\(event.code)`"), "runbooks/\(event.entry.runbook).md")
        let row = "| \(event.code) | ["
        let index = Repository.text("runbooks/README.md").split(separator: "\n")
        #expect(index.contains { $0.hasPrefix(row) && $0.contains("](\(event.entry.runbook).md)") }, "\(row)")
    }

    @Test("the catalogue has an entry for each, as journalctl reads them")
    func catalog() throws {
        let parts = Event.catalog().split(separator: "-- ", omittingEmptySubsequences: true)
        let heads = parts.filter { $0.prefix(32).allSatisfy(\.isHexDigit) }
        #expect(heads.map { String($0.prefix(32)) } == Event.allCases.map(\.entry.messageID))
        let disabled = try #require(heads.first { $0.hasPrefix(Event.keyDisabled.entry.messageID) })
        let lines = disabled.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        #expect(lines[1] == "Subject: Key @KMSWARD_KEY@: its service says that it may not be used")
        #expect(lines[2] == "Defined-By: kmsward")
        #expect(lines[3] == "Documentation: file:///usr/share/doc/kmsward/runbooks/KmswardKeyDisabled.md")
        #expect(lines[4].isEmpty && lines[5].hasPrefix("Cause:   "))
    }

    @Test("each status of a failed call is explained")
    func statuses() {
        #expect(Event.byStatus.values.allSatisfy { $0.code.hasPrefix("KW-CALL-") })
        for (status, event) in Event.byStatus { #expect(event.entry.subject.contains("(\(status))")) }
        #expect(Set(Event.byStatus.values) == Set(Event.allCases.filter { $0.code.hasPrefix("KW-CALL-") }))
    }

    @Test("a logger gives an event its level and its code, and builds nothing that is not wanted")
    func logging() {
        let log = InMemoryLogHandler()
        var logger = Logger(label: "test") { _ in log }
        logger.event(.keyDisabled, "off", metadata: ["key": "primary"])
        logger.event(.keyDisabled, "milder", level: .warning)
        logger.event(.keyWell, "on")
        #expect(log.entries.map(\.level) == [.error, .warning, .notice])
        #expect(log.entries[0].metadata == ["key": "primary", "event": "KW-KEY-DISABLED"])
        logger.logLevel = .critical
        logger.event(.keyDisabled, "\(Self.unwanted())")
        #expect(log.entries.count == 3)
    }

    private static func unwanted() -> String {
        Issue.record("the message is built")
        return ""
    }
}

@Suite("repeats") struct RepeatsTests {
    private static func lines(every interval: Double, for seconds: Double) -> [(at: Int, omitted: Int)] {
        var repeats = Repeats<String>()
        return stride(from: 0, to: seconds, by: interval).compactMap { time in
            repeats.admit("x", at: .seconds(time)).map { (Int(time), $0) }
        }
    }

    @Test("the first is told at once, and what goes on ever more seldom, with all that was left out")
    func flood() {
        let lines = Self.lines(every: 0.5, for: 5 * 3_600)
        #expect(lines.map(\.at) == [0, 60, 300, 1_260, 4_860, 8_460, 12_060, 15_660])
        #expect(lines.map(\.omitted) == [0, 119, 479, 1_919, 7_199, 7_199, 7_199, 7_199])
    }

    @Test("what comes less often than the pause is told each time")
    func seldom() {
        #expect(Self.lines(every: 61, for: 610).map(\.omitted) == Array(repeating: 0, count: 10))
    }

    @Test("quiet for a pause, it begins anew, and tells what was left out before")
    func pause() {
        var repeats = Repeats<String>()
        #expect(repeats.admit("x", at: .zero) == 0)
        #expect(repeats.admit("x", at: .seconds(10)) == nil)
        #expect(repeats.admit("y", at: .seconds(10)) == 0, "another one is another matter")
        #expect(repeats.admit("x", at: .seconds(3_600)) == 1)
        #expect(repeats.admit("x", at: .seconds(3_660)) == 0)
    }

    @Test("a bounded number is remembered: those seen last")
    func bound() {
        var repeats = Repeats<Int>(capacity: 3)
        for key in 0..<4 { #expect(repeats.admit(key, at: .seconds(key)) == 0) }
        #expect(repeats.admit(3, at: .seconds(5)) == nil)
        #expect(repeats.admit(0, at: .seconds(6)) == 0, "forgotten")
    }
}
