// Threads: a thread that somebody owns. For C libraries that block or poll, which stay off Swift's pool.

private import CShims
private import Glibc

/// A thread with an owner that joins it (or, at the end of the process, lets go of it).
///
/// All signals are blocked in it: they are Lifecycle's, and a write to a closed pipe or socket gives EPIPE instead of
/// SIGPIPE.
@safe public struct OwnedThread: ~Copyable, Sendable {
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
    public init?(name: String, run: @escaping @Sendable () -> Void) {
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
    public consuming func join() {
        pthread_join(thread, nil)
        isReleased = true
    }

    /// Leaves the thread to itself: it hangs in the kernel, and the process is about to end.
    public consuming func abandon() {
        pthread_detach(thread)
        isReleased = true
    }

    deinit { precondition(isReleased, "thread dropped without a join") }
}
