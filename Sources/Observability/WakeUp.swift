private import CShims
private import Glibc

/// A flag of the kernel's that one thread raises and another waits for.
final class WakeUp: Sendable {
    let fd: Int32

    /// Nil if the process has no descriptor left, errno says why.
    init?() {
        fd = ksw_eventfd()
        if fd < 0 { return nil }
    }

    /// Raises the flag; never blocks.
    func raise() {
        var one: UInt64 = 1
        _ = unsafe write(fd, &one, 8)  // EAGAIN: it is up already
    }

    /// Lowers the flag.
    func lower() {
        var count: UInt64 = 0
        _ = unsafe read(fd, &count, 8)
    }

    /// Waits until the flag is up, and lowers it.
    ///
    /// False: it was not up in time.
    func wait(within limit: Duration? = nil) -> Bool {
        let end = limit.map { ContinuousClock.now + $0 }
        while true {
            var milliseconds: Int32 = -1
            if let end {
                let left = max(end - .now, .zero).components
                milliseconds = Int32(
                    clamping: left.seconds * 1000 + left.attoseconds / 1_000_000_000_000_000 + 1)
            }
            var entry = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
            if unsafe poll(&entry, 1, milliseconds) > 0 {
                lower()
                return true
            }
            if let end, end <= .now { return false }
        }
    }

    deinit { close(fd) }
}

/// What errno says, as in `Permission denied`.
func reason(of error: Int32) -> String {
    var buffer = [CChar](repeating: 0, count: 128)
    unsafe ksw_error_text(error, &buffer, buffer.count)
    return String(decoding: buffer.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
}
