/// A piece of a page: what is written here is markup, and any text put into it is made harmless.
///
/// There is no way from a `String` to markup but through that, so nothing that a peer or a service said can become markup.
struct HTML: ExpressibleByStringInterpolation, Equatable {
    let text: String

    init(stringLiteral value: String) { text = value }
    init(stringInterpolation pieces: Pieces) { text = pieces.text }
    private init(raw: String) { text = raw }

    struct Pieces: StringInterpolationProtocol {
        fileprivate var text = ""

        init(literalCapacity: Int, interpolationCount: Int) { text.reserveCapacity(literalCapacity) }

        mutating func appendLiteral(_ literal: String) { text += literal }
        mutating func appendInterpolation(_ piece: HTML) { text += piece.text }
        mutating func appendInterpolation(_ pieces: [HTML]) { for piece in pieces { text += piece.text } }
        mutating func appendInterpolation(_ number: Int) { text += "\(number)" }
        mutating func appendInterpolation(_ words: String) {
            for scalar in words.unicodeScalars {
                switch scalar {
                case "&": text += "&amp;"
                case "<": text += "&lt;"
                case ">": text += "&gt;"
                case "\"": text += "&quot;"
                case "'": text += "&#39;"
                // No page may contain these, and some hide or turn around what follows them.
                case _ where scalar.value < 0x20 && scalar != "\n" && scalar != "\t": text += "\u{FFFD}"
                case "\u{7F}"..."\u{9F}", "\u{200B}"..."\u{200F}", "\u{202A}"..."\u{202E}",
                    "\u{2066}"..."\u{2069}":
                    text += "\u{FFFD}"
                default: text.unicodeScalars.append(scalar)
                }
            }
        }
    }

    /// The content of a style or script element, which has no escapes; ours alone.
    static func ours(_ bytes: [UInt8]) -> HTML { HTML(raw: String(decoding: bytes, as: UTF8.self)) }
}
