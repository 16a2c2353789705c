/// Walks the fields of a message, or of a map entry within it, over bytes that it does not own.
///
/// Offsets count from the start of the whole message. Every step ends at or before `end`.
struct FieldCursor {
    struct Tag {
        let number: Int
        let wireType: WireType
        /// Where the tag begins.
        let offset: Int
    }

    enum WireType: Int {
        case varint = 0
        case fixed64 = 1
        case lengthDelimited = 2
        case groupStart = 3
        case groupEnd = 4
        case fixed32 = 5
    }

    private let message: WireMessage
    /// The map field that the cursor is inside of; errors name it, not the entry's own 1 and 2.
    private let enclosing: Int?
    private let end: Int
    private var offset: Int

    init(_ message: WireMessage, _ range: Range<Int>, enclosing: Int? = nil) {
        self.message = message
        self.enclosing = enclosing
        offset = range.lowerBound
        end = range.upperBound
    }

    /// The next field's tag; nil at the end.
    mutating func next(_ span: RawSpan) throws(WireError) -> Tag? {
        guard offset < end else { return nil }
        let start = offset
        // 32 bits: five bytes, the last of which has four bits to give.
        let raw = try varint(span, atMost: 5, field: enclosing, from: start)
        let number = Int(raw >> 3)
        guard number > 0, raw <= UInt64(UInt32.max) else {
            throw WireError(.invalidFieldNumber, message, field: enclosing, at: start)
        }
        guard let wireType = WireType(rawValue: Int(raw & 7)) else {
            throw WireError(
                .invalidWireType, message, field: enclosing ?? number, at: start, found: Int(raw & 7))
        }
        return Tag(number: number, wireType: wireType, offset: start)
    }

    /// Where the value of a length-delimited field lies; steps over it.
    mutating func value(of tag: Tag, _ span: RawSpan) throws(WireError) -> Range<Int> {
        let field = enclosing ?? tag.number
        guard tag.wireType == .lengthDelimited else {
            throw WireError(
                .wrongWireType, message, field: field, at: tag.offset, found: tag.wireType.rawValue)
        }
        let raw = try varint(span, atMost: 5, field: field, from: tag.offset)
        let left = end - offset
        guard let length = Int(exactly: raw), length <= left else {
            throw WireError(
                .lengthBeyondEnd, message, field: field, at: tag.offset, found: Int(clamping: raw),
                limit: left)
        }
        defer { offset += length }
        return offset..<offset + length
    }

    /// Steps over a field of any type: `unknownField` in a request.
    mutating func skipUnknown(_ tag: Tag, _ span: RawSpan) throws(WireError) {
        guard !message.isRequest else {
            throw WireError(.unknownField, message, field: enclosing ?? tag.number, at: tag.offset)
        }
        guard tag.wireType == .groupStart else { return try skipSimple(tag, span) }
        var open = [tag.number]
        while let last = open.last {
            guard let inner = try next(span) else {
                throw WireError(.truncated, message, field: enclosing ?? tag.number, at: tag.offset)
            }
            switch inner.wireType {
            case .groupStart:
                guard open.count < WireLimit.groupDepth else { throw malformedGroup(inner) }
                open.append(inner.number)
            case .groupEnd:
                guard inner.number == last else { throw malformedGroup(inner) }
                open.removeLast()
            case .varint, .fixed32, .fixed64, .lengthDelimited: try skipSimple(inner, span)
            }
        }
    }

    private mutating func skipSimple(_ tag: Tag, _ span: RawSpan) throws(WireError) {
        switch tag.wireType {
        case .varint: _ = try varint(span, atMost: 10, field: enclosing ?? tag.number, from: tag.offset)
        case .fixed32: try skip(4, of: tag)
        case .fixed64: try skip(8, of: tag)
        case .lengthDelimited: _ = try value(of: tag, span)
        case .groupStart, .groupEnd: throw malformedGroup(tag)
        }
    }

    private mutating func skip(_ count: Int, of tag: Tag) throws(WireError) {
        guard count <= end - offset else {
            throw WireError(.truncated, message, field: enclosing ?? tag.number, at: tag.offset)
        }
        offset += count
    }

    private func malformedGroup(_ tag: Tag) -> WireError {
        WireError(
            .malformedGroup, message, field: enclosing ?? tag.number, at: tag.offset,
            limit: WireLimit.groupDepth)
    }

    private mutating func varint(
        _ span: RawSpan, atMost bytes: Int, field: Int?, from start: Int
    ) throws(WireError) -> UInt64 {
        var value: UInt64 = 0
        for index in 0..<bytes {
            guard offset < end else { throw WireError(.truncated, message, field: field, at: start) }
            let next = byte(span, at: offset)
            offset += 1
            // Bits beyond the 64th of a ten-byte integer are dropped, as every protobuf decoder does.
            value |= UInt64(next & 0x7f) &<< UInt64(7 * index)
            if next < 0x80 { return value }
        }
        throw WireError(.varintTooLong, message, field: field, at: start, limit: bytes)
    }
}
