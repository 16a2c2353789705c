// SecureMemory: the one kind of memory that secrets live in. Key bytes are filled in place, never copied into an
// Array or a String, cannot be printed, and are wiped when their owner goes.

private import COpenSSL

/// Key material in one wiped heap cell, filled in place.
///
/// Not copyable, so no second copy can be forgotten; to share it, keep it in a `SharedSecret`.
@safe public struct SecretBytes: ~Copyable, @unchecked Sendable {  // immutable after init; one owner
    private let storage: UnsafeMutableRawBufferPointer

    /// Number of secret bytes.
    public var count: Int { unsafe storage.count }

    /// Makes a cell of `count` bytes, zeroed, and lets `fill` write it. If `fill` throws, the cell is wiped and the
    /// error passed on.
    public init<F: Error>(count: Int, fill: (inout MutableRawSpan) throws(F) -> Void) throws(F) {
        let cell = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 16)
        unsafe cell.initializeMemory(as: UInt8.self, repeating: 0)
        var span = unsafe MutableRawSpan(_unsafeBytes: cell)
        do throws(F) { try fill(&span) } catch {
            unsafe OPENSSL_cleanse(cell.baseAddress, cell.count)
            unsafe cell.deallocate()
            throw error
        }
        unsafe storage = cell
    }

    /// Lends the bytes for the length of `body`.
    public borrowing func withBytes<R: ~Copyable, F: Error>(_ body: (RawSpan) throws(F) -> R) throws(F) -> R {
        try body(unsafe RawSpan(_unsafeBytes: UnsafeRawBufferPointer(storage)))
    }

    deinit {
        unsafe OPENSSL_cleanse(storage.baseAddress, storage.count)
        unsafe storage.deallocate()
    }
}

/// A secret that several owners hold; wiped when the last one lets go.
public final class SharedSecret: Sendable {
    /// The secret.
    public let bytes: SecretBytes

    /// Takes over `bytes`.
    public init(_ bytes: consuming SecretBytes) { self.bytes = bytes }
}
