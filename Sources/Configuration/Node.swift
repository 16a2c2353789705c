/// Where a node starts, from 1; the file's name is added when a diagnostic is made.
struct Mark: Sendable, Hashable, Comparable {
    var line: Int
    var column: Int

    static let start = Mark(line: 1, column: 1)

    static func < (one: Mark, other: Mark) -> Bool {
        (one.line, one.column) < (other.line, other.column)
    }
}

/// One value of the document, with its place.
struct Node: Sendable {
    indirect enum Content: Sendable {
        case scalar(Scalar)
        case list([Node])
        case mapping([Entry])
        /// Something the reader already reported; whoever meets it stays silent.
        case refused
    }

    struct Entry: Sendable {
        var key: String
        var mark: Mark
        var value: Node
    }

    var mark: Mark
    var content: Content

    var isNothing: Bool {
        if case .scalar(let scalar) = content { scalar.type == .nothing } else { false }
    }

    /// What stands here, in the words of a message: `found …`, where the text itself is not to be seen.
    var foundKind: String {
        if case .scalar(let scalar) = content, scalar.type != .nothing { return "a single value" }
        return found
    }

    /// What stands here, in the words of a message: `found …`.
    var found: String {
        switch content {
        case .scalar(let scalar):
            switch scalar.type {
            case .nothing: "nothing"
            case .boolean, .number: scalar.text
            case .text: quoted(scalar.text)
            }
        case .list: "a list"
        case .mapping: "a block of options"
        case .refused: "something refused"
        }
    }
}

/// A scalar as written: YAML gives an unquoted one its type by its spelling, a quoted one is always text.
struct Scalar: Sendable {
    enum ScalarType: Sendable { case nothing, boolean, number, text }

    var text: String
    var isPlain: Bool

    var type: ScalarType {
        guard isPlain else { return .text }
        switch text {
        case "", "~", "null", "Null", "NULL": return .nothing
        case "true", "True", "TRUE", "false", "False", "FALSE": return .boolean
        default: break
        }
        guard let first = text.utf8.first(where: { $0 != UInt8(ascii: "-") && $0 != UInt8(ascii: "+") }),
            (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(first) || first == UInt8(ascii: ".")
        else { return .text }
        let isOctal = text.hasPrefix("0o") && UInt64(text.dropFirst(2), radix: 8) != nil
        let isSpecial = [".inf", ".nan"].contains(text.lowercased().drop { $0 == "-" || $0 == "+" })
        return isOctal || isSpecial || Double(text) != nil ? .number : .text
    }
}

/// Whether a name that nobody knows may be in a message: a longer one than any option's may be a secret that lost its name.
func mayBeShown(name: String) -> Bool { name.utf8.count <= 20 }

/// The text in quotes for a message: escaped, and cut when long.
func quoted(_ text: String) -> String {
    let limit = 60
    let shown = String(String.UnicodeScalarView(text.unicodeScalars.prefix(limit)))
    let escaped = oneLine(
        shown.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: "\\\""))
    return text.unicodeScalars.count > limit ? "\"\(escaped)…\"" : "\"\(escaped)\""
}
