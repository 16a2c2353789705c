private import CYAML

/// Reads one strict YAML document (JSON being a subset) into a tree of nodes.
///
/// Refused, each with its place: anything but UTF-8, more than one document, anchors, aliases, tags, merge keys, keys
/// that are not text, keys given twice, and input beyond the limits below.
enum YAMLReader {
    /// The largest file read, in bytes.
    static let byteLimit = 1 << 20
    /// The deepest nesting; the schema needs 4.
    static let depthLimit = 16
    /// The most values in one file; a bound on memory and on the number of diagnostics.
    static let nodeLimit = 10_000

    struct Problem: Error, Equatable {
        var mark: Mark
        var message: String
    }

    /// The root (nil for an empty document) and what was wrong; after a syntax error there is no root.
    static func read(_ bytes: [UInt8]) -> (root: Node?, problems: [Problem]) {
        guard bytes.count <= byteLimit else {
            let message =
                "the file is larger than \(byteLimit) bytes; a configuration file needs a few thousand"
            return (nil, [Problem(mark: .start, message: message)])
        }
        let byteOrderMark: [UInt8] = [0xEF, 0xBB, 0xBF]
        let text = bytes.starts(with: byteOrderMark) ? Array(bytes.dropFirst(byteOrderMark.count)) : bytes
        return unsafe text.withUnsafeBufferPointer { text in
            var builder = TreeBuilder(events: unsafe EventStream(of: text))
            do throws(Problem) {
                let root = try builder.document()
                return (root, builder.problems)
            } catch {
                return (nil, builder.problems + [error])
            }
        }
    }
}

/// One event of libyaml, copied out of C.
private struct Event {
    enum Content {
        case streamStart, streamEnd
        case documentStart(hasTagDirectives: Bool), documentEnd
        case alias
        case scalar(Scalar)
        case listStart, mappingStart, end
    }

    var mark: Mark
    var content: Content
    var hasAnchor = false
    var hasTag = false
}

/// libyaml's parser over borrowed bytes; lives inside `YAMLReader.read`, shorter than the bytes.
@safe private struct EventStream: ~Copyable {
    private let parser: UnsafeMutablePointer<yaml_parser_t>
    private let text: UnsafeBufferPointer<UInt8>
    private let isReady: Bool

    /// Unsafe because it keeps the pointer: the caller must let `text` outlive the stream.
    @unsafe init(of text: UnsafeBufferPointer<UInt8>) {
        unsafe self.text = text
        unsafe parser = .allocate(capacity: 1)
        unsafe parser.initialize(to: yaml_parser_t())
        isReady = unsafe yaml_parser_initialize(parser) == 1
        guard isReady else { return }
        unsafe yaml_parser_set_encoding(parser, YAML_UTF8_ENCODING)
        unsafe yaml_parser_set_input_string(parser, text.baseAddress, text.count)
    }

    deinit {
        if isReady { unsafe yaml_parser_delete(parser) }
        unsafe parser.deallocate()
    }

    mutating func next() throws(YAMLReader.Problem) -> Event {
        guard isReady else { throw YAMLReader.Problem(mark: .start, message: "out of memory") }
        var event = unsafe yaml_event_t()
        guard unsafe yaml_parser_parse(parser, &event) == 1 else { throw problem() }
        defer { unsafe yaml_event_delete(&event) }
        let mark = unsafe Mark(event.start_mark)
        switch unsafe event.type {
        case YAML_STREAM_START_EVENT:
            return Event(mark: mark, content: .streamStart)
        case YAML_DOCUMENT_START_EVENT:
            let tags = unsafe event.data.document_start.tag_directives
            return Event(
                mark: mark, content: .documentStart(hasTagDirectives: unsafe tags.start != tags.end))
        case YAML_DOCUMENT_END_EVENT:
            return Event(mark: mark, content: .documentEnd)
        case YAML_ALIAS_EVENT:
            return Event(mark: mark, content: .alias)
        case YAML_SCALAR_EVENT:
            let scalar = unsafe event.data.scalar
            let bytes = unsafe UnsafeBufferPointer(start: scalar.value, count: scalar.length)
            let content = unsafe Scalar(
                text: String(decoding: bytes, as: UTF8.self), isPlain: scalar.style == YAML_PLAIN_SCALAR_STYLE
            )
            return unsafe Event(
                mark: mark, content: .scalar(content), hasAnchor: scalar.anchor != nil,
                hasTag: scalar.tag != nil)
        case YAML_SEQUENCE_START_EVENT:
            let start = unsafe event.data.sequence_start
            return unsafe Event(
                mark: mark, content: .listStart, hasAnchor: start.anchor != nil, hasTag: start.tag != nil)
        case YAML_MAPPING_START_EVENT:
            let start = unsafe event.data.mapping_start
            return unsafe Event(
                mark: mark, content: .mappingStart, hasAnchor: start.anchor != nil, hasTag: start.tag != nil)
        case YAML_SEQUENCE_END_EVENT, YAML_MAPPING_END_EVENT:
            return Event(mark: mark, content: .end)
        default:
            return Event(mark: mark, content: .streamEnd)
        }
    }

    /// libyaml's error in plain words, at the place where an operator would look first.
    private func problem() -> YAMLReader.Problem {
        let said = unsafe parser.pointee.problem.map { unsafe String(cString: $0) } ?? "out of memory"
        let context = unsafe parser.pointee.context.map { unsafe String(cString: $0) }
        if unsafe parser.pointee.error == YAML_READER_ERROR {
            let message =
                said == "control characters are not allowed"
                ? "a control character; remove it, or write it as an escape in double quotes"
                : "not valid UTF-8 (\(said)); save the file as UTF-8"
            // A broken sequence is reported at the byte that breaks it; its character begins before.
            var offset = unsafe parser.pointee.problem_offset
            if said == "invalid trailing UTF-8 octet" {
                repeat { offset -= 1 } while offset > 0 && byte(at: offset).map { $0 < 0xC0 } ?? true
            }
            return YAMLReader.Problem(mark: mark(ofByte: offset), message: message)
        }
        let place = unsafe Mark(parser.pointee.problem_mark)
        let opening = unsafe context == nil ? place : Mark(parser.pointee.context_mark)
        let (mark, message): (Mark, String) =
            switch said {
            case "found character that cannot start any token"
            where unsafe isTab(atCharacter: parser.pointee.problem_mark.index):
                (place, "a tab; indent with spaces")
            case "found character that cannot start any token":
                (place, "a value cannot start with this character; put the value in quotes")
            case "found a tab character that violates indentation",
                "found a tab character where an indentation space is expected":
                (place, "a tab; indent with spaces")
            case "mapping values are not allowed in this context":
                (
                    place,
                    #"":" cannot stand here; check the indentation, or put a value that contains ": " in quotes"#
                )
            case "could not find expected ':'":
                (opening, #"expected NAME: VALUE, but there is no ":" in this line"#)
            case "block sequence entries are not allowed in this context":
                (place, #""- " cannot stand here; check the indentation"#)
            case "did not find expected key":
                (place, "expected NAME: VALUE here; the indentation does not match the lines above")
            case "did not find expected '-' indicator":
                (place, #"expected "- " here; the indentation does not match the entries above"#)
            case "did not find expected ',' or ']'":
                (
                    place,
                    #"expected "," or "]" here; the "[" at \#(opening.line):\#(opening.column) is not closed"#
                )
            case "did not find expected ',' or '}'":
                (
                    place,
                    #"expected "," or "}" here; the "{" at \#(opening.line):\#(opening.column) is not closed"#
                )
            case "found unexpected end of stream", "found unexpected document indicator":
                (opening, "a quote that is opened here is not closed")
            case "found unknown escape character":
                (place, #"an unknown escape in double quotes; write \\ for a backslash"#)
            case "did not find expected <document start>":
                (place, "unexpected text after the options; check the indentation")
            case "did not find expected node content":
                (place, "expected a value here")
            default:
                (place, "not valid YAML: \(said)\(context.map { " \($0)" } ?? "")")
            }
        return YAMLReader.Problem(mark: mark, message: message)
    }

    private func byte(at index: Int) -> UInt8? {
        unsafe text.indices.contains(index) ? text[index] : nil
    }

    /// Marks count characters, not bytes.
    private func isTab(atCharacter index: Int) -> Bool {
        unsafe text.lazy.filter { $0 & 0xC0 != 0x80 }.dropFirst(index).first == UInt8(ascii: "\t")
    }

    private func mark(ofByte offset: Int) -> Mark {
        var mark = Mark.start
        for index in unsafe 0..<min(offset, text.count) {
            let byte = unsafe text[index]
            if byte == UInt8(ascii: "\n") {
                mark = Mark(line: mark.line + 1, column: 1)
            } else if byte & 0xC0 != 0x80 {
                mark.column += 1
            }
        }
        return mark
    }
}

extension Mark {
    fileprivate init(_ mark: yaml_mark_t) {
        self.init(line: mark.line + 1, column: mark.column + 1)
    }
}

/// Builds the tree from events; what can be passed over is noted, what cannot is thrown.
private struct TreeBuilder: ~Copyable {
    typealias Problem = YAMLReader.Problem

    private var events: EventStream
    private(set) var problems: [Problem] = []
    private var nodes = 0

    init(events: consuming EventStream) {
        self.events = events
    }

    mutating func document() throws(Problem) -> Node? {
        _ = try events.next()
        let start = try events.next()
        guard case .documentStart(let hasTagDirectives) = start.content else { return nil }
        if hasTagDirectives { note(start, "%TAG is not supported; remove the line") }
        let root = try node(at: try events.next(), depth: 1)
        _ = try events.next()
        let next = try events.next()
        if case .documentStart = next.content {
            throw Problem(mark: next.mark, message: "a second document; a configuration is one document")
        }
        return root
    }

    private mutating func node(at event: Event, depth: Int) throws(Problem) -> Node {
        nodes += 1
        guard nodes <= YAMLReader.nodeLimit else {
            throw Problem(mark: event.mark, message: "more than \(YAMLReader.nodeLimit) values in one file")
        }
        guard depth <= YAMLReader.depthLimit else {
            throw Problem(mark: event.mark, message: "nested deeper than \(YAMLReader.depthLimit) levels")
        }
        if event.hasAnchor {
            note(event, "anchors (&name) are not supported; write the value where it is needed")
        }
        if event.hasTag {
            note(event, "tags (!name) are not supported; remove it, and quote the value if it is text")
        }
        switch event.content {
        case .scalar(let scalar):
            return Node(mark: event.mark, content: .scalar(scalar))
        case .listStart:
            return Node(mark: event.mark, content: .list(try list(depth: depth)))
        case .mappingStart:
            return Node(mark: event.mark, content: .mapping(try mapping(depth: depth)))
        case .alias:
            note(event, "aliases (*name) are not supported; write the value out")
            return Node(mark: event.mark, content: .refused)
        case .streamStart, .streamEnd, .documentStart, .documentEnd, .end:
            // libyaml's grammar gives none of these here.
            throw Problem(mark: event.mark, message: "not valid YAML: expected a value")
        }
    }

    private mutating func list(depth: Int) throws(Problem) -> [Node] {
        var items: [Node] = []
        while true {
            let event = try events.next()
            if case .end = event.content { return items }
            items.append(try node(at: event, depth: depth + 1))
        }
    }

    private mutating func mapping(depth: Int) throws(Problem) -> [Node.Entry] {
        var entries: [Node.Entry] = []
        var firstLine: [String: Int] = [:]
        while true {
            let event = try events.next()
            if case .end = event.content { return entries }
            let key = try node(at: event, depth: depth + 1)
            let value = try node(at: try events.next(), depth: depth + 1)
            switch key.content {
            case .scalar(let scalar):
                if let line = firstLine[scalar.text] {
                    note(event, "\(quoted(scalar.text)) is given twice, first in line \(line); keep one")
                } else {
                    firstLine[scalar.text] = event.mark.line
                    entries.append(Node.Entry(key: scalar.text, mark: key.mark, value: value))
                }
            case .list, .mapping:
                note(event, "the name of an option must be text, found \(key.found)")
            case .refused:
                break
            }
        }
    }

    private mutating func note(_ event: Event, _ message: String) {
        problems.append(Problem(mark: event.mark, message: message))
    }
}
