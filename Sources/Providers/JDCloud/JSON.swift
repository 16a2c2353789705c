internal import SecureMemory

/// A JSON value whose strings stay where they are: in borrowed bytes that are wiped later.
indirect enum JSON {
    case object([Member])
    case array([JSON])
    /// The bytes between the quotes, escapes and all.
    case string(Range<Int>)
    /// Nil for what is no 64-bit integer.
    case number(Int64?)
    case boolean
    case null

    struct Member {
        let name: String
        let value: JSON
    }

    /// These bytes are no JSON, or more of it than any answer has.
    struct Malformed: Error {}

    /// Reads a whole document, strictly: UTF-8, no name twice in an object, nothing behind it.
    init(parsing bytes: RawSpan) throws(Malformed) {
        guard bytes.isUTF8 else { throw Malformed() }
        var reader = Reader(end: bytes.byteCount)
        self = try reader.document(bytes)
    }

    /// The member of that name, if this is an object and has it; null counts as nothing.
    subscript(name: String) -> JSON? {
        guard case .object(let members) = self, let member = members.first(where: { $0.name == name }) else {
            return nil
        }
        if case .null = member.value { return nil }
        return member.value
    }

    /// The integer, if this is one.
    var integer: Int64? { if case .number(let value) = self { value } else { nil } }

    /// The items, if this is an array.
    var items: [JSON]? { if case .array(let items) = self { items } else { nil } }

    /// The public text, if this is a string.
    func text(in bytes: RawSpan) -> String? {
        guard case .string(let range) = self else { return nil }
        var text: [UInt8] = []
        Self.forEachByte(of: range, in: bytes) { text.append($0) }
        return String(validating: text, as: UTF8.self)
    }

    /// The secret text, if this is a string; it goes nowhere else.
    func secret(in bytes: RawSpan) -> SecretBytes? {
        guard case .string(let range) = self else { return nil }
        var count = 0
        Self.forEachByte(of: range, in: bytes) { _ in count += 1 }
        return SecretBytes(count: count) { cell in
            var offset = 0
            Self.forEachByte(of: range, in: bytes) { byte in
                cell.storeBytes(of: byte, toByteOffset: offset, as: UInt8.self)
                offset += 1
            }
        }
    }

    /// The bytes of a string that was read before, without its escapes.
    static func forEachByte(of range: Range<Int>, in bytes: RawSpan, _ body: (UInt8) -> Void) {
        var offset = range.lowerBound
        func unit() -> UInt32 {
            defer { offset += 4 }
            return (0..<4).reduce(0) { $0 << 4 | (bytes.byte(at: offset + $1).hexDigit ?? 0) }
        }
        while offset < range.upperBound {
            let byte = bytes.byte(at: offset)
            offset += 1
            guard byte == UInt8(ascii: "\\") else {
                body(byte)
                continue
            }
            let escape = bytes.byte(at: offset)
            offset += 1
            guard escape == UInt8(ascii: "u") else {
                body(escape.unescaped ?? escape)
                continue
            }
            var value = unit()
            if 0xD800..<0xDC00 ~= value {
                offset += 2  // the reader saw the other half
                value = 0x10000 + (value - 0xD800) << 10 + (unit() - 0xDC00)
            }
            guard let scalar = Unicode.Scalar(value) else { continue }
            for byte in String(scalar).utf8 { body(byte) }
        }
    }
}

/// Walks over the bytes once; each method leaves `offset` behind what it read.
private struct Reader {
    let end: Int
    var offset = 0
    /// More than any answer of a KMS has; a bound on memory.
    var valuesLeft = 10_000

    init(end: Int) { self.end = end }

    mutating func document(_ bytes: RawSpan) throws(JSON.Malformed) -> JSON {
        let value = try value(bytes, depth: 0)
        skipBlanks(bytes)
        guard offset == end else { throw JSON.Malformed() }
        return value
    }

    private mutating func value(_ bytes: RawSpan, depth: Int) throws(JSON.Malformed) -> JSON {
        valuesLeft -= 1
        guard depth < 16, valuesLeft > 0 else { throw JSON.Malformed() }
        skipBlanks(bytes)
        switch peek(bytes) {
        case UInt8(ascii: "{"): return try object(bytes, depth: depth)
        case UInt8(ascii: "["): return try array(bytes, depth: depth)
        case UInt8(ascii: "\""): return .string(try string(bytes))
        case UInt8(ascii: "t"): return try word("true", .boolean, bytes)
        case UInt8(ascii: "f"): return try word("false", .boolean, bytes)
        case UInt8(ascii: "n"): return try word("null", .null, bytes)
        default: return try number(bytes)
        }
    }

    private mutating func object(_ bytes: RawSpan, depth: Int) throws(JSON.Malformed) -> JSON {
        offset += 1
        var members: [JSON.Member] = []
        var names: Set<String> = []
        skipBlanks(bytes)
        if take("}", bytes) { return .object([]) }
        repeat {
            skipBlanks(bytes)
            guard let name = JSON.string(try string(bytes)).text(in: bytes), names.insert(name).inserted
            else {
                throw JSON.Malformed()
            }
            skipBlanks(bytes)
            guard take(":", bytes) else { throw JSON.Malformed() }
            members.append(JSON.Member(name: name, value: try value(bytes, depth: depth + 1)))
            skipBlanks(bytes)
        } while take(",", bytes)
        guard take("}", bytes) else { throw JSON.Malformed() }
        return .object(members)
    }

    private mutating func array(_ bytes: RawSpan, depth: Int) throws(JSON.Malformed) -> JSON {
        offset += 1
        var items: [JSON] = []
        skipBlanks(bytes)
        if take("]", bytes) { return .array([]) }
        repeat {
            items.append(try value(bytes, depth: depth + 1))
            skipBlanks(bytes)
        } while take(",", bytes)
        guard take("]", bytes) else { throw JSON.Malformed() }
        return .array(items)
    }

    private mutating func string(_ bytes: RawSpan) throws(JSON.Malformed) -> Range<Int> {
        guard take("\"", bytes) else { throw JSON.Malformed() }
        let start = offset
        while let byte = peek(bytes), byte != UInt8(ascii: "\"") {
            guard byte >= 0x20 else { throw JSON.Malformed() }
            offset += 1
            if byte == UInt8(ascii: "\\") { try escape(bytes) }
        }
        guard take("\"", bytes) else { throw JSON.Malformed() }
        return start..<offset - 1
    }

    private mutating func escape(_ bytes: RawSpan) throws(JSON.Malformed) {
        guard let byte = peek(bytes) else { throw JSON.Malformed() }
        offset += 1
        if byte.unescaped != nil { return }
        guard byte == UInt8(ascii: "u") else { throw JSON.Malformed() }
        let half = try unit(bytes)
        guard !(0xDC00..<0xE000 ~= half) else { throw JSON.Malformed() }
        guard 0xD800..<0xDC00 ~= half else { return }
        guard take("\\", bytes), take("u", bytes) else { throw JSON.Malformed() }
        guard 0xDC00..<0xE000 ~= (try unit(bytes)) else { throw JSON.Malformed() }
    }

    private mutating func unit(_ bytes: RawSpan) throws(JSON.Malformed) -> UInt32 {
        var value: UInt32 = 0
        for _ in 0..<4 {
            guard let digit = peek(bytes)?.hexDigit else { throw JSON.Malformed() }
            value = value << 4 | digit
            offset += 1
        }
        return value
    }

    private mutating func number(_ bytes: RawSpan) throws(JSON.Malformed) -> JSON {
        var text: [UInt8] = []
        while let byte = peek(bytes), byte.isDigit || "+-.eE".utf8.contains(byte) {
            text.append(byte)
            offset += 1
        }
        let digits = text.first == UInt8(ascii: "-") ? text.dropFirst() : text[...]
        guard let first = digits.first, first.isDigit, digits.last?.isDigit == true,
            first != UInt8(ascii: "0") || digits.count == 1 || digits.dropFirst().first?.isDigit == false,
            let written = String(validating: text, as: UTF8.self), Double(written) != nil
        else { throw JSON.Malformed() }
        return .number(Int64(written))
    }

    private mutating func word(
        _ word: StaticString, _ value: JSON, _ bytes: RawSpan
    ) throws(JSON.Malformed) -> JSON {
        for scalar in word.description.utf8 {
            guard peek(bytes) == scalar else { throw JSON.Malformed() }
            offset += 1
        }
        return value
    }

    private mutating func take(_ scalar: Unicode.Scalar, _ bytes: RawSpan) -> Bool {
        guard peek(bytes) == UInt8(ascii: scalar) else { return false }
        offset += 1
        return true
    }

    private mutating func skipBlanks(_ bytes: RawSpan) {
        while let byte = peek(bytes), byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 {
            offset += 1
        }
    }

    private func peek(_ bytes: RawSpan) -> UInt8? { offset < end ? bytes.byte(at: offset) : nil }
}

extension RawSpan {
    /// The byte at `offset`, which is inside.
    func byte(at offset: Int) -> UInt8 {
        // The call checks its bounds; every bit pattern is a UInt8.
        unsafe unsafeLoad(fromByteOffset: offset, as: UInt8.self)
    }

    var isUTF8: Bool {
        // Every bit pattern is a UInt8.
        unsafe (try? UTF8Span(validating: _unsafeView(as: UInt8.self))) != nil
    }
}

extension UInt8 {
    var isDigit: Bool { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(self) }

    fileprivate var hexDigit: UInt32? {
        switch self {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): UInt32(self - UInt8(ascii: "0"))
        case UInt8(ascii: "a")...UInt8(ascii: "f"): UInt32(self - UInt8(ascii: "a") + 10)
        case UInt8(ascii: "A")...UInt8(ascii: "F"): UInt32(self - UInt8(ascii: "A") + 10)
        default: nil
        }
    }

    /// What `\` and this byte mean in a string; nil where it means nothing.
    fileprivate var unescaped: UInt8? {
        switch self {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): self
        case UInt8(ascii: "b"): 8
        case UInt8(ascii: "f"): 12
        case UInt8(ascii: "n"): 10
        case UInt8(ascii: "r"): 13
        case UInt8(ascii: "t"): 9
        default: nil
        }
    }
}

/// Writes public text into a document of ours.
func jsonQuoted(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\"", "\\": result += "\\\(scalar)"
        case _ where scalar.value < 0x20:
            let digits = String(scalar.value, radix: 16)
            result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
        default: result.unicodeScalars.append(scalar)
        }
    }
    return result + "\""
}
