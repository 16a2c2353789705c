private import CShims
private import Events
private import Glibc
public import Logging

/// Accepts connections, checks who sends them, and hands those that speak HTTP/2 to the engine.
///
/// Runs on a thread of its own, "acceptor", that is also its executor: its methods never block, and neither may the
/// closures given to it. Every acceptor must be ended with `close()`.
public actor SocketAcceptor {
    /// Limits.
    public struct Settings: Sendable {
        /// Connections served at a time; one more takes the place of an idle one, or is refused.
        public var maxConnections: Int
        /// Connections waiting for their preface at a time; one more drops the oldest.
        public var maxPending: Int
        /// How long a connection may take to send its preface, which includes the header of its SETTINGS.
        public var handshakeTimeout: Duration
        /// How often the guard looks while there are connections.
        public var tick: Duration
        /// How long accepting pauses when descriptors run out, unless a connection ends before.
        public var pause: Duration

        /// The defaults, or others.
        public init(
            maxConnections: Int = 128, maxPending: Int = 64, handshakeTimeout: Duration = .seconds(10),
            tick: Duration = .milliseconds(50), pause: Duration = .seconds(1)
        ) {
            self.maxConnections = maxConnections
            self.maxPending = maxPending
            self.handshakeTimeout = handshakeTimeout
            self.tick = tick
            self.pause = pause
        }
    }

    private typealias ID = Admission.ID

    /// Unread bytes of a peer that keeps up; a UNIX socket takes more than ten times as many.
    private static let readingPeer: Int32 = 16 * 1024

    /// A listening socket with the peers it admits.
    ///
    /// A class, because a dictionary cannot hold the socket itself.
    private final class Listener {
        var socket: ListeningSocket?
        let descriptor: Int32
        let address: String
        private let group: UInt32?
        private(set) var policy: PeerPolicy

        init(_ socket: consuming ListeningSocket, policy: PeerPolicy) {
            descriptor = socket.descriptor.number
            address = socket.address
            group = socket.group
            self.policy = policy.admitting(group: socket.group)
            self.socket = consume socket
        }

        func goBy(_ policy: PeerPolicy) { self.policy = policy.admitting(group: group) }
    }

    /// Waits for its preface; we own the descriptor.
    private struct Pending {
        let descriptor: Int32
        let peer: PeerCredentials
        let listener: Listener
        var isWatched = false
    }

    /// Handed over; we own a copy of the descriptor, to see the end and whether the peer still speaks.
    private struct Served {
        let copy: Int32
        let peer: PeerCredentials
        let listener: Listener
        var isCut = false
        /// Arrivals are not reported until the next tick, so that a busy peer wakes this thread once per tick.
        var isUnheard = false
    }

    /// The executor, which the runtime does not keep alive.
    private let thread: PollThread
    private let settings: Settings
    private var policy: PeerPolicy
    private let engine: any EngineProgress
    private let observer: (any AcceptanceObserver)?
    private let logger: Logger
    private let elapsed: @Sendable () -> Duration
    private let resident: @Sendable () -> Int
    private var smallest: Int
    private let handOver: @Sendable (consuming AcceptedConnection) -> Void

    private var listeners: [ID: Listener] = [:]
    private var pending: [ID: Pending] = [:]
    private var served: [ID: Served] = [:]
    private var nextID: ID = 0
    private var admission: Admission
    private var guardian: StallGuard
    private var barred = BarredProcesses()
    private var eventLog = EventLog()
    private var numbers = AcceptanceCounts()
    private var lastTick: Duration?
    private var resumeAt: Duration?
    private var isStopped = false
    private var told: Set<ID> = []

    /// Runs on its own thread.
    public nonisolated var unownedExecutor: UnownedSerialExecutor { unsafe thread.asUnownedSerialExecutor() }

    /// Starts the thread; nothing is accepted before `accept(from:)`.
    ///
    /// `resident` tells the size of the process in bytes, unless told otherwise from /proc. `handOver` is called on the
    /// acceptor's thread and must return at once: a stalled engine must not stall the guard that
    /// watches it. It is not called any more once `stopAccepting` has returned.
    public init(
        settings: Settings = Settings(), policy: PeerPolicy, engine: any EngineProgress,
        observer: (any AcceptanceObserver)? = nil, logger: Logger,
        clock: some Clock<Duration> = SuspendingClock(), resident: (@Sendable () -> Int)? = nil,
        handOver: @escaping @Sendable (consuming AcceptedConnection) -> Void
    ) throws(SocketFailure) {
        let start = clock.now
        elapsed = { start.duration(to: clock.now) }
        self.resident = resident ?? ksw_resident_bytes
        smallest = self.resident()
        self.settings = settings
        self.policy = policy
        self.engine = engine
        self.observer = observer
        self.logger = logger
        self.handOver = handOver
        admission = Admission(
            maxConnections: settings.maxConnections, maxPending: settings.maxPending,
            handshakeTimeout: settings.handshakeTimeout)
        guardian = StallGuard(interval: settings.tick)
        thread = try PollThread(named: "acceptor")
        if let warning = policy.warning { logger.event(.socketExposed, "\(warning)") }
        try thread.start(sink: self)
    }

    // MARK: Life

    /// Begins to accept.
    ///
    /// Refuses an abstract socket if the policy lists nobody.
    public func accept(from socket: consuming ListeningSocket) throws(SocketFailure) {
        guard !socket.isAbstract || policy.isExplicit else {
            throw SocketFailure(
                .allowListRequired,
                "cannot listen on \(socket.address): an abstract socket has no permissions; "
                    + "list who may use it, such as allow: { uids: [0] }, or use a path")
        }
        guard !isStopped else {
            throw SocketFailure(.system, "cannot listen on \(socket.address): the acceptor has been stopped")
        }
        for warning in socket.warnings { logger.event(.socketExposed, "\(warning)") }
        let listener = Listener(socket, policy: policy)
        let id = newID()
        guard thread.watch(listener.descriptor, .readable, tag: id) else {
            throw SocketFailure(
                .system, "cannot poll \(listener.address): \(SocketFailure.text(of: errno))")
        }
        listeners[id] = listener
        logger.info("listening", metadata: [LogKey.path.rawValue: "\(listener.address)"])
    }

    /// Goes by another policy from now on: also for connections that are there, of which those it does not admit are ended.
    public func admit(by policy: PeerPolicy) {
        guard policy != self.policy else { return }
        self.policy = policy
        // Whoever is refused now is told once more.
        eventLog = EventLog()
        for listener in listeners.values { listener.goBy(policy) }
        for (id, connection) in pending
        where !isAdmitted(connection.peer, connection.descriptor, connection.listener) {
            refuse(id, .uid)
        }
        for (id, connection) in served
        where !connection.isCut && !isAdmitted(connection.peer, connection.copy, connection.listener) {
            served[id]?.isCut = true
            shutdown(connection.copy, Int32(SHUT_RDWR))
            note(.uid, connection.peer)
        }
    }

    private func isAdmitted(_ peer: PeerCredentials, _ descriptor: Int32, _ listener: Listener) -> Bool {
        listener.policy.admits(peer, groups: { PeerCredentials.groups(of: descriptor) })
    }

    /// Begins the drain: no connection is accepted or handed over from now on; those handed over go on.
    ///
    /// Our own file is removed at once, so that a client gets an error instead of waiting in a queue that nobody empties,
    /// and a successor can bind while we drain. An adopted socket keeps its queue for the successor.
    public func stopAccepting() {
        isStopped = true
        for listener in listeners.values {
            thread.unwatch(listener.descriptor)
            listener.socket.take()?.withdraw()
        }
        listeners.removeAll()
        resumeAt = nil
        if numbers.isPaused { observer?.acceptingPaused(false) }
        numbers.isPaused = false
        for id in Array(pending.keys) { drop(id) }
    }

    /// Asks the peers of served connections to send their next calls elsewhere, while this process still answers.
    ///
    /// libgrpc 1.51 says GOAWAY only when it shuts down, and from then on cancels what it had not taken up: calls on the wire
    /// would be lost at every restart. So the frame (RFC 9113, section 6.8: no error, any stream) is written here, on our copy
    /// of the descriptor, before libgrpc is told. Only where the peer reads: then no frame of libgrpc's is half written for
    /// lack of room, and a small write to a UNIX socket goes in one piece.
    /// Does nothing for those that were told; those that were not, because they are behind with reading, may be the next time.
    public func sayGoAway() {
        let frame: [UInt8] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]
        for (id, connection) in served where !told.contains(id) {
            guard ksw_unsent_bytes(connection.copy) < Self.readingPeer else { continue }
            // A peer that has gone meanwhile needs no word.
            _ = unsafe send(connection.copy, frame, frame.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
            told.insert(id)
        }
    }

    /// Ends the connections of peers that stay though they were asked to go: those with nothing under way, or `all`.
    ///
    /// libgrpc waits for a peer that does not read, for as long as it likes. What is in the socket already can still be read by
    /// the peer afterwards; only a full one may keep libgrpc from writing the rest of a reply.
    public func endServed(all: Bool) {
        for (id, connection) in served where !connection.isCut {
            let isDone =
                ksw_unsent_bytes(connection.copy) < Self.readingPeer && ksw_unread_bytes(connection.copy) == 0
            guard all || isDone else { continue }
            served[id]?.isCut = true
            shutdown(connection.copy, Int32(SHUT_RDWR))
        }
    }

    /// Stops accepting, forgets the connections (the engine owns them) and ends the thread.
    public nonisolated func close() async {
        await end()
        thread.join()  // the thread has nothing left to do but to return
    }

    private func end() {
        stopAccepting()
        for connection in served.values { forget(connection.copy) }
        served.removeAll()
        thread.stop()
    }

    /// Numbers of this moment.
    public var counts: AcceptanceCounts {
        var counts = numbers
        counts.connections = served.count
        counts.pending = pending.count
        counts.isEngineStalled = guardian.isStalled
        return counts
    }

    /// Served connections that have sent more than their greeting, for tests.
    var speaking: Int { served.keys.count { admission.hasSpoken($0) } }

    // MARK: Events

    /// Acts on what is due by the clock; the thread does so by itself, unless the clock is a test's.
    func actOnTime() {
        let now = elapsed()
        for id in admission.expire(at: now) { refuse(id, .handshakeTimeout) }
        if let due = resumeAt, due <= now { resumeAccepting() }
        if let last = lastTick, last + settings.tick <= now { tick(at: now, elapsed: now - last) }
    }

    private var nextInstant: Duration? {
        [admission.nextDeadline, resumeAt, lastTick.map { $0 + settings.tick }].compactMap(\.self).min()
    }

    fileprivate func timeout() -> Int32 {
        guard let next = nextInstant else { return -1 }
        let milliseconds = (next - elapsed()) / .milliseconds(1)
        return Int32(min(max(0, milliseconds.rounded(.up)), 60_000))
    }

    fileprivate func act(on events: [PollThread.Event]) {
        // The dead first: their places may be what the others wait for.
        for event in events where served[event.tag] != nil {
            if event.hasEnded { ended(event.tag) } else { heard(event.tag) }
        }
        for event in events where pending[event.tag] != nil { judge(event.tag, hasEnded: event.hasEnded) }
        for event in events { if let listener = listeners[event.tag] { acceptAll(from: listener, event) } }
        actOnTime()
    }

    private func newID() -> ID {
        nextID += 1
        return nextID
    }

    // MARK: Accepting

    private func acceptAll(from listener: Listener, _ event: PollThread.Event) {
        for _ in 0..<64 {  // then let the other events have their turn; what is left is reported again
            let descriptor = ksw_accept(listener.descriptor)
            if descriptor >= 0 {
                arrived(descriptor, at: listener)
                if resumeAt != nil { return }
                continue
            }
            switch errno {
            case EAGAIN: return
            case EMFILE, ENFILE, ENOMEM, ENOBUFS: return pauseAccepting(errno)
            case EINVAL, EBADF, ENOTSOCK, EOPNOTSUPP: return abandon(listener, event.tag, errno)
            default: continue  // that one connection failed
            }
        }
    }

    private func arrived(_ descriptor: Int32, at listener: Listener) {
        guard let peer = PeerCredentials(of: descriptor) else {
            Glibc.close(descriptor)
            return
        }
        guard isAdmitted(peer, descriptor, listener) else {
            Glibc.close(descriptor)
            return note(.uid, peer)
        }
        if !barred.isEmpty, let process = PeerProcess(peer), barred.isBarred(process, at: elapsed()) {
            Glibc.close(descriptor)
            return note(.barred, peer)
        }
        let id = newID()
        pending[id] = Pending(descriptor: descriptor, peer: peer, listener: listener)
        if let dropped = admission.arrived(id, at: elapsed()) { refuse(dropped, .limit) }
        judge(id, hasEnded: false)
        guard let waiting = pending[id] else { return }
        guard thread.watch(waiting.descriptor, .arrivals, tag: id) else { return refuse(id, .limit) }
        pending[id]?.isWatched = true
    }

    private func judge(_ id: ID, hasEnded: Bool) {
        guard let connection = pending[id] else { return }
        var bytes = [UInt8](repeating: 0, count: Preface.length)
        let count = unsafe bytes.withUnsafeMutableBytes {
            unsafe recv(connection.descriptor, $0.baseAddress, $0.count, Int32(MSG_PEEK))
        }
        if count < 0, errno == EAGAIN || errno == EINTR {
            if hasEnded { abandoned(id) }
            return
        }
        guard count > 0 else { return abandoned(id) }
        switch Preface(judging: bytes.prefix(count)) {
        case .complete: serve(id)
        case .foreign: refuse(id, .notHTTP2)
        case .partial: if hasEnded { abandoned(id) }
        }
    }

    private func serve(_ id: ID) {
        guard let connection = pending[id] else { return }
        if admission.isFull { sweep() }
        let copy = ksw_dup_cloexec(connection.descriptor)
        guard copy >= 0, thread.watch(copy, .data, tag: id) else {
            // It stays among the waiting ones, and is judged again when the pause is over.
            let number = errno
            if copy >= 0 { Glibc.close(copy) }
            return pauseAccepting(number)
        }
        let holder = Admission.Holder(connection.peer)
        switch admission.prefaceComplete(id, of: holder, at: elapsed()) {
        case .handOver: break
        case .handOverInsteadOf(let idle): giveUp(idle)
        case .refuse:
            forget(copy)
            return refuse(id, .limit)
        }
        if connection.isWatched { thread.unwatch(connection.descriptor) }
        pending[id] = nil
        served[id] = Served(copy: copy, peer: connection.peer, listener: connection.listener)
        numbers.accepted += 1
        if lastTick == nil { lastTick = elapsed() }
        observer?.connectionAccepted()
        observer?.connectionsChanged(to: served.count)
        logger.debug("accepted a connection", metadata: Self.metadata(connection.peer))
        // Those that gave up while they waited for a start count for nothing.
        if admission.isCrowd(holder) { sweep() }
        if admission.isNewCrowd(holder) {
            tell(
                .connectionsOfOne,
                "one process holds more than half of socket.max_connections; find out why it opens so many",
                of: connection.peer)
        }
        handOver(AcceptedConnection(adopting: connection.descriptor, peer: connection.peer))
    }

    // MARK: Ends

    /// Looks for dead connections whose end was not reported yet, before one more is refused for want of a place.
    private func sweep() {
        for (id, connection) in served where ksw_is_hung_up(connection.copy) == 1 { ended(id) }
    }

    /// A served connection is over.
    private func ended(_ id: ID) {
        guard let connection = served.removeValue(forKey: id) else { return }
        forget(connection.copy)
        _ = admission.ended(id)
        if served.isEmpty {
            lastTick = nil
            guardian.rest()
        }
        observer?.connectionsChanged(to: served.count)
        resumeAccepting()
    }

    /// Something arrived from a served connection.
    private func heard(_ id: ID) {
        guard let connection = served[id], !connection.isUnheard else { return }
        admission.heard(id, at: elapsed())
        // Every arrival counts until it has proved that it uses its place; from then on one per tick is enough.
        guard admission.hasSpoken(id) else { return }
        served[id]?.isUnheard = true
        thread.rewatch(connection.copy, .endOnly, tag: id)
    }

    /// Cuts a served connection that does not use its place, which a newcomer gets.
    private func giveUp(_ id: ID) {
        guard let connection = served[id] else { return }
        shutdown(connection.copy, Int32(SHUT_RDWR))
        note(.limit, connection.peer)
        ended(id)
    }

    private func forget(_ copy: Int32) {
        thread.unwatch(copy)
        Glibc.close(copy)
    }

    private func abandoned(_ id: ID) {
        drop(id)
        numbers.abandoned += 1
        observer?.connectionAbandoned()
    }

    /// Closes a waiting connection.
    @discardableResult
    private func drop(_ id: ID) -> PeerCredentials? {
        guard let connection = pending.removeValue(forKey: id) else { return nil }
        _ = admission.ended(id)
        if connection.isWatched { thread.unwatch(connection.descriptor) }
        Glibc.close(connection.descriptor)
        resumeAccepting()
        return connection.peer
    }

    private func refuse(_ id: ID, _ reason: RefusalReason) {
        guard let peer = drop(id) else { return }
        note(reason, peer)
    }

    private func note(_ reason: RefusalReason, _ peer: PeerCredentials) {
        numbers.refused[reason, default: 0] += 1
        observer?.connectionRefused(reason)
        switch reason {
        case .limit:
            tell(
                .connectionsFull,
                "too many connections, idle ones give way; raise socket.max_connections or find out who opens them",
                of: peer)
        case .uid:
            tell(
                .peerRefused,
                "refused a connection: this user is not allowed; if it should be, add the line shown",
                of: peer, with: [.remedy: "allow: { uids: [\(peer.uid)] }"])
        case .handshakeTimeout:
            tell(
                .peerForeign, "closed a connection that did not begin to speak HTTP/2 in time", of: peer,
                for: reason)
        case .notHTTP2:
            tell(
                .peerForeign, "closed a connection that does not speak HTTP/2 (gRPC without TLS)", of: peer,
                for: reason)
        case .stalled, .barred: break  // logged where it is decided, with the reason
        }
    }

    /// Logs an event, unless it goes on: then now and then, with the number of those left out.
    private func tell(
        _ event: Event, _ message: Logger.Message, of peer: PeerCredentials? = nil,
        for reason: RefusalReason? = nil, with more: [LogKey: Logger.MetadataValue] = [:]
    ) {
        var metadata = peer.map(Self.metadata) ?? [:]
        for (key, value) in more { metadata[key.rawValue] = value }
        guard let omitted = eventLog.admit(event, reason, uid: peer?.uid, at: elapsed()) else {
            return logger.debug(message, metadata: metadata)
        }
        if omitted > 0 { metadata[LogKey.count.rawValue] = "\(omitted)" }
        logger.event(event, message, metadata: metadata)
    }

    private static func metadata(_ peer: PeerCredentials) -> Logger.Metadata {
        [
            LogKey.peerPID.rawValue: "\(peer.pid)", LogKey.peerUID.rawValue: "\(peer.uid)",
            LogKey.peerGID.rawValue: "\(peer.gid)",
        ]
    }

    // MARK: Shortage

    /// Leaves clients in the queue for a while, instead of spinning on a call that cannot succeed.
    private func pauseAccepting(_ number: Int32) {
        guard resumeAt == nil, !isStopped else { return }
        for listener in listeners.values { thread.unwatch(listener.descriptor) }
        resumeAt = elapsed() + settings.pause
        numbers.isPaused = true
        numbers.pauses += 1
        observer?.acceptingPaused(true)
        tell(
            .acceptingPaused,
            "cannot accept connections for now: raise LimitNOFILE= (or memory) of the daemon",
            with: [.reason: "\(SocketFailure.text(of: number))"])
    }

    private func resumeAccepting() {
        guard resumeAt != nil else { return }
        resumeAt = nil
        numbers.isPaused = false
        for (id, listener) in listeners where !thread.watch(listener.descriptor, .readable, tag: id) {
            numbers.isPaused = true
            resumeAt = elapsed() + settings.pause
        }
        guard !numbers.isPaused else { return }
        observer?.acceptingPaused(false)
        for id in Array(pending.keys) { judge(id, hasEnded: false) }
    }

    private func abandon(_ listener: Listener, _ id: ID, _ number: Int32) {
        thread.unwatch(listener.descriptor)
        listener.socket.take()?.withdraw()
        listeners[id] = nil
        logger.event(
            .socketLost, "no longer listening: the socket was shut down from outside; restart the daemon",
            metadata: [
                LogKey.path.rawValue: "\(listener.address)",
                LogKey.reason.rawValue: "\(SocketFailure.text(of: number))",
            ])
    }

    // MARK: Stall guard

    private func tick(at now: Duration, elapsed: Duration) {
        lastTick = now
        for (id, connection) in served where connection.isUnheard {
            served[id]?.isUnheard = false
            thread.rewatch(connection.copy, .data, tag: id)
        }
        let unsent = served.filter { !$0.value.isCut }.mapValues { Int(ksw_unsent_bytes($0.copy)) }
        let deaf = guardian.neverRead(unsent: unsent, elapsed: elapsed)
        if !deaf.isEmpty {
            let size = resident()
            smallest = min(smallest, size)
            for id in deaf where size > smallest + StallGuard.harmfulGrowth {
                cut(
                    id, "cut a connection whose peer does not read its replies", .unsentBytes, unsent[id] ?? 0
                )
            }
        }
        let unread = served.filter { !$0.value.isCut }.mapValues { Int(ksw_unread_bytes($0.copy)) }
            .filter { $0.value > StallGuard.suspiciousBytes }
        let action = guardian.tick(
            answered: engine.answeredProbes, busy: engine.busyTime, isSuspicious: !unread.isEmpty)
        switch action {
        case .none: break
        case .postProbe: engine.postProbe()
        case .cutWorst: cutWorst(of: unread, at: now)
        }
    }

    /// Cuts the process that keeps the engine busy: whoever has most unread bytes in connections that look guilty.
    private func cutWorst(of unread: [ID: Int], at now: Duration) {
        let byHolder = Dictionary(grouping: unread.keys) { served[$0].map { Admission.Holder($0.peer) } }
        let worst = byHolder.values.max { one, other in
            one.reduce(0) { $0 + (unread[$1] ?? 0) } < other.reduce(0) { $0 + (unread[$1] ?? 0) }
        }
        guard let worst, let peer = worst.first.flatMap({ served[$0]?.peer }) else {
            return tell(.engineStalled, "the engine does not answer, and no connection looks guilty")
        }
        for id in worst {
            cut(
                id, "cut a connection that kept the engine from serving the others", .unreadBytes,
                unread[id] ?? 0)
        }
        guard let process = PeerProcess(peer), let bar = barred.cut(process, at: now) else { return }
        tell(
            .peerBarred, "a process may not connect for \(bar.components.seconds) s", of: peer,
            with: [
                .reason: "cut again and again for stalling the engine",
                .remedy: "find out what that process does; restarting it lifts the bar",
            ])
    }

    /// Ends a served connection that harms the others; the engine, which owns it, sees the end and lets go.
    private func cut(_ id: ID, _ message: Logger.Message, _ measure: LogKey, _ bytes: Int) {
        guard let connection = served[id] else { return }
        served[id]?.isCut = true
        shutdown(connection.copy, Int32(SHUT_RDWR))
        note(.stalled, connection.peer)
        tell(.peerCut, message, of: connection.peer, with: [measure: "\(bytes)"])
    }
}

extension SocketAcceptor: PollSink {
    nonisolated func pollTimeout() -> Int32 { assumeIsolated { $0.timeout() } }

    nonisolated func polled(_ events: [PollThread.Event]) { assumeIsolated { $0.act(on: events) } }
}
