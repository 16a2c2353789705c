internal import CGRPC
private import Glibc

/// A message received: the transport's own bytes, lent for reading, and wiped in place when this value goes.
@safe public struct MessageBytes: ~Copyable, @unchecked Sendable {  // immutable after init; one owner
    private var message: ksw_message

    /// A message of the given bytes, copied; for tests of handlers.
    public init(copying span: RawSpan) {
        let copy = unsafe wipedMemory(count: span.byteCount)
        unsafe span.withUnsafeBytes { source in unsafe copy.copyMemory(from: source) }
        unsafe message = ksw_message(
            start: copy.baseAddress?.assumingMemoryBound(to: UInt8.self), length: copy.count, owner: nil)
    }

    /// Takes over a byte buffer of C-core; nil if it cannot be read.
    init?(adopting buffer: UnsafeMutablePointer<grpc_byte_buffer>) {
        var adopted = unsafe ksw_message()
        guard unsafe ksw_message_adopt(buffer, &adopted) != 0 else { return nil }
        unsafe message = adopted
    }

    /// Length of the message in bytes.
    public var count: Int { unsafe message.length }

    /// Lends the bytes for the length of `body`.
    public borrowing func withBytes<R: ~Copyable, F: Error>(_ body: (RawSpan) throws(F) -> R) throws(F) -> R {
        let bytes = unsafe UnsafeRawBufferPointer(start: message.start, count: message.length)
        return try body(unsafe RawSpan(_unsafeBytes: bytes))
    }

    deinit {
        var message = unsafe message
        unsafe ksw_message_destroy(&message)
    }
}

/// A message to send: written once, in place, by its maker; wiped after the transport has sent it.
@safe public struct ReplyBytes: ~Copyable, @unchecked Sendable {  // immutable after init; one owner
    private let bytes: UnsafeMutableRawBufferPointer

    /// Makes a message of `count` bytes, zeroed, and lets `fill` write it.
    ///
    /// If `fill` throws, it is wiped and the error passed on.
    public init<F: Error>(count: Int, fill: (inout MutableRawSpan) throws(F) -> Void) throws(F) {
        let cell = unsafe wipedMemory(count: count)
        var span = unsafe MutableRawSpan(_unsafeBytes: cell)
        do throws(F) { try fill(&span) } catch {
            unsafe ksw_wipe_and_free(cell.baseAddress, cell.count)
            throw error
        }
        unsafe bytes = cell
    }

    /// Length of the message in bytes.
    public var count: Int { unsafe bytes.count }

    /// Lends the bytes; for tests of handlers.
    public borrowing func withBytes<R: ~Copyable, F: Error>(_ body: (RawSpan) throws(F) -> R) throws(F) -> R {
        try body(unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(bytes)))
    }

    /// Gives the memory to C-core, which wipes and frees it.
    consuming func release() -> UnsafeMutableRawBufferPointer {
        let released = unsafe bytes
        discard self
        return unsafe released
    }

    deinit { unsafe ksw_wipe_and_free(bytes.baseAddress, bytes.count) }
}

/// Zeroed memory from malloc, as C-core's destroy function expects it; never empty, so that it has an address.
private func wipedMemory(count: Int) -> UnsafeMutableRawBufferPointer {
    guard let start = unsafe calloc(1, max(count, 1)) else {
        preconditionFailure("out of memory for a message")
    }
    return unsafe UnsafeMutableRawBufferPointer(start: start, count: count)
}
