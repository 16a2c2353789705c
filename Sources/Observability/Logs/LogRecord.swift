internal import Events
internal import Glibc
internal import Logging

/// A point of the wall clock.
public struct Timestamp: Sendable, Equatable {
    /// Seconds since 1970.
    public let seconds: Int
    let nanoseconds: Int

    /// A whole second.
    public init(seconds: Int, nanoseconds: Int = 0) {
        self.seconds = seconds
        self.nanoseconds = nanoseconds
    }

    static var now: Self {
        var time = timespec()
        unsafe clock_gettime(CLOCK_REALTIME, &time)
        return Self(seconds: time.tv_sec, nanoseconds: time.tv_nsec)
    }

    /// RFC 3339, UTC, milliseconds: `2026-03-01T08:05:09.042Z`.
    public var text: String {
        var whole = time_t(seconds)
        var parts = unsafe tm()
        unsafe gmtime_r(&whole, &parts)
        func padded(_ number: Int, _ width: Int) -> String {
            let digits = String(number)
            return String(repeating: "0", count: max(width - digits.utf8.count, 0)) + digits
        }
        let date = unsafe [parts.tm_mon + 1, parts.tm_mday].map { "-" + padded(Int($0), 2) }.joined()
        let time = unsafe [parts.tm_hour, parts.tm_min, parts.tm_sec].map { padded(Int($0), 2) }
        let year = unsafe padded(Int(parts.tm_year) + 1900, 4)
        let clock = time.joined(separator: ":")
        return "\(year)\(date)T\(clock).\(padded(nanoseconds / 1_000_000, 3))Z"
    }
}

/// One log message with all that is known about it; every way of writing it is a pure function.
struct LogRecord {
    let time: Timestamp
    let level: Logger.Level
    let logger: String
    let message: String
    let metadata: Logger.Metadata
    let file: String
    let function: String
    let line: UInt

    // A caller that logs a megabyte must not push everyone else out of the queue.
    static let maximumText = 8192
    private static let maximumFields = 64

    private var fields: [(key: String, value: Logger.MetadataValue)] {
        Array(metadata.sorted { $0.key < $1.key }.prefix(Self.maximumFields)).map { ($0.key, $0.value) }
    }

    // MARK: text

    /// `2026-03-01T08:05:09.042Z warning message key=value other="with blanks"` and a newline; whatever the message
    /// contains, there is one newline.
    var textLine: [UInt8] {
        var line = "\(time.text) \(level.rawValue) "
        Self.append(Self.cut(message), to: &line, quoted: false)
        for (key, value) in fields {
            line += " "
            line += Self.bareKey(key)
            line += "="
            let text = Self.cut(Self.text(of: value))
            let isBare = !text.isEmpty && text.unicodeScalars.allSatisfy { $0.isBare }
            if isBare {
                line += text
            } else {
                line += "\""
                Self.append(text, to: &line, quoted: true)
                line += "\""
            }
        }
        line += "\n"
        return Array(line.utf8)
    }

    private static func bareKey(_ key: String) -> String {
        var result = ""
        for scalar in key.unicodeScalars { result.unicodeScalars.append(scalar.isBare ? scalar : "_") }
        return result.isEmpty ? "_" : result
    }

    private static func append(_ text: String, to line: inout String, quoted: Bool) {
        if text.isPlain {
            line += text
            return
        }
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\n": line += "\\n"
            case "\r": line += "\\r"
            case "\t": line += "\\t"
            case "\"" where quoted: line += "\\\""
            case "\\" where quoted: line += "\\\\"
            case _ where scalar.isControl: line += scalar.escape
            default: line.unicodeScalars.append(scalar)
            }
        }
    }

    /// A metadata value as one text; lists and dictionaries look like JSON with sorted keys.
    static func text(of value: Logger.MetadataValue) -> String {
        switch value {
        case .string(let text): return text
        case .stringConvertible(let value): return value.description
        case .array, .dictionary:
            var text = ""
            appendJSON(value, to: &text)
            return text
        }
    }

    private static func cut(_ text: String) -> String {
        guard text.utf8.count > maximumText else { return text }
        // Decoding mends a character that was cut in two.
        let kept = String(decoding: text.utf8.prefix(maximumText), as: UTF8.self)
        return kept + "... (\(text.utf8.count - maximumText) bytes cut)"
    }

    // MARK: JSON

    /// One JSON object and a newline: time, level, logger, message, and the metadata beside them.
    var jsonLine: [UInt8] {
        var line = "{\"time\":\"\(time.text)\",\"level\":\"\(level.rawValue)\",\"logger\":"
        Self.appendJSON(logger, to: &line)
        line += ",\"message\":"
        Self.appendJSON(message, to: &line)
        for (key, value) in fields {
            line += ","
            let isTaken = ["time", "level", "logger", "message"].contains(key)
            Self.appendJSON(isTaken ? "field_" + key : key, to: &line)
            line += ":"
            Self.appendJSON(value, to: &line)
        }
        line += "}\n"
        return Array(line.utf8)
    }

    private static func appendJSON(_ value: Logger.MetadataValue, to line: inout String) {
        switch value {
        case .string(let text): appendJSON(text, to: &line)
        case .stringConvertible(let value): appendJSON(value.description, to: &line)
        case .array(let values):
            line += "["
            for (index, value) in values.prefix(maximumFields).enumerated() {
                if index > 0 { line += "," }
                appendJSON(value, to: &line)
            }
            line += "]"
        case .dictionary(let values):
            line += "{"
            for (index, pair) in values.sorted(by: { $0.key < $1.key }).prefix(maximumFields).enumerated() {
                if index > 0 { line += "," }
                appendJSON(pair.key, to: &line)
                line += ":"
                appendJSON(pair.value, to: &line)
            }
            line += "}"
        }
    }

    private static func appendJSON(_ text: String, to line: inout String) {
        line += "\""
        let text = cut(text)
        if text.isPlain {
            line += text + "\""
            return
        }
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": line += "\\\""
            case "\\": line += "\\\\"
            case "\n": line += "\\n"
            case "\r": line += "\\r"
            case "\t": line += "\\t"
            case _ where scalar.isControl: line += scalar.jsonEscape
            default: line.unicodeScalars.append(scalar)
            }
        }
        line += "\""
    }

    // MARK: journal

    /// The metadata that `MESSAGE` has too, with what stands before each: who reads `journalctl` sees no other field.
    private static let parts = [
        (Names.LogKey.cause, ": "), (Names.LogKey.reason, ": "), (Names.LogKey.changes, ": "),
        (Names.LogKey.remedy, ": "), (Names.LogKey.limit, "; "), (Names.LogKey.peerUID, "; uid "),
        (Names.LogKey.peerPID, ", pid "),
        // What tells one caller's from another's, such as those that `kmsward doctor` makes.
        (Names.LogKey.uid, "; request "),
    ]

    /// An event in one line: what failed, for which key, why, what to do.
    var told: String {
        let values = metadata.mapValues(Self.text)
        var parts = Self.parts
        // Where no cause names it.
        if values[Names.LogKey.cause] == nil { parts.append((Names.LogKey.keyID, ": ")) }
        var line = message
        if let method = values[Names.LogKey.method] {
            let call = [values[Names.LogKey.api], method, values[Names.LogKey.code]].compactMap(\.self)
            line += ": \(call.joined(separator: " "))"
        } else if let key = values[Names.LogKey.key] {
            line = "key \(key): \(line)"
        }
        for (name, mark) in parts {
            if let value = values[name], !value.isEmpty { line += mark + value }
        }
        if let count = values[Names.LogKey.count] { line += "; \(count) more since the last of these" }
        return Self.cut(line)
    }

    /// What makes it the same event as another, whatever numbers and names of calls their words have.
    var identity: [String] {
        var keys = [
            Names.LogKey.event, Names.LogKey.key, Names.LogKey.api, Names.LogKey.method, Names.LogKey.code,
            Names.LogKey.peerUID, Names.LogKey.changes,
        ]
        // A key_id that is announced is what happened; one that a caller sends is any text.
        if metadata[Names.LogKey.method] == nil { keys.append(Names.LogKey.keyID) }
        return keys.map { metadata[$0].map(Self.text) ?? "" }
    }

    /// How many of the kind happened and were not logged.
    var omitted: Int { metadata[Names.LogKey.count].map(Self.text).flatMap { Int($0) } ?? 0 }

    var event: Event? {
        metadata[Names.LogKey.event].map(Self.text).flatMap(Event.init)
    }

    /// The fields of a journal entry, each `NAME=value`.
    var journalFields: [[UInt8]] {
        var entry = [
            "MESSAGE=" + (event.map { "\(told) [\($0.code)]" } ?? Self.cut(message)),
            "PRIORITY=\(level.priority)",
            "SYSLOG_IDENTIFIER=kmsward",
            "CODE_FILE=\(file)",
            "CODE_LINE=\(line)",
            "CODE_FUNC=\(function)",
            "KMSWARD_LOGGER=\(logger)",
        ]
        for (key, value) in fields {
            entry.append("\(Self.journalName(key))=\(Self.cut(Self.text(of: value)))")
        }
        if let event { entry.append("MESSAGE_ID=" + event.entry.messageID) }
        return entry.map { Array($0.utf8) }
    }

    /// journald takes A-Z, 0-9 and _, at most 64 of them.
    static func journalName(_ key: String) -> String {
        var name = "KMSWARD_"
        for scalar in key.unicodeScalars.prefix(64 - name.utf8.count) {
            switch scalar {
            case "a"..."z", "A"..."Z": name += String(scalar).uppercased()
            case "0"..."9": name.unicodeScalars.append(scalar)
            default: name += "_"
            }
        }
        return name
    }
}

extension Logger.Level {
    /// The syslog priority.
    var priority: Int {
        switch self {
        case .trace, .debug: 7
        case .info: 6
        case .notice: 5
        case .warning: 4
        case .error: 3
        case .critical: 2
        }
    }
}

extension Unicode.Scalar {
    /// C0, DEL and C1 controls and the line separators: what could end a line or drive a terminal.
    fileprivate var isControl: Bool {
        value < 0x20 || (0x7f...0x9f).contains(value) || value == 0x2028 || value == 0x2029
    }

    /// It needs no quotes.
    fileprivate var isBare: Bool { !isControl && self != " " && self != "\"" && self != "=" && self != "\\" }

    fileprivate var escape: String { value < 0x100 ? "\\x" + hex(2) : "\\u" + hex(4) }
    fileprivate var jsonEscape: String { "\\u" + hex(4) }

    private func hex(_ width: Int) -> String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: max(width - digits.utf8.count, 0)) + digits
    }
}

extension String {
    /// Nothing in it needs an escape in any format; nearly every text.
    fileprivate var isPlain: Bool {
        utf8.allSatisfy { (0x20..<0x7f).contains($0) && $0 != UInt8(ascii: "\"") && $0 != UInt8(ascii: "\\") }
    }
}
