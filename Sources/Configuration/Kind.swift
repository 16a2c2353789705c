/// What an option accepts: how it is said in words, read from a node and written back.
struct Kind<Value: Sendable & Equatable>: Sendable {
    /// Completes the sentence "expected …" and fills the reference page.
    let expected: String
    /// For a list of blocks: the options of one block, with paths relative to it.
    var entryOptions: [OptionSummary] = []
    /// Reads a value, or reports why it cannot and gives nil.
    let read: @Sendable (_ node: Node, _ path: String, _ pass: inout DecodingPass) -> Value?
    /// Writes a value; nil means that the option is not set.
    let render: @Sendable (Value) -> Rendering?
}

/// Why a scalar was refused, beyond what is expected.
struct Refusal: Error {
    var hint: String?

    init(_ hint: String? = nil) {
        self.hint = hint
    }
}

extension Kind {
    /// A kind written as one scalar.
    static func scalar(
        _ expected: String, render: @escaping @Sendable (Value) -> String,
        read: @escaping @Sendable (Scalar) throws(Refusal) -> Value
    ) -> Kind {
        Kind(expected: expected) { node, path, pass in
            guard case .scalar(let scalar) = node.content else {
                pass.refuse(node, for: path, expected: expected)
                return nil
            }
            do throws(Refusal) {
                return try read(scalar)
            } catch {
                pass.refuse(node, for: path, expected: expected, hint: error.hint)
                return nil
            }
        } render: {
            .scalar(render($0))
        }
    }

    /// The same values, or none: an option that may be left out and has no default.
    static func optional<Wrapped>(_ kind: Kind<Wrapped>) -> Kind where Value == Wrapped? {
        Kind(expected: kind.expected) { node, path, pass in
            kind.read(node, path, &pass).map(Optional.some)
        } render: {
            $0.flatMap(kind.render)
        }
    }

    /// A list of values; one given twice earns a warning.
    static func list<Element: Hashable>(
        _ noun: String, of kind: Kind<Element>, atMost limit: Int
    ) -> Kind where Value == [Element] {
        let expected = "a list of at most \(limit) \(noun)"
        return Kind(expected: "\(expected), each \(kind.expected)") { node, path, pass in
            guard case .list(let items) = node.content else {
                let hint = node.isNothing ? "write [] for an empty list" : "put it in brackets, as in [VALUE]"
                if case .mapping = node.content {
                    pass.refuse(node, for: path, expected: expected)
                } else {
                    pass.refuse(node, for: path, expected: expected, hint: hint)
                }
                return nil
            }
            guard items.count <= limit else {
                pass.error(path, at: node.mark, "expected \(expected), found \(items.count)")
                return nil
            }
            var seen: Set<Element> = []
            var values: [Element] = []
            for (index, item) in items.enumerated() {
                let itemPath = "\(path)[\(index)]"
                pass.place(itemPath, at: item.mark)
                guard let value = kind.read(item, itemPath, &pass) else { continue }
                if !seen.insert(value).inserted {
                    pass.warning(itemPath, at: item.mark, "given twice; once is enough")
                }
                values.append(value)
            }
            return values
        } render: { values in
            .list(values.compactMap(kind.render))
        }
    }

    /// A list of blocks, each with the options of `table`; at least one.
    static func blocks<Root>(of table: Table<Root>, atMost limit: Int) -> Kind where Value == [Root] {
        let expected = "a list of 1 to \(limit) blocks"
        return Kind(expected: expected, entryOptions: table.options.map(\.summary)) { node, path, pass in
            guard case .list(let items) = node.content else {
                let hint = "begin each block with \"- \""
                pass.refuse(node, for: path, expected: expected, hint: hint)
                return nil
            }
            guard (1...limit).contains(items.count) else {
                pass.error(path, at: node.mark, "expected \(expected), found \(items.count)")
                return nil
            }
            return items.enumerated().map { index, item in
                let itemPath = "\(path)[\(index)]"
                pass.place(itemPath, at: item.mark)
                return table.decode(item, path: itemPath, owner: item.mark, &pass)
            }
        } render: { blocks in
            .blocks(blocks.map(table.render))
        }
    }
}

extension Kind where Value == String {
    /// Text without control characters, at most `limit` bytes, for which `check` finds no fault.
    static func text(
        _ expected: String, bytes: ClosedRange<Int>,
        check: @escaping @Sendable (String) throws(Refusal) -> Void = { (_) throws(Refusal) in }
    ) -> Kind {
        .scalar(expected, render: YAMLText.scalar) { scalar throws(Refusal) in
            switch scalar.type {
            case .text: break
            case .nothing: throw Refusal(bytes.contains(0) ? #"write "" for an empty text"# : nil)
            case .boolean, .number: throw Refusal("put it in quotes if it is meant as text")
            }
            guard !scalar.text.unicodeScalars.contains(where: \.breaksLine) else {
                throw Refusal("control characters are not allowed")
            }
            try check(scalar.text)
            let count = scalar.text.utf8.count
            guard bytes.contains(count) else { throw Refusal("it has \(count) bytes") }
            return scalar.text
        }
    }

    /// A path of a file or directory.
    static let path = text("a path of 1 to 4095 bytes", bytes: 1...4095)
}

extension Kind where Value: FixedWidthInteger {
    /// A whole number.
    static func integer(_ range: ClosedRange<Value>) -> Kind {
        .scalar("an integer from \(range.lowerBound) to \(range.upperBound)", render: { String($0) }) {
            scalar throws(Refusal) in
            guard scalar.isPlain else {
                throw Refusal(Value(scalar.text) == nil ? nil : "write it without quotes")
            }
            let isOctal = scalar.text.utf8.count > 1 && scalar.text.hasPrefix("0")
            guard let value = Value(scalar.text), range.contains(value) else { throw Refusal() }
            guard !isOctal else { throw Refusal("write it without leading zeros") }
            return value
        }
    }
}

extension Kind where Value == Bool {
    /// `true` or `false`, and none of YAML 1.1's other spellings.
    static let boolean = scalar("true or false", render: { $0 ? "true" : "false" }) {
        scalar throws(Refusal) in
        switch (scalar.isPlain, scalar.text) {
        case (true, "true"): return true
        case (true, "false"): return false
        case (false, "true"), (false, "false"): throw Refusal("write it without quotes")
        default:
            let meaning = ["yes": "true", "on": "true", "no": "false", "off": "false"][
                scalar.text.lowercased()]
            throw Refusal(
                (meaning ?? Spelling.nearest(to: scalar.text, among: ["true", "false"])).map { "write \($0)" }
            )
        }
    }
}

extension Kind where Value: RawRepresentable & CaseIterable, Value.RawValue == String {
    /// One of a few words.
    static var choice: Kind {
        let words = Value.allCases.map(\.rawValue)
        let expected =
            words.count == 2 ? words.joined(separator: " or ") : "one of \(words.joined(separator: ", "))"
        return .scalar(expected, render: { YAMLText.scalar($0.rawValue) }) { scalar throws(Refusal) in
            guard let value = Value(rawValue: scalar.text) else {
                throw Refusal(Spelling.nearest(to: scalar.text, among: words).map { "did you mean \($0)?" })
            }
            return value
        }
    }
}

extension Kind where Value == Duration {
    /// A whole number of units, within bounds.
    static func duration(_ range: ClosedRange<Duration>) -> Kind {
        let bounds = "\(DurationText.render(range.lowerBound)) to \(DurationText.render(range.upperBound))"
        return .scalar("a duration from \(bounds)", render: DurationText.render) { scalar throws(Refusal) in
            guard let value = DurationText.parse(scalar.text) else {
                throw Refusal(
                    UInt64(scalar.text) == nil
                        ? "write whole numbers with units (d, h, m, s, ms), largest first, as in 90s or 1h30m"
                        : "add a unit (d, h, m, s, ms), as in 90s")
            }
            guard range.contains(value) else { throw Refusal() }
            return value
        }
    }
}

extension Kind where Value == UInt32 {
    /// The permission bits of the socket file; in octal, so that nobody has to guess what 600 means.
    static let socketMode = scalar(
        "an octal mode such as \"0600\" or \"0660\", never world-writable",
        render: { mode in
            let digits = String(mode, radix: 8)
            return "\"\(String(repeating: "0", count: max(0, 4 - digits.count)))\(digits)\""
        },
        read: { scalar throws(Refusal) in
            let digits = scalar.text.dropFirst(scalar.text.hasPrefix("0o") ? 2 : 0)
            guard !digits.isEmpty, digits.utf8.allSatisfy(\.isASCIIDigit) else { throw Refusal() }
            guard scalar.text.hasPrefix("0") else { throw Refusal("begin it with 0, as in \"0600\"") }
            guard let mode = UInt32(digits, radix: 8) else { throw Refusal("octal digits are 0 to 7") }
            guard mode & 0o002 == 0 else {
                throw Refusal(
                    "any user of this machine could use the keys; set socket.group or allow.uids instead")
            }
            guard mode <= 0o777 else { throw Refusal("only permission bits can be set") }
            return mode
        })
}

extension Kind where Value == Settings.Account {
    /// A user or group, by name or number.
    static func account(_ noun: String) -> Kind {
        // The last number means "leave unchanged" to chown(2), so nobody has it.
        let largest = UInt32.max - 1
        return .scalar(
            "a \(noun) name, or a number from 0 to \(largest)",
            render: { account in
                switch account {
                case .number(let number): String(number)
                case .name(let name): YAMLText.scalar(name)
                }
            },
            read: { scalar throws(Refusal) in
                if !scalar.text.isEmpty, scalar.text.utf8.allSatisfy(\.isASCIIDigit) {
                    guard let number = UInt32(scalar.text), number <= largest else { throw Refusal() }
                    return .number(number)
                }
                let marks = Set("_.-@$".utf8)
                let isName = scalar.text.utf8.allSatisfy {
                    $0.isASCIILetter || $0.isASCIIDigit || marks.contains($0)
                }
                guard scalar.type == .text, isName, let first = scalar.text.utf8.first,
                    first.isASCIILetter || first == UInt8(ascii: "_"), scalar.text.utf8.count <= 256
                else { throw Refusal() }
                return .name(scalar.text)
            })
    }
}

extension UInt8 {
    var isASCIIDigit: Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(self) }
    var isASCIILowercase: Bool { (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(self) }
    var isASCIILetter: Bool { isASCIILowercase || (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(self) }
}
