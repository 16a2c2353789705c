private import CShims

/// A message received: the transport's own bytes, lent for reading and wiped when this value goes.
@safe public struct MessageBytes: ~Copyable, @unchecked Sendable {  // immutable after init; one owner
    private let bytes: UnsafeMutableRawBufferPointer

    /// A message of the given bytes, copied; for tests of handlers.
    public init(copying span: RawSpan) {
        unsafe bytes = .allocate(byteCount: span.byteCount, alignment: 1)
        let target = unsafe bytes
        unsafe span.withUnsafeBytes { source in unsafe target.copyMemory(from: source) }
    }

    /// Length of the message.
    public var count: Int { unsafe bytes.count }

    /// Lends the bytes for the length of `body`.
    public borrowing func withBytes<R: ~Copyable, F: Error>(_ body: (RawSpan) throws(F) -> R) throws(F) -> R {
        try body(unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(bytes)))
    }

    deinit {
        unsafe ksw_wipe(bytes.baseAddress, bytes.count)
        unsafe bytes.deallocate()
    }
}

/// A reply to send: written once, in place, by its maker; wiped after the transport has sent it.
@safe public struct ReplyBytes: ~Copyable, @unchecked Sendable {  // immutable after init; one owner
    private let bytes: UnsafeMutableRawBufferPointer

    /// Makes a reply of `count` bytes, zeroed, and lets `fill` write it.
    public init<F: Error>(count: Int, fill: (inout MutableRawSpan) throws(F) -> Void) throws(F) {
        let cell = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 1)
        unsafe cell.initializeMemory(as: UInt8.self, repeating: 0)
        var span = unsafe MutableRawSpan(_unsafeBytes: cell)
        do throws(F) { try fill(&span) } catch {
            unsafe ksw_wipe(cell.baseAddress, cell.count)
            unsafe cell.deallocate()
            throw error
        }
        unsafe bytes = cell
    }

    /// Length of the reply.
    public var count: Int { unsafe bytes.count }

    /// Lends the bytes; for tests of handlers.
    public borrowing func withBytes<R: ~Copyable, F: Error>(_ body: (RawSpan) throws(F) -> R) throws(F) -> R {
        try body(unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(bytes)))
    }

    deinit {
        unsafe ksw_wipe(bytes.baseAddress, bytes.count)
        unsafe bytes.deallocate()
    }
}
