/// Counts and writes length-delimited fields; an empty field is left out, as proto3 does.
struct FieldWriter {
    private var offset = 0

    /// Bytes of a field with `count` bytes of value, tag and length included.
    static func size(_ count: Int) -> Int { count == 0 ? 0 : 1 + varintSize(count) + count }

    /// Bytes of a text field.
    static func size(_ text: String) -> Int { size(text.utf8.count) }

    /// Bytes of a map field; an entry always has both key and value.
    static func size(_ annotations: [Annotation]) -> Int {
        annotations.reduce(0) { $0 + size(entrySize($1)) }
    }

    /// The message is complete: exactly `target` must be filled.
    func finish(_ target: borrowing MutableRawSpan) {
        precondition(offset == target.byteCount, "a message's size was counted wrongly")
    }

    mutating func write(_ number: Int, _ value: RawSpan, to target: inout MutableRawSpan) {
        guard !value.isEmpty else { return }
        head(number, value.byteCount, to: &target)
        copy(value, to: &target, at: offset)
        offset += value.byteCount
    }

    mutating func write(_ number: Int, _ value: [UInt8], to target: inout MutableRawSpan) {
        // Bytes have no padding.
        write(number, unsafe value.span.bytes, to: &target)
    }

    mutating func write(_ number: Int, _ value: String, to target: inout MutableRawSpan) {
        guard !value.isEmpty else { return }
        writeAlways(number, value, to: &target)
    }

    mutating func write(_ number: Int, _ annotations: [Annotation], to target: inout MutableRawSpan) {
        for annotation in annotations {
            head(number, Self.entrySize(annotation), to: &target)
            writeAlways(1, annotation.key, to: &target)
            head(2, annotation.value.count, to: &target)
            // Bytes have no padding.
            copy(unsafe annotation.value.span.bytes, to: &target, at: offset)
            offset += annotation.value.count
        }
    }

    private mutating func writeAlways(_ number: Int, _ value: String, to target: inout MutableRawSpan) {
        head(number, value.utf8.count, to: &target)
        // Bytes have no padding. In one piece: byte by byte costs more than all the rest of a Status reply.
        let text = value.utf8.span
        copy(unsafe text.bytes, to: &target, at: offset)
        offset += text.count
    }

    private mutating func head(_ number: Int, _ count: Int, to target: inout MutableRawSpan) {
        put(UInt8(number << 3 | FieldCursor.WireType.lengthDelimited.rawValue), to: &target)
        var rest = count
        while rest >= 0x80 {
            put(UInt8(rest & 0x7f) | 0x80, to: &target)
            rest >>= 7
        }
        put(UInt8(rest), to: &target)
    }

    private mutating func put(_ unit: UInt8, to target: inout MutableRawSpan) {
        target.storeBytes(of: unit, toByteOffset: offset, as: UInt8.self)
        offset += 1
    }

    private static func entrySize(_ annotation: Annotation) -> Int {
        let key = annotation.key.utf8.count
        let value = annotation.value.count
        return 2 + varintSize(key) + key + varintSize(value) + value
    }

    private static func varintSize(_ count: Int) -> Int {
        max(1, (Int.bitWidth - count.leadingZeroBitCount + 6) / 7)
    }
}
