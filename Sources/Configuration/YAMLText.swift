/// A value as it is written back.
indirect enum Rendering: Sendable {
    case scalar(String)
    case list([Rendering])
    case blocks([[RenderedOption]])

    /// On one line; blocks have no such form.
    var inline: String {
        switch self {
        case .scalar(let text): text
        case .list(let items): "[\(items.map(\.inline).joined(separator: ", "))]"
        case .blocks: "[]"
        }
    }
}

/// An option with its value, ready to be written.
struct RenderedOption: Sendable {
    var path: String
    /// Nil when it is not set.
    var value: Rendering?
    var isDefault: Bool
}

/// Writes YAML that the strict reader takes back.
enum YAMLText {
    /// Stands where a secret would.
    static let redacted = "\"<redacted>\""

    /// Text as a scalar: bare where nobody can take it for something else, otherwise in double quotes.
    static func scalar(_ text: String) -> String {
        let marks = Set("/_.-".utf8)
        let isBare =
            text.utf8.first.map { $0.isASCIILetter || $0 == UInt8(ascii: "/") } ?? false
            && text.utf8.allSatisfy { $0.isASCIILetter || $0.isASCIIDigit || marks.contains($0) }
            && Scalar(text: text, isPlain: true).type == .text
            && !["yes", "no", "on", "off", "y", "n"].contains(text.lowercased())
        return isBare ? text : quoted(text)
    }

    private static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case _ where needsEscape(scalar):
                let digits = String(scalar.value, radix: 16)
                result += "\\U" + String(repeating: "0", count: 8 - digits.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }

    /// What YAML does not let stand as it is.
    private static func needsEscape(_ scalar: Unicode.Scalar) -> Bool {
        scalar.breaksLine || scalar.properties.isNoncharacterCodePoint
    }
}

extension Table {
    /// Every option with its value in `root`, without the blocks that `root` does not use.
    func render(_ root: Root) -> [RenderedOption] {
        let unused = alternatives?.blocks.filter { !$0.isUsed(root) }.map { $0.name + "." } ?? []
        return options.filter { option in !unused.contains(where: option.summary.path.hasPrefix) }
            .map { option in
                RenderedOption(
                    path: option.summary.path, value: option.render(root),
                    isDefault: !option.summary.isRequired && option.isEqual(root, blank))
            }
    }
}

extension Settings {
    /// The effective values as YAML, every option included: defaults carry the comment `# default`, options without a
    /// value stand in a comment, secrets are redacted.
    ///
    /// `parse` reads it back to equal settings, unless a secret was redacted.
    public func yaml() -> String {
        Printer.section("", of: Schema.file.render(self)).joined(separator: "\n") + "\n"
    }
}

private enum Printer {
    /// The lines of the options below `section`.
    static func section(_ section: String, of options: [RenderedOption]) -> [String] {
        let start = section.isEmpty ? "" : section + "."
        var lines: [String] = []
        var written: Set<String> = []
        for option in options where option.path.hasPrefix(start) {
            let rest = option.path.dropFirst(start.count)
            let name = String(rest.prefix { $0 != "." })
            guard written.insert(name).inserted else { continue }
            if name.count < rest.count {
                lines.append("\(name):")
                lines += self.section(start + name, of: options).map { "  " + $0 }
            } else {
                lines += self.option(option, named: name)
            }
        }
        return lines
    }

    private static func option(_ option: RenderedOption, named name: String) -> [String] {
        switch option.value {
        case nil:
            return ["# \(name): not set"]
        case .blocks(let blocks)? where !blocks.isEmpty:
            let lines = blocks.flatMap { block in
                section("", of: block).enumerated().map { ($0.offset == 0 ? "  - " : "    ") + $0.element }
            }
            return ["\(name):"] + lines
        case .some(let value):
            return ["\(name): \(value.inline)" + (option.isDefault ? " # default" : "")]
        }
    }
}
