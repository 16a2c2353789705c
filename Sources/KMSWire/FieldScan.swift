/// Where the fields of one message lie, checked against the message's table, nothing copied yet.
///
/// Of a field that occurs more than once the last one counts; each occurrence is held to the field's rules.
struct FieldScan {
    struct Entry {
        let key: Range<Int>
        let value: Range<Int>
    }

    /// By field number less one; no message has a higher number than 4.
    private var ranges = [4 of Range<Int>](repeating: 0..<0)
    private(set) var entries: [Entry] = []
    private var annotationBytes = 0

    /// Walks `span` once; time and memory are linear in its length.
    init(_ message: WireMessage, _ span: RawSpan) throws(WireError) {
        var offsets = [4 of Int](repeating: span.byteCount)
        var cursor = FieldCursor(message, 0..<span.byteCount)
        while let tag = try cursor.next(span) {
            guard let field = message.field(tag.number) else {
                try cursor.skipUnknown(tag, span)
                continue
            }
            let value = try cursor.value(of: tag, span)
            if field.content == .annotation {
                try append(value, of: field, at: tag.offset, message, span)
                continue
            }
            try field.check(message, span.extracting(value), at: tag.offset)
            ranges[tag.number - 1] = value
            offsets[tag.number - 1] = tag.offset
        }
        for field in message.fields where field.isRequired && ranges[field.number - 1].isEmpty {
            throw WireError(.empty, message, field: field.number, at: offsets[field.number - 1])
        }
    }

    /// Where the field's value lies; empty if it is not there.
    subscript(_ number: Int) -> Range<Int> { ranges[number - 1] }

    private mutating func append(
        _ range: Range<Int>, of field: WireField, at offset: Int, _ message: WireMessage, _ span: RawSpan
    ) throws(WireError) {
        var key = 0..<0
        var value = 0..<0
        var cursor = FieldCursor(message, range, enclosing: field.number)
        while let tag = try cursor.next(span) {
            switch tag.number {
            case 1: key = try cursor.value(of: tag, span)
            case 2: value = try cursor.value(of: tag, span)
            default: try cursor.skipUnknown(tag, span)
            }
        }
        annotationBytes += key.count + value.count
        guard annotationBytes <= field.limit else {
            throw WireError(
                .tooLong, message, field: field.number, at: offset, found: annotationBytes, limit: field.limit
            )
        }
        guard isFullyQualified(span.extracting(key)) else {
            throw WireError(.invalidAnnotationKey, message, field: field.number, at: offset)
        }
        entries.append(Entry(key: key, value: value))
    }
}

extension FieldScan {
    /// A copy of a field of public bytes.
    func bytes(_ number: Int, _ span: RawSpan) -> [UInt8] { array(span.extracting(self[number])) }

    /// A field of text, which the scan has found to be UTF-8.
    func text(_ number: Int, _ span: RawSpan) -> String {
        guard let text = KMSWire.text(span.extracting(self[number])) else {
            preconditionFailure("text was checked by the scan")
        }
        return text
    }

    /// The map, sorted by key; of a key that occurs more than once the last value counts.
    func annotations(_ span: RawSpan) -> [Annotation] {
        var newest: [String: Range<Int>] = [:]
        for entry in entries {
            guard let key = KMSWire.text(span.extracting(entry.key)) else {
                preconditionFailure("keys were checked by the scan")
            }
            newest[key] = entry.value
        }
        return newest.sorted { $0.key < $1.key }
            .map { Annotation(key: $0.key, value: array(span.extracting($0.value))) }
    }
}

extension WireField {
    /// Holds one occurrence of the field to its rules, except that it be there at all.
    func check(_ message: WireMessage, _ value: RawSpan, at offset: Int) throws(WireError) {
        guard value.byteCount <= limit else {
            throw WireError(
                .tooLong, message, field: number, at: offset, found: value.byteCount, limit: limit)
        }
        switch content {
        case .bytes, .annotation: return
        case .text, .printable, .apiVersion: break
        }
        // Nearly all text is plain ASCII, and needs no String to be judged.
        if content != .apiVersion, isPrintableASCII(value) { return }
        guard let text = text(value) else {
            throw WireError(.invalidUTF8, message, field: number, at: offset)
        }
        if content == .printable, !text.isPrintable {
            throw WireError(.notPrintable, message, field: number, at: offset)
        }
        if content == .apiVersion, !text.isEmpty, text != v1APIVersion {
            throw WireError(.unsupportedVersion, message, field: number, at: offset)
        }
    }
}

/// What `version` is in every v1beta1 request.
let v1APIVersion = "v1beta1"

extension String {
    /// Nothing that could break, forge or hide part of a log line.
    fileprivate var isPrintable: Bool {
        unicodeScalars.allSatisfy { scalar in
            switch scalar.properties.generalCategory {
            case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate: false
            default: true
            }
        }
    }
}

private func isPrintableASCII(_ value: RawSpan) -> Bool {
    var isASCII = true
    for index in 0..<value.byteCount where byte(value, at: index) &- 0x20 > 0x5e { isASCII = false }
    return isASCII
}

/// The API server's rule: lower-case labels of 1 to 63 letters, digits and inner hyphens, at least two of them, 253
/// bytes at most, one dot at the end allowed.
func isFullyQualified(_ name: RawSpan) -> Bool {
    var length = name.byteCount
    if length > 0, byte(name, at: length - 1) == UInt8(ascii: ".") { length -= 1 }
    guard length <= 253 else { return false }
    var labels = 0
    var start = 0
    for index in 0...length where index == length || byte(name, at: index) == UInt8(ascii: ".") {
        guard (1...63).contains(index - start) else { return false }
        for inner in start..<index {
            let isEdge = inner == start || inner == index - 1
            switch byte(name, at: inner) {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"): continue
            case UInt8(ascii: "-") where !isEdge: continue
            default: return false
            }
        }
        labels += 1
        start = index + 1
    }
    return labels >= 2
}
