private import CShims
internal import Glibc

/// A thread with an owner that joins it (or, at the end of the process, lets go of it).
///
/// All signals are blocked in it: they are Lifecycle's, and a write to a closed pipe or socket gives EPIPE instead of
/// SIGPIPE.
@safe struct OwnedThread: ~Copyable, Sendable {
    private let thread: pthread_t
    private var isReleased = false

    private final class Body: Sendable {
        let name: String
        let run: @Sendable () -> Void
        init(_ name: String, _ run: @escaping @Sendable () -> Void) {
            self.name = name
            self.run = run
        }
    }

    /// Starts `run`; nil if the process has no thread left, errno says why.
    init?(name: String, run: @escaping @Sendable () -> Void) {
        let body = unsafe Unmanaged.passRetained(Body(name, run))
        var all = sigset_t()
        var before = sigset_t()
        unsafe sigfillset(&all)
        unsafe pthread_sigmask(SIG_SETMASK, &all, &before)  // inherited by the new thread
        var thread = pthread_t()
        let failure = unsafe pthread_create(
            &thread, nil,
            { context in
                guard let context = unsafe context else { return nil }
                let body = unsafe Unmanaged<Body>.fromOpaque(context).takeRetainedValue()
                unsafe ksw_name_this_thread(body.name)
                body.run()
                return nil
            }, body.toOpaque())
        unsafe pthread_sigmask(SIG_SETMASK, &before, nil)
        guard failure == 0 else {
            unsafe body.release()
            errno = failure
            return nil
        }
        self.thread = thread
    }

    /// Waits for the thread's end.
    consuming func join() {
        pthread_join(thread, nil)
        isReleased = true
    }

    /// Leaves the thread to itself: it hangs in the kernel, and the process is about to end.
    consuming func abandon() {
        pthread_detach(thread)
        isReleased = true
    }

    deinit { precondition(isReleased, "thread dropped without a join") }
}

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
