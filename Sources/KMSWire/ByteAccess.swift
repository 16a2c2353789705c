// The pointers of this room: one byte, one range as an array or text, one copy. Each checks its bounds.

/// The byte at `offset`, which is inside `span`.
func byte(_ span: RawSpan, at offset: Int) -> UInt8 {
    // Bounds are checked by the call; every bit pattern is a UInt8.
    unsafe span.unsafeLoad(fromByteOffset: offset, as: UInt8.self)
}

/// A copy of public bytes.
func array(_ span: RawSpan) -> [UInt8] {
    // The pointer does not leave the closure.
    unsafe span.withUnsafeBytes { bytes in unsafe [UInt8](bytes) }
}

/// The text, or nil if it is not UTF-8.
func text(_ span: RawSpan) -> String? {
    // Every bit pattern is a UInt8.
    guard let text = unsafe try? UTF8Span(validating: span._unsafeView(as: UInt8.self)) else { return nil }
    return String(copying: text)
}

/// Copies all of `source` to `target`, from `offset` on.
func copy(_ source: RawSpan, to target: inout MutableRawSpan, at offset: Int = 0) {
    precondition(offset >= 0 && source.byteCount <= target.byteCount - offset, "the target is too small")
    // In bounds by the line above; the two do not overlap, since `target` is exclusive.
    unsafe target.withUnsafeMutableBytes { to in
        unsafe source.withUnsafeBytes { from in
            guard let start = to.baseAddress, let first = from.baseAddress else { return }
            unsafe (start + offset).copyMemory(from: first, byteCount: from.count)
        }
    }
}
