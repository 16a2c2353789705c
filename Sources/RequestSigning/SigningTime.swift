private import Glibc
private import SecureMemory

/// A moment as requests carry it.
public struct SigningTime: Sendable, Equatable {
    /// Seconds since 1970, UTC.
    public let unixSeconds: Int64

    /// A moment.
    public init(unixSeconds: Int64) { self.unixSeconds = unixSeconds }

    /// Reads the `Date` field of an answer, `Sun, 22 Nov 2026 01:35:00 GMT`; nil for anything else.
    public init?(httpDate text: String) {
        let words = text.split(separator: " ", omittingEmptySubsequences: false)
        guard words.count == 6, words[0].count == 4, words[5] == "GMT",
            let month = Self.months.firstIndex(of: words[2]),
            let clock = Self.numbers(words[4], [2, 2, 2], separatedBy: ":"), words[1].count == 2,
            words[3].count == 4,
            let day = words[1].number, let year = words[3].number
        else { return nil }
        self.init([year, Int64(month) + 1, day] + clock)
    }

    /// Reads `2026-11-22T01:35:00Z`; nil for anything else.
    public init?(iso8601 text: String) {
        guard text.count == 20, text.hasSuffix("Z"),
            let date = Self.numbers(text.prefix(10), [4, 2, 2], separatedBy: "-"),
            text.dropFirst(10).first == "T",
            let clock = Self.numbers(text.dropFirst(11).dropLast(), [2, 2, 2], separatedBy: ":")
        else { return nil }
        self.init(date + clock)
    }

    private static let months: [Substring] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]

    private static func numbers(
        _ text: Substring, _ digits: [Int], separatedBy separator: Character
    ) -> [Int64]? {
        let parts = text.split(separator: separator, omittingEmptySubsequences: false)
        guard parts.map(\.utf8.count) == digits else { return nil }
        let values = parts.compactMap { $0.number }
        return values.count == parts.count ? values : nil
    }

    /// Year, month, day, hour, minute, second.
    private init?(_ fields: [Int64]) {
        guard (1...12).contains(fields[1]), (1...31).contains(fields[2]), fields[3] < 24, fields[4] < 60,
            fields[5] < 61
        else { return nil }
        // Days of the proleptic Gregorian calendar, with years that begin in March.
        let year = fields[1] > 2 ? fields[0] : fields[0] - 1
        let month = (fields[1] + 9) % 12
        let days =
            365 * year + year / 4 - year / 100 + year / 400 + (month * 306 + 5) / 10 + fields[2] - 719_469
        unixSeconds = ((days * 24 + fields[3]) * 60 + fields[4]) * 60 + fields[5]
    }

    /// `20260115T083045Z`.
    public var basic: String {
        var seconds = time_t(unixSeconds)
        var fields = unsafe tm()
        unsafe gmtime_r(&seconds, &fields)
        func digits(_ value: Int32, _ count: Int) -> String {
            let text = String(value)
            return String(repeating: "0", count: max(0, count - text.count)) + text
        }
        let day =
            unsafe digits(fields.tm_year + 1900, 4) + digits(fields.tm_mon + 1, 2) + digits(fields.tm_mday, 2)
        let time = unsafe digits(fields.tm_hour, 2) + digits(fields.tm_min, 2) + digits(fields.tm_sec, 2)
        return "\(day)T\(time)Z"
    }

    /// `20260115`.
    var day: String { String(basic.prefix(8)) }
}

extension Substring {
    /// Digits, without a sign.
    fileprivate var number: Int64? { utf8.allSatisfy { (0x30...0x39).contains($0) } ? Int64(self) : nil }
}

/// Numbers that serve once.
public enum Nonce {
    /// A random UUID (version 4) in lower case.
    public static func uuid() -> String {
        var bytes = [UInt8](repeating: 0, count: 16)
        var span = bytes.mutableSpan
        var raw = unsafe span.mutableBytes
        SecureMemory.fillRandom(&raw)
        bytes[6] = bytes[6] & 0x0F | 0x40
        bytes[8] = bytes[8] & 0x3F | 0x80
        let hex = Array(bytes.lowerHex)
        return [0..<8, 8..<12, 12..<16, 16..<20, 20..<32].map { String(hex[$0]) }.joined(separator: "-")
    }
}
