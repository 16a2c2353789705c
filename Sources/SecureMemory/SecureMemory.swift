private import COpenSSL
private import CShims
private import Glibc

/// The memory of secrets as a whole: whether it is locked, comparing, random bytes.
public enum SecureMemory {
    /// How the memory of secrets is protected now.
    public struct Report: Sendable, Equatable {
        /// Bytes mapped for secrets.
        public let mappedBytes: Int
        /// Bytes of these that cannot be swapped out.
        public let lockedBytes: Int
        /// The soft limit RLIMIT_MEMLOCK in bytes; nil where there is none.
        public let limit: UInt64?
        /// One line with cause and remedy if some secrets could be written to disk; nil if all is well.
        public let warning: String?
        /// Whether every byte is locked.
        public var isLocked: Bool { mappedBytes == lockedBytes }
    }

    /// Whether every byte that holds secrets is locked into memory; false where RLIMIT_MEMLOCK forbids it.
    public static var isLocked: Bool { report().isLocked }

    /// How the memory of secrets is protected; the first call maps some, so that it can tell.
    public static func report() -> Report {
        LockedArena.shared.prepare()
        return report(of: LockedArena.shared.ledger)
    }

    /// The warning of `report()`, once in the life of the process: to the first caller after locking failed.
    public static func takeWarning() -> String? {
        LockedArena.shared.prepare()
        guard LockedArena.shared.takeWarning() else { return nil }
        return report(of: LockedArena.shared.ledger).warning
    }

    static func report(of ledger: LockedArena.Ledger) -> Report {
        var soft: UInt64 = .max
        let limit = unsafe ksw_memlock_limit(&soft) == 0 && soft != .max ? soft : nil
        return Report(
            mappedBytes: ledger.mappedBytes, lockedBytes: ledger.lockedBytes, limit: limit,
            warning: warning(ledger, limit: limit))
    }

    private static func warning(_ ledger: LockedArena.Ledger, limit: UInt64?) -> String? {
        if let code = ledger.firstLockFailure {
            let limitText = limit.map { "\($0) bytes" } ?? "none"
            return
                "secrets may be swapped to disk: mlock failed (\(text(of: code)); RLIMIT_MEMLOCK is \(limitText));"
                + " set LimitMEMLOCK=64M in the unit, or raise `ulimit -l`"
        }
        if !ledger.isDumpExcluded {
            return "secrets may appear in core files: the kernel refused MADV_DONTDUMP;"
                + " forbid core files with LimitCORE=0 or `ulimit -c 0`"
        }
        return nil
    }

    static func text(of code: Int32) -> String {
        guard let message = unsafe strerror(code) else { return "errno \(code)" }
        return unsafe String(cString: message)
    }

    /// Compares in a time that depends on the lengths only, which are public.
    public static func isEqual(_ a: RawSpan, _ b: RawSpan) -> Bool {
        guard a.byteCount == b.byteCount else { return false }
        guard a.byteCount > 0 else { return true }
        return unsafe a.withUnsafeBytes { a in
            unsafe b.withUnsafeBytes { b in unsafe CRYPTO_memcmp(a.baseAddress, b.baseAddress, a.count) == 0 }
        }
    }

    /// Compares with public bytes in a time that depends on the lengths only.
    public static func isEqual(_ a: RawSpan, _ b: Span<UInt8>) -> Bool {
        unsafe isEqual(a, b.bytes)  // bytes of UInt8 have no padding
    }

    /// Fills `span` from getrandom(2), for salts and ids.
    ///
    /// Traps on a kernel without it (before 3.17).
    public static func fillRandom(_ span: inout MutableRawSpan) {
        guard span.byteCount > 0 else { return }
        let result = unsafe span.withUnsafeMutableBytes { unsafe ksw_random($0.baseAddress, $0.count) }
        precondition(result == 0, "getrandom(2) failed: this kernel cannot make keys")
    }
}
