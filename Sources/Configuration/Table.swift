/// What the reference page and the checks need to know of an option, whatever its type.
struct OptionSummary: Sendable {
    /// Dotted, relative to the table: `socket.max_connections`.
    var path: String
    /// Completes "expected …".
    var expected: String
    /// Whether it must be given where its block is given.
    var isRequired: Bool
    /// Whether its value is kept out of messages and of `config print`.
    var isSecret: Bool
    /// Whether a change of it is taken while the daemon runs.
    var reloads: Bool
    /// The default as it would be written; nil when there is none.
    var defaultText: String?
    /// What it does, for the reference page.
    var text: String
    /// The version that brought it.
    var since: String
    /// For a list of blocks: the options of one block.
    var entryOptions: [OptionSummary]

    /// The part before the last dot; empty at the top.
    var section: String { path.lastIndex(of: ".").map { String(path[..<$0]) } ?? "" }
    /// The part after the last dot.
    var name: String { path.lastIndex(of: ".").map { String(path[path.index(after: $0)...]) } ?? path }
}

/// One option of the file, bound to the property of `Root` that holds it.
struct Option<Root: Sendable>: Sendable {
    fileprivate(set) var summary: OptionSummary
    let read: @Sendable (_ node: Node, _ path: String, _ root: inout Root, _ pass: inout DecodingPass) -> Void
    let render: @Sendable (Root) -> Rendering?
    let isEqual: @Sendable (Root, Root) -> Bool
    let copy: @Sendable (_ from: Root, _ to: inout Root) -> Void

    init<Value>(
        _ path: String, _ property: any WritableKeyPath<Root, Value> & Sendable, _ kind: Kind<Value>,
        required isRequired: Bool = false, secret isSecret: Bool = false, reloads: Bool = false,
        since: String = "0.1",
        _ text: String
    ) {
        summary = OptionSummary(
            path: path, expected: kind.expected, isRequired: isRequired, isSecret: isSecret,
            reloads: reloads, text: text, since: since, entryOptions: kind.entryOptions)
        read = { node, path, root, pass in
            let value = pass.hidingValues(if: isSecret) { pass in kind.read(node, path, &pass) }
            if let value { root[keyPath: property] = value }
        }
        render = { root in
            let rendering = kind.render(root[keyPath: property])
            return isSecret && rendering != nil ? .scalar(YAMLText.redacted) : rendering
        }
        isEqual = { $0[keyPath: property] == $1[keyPath: property] }
        copy = { $1[keyPath: property] = $0[keyPath: property] }
    }
}

/// Blocks of a table of which exactly one must be given, such as the provider of a key.
struct Alternatives<Root: Sendable>: Sendable {
    /// What they are, in messages: `provider`.
    var noun: String
    /// The blocks.
    var blocks: [Block]

    struct Block: Sendable {
        var name: String
        /// Whether a value uses this block, so that `config print` writes it.
        var isUsed: @Sendable (Root) -> Bool
    }

    var names: [String] { blocks.map(\.name) }
}

/// The options of one block and the blocks below it: the one source of decoding, printing and the reference page.
struct Table<Root: Sendable>: Sendable {
    let options: [Option<Root>]
    /// Holds the defaults.
    let blank: Root
    let alternatives: Alternatives<Root>?

    init(blank: Root, alternatives: Alternatives<Root>? = nil, _ options: [Option<Root>]) {
        self.blank = blank
        self.alternatives = alternatives
        self.options = options.map { option in
            var option = option
            if !option.summary.isRequired {
                option.summary.defaultText = option.render(blank).map(\.inline)
            }
            return option
        }
    }

    /// The names that may stand in a section, in the order of the table.
    func names(in section: String) -> [String] {
        let start = section.isEmpty ? "" : section + "."
        var names: [String] = []
        for option in options where option.summary.path.hasPrefix(start) {
            let name = String(option.summary.path.dropFirst(start.count).prefix { $0 != "." })
            if !names.contains(name) { names.append(name) }
        }
        return names
    }

    func option(at path: String) -> Option<Root>? {
        options.first { $0.summary.path == path }
    }
}

// MARK: - Decoding

extension Table {
    /// Reads a block over the defaults; what is wrong is in `pass`, and then the result is good for cross-checks only.
    ///
    /// `owner` is where a missing option is reported.
    func decode(_ node: Node, path: String, owner: Mark, _ pass: inout DecodingPass) -> Root {
        var root = blank
        decode(node, section: "", path: path, owner: owner, into: &root, &pass)
        return root
    }

    private func decode(
        _ node: Node, section: String, path: String, owner: Mark, into root: inout Root,
        _ pass: inout DecodingPass
    ) {
        let names = names(in: section)
        var entries: [Node.Entry] = []
        if case .mapping(let given) = node.content {
            entries = given
        } else if !node.isNothing {
            // A block with nothing in it, its options all commented out, is a block of defaults.
            let what = path.isEmpty ? "the file" : "this block"
            return pass.refuse(
                node, for: path, expected: "NAME: VALUE lines", hint: "\(what) takes \(listed(names))",
                isBlock: true)
        }
        for entry in entries {
            let relative = joined(section, entry.key)
            let absolute = joined(path, entry.key)
            if let option = option(at: relative) {
                pass.place(absolute, at: entry.value.isNothing ? entry.mark : entry.value.mark)
                option.read(entry.value, absolute, &root, &pass)
            } else if names.contains(entry.key) {
                pass.place(absolute, at: entry.mark)
                decode(entry.value, section: relative, path: absolute, owner: entry.mark, into: &root, &pass)
            } else {
                pass.error(
                    joined(path, shown(entry.key)), at: entry.mark, unknown(entry, in: section, path: path))
            }
        }
        // A misspelt option is told of once, by its mistake.
        let given = Set(
            entries.map(\.key) + entries.compactMap { Spelling.nearest(to: $0.key, among: names) })
        for option in options where option.summary.section == section && option.summary.isRequired {
            if !given.contains(option.summary.name) {
                let missing = joined(path, option.summary.name)
                pass.error(missing, at: owner, "missing; expected \(option.summary.expected)")
            }
        }
        if section.isEmpty { checkAlternatives(entries, path: path, owner: owner, &pass) }
    }

    private func unknown(_ entry: Node.Entry, in section: String, path: String) -> String {
        let names = names(in: section)
        if let near = Spelling.nearest(to: entry.key, among: names) {
            return "unknown option; did you mean \(near)?"
        }
        if section.isEmpty, let alternatives, case .mapping = entry.value.content {
            return "unknown \(alternatives.noun) block; this version has \(listed(alternatives.names))"
        }
        let elsewhere = options.map(\.summary).filter { $0.name == entry.key }
        if let right = elsewhere.first, elsewhere.count == 1, right.section != section {
            return
                "unknown option here; it belongs into \(right.section.isEmpty ? "the file's top level" : right.section)"
        }
        let place = path.isEmpty ? "the top level" : path
        return "unknown option; \(place) takes \(listed(names))"
    }

    private func checkAlternatives(
        _ entries: [Node.Entry], path: String, owner: Mark, _ pass: inout DecodingPass
    ) {
        guard let alternatives else { return }
        let given = entries.filter { alternatives.names.contains($0.key) }
        for surplus in given.dropFirst() {
            let first = joined(path, given[0].key)
            pass.error(
                joined(path, surplus.key), at: surplus.mark,
                "a second \(alternatives.noun) block beside \(first); keep exactly one")
        }
        let known = names(in: "")
        let hasUnknownBlock = entries.contains { entry in
            if case .mapping = entry.value.content { !known.contains(entry.key) } else { false }
        }
        if given.isEmpty, !hasUnknownBlock {
            pass.error(
                path, at: owner,
                "no \(alternatives.noun) block; give exactly one of \(listed(alternatives.names))")
        }
    }

    private func joined(_ path: String, _ name: String) -> String {
        path.isEmpty ? name : "\(path).\(name)"
    }

    /// A name that the file made up: as it is when it could be an option, otherwise quoted.
    private func shown(_ name: String) -> String {
        guard mayBeShown(name: name) else { return "(a name that is not shown)" }
        let isPlain = name.utf8.allSatisfy { $0.isASCIILetter || $0.isASCIIDigit || $0 == UInt8(ascii: "_") }
        return isPlain && !name.isEmpty ? name : quoted(name)
    }

    private func listed(_ names: [String]) -> String {
        names.joined(separator: ", ")
    }
}
