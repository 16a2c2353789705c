/// Reads the header of an answer, line by line as curl hands it over.
struct AnswerReader {
    /// Bytes of all headers of one answer, interim ones included.
    static let maximumBytes = 64 * 1024

    private(set) var status = 0
    private(set) var fields: [HTTPHeaders.Field] = []
    private(set) var isTooLarge = false
    private(set) var isMalformed = false
    private var isComplete = false
    private var bytes = 0

    /// Takes a line with its end; false: the answer is not to be read on.
    mutating func take(line: RawSpan) -> Bool {
        bytes += line.byteCount
        guard bytes <= Self.maximumBytes else {
            isTooLarge = true
            return false
        }
        guard !isComplete else { return true }  // a trailer
        var text = unsafe line.withUnsafeBytes { unsafe String(decoding: $0, as: UTF8.self) }[...]
        while let last = text.unicodeScalars.last, last == "\r" || last == "\n" {
            text = Substring(text.unicodeScalars.dropLast())
        }
        if text.hasPrefix("HTTP/") {
            fields = []
            let words = text.split(separator: " ", maxSplits: 2)
            guard words.count > 1, words[1].utf8.count == 3, let number = Int(words[1]), number >= 100 else {
                isMalformed = true
                return false
            }
            status = number
        } else if text.isEmpty {
            isComplete = status >= 200
        } else {
            guard let colon = text.firstIndex(of: ":"), colon > text.startIndex,
                text.first?.isWhitespace == false
            else {
                isMalformed = true
                return false
            }
            let value = text[text.index(after: colon)...]
            fields.append(HTTPHeaders.Field(String(text[..<colon]), Self.trimmed(value)))
        }
        return true
    }

    private static func trimmed(_ text: Substring) -> String {
        let start = text.drop { $0 == " " || $0 == "\t" }
        return String(start.reversed().drop { $0 == " " || $0 == "\t" }.reversed())
    }
}
