private import CSystemd
internal import Glibc
internal import Synchronization

/// Where log lines go.
enum LogSink {
    /// Lines to a descriptor, usually standard error.
    case stream(fd: Int32)
    /// Entries to journald.
    case journal
}

/// Lines on their way out: a bounded queue and the one thread that drains it.
///
/// Offering a line never waits for whoever reads the log. When the queue is full the line is dropped and counted, and
/// once there is room again a line says how many are missing.
final class LogQueue: Sendable {
    /// A line, or a journal entry's fields.
    typealias Item = [[UInt8]]

    struct Limits {
        var lines = 4096
        var bytes = 1 << 20
    }

    private struct State {
        var pending: [Item] = []
        var bytes = 0
        var lost: UInt64 = 0  // dropped since the last line that said so
        var accepted: UInt64 = 0
        var settled: UInt64 = 0
        var isClosing = false
        var isFinished = false
        var waiters: [(until: UInt64, wakeUp: WakeUp)] = []
    }

    private let limits: Limits
    private let sink: LogSink
    private let lostLine: @Sendable (UInt64) -> Item
    private let state = Mutex(State())
    private let work: WakeUp
    private let giveUp: WakeUp
    private let droppedLines = Atomic<UInt64>(0)

    /// Nil if the process has no descriptor left.
    ///
    /// - Parameter lostLine: the line that says how many were lost.
    init?(sink: LogSink, limits: Limits = Limits(), lostLine: @escaping @Sendable (UInt64) -> Item) {
        guard let work = WakeUp(), let giveUp = WakeUp() else { return nil }
        self.sink = sink
        self.limits = limits
        self.lostLine = lostLine
        self.work = work
        self.giveUp = giveUp
    }

    /// Lines that were dropped since the start.
    var dropped: UInt64 { droppedLines.load(ordering: .relaxed) }

    /// Queues an item, or drops it.
    ///
    /// Never waits.
    func offer(_ item: Item) {
        let size = item.reduce(0) { $0 + $1.count }
        let (isFirst, isLost) = state.withLock { state in
            guard !state.isClosing, state.pending.count < limits.lines, state.bytes + size <= limits.bytes
            else {
                state.lost += 1
                return (false, true)
            }
            state.pending.append(item)
            state.bytes += size
            state.accepted += 1
            return (state.pending.count == 1, false)
        }
        if isLost { droppedLines.wrappingAdd(1, ordering: .relaxed) }
        if isFirst { work.raise() }
    }

    /// Waits until every line offered before is written or given up.
    ///
    /// False: not in time.
    func flush(within limit: Duration) -> Bool {
        guard let wakeUp = WakeUp() else { return false }
        let mustWait = state.withLock { state in
            guard state.settled < state.accepted, !state.isFinished else { return false }
            state.waiters.append((state.accepted, wakeUp))
            return true
        }
        guard mustWait else { return true }
        if wakeUp.wait(within: limit) { return true }
        state.withLock { state in state.waiters.removeAll { $0.wakeUp === wakeUp } }
        return false
    }

    /// Ends `run` when everything is written; further lines are dropped.
    func close() {
        state.withLock { $0.isClosing = true }
        work.raise()
    }

    /// Ends `run` even if the stream takes nothing more.
    ///
    /// An entry that journald does not take cannot be interrupted.
    func abandon() {
        close()
        giveUp.raise()
    }

    /// Drains the queue until it is closed.
    ///
    /// The body of the owned thread.
    func run() {
        while true {
            let (batch, lost, isClosing) = state.withLock { state in
                defer {
                    state.pending = []
                    state.bytes = 0
                    state.lost = 0
                }
                return (state.pending, state.lost, state.isClosing)
            }
            if batch.isEmpty, lost == 0 {
                if isClosing { break }
                _ = work.wait()
                continue
            }
            for item in batch where !write(item) { droppedLines.wrappingAdd(1, ordering: .relaxed) }
            if lost > 0 { _ = write(lostLine(lost)) }
            settle(batch.count)
        }
        let waiters = state.withLock { state in
            state.isFinished = true
            defer { state.waiters = [] }
            return state.waiters
        }
        for waiter in waiters { waiter.wakeUp.raise() }
    }

    private func settle(_ count: Int) {
        let satisfied = state.withLock { state in
            state.settled += UInt64(count)
            let satisfied = state.waiters.filter { $0.until <= state.settled }
            state.waiters.removeAll { $0.until <= state.settled }
            return satisfied
        }
        for waiter in satisfied { waiter.wakeUp.raise() }
    }

    private func write(_ item: Item) -> Bool {
        switch sink {
        case .stream(let fd): item.allSatisfy { write($0, to: fd) }
        case .journal: Self.sendToJournal(item)
        }
    }

    /// Writes when the descriptor is ready, and no more at a time than a ready pipe takes at once, so that the thread
    /// waits in poll, where it can be told to give up.
    private func write(_ line: [UInt8], to fd: Int32) -> Bool {
        var done = 0
        while done < line.count {
            var entries = [
                pollfd(fd: fd, events: Int16(POLLOUT), revents: 0),
                pollfd(fd: giveUp.fd, events: Int16(POLLIN), revents: 0),
            ]
            guard unsafe poll(&entries, 2, -1) > 0 else { continue }  // EINTR
            if entries[1].revents != 0 { return false }
            let end = min(done + 4096, line.count)
            let count = unsafe line[done..<end].withUnsafeBytes {
                unsafe Glibc.write(fd, $0.baseAddress, $0.count)
            }
            if count > 0 {
                done += count
            } else if errno != EAGAIN, errno != EINTR {
                return false  // closed: nobody reads any more
            }
        }
        return true
    }

    static func sendToJournal(_ fields: Item) -> Bool {
        let bytes = fields.flatMap { $0 }
        return unsafe bytes.withUnsafeBytes { bytes in
            guard let start = bytes.baseAddress else { return false }
            var vectors: [iovec] = unsafe []
            var offset = 0
            for field in fields {
                // sd_journal_sendv only reads; iovec has no pointer to constant bytes.
                let base = unsafe UnsafeMutableRawPointer(mutating: start + offset)
                unsafe vectors.append(iovec(iov_base: base, iov_len: field.count))
                offset += field.count
            }
            return unsafe sd_journal_sendv(&vectors, Int32(vectors.count)) == 0
        }
    }
}
