import Events
import Glibc
import Logging
import Testing

@testable import Observability

@Suite("Log lines") struct LogRecordTests {
    private static func record(
        _ message: String = "hello", _ metadata: Logger.Metadata = [:], level: Logger.Level = .info
    ) -> LogRecord {
        LogRecord(
            time: Timestamp(seconds: 1_772_352_309, nanoseconds: 42_999_999), level: level,
            logger: "kmsward.test",
            message: message, metadata: metadata, file: "Room/File.swift", function: "f(_:)", line: 7)
    }

    @Test(
        "time is RFC 3339 in UTC with milliseconds",
        arguments: [
            (0, 0, "1970-01-01T00:00:00.000Z"), (951_782_400, 999_999_999, "2000-02-29T00:00:00.999Z"),
            (1_772_352_309, 42_999_999, "2026-03-01T08:05:09.042Z"),
            (253_402_300_799, 0, "9999-12-31T23:59:59.000Z"),
        ])
    func timestamps(_ seconds: Int, _ nanoseconds: Int, _ text: String) {
        #expect(Timestamp(seconds: seconds, nanoseconds: nanoseconds).text == text)
    }

    @Test(
        "a text line is one line, whatever it says",
        arguments: [
            (record(), "info hello"),
            (
                record("key active", ["key": "primary", "key_id": "kw1.a"]),
                "info key active key=primary key_id=kw1.a"
            ),
            (record("x", ["b": "2", "a": "1"]), "info x a=1 b=2"),
            (record("a\nb\r\tc"), "info a\\nb\\r\\tc"),
            (record("\u{1b}[31mred\u{7f}\u{85}\u{2028}"), "info \\x1b[31mred\\x7f\\x85\\u2028"),
            (
                record(
                    "x",
                    ["a": "with blank", "b": "", "c": "q\"q", "d": "k=v", "e": "back\\slash", "f": "n\nl"]),
                "info x a=\"with blank\" b=\"\" c=\"q\\\"q\" d=\"k=v\" e=\"back\\\\slash\" f=\"n\\nl\""
            ),
            (record("x", ["evil key=\n": "1", "": "2"]), "info x _=2 evil_key__=1"),
            (
                record(
                    "x", ["n": .stringConvertible(5), "l": ["a", "b\""], "d": ["y": "1", "x": ["z": "2"]]]),
                "info x d=\"{\\\"x\\\":{\\\"z\\\":\\\"2\\\"},\\\"y\\\":\\\"1\\\"}\" l=\"[\\\"a\\\",\\\"b\\\\\\\"\\\"]\" n=5"
            ),
            (record("日本語", ["clé": "é"]), "info 日本語 clé=é"),
            (record("late", level: .critical), "critical late"),
        ])
    func text(_ record: LogRecord, _ expected: String) {
        #expect(String(decoding: record.textLine, as: UTF8.self) == "2026-03-01T08:05:09.042Z \(expected)\n")
    }

    @Test(
        "a JSON line is one object with the metadata beside the message",
        arguments: [
            (record(), "\"message\":\"hello\""),
            (record("a\n\"b\"\\\u{1}\u{2028}"), "\"message\":\"a\\n\\\"b\\\"\\\\\\u0001\\u2028\""),
            (
                record("x", ["n": .stringConvertible(5), "l": ["a", ["k": "v"]]]),
                "\"message\":\"x\",\"l\":[\"a\",{\"k\":\"v\"}],\"n\":\"5\""
            ),
            (
                record("x", ["message": "mine", "time": "then"]),
                "\"message\":\"x\",\"field_message\":\"mine\",\"field_time\":\"then\""
            ),
        ])
    func json(_ record: LogRecord, _ expected: String) {
        let start = "{\"time\":\"2026-03-01T08:05:09.042Z\",\"level\":\"info\",\"logger\":\"kmsward.test\","
        #expect(String(decoding: record.jsonLine, as: UTF8.self) == start + expected + "}\n")
    }

    @Test("journal fields carry message, place and metadata")
    func journal() {
        let record = Self.record(
            "two\nlines", ["key": "primary", "peer_uid": "1000", "odd key-é": "v"], level: .info)
        #expect(
            record.journalFields.map { String(decoding: $0, as: UTF8.self) } == [
                "MESSAGE=two\nlines", "PRIORITY=6", "SYSLOG_IDENTIFIER=kmsward", "CODE_FILE=Room/File.swift",
                "CODE_LINE=7", "CODE_FUNC=f(_:)", "KMSWARD_LOGGER=kmsward.test", "KMSWARD_KEY=primary",
                "KMSWARD_ODD_KEY__=v", "KMSWARD_PEER_UID=1000",
            ])
    }

    @Test(
        "an event in the journal is one line that says it all, with its message id",
        arguments: [
            (
                "the key does not serve",
                [
                    "event": "KW-KEY-DISABLED", "key": "primary", "code": "keyDisabled",
                    "cause": "it is disabled",
                    "remedy": "enable it", "limit": "writes stop in 0 min",
                ],
                "key primary: the key does not serve: it is disabled: enable it; writes stop in 0 min [KW-KEY-DISABLED]"
            ),
            (
                "failed a KMS call",
                [
                    "event": "KW-CALL-UNAVAILABLE", "key": "primary", "key_id": "kw1", "api": "v2",
                    "method": "decrypt", "code": "UNAVAILABLE", "cause": "key primary: down", "count": "7",
                ],
                "failed a KMS call: v2 decrypt UNAVAILABLE: key primary: down; 7 more since the last of these [KW-CALL-UNAVAILABLE]"
            ),
            (
                "refused a connection", ["event": "KW-PEER-REFUSED", "peer_uid": "7", "peer_pid": "9"],
                "refused a connection; uid 7, pid 9 [KW-PEER-REFUSED]"
            ),
            (
                "key_id is active", ["event": "KW-KEY-ACTIVE", "key": "a", "key_id": "kw1.x", "remedy": ""],
                "key a: key_id is active: kw1.x [KW-KEY-ACTIVE]"
            ),
        ] as [(String, Logger.Metadata, String)])
    func event(_ message: String, _ metadata: Logger.Metadata, _ line: String) throws {
        let record = Self.record(message, metadata, level: .error)
        let fields = record.journalFields.map { String(decoding: $0, as: UTF8.self) }
        #expect(fields.first == "MESSAGE=\(line)")
        let code = try #require(metadata["event"].map { "\($0)" })
        let event = try #require(Event(rawValue: code))
        #expect(fields.last == "MESSAGE_ID=\(event.entry.messageID)")
        #expect(fields.contains("KMSWARD_EVENT=\(code)"))
        #expect(String(decoding: record.textLine, as: UTF8.self).contains(" event=\(code)"))
        #expect(String(decoding: record.jsonLine, as: UTF8.self).contains("\"event\":\"\(code)\""))
    }

    @Test("an event that is not known stays an ordinary field")
    func unknownEvent() {
        let fields = Self.record("x", ["event": "KW-OTHER"]).journalFields
        #expect(fields.contains(Array("KMSWARD_EVENT=KW-OTHER".utf8)))
        #expect(!fields.contains { $0.starts(with: Array("MESSAGE_ID=".utf8)) })
    }

    @Test(
        "journal field names are made of what journald takes",
        arguments: [
            ("key", "KMSWARD_KEY"), ("a.b-c d=", "KMSWARD_A_B_C_D_"), ("é1", "KMSWARD__1"),
            (String(repeating: "x", count: 100), "KMSWARD_" + String(repeating: "X", count: 56)),
        ])
    func journalNames(_ key: String, _ name: String) { #expect(LogRecord.journalName(key) == name) }

    @Test("levels map to syslog priorities", arguments: zip(Logger.Level.allCases, [7, 7, 6, 5, 4, 3, 2]))
    func priorities(_ level: Logger.Level, _ priority: Int) { #expect(level.priority == priority) }

    @Test("a huge message, value or number of fields is cut, not sent")
    func cut() {
        let huge = String(repeating: "é", count: 20_000)
        let many = Logger.Metadata(uniqueKeysWithValues: (0..<100).map { ("k\($0)", "\(huge)") })
        let record = Self.record(huge, many)
        #expect(record.textLine.count < 600_000)
        #expect(record.jsonLine.count < 600_000)
        #expect(record.journalFields.count == 7 + 64)
        #expect(String(decoding: record.textLine, as: UTF8.self).contains("bytes cut)"))
        #expect(record.textLine.count { $0 == UInt8(ascii: "\n") } == 1)
    }

    @Test(
        "auto means the journal only where standard error is connected to it",
        arguments: [
            (LogFormat.auto, "5:77", true, LogFormat.journal, false), (.auto, "5:78", true, .text, false),
            (.auto, "6:77", true, .text, false), (.auto, nil, true, .text, false),
            (.auto, "", true, .text, false),
            (.auto, "5:77", false, .text, false), (.journal, nil, true, .journal, false),
            (.journal, "5:77", false, .text, true), (.text, "5:77", true, .text, false),
            (.json, "5:77", true, .json, false),
        ] as [(LogFormat, String?, Bool, LogFormat, Bool)])
    func resolving(
        _ wish: LogFormat, _ stream: String?, _ hasJournal: Bool, _ format: LogFormat, _ isFallback: Bool
    ) {
        let resolved = wish.resolved(journalStream: stream, errorStream: (5, 77), hasJournal: hasJournal)
        #expect(resolved.format == format)
        #expect(resolved.isFallback == isFallback)
    }
}

@Suite("Log output") struct LogOutputTests {
    private let now = Timestamp(seconds: 0, nanoseconds: 0)

    private func output(
        _ fd: Int32, format: LogFormat = .text, level: Logger.Level = .info, limits: LogQueue.Limits = .init()
    ) throws -> LogOutput {
        let now = now
        return try LogOutput(
            format: format, level: level, sink: .stream(fd: fd), limits: limits, now: { now })
    }

    private func lines(_ bytes: [UInt8]) -> [String] {
        String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init)
    }

    /// Logs through `body` into a pipe and returns the lines.
    private func logged(
        format: LogFormat = .text, level: Logger.Level = .info, _ body: (LogOutput, Logger) -> Void
    ) async throws -> [String] {
        let pipe = Pipe()
        let output = try output(pipe.writer, format: format, level: level)
        body(output, Logger(label: "test") { output.handler(label: $0) })
        let isWritten = await onThread { output.close(within: .seconds(60)) }
        #expect(isWritten)
        close(pipe.writer)
        let content = await onThread { readAll(pipe.reader) }
        close(pipe.reader)
        return lines(content)
    }

    private struct Described: Error, CustomStringConvertible { let description = "file is gone" }
    private struct Plain: Error { let secret = "hunter2" }

    @Test("lines come out in order, with the metadata of handler, call and error")
    func handler() async throws {
        let lines = try await logged { _, logger in
            var logger = logger
            logger[metadataKey: "key"] = "primary"
            logger.info("one")
            logger.event(.keyDisabled, "two", level: .warning, metadata: ["key": "other", "count": "2"])
            logger.log(level: .error, "three", error: Described())
            logger.log(level: .error, "four", error: Plain())
            logger.debug("not shown")
        }
        let time = now.text
        #expect(
            lines == [
                "\(time) info one key=primary",
                "\(time) warning two count=2 event=KW-KEY-DISABLED key=other",
                "\(time) error three cause=\"file is gone\" event=KW-UNCLASSIFIED key=primary",
                "\(time) error four cause=Plain event=KW-UNCLASSIFIED key=primary",
            ])
    }

    @Test("the level changes for every logger while they run, except one that has its own")
    func level() async throws {
        let lines = try await logged(level: .warning) { output, logger in
            var own = Logger(label: "own") { output.handler(label: $0) }
            own.logLevel = .error
            logger.info("a")
            output.level = .debug
            logger.debug("b")
            own.warning("c")
            own.error("d")
            #expect(output.level == .debug)
            output.level = .critical
            logger.error("e")
            logger.critical("f")
        }
        #expect(lines.map { $0.split(separator: " ")[2] } == ["b", "d", "f"])
    }

    @Test(
        "a format writes each line as itself",
        arguments: [
            (
                LogFormat.json,
                "{\"time\":\"1970-01-01T00:00:00.000Z\",\"level\":\"info\",\"logger\":\"test\",\"message\":\"m\"}"
            ),
            (.text, "1970-01-01T00:00:00.000Z info m"),
        ])
    func formats(_ format: LogFormat, _ line: String) async throws {
        #expect(try await logged(format: format) { _, logger in logger.info("m") } == [line])
    }

    @Test("lines of many threads stay whole and all arrive")
    func manyThreads() async throws {
        let pipe = Pipe()
        var limits = LogQueue.Limits()
        limits.lines = 1 << 20
        limits.bytes = 1 << 30
        let output = try output(pipe.writer, limits: limits)
        let reading = Reader(pipe.reader)
        await withTaskGroup { group in
            for thread in 0..<8 {
                group.addTask {
                    await onThread {
                        let logger = Logger(label: "test") { output.handler(label: $0) }
                        for index in 0..<100 {
                            logger.info(
                                "x",
                                metadata: [
                                    "n": "\(thread)-\(index)",
                                    "pad": "\(String(repeating: "p", count: index * 100))",
                                ])
                        }
                    }
                }
            }
        }
        let isWritten = await onThread { output.close(within: .seconds(60)) }
        #expect(isWritten)
        close(pipe.writer)
        let found = lines(await reading.content)
        close(pipe.reader)
        #expect(found.count == 800)
        #expect(
            found.allSatisfy {
                $0.hasPrefix("1970-01-01T00:00:00.000Z info x n=") && !$0.dropFirst(5).contains("1970-")
            })
        #expect(Set(found.compactMap { $0.split(separator: " ").dropFirst(3).first }).count == 800)
        #expect(output.droppedLines == 0)
    }

    @Test("a blocked reader holds up no caller; what was lost is counted and named when it reads again")
    func blockedReader() async throws {
        let pipe = Pipe()
        let filler = pipe.fill()
        var limits = LogQueue.Limits()
        limits.lines = 4
        let output = try output(pipe.writer, limits: limits)
        let registry = PrometheusRegistry(process: false)
        output.report(to: registry)
        let logger = Logger(label: "test") { output.handler(label: $0) }
        for index in 0..<100 { logger.info("line", metadata: ["n": "\(index)"]) }

        // At most one batch is with the writer and one in the queue.
        let dropped = Int(output.droppedLines)
        #expect(dropped >= 100 - 2 * limits.lines)
        #expect(await onThread { output.flush(within: .milliseconds(10)) } == false)

        let reading = Reader(pipe.reader)
        #expect(await onThread { output.flush(within: .seconds(60)) })
        #expect(await onThread { output.close(within: .seconds(60)) })
        close(pipe.writer)
        let found = lines(Array(await reading.content.dropFirst(filler)))
        close(pipe.reader)
        let kept = found.filter { $0.contains(" info line n=") }
        let lost = found.filter { $0.contains(" warning log lines were lost") }
            .compactMap { line in
                line.split(separator: " ").first { $0.hasPrefix("count=") }.flatMap { Int($0.dropFirst(6)) }
            }
        #expect(kept.count + dropped == 100)
        #expect(lost.reduce(0, +) == dropped)
        #expect(found.count == kept.count + lost.count)
        let page = String(decoding: registry.render(.text), as: UTF8.self)
        #expect(page.contains("\nkmsward_log_lines_dropped_total \(dropped)\n"))
    }

    @Test("the queue is bounded in bytes too")
    func bytes() async throws {
        let pipe = Pipe()
        _ = pipe.fill()
        var limits = LogQueue.Limits()
        limits.bytes = 10_000
        let output = try output(pipe.writer, limits: limits)
        let logger = Logger(label: "test") { output.handler(label: $0) }
        for _ in 0..<100 { logger.info("\(String(repeating: "x", count: 1000))") }
        #expect(output.droppedLines >= 100 - 2 * 10)
        #expect(await onThread { output.close(within: .zero) } == false)
        close(pipe.writer)
        close(pipe.reader)
    }

    @Test("closing ends the writer even while the reader is blocked")
    func closeWhileBlocked() async throws {
        let pipe = Pipe()
        _ = pipe.fill()
        let output = try output(pipe.writer)
        let logger = Logger(label: "test") { output.handler(label: $0) }
        logger.info("stuck")
        // That it returns at all is the point.
        #expect(await onThread { output.close(within: .milliseconds(10)) } == false)
        logger.info("late")
        #expect(output.droppedLines == 2)
        #expect(output.flush(within: .seconds(60)))
        close(pipe.writer)
        close(pipe.reader)
    }

    @Test("a reader that has gone neither kills the process nor stops the writer")
    func closedReader() async throws {
        let pipe = Pipe()
        close(pipe.reader)
        let output = try output(pipe.writer)
        let logger = Logger(label: "test") { output.handler(label: $0) }
        logger.info("one")
        logger.info("two")
        #expect(await onThread { output.flush(within: .seconds(60)) })
        #expect(output.droppedLines == 2)
        #expect(await onThread { output.close(within: .seconds(60)) })
        close(pipe.writer)
    }

    @Test("a stream that another process made non-blocking loses nothing")
    func nonBlocking() async throws {
        let pipe = Pipe()
        _ = fcntl(pipe.writer, F_SETFL, O_NONBLOCK)
        let output = try output(pipe.writer)
        let logger = Logger(label: "test") { output.handler(label: $0) }
        for _ in 0..<100 { logger.info("\(String(repeating: "x", count: 5000))") }
        let reading = Reader(pipe.reader)
        #expect(await onThread { output.close(within: .seconds(60)) })
        close(pipe.writer)
        #expect(lines(await reading.content).count == 100)
        close(pipe.reader)
    }

    @Test("after bootstrap every logger of the process writes to standard error")
    func bootstrap() async throws {
        let result = try await #require(
            processExitsWith: .success, observing: [\.standardErrorContent]
        ) {
            let output = try LogOutput.bootstrap(format: .json, level: .info)
            Logger(label: "any").info("started", metadata: ["version": "1"])
            #expect(output.flush(within: .seconds(60)))
        }
        let text = String(decoding: result.standardErrorContent, as: UTF8.self)
        #expect(
            text.contains(
                "\"level\":\"info\",\"logger\":\"any\",\"message\":\"started\",\"version\":\"1\"}\n"))
    }
}
