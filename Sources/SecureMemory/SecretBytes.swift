// SecureMemory: the one kind of memory that secrets live in. Key bytes are filled in place, never copied into an
// Array or a String, cannot be printed, and are wiped when their owner goes.

private import COpenSSL
private import CShims

/// Key material in one cell of locked memory, filled in place and wiped at the end of its life.
///
/// Not copyable, so no second copy can be forgotten; to share it, keep it in a `SharedSecret`. Making and dropping
/// one of up to 2,048 bytes costs tens of nanoseconds; a larger one gets a mapping of its own (microseconds).
@safe public struct SecretBytes: ~Copyable, @unchecked Sendable {  // immutable after init; one owner
    @usableFromInline let storage: UnsafeMutableRawBufferPointer

    /// Number of secret bytes.
    @inlinable public var count: Int { unsafe storage.count }

    /// Makes a cell of `count` bytes, zeroed, and lets `fill` write it.
    ///
    /// If `fill` throws, the cell is wiped and the error passed on.
    @inlinable public init<F: Error>(
        count: Int, fill: (inout MutableRawSpan) throws(F) -> Void
    ) throws(F) {
        let cell = unsafe Self.makeCell(count)
        var span = unsafe MutableRawSpan(_unsafeBytes: cell)
        do throws(F) { try fill(&span) } catch {
            unsafe Self.dropCell(cell)
            throw error
        }
        unsafe storage = cell
    }

    /// Copies `bytes`, for instance out of a message that is wiped later.
    public init(copying bytes: RawSpan) {
        let cell = unsafe Self.makeCell(bytes.byteCount)
        unsafe bytes.withUnsafeBytes { source in unsafe cell.copyMemory(from: source) }
        unsafe storage = cell
    }

    /// Makes `randomCount` bytes from getrandom(2).
    ///
    /// Traps on a kernel without it (before 3.17).
    public init(randomCount: Int) {
        let cell = unsafe Self.makeCell(randomCount)
        if let base = cell.baseAddress {
            let result = unsafe ksw_random(base, randomCount)
            precondition(result == 0, "getrandom(2) failed: this kernel cannot make keys")
        }
        unsafe storage = cell
    }

    /// Lends the bytes for the length of `body`.
    @inlinable public borrowing func withBytes<R: ~Copyable, F: Error>(
        _ body: (RawSpan) throws(F) -> R
    ) throws(F) -> R {
        try body(unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(storage)))
    }

    /// Compares in a time that depends on the lengths only.
    public borrowing func isEqual(to other: borrowing SecretBytes) -> Bool {
        unsafe SecureMemory.isEqual(
            RawSpan(_unsafeBytes: UnsafeRawBufferPointer(storage)),
            RawSpan(_unsafeBytes: UnsafeRawBufferPointer(other.storage)))
    }

    @usableFromInline static func makeCell(_ count: Int) -> UnsafeMutableRawBufferPointer {
        unsafe LockedArena.shared.allocate(count)
    }

    @usableFromInline static func dropCell(_ cell: UnsafeMutableRawBufferPointer) {
        unsafe LockedArena.shared.free(cell)
    }

    @inlinable deinit { unsafe Self.dropCell(storage) }
}

/// A secret that several owners hold; wiped when the last one lets go.
public final class SharedSecret: Sendable {
    /// The secret.
    public let bytes: SecretBytes

    /// Takes over `bytes`.
    public init(_ bytes: consuming SecretBytes) { self.bytes = bytes }
}

extension MutableRawSpan {
    /// Copies all of `source` to `offset`; traps if it does not fit.
    public mutating func copy(_ source: RawSpan, toByteOffset offset: Int) {
        precondition(offset >= 0 && byteCount - offset >= source.byteCount, "copying past the end of a span")
        guard source.byteCount > 0 else { return }
        unsafe withUnsafeMutableBytes { target in
            unsafe source.withUnsafeBytes { source in
                unsafe UnsafeMutableRawBufferPointer(rebasing: target[offset...]).copyMemory(from: source)
            }
        }
    }

    /// Copies all of the public bytes `source` to `offset`; traps if it does not fit.
    public mutating func copy(_ source: Span<UInt8>, toByteOffset offset: Int) {
        unsafe copy(source.bytes, toByteOffset: offset)  // bytes of UInt8 have no padding
    }
}
