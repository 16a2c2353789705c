// Real sockets in short temporary directories, time by hand, and an engine that answers only when told to.

import CShims
import Glibc
import Logging
import Synchronization
import TestSupport
import Testing

@testable import SocketAcceptance

func exists(_ path: String) -> Bool { FileFacts(named: path, in: AT_FDCWD) != nil }

/// The value, or a failed test. (`#require` wants a copyable one.)
func required<Value: ~Copyable>(_ value: consuming Value?) throws -> Value {
    switch consume value {
    case .some(let value): return value
    case .none: throw CancellationError()
    }
}

func socketAt(_ path: String, mode: UInt32 = 0o600) throws -> ListeningSocket {
    try ListeningSocket(binding: SocketAddress(parsing: path), permissions: SocketPermissions(mode: mode))
}

/// The failure that a body throws.
func failure(_ body: () throws -> Void) throws -> SocketFailure {
    try #require(throws: SocketFailure.self, performing: body)
}

/// A client with blocking calls that give up after ten seconds, so that a defect fails a test instead of hanging it.
final class Client: Sendable {
    enum Failure: Error { case connect(Int32) }

    private let descriptor: OwnedDescriptor

    init(_ name: String) throws(Failure) {
        let descriptor = OwnedDescriptor(adopting: ksw_unix_socket())
        guard let descriptor else { throw .connect(errno) }
        let isAbstract = name.hasPrefix("@")
        let bare = isAbstract ? String(name.dropFirst()) : name
        guard unsafe ksw_unix_connect(descriptor.number, bare, bare.utf8.count, isAbstract ? 1 : 0) == 0
        else {
            throw .connect(errno)
        }
        _ = fcntl(descriptor.number, F_SETFL, 0)
        var limit = timeval(tv_sec: 10, tv_usec: 0)
        _ = unsafe setsockopt(
            descriptor.number, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        self.descriptor = descriptor
    }

    // Ends the connection even while a child of this process, about to exec, holds a copy of the descriptor.
    deinit { shutdown(descriptor.number, Int32(SHUT_RDWR)) }

    func send(_ bytes: some Collection<UInt8>) {
        let bytes = Array(bytes)
        _ = unsafe bytes.withUnsafeBytes {
            unsafe Glibc.send(descriptor.number, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
        }
    }

    func sendPreface() { send(Self.greeting) }

    /// The preface: the fixed bytes and an empty SETTINGS frame.
    static let greeting = Preface.bytes + [0, 0, 0, 4, 0, 0, 0, 0, 0]

    func shutdownWriting() { shutdown(descriptor.number, Int32(SHUT_WR)) }

    /// Reads exactly so many bytes.
    func receive(_ count: Int) {
        var bytes = [UInt8](repeating: 0, count: count)
        _ = unsafe bytes.withUnsafeMutableBytes {
            unsafe recv(descriptor.number, $0.baseAddress, $0.count, Int32(MSG_WAITALL))
        }
    }

    /// Whether the other side has ended the connection, waiting for it.
    func seesEnd() -> Bool {
        var byte: UInt8 = 0
        let count = unsafe recv(descriptor.number, &byte, 1, 0)
        return count == 0 || (count < 0 && errno == ECONNRESET)
    }

    /// Whether the connection is still open now.
    var isOpen: Bool { ksw_is_hung_up(descriptor.number) == 0 }
}

/// Whether somebody listens there.
func canConnect(_ name: String) -> Bool { (try? Client(name)) != nil }

final class Recorder: AcceptanceObserver {
    enum Event: Equatable {
        case connections(Int)
        case accepted
        case refused(RefusalReason)
        case abandoned
        case paused(Bool)
    }

    private let stream: AsyncStream<Event>
    private let continuation: AsyncStream<Event>.Continuation

    init() { (stream, continuation) = AsyncStream.makeStream() }

    /// Waits until this happens; what happened before it is forgotten.
    func sees(_ wanted: Event) async -> Bool {
        for await event in stream where event == wanted { return true }
        return false
    }

    func connectionsChanged(to count: Int) { continuation.yield(.connections(count)) }
    func connectionAccepted() { continuation.yield(.accepted) }
    func connectionRefused(_ reason: RefusalReason) { continuation.yield(.refused(reason)) }
    func connectionAbandoned() { continuation.yield(.abandoned) }
    func acceptingPaused(_ isPaused: Bool) { continuation.yield(.paused(isPaused)) }
}

/// Answers probes at once, or not at all; works as long as it is told to.
final class FakeEngine: EngineProgress {
    private struct State {
        var isTurning = true
        var answered: UInt64 = 0
        var posted: UInt64 = 0
        var busy = Duration.zero
    }

    private let state = Mutex(State())

    func turn(_ isTurning: Bool) { state.withLock { $0.isTurning = isTurning } }
    func work(for duration: Duration) { state.withLock { $0.busy += duration } }
    var busyTime: Duration { state.withLock { $0.busy } }
    var postedProbes: UInt64 { state.withLock { $0.posted } }

    func postProbe() {
        state.withLock { state in
            state.posted += 1
            if state.isTurning { state.answered += 1 }
        }
    }

    var answeredProbes: UInt64 { state.withLock { $0.answered } }
}

/// Keeps log lines as "level message key=value ...".
struct LogRecorder: LogHandler {
    final class Lines: Sendable {
        private let lines = Mutex<[String]>([])
        var all: [String] { lines.withLock { $0 } }
        func append(_ line: String) { lines.withLock { $0.append(line) } }
    }

    let lines: Lines
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.info

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        let pairs = (event.metadata ?? [:]).sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
        lines.append((["\(event.level)", "\(event.message)"] + pairs).joined(separator: " "))
    }
}

/// A descriptor as the engine would get it.
struct HandedOver: Sendable {
    let descriptor: Int32
    let peer: PeerCredentials

    /// What libgrpc does at the end of a connection.
    func end() {
        shutdown(descriptor, Int32(SHUT_RDWR))
        close(descriptor)
    }

    /// Sends so many bytes, as replies would be.
    func write(_ count: Int) {
        let bytes = [UInt8](repeating: 7, count: count)
        let sent = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(descriptor, $0.baseAddress, $0.count) }
        #expect(sent == count)
    }

    func firstBytes(_ count: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        let got = unsafe bytes.withUnsafeMutableBytes { unsafe read(descriptor, $0.baseAddress, $0.count) }
        return Array(bytes.prefix(max(0, got)))
    }
}

/// A process that grows when told to.
final class Size: Sendable {
    private let value = Mutex(20 << 20)
    var bytes: Int { value.withLock { $0 } }
    func grow(by bytes: Int) { value.withLock { $0 += bytes } }
}

/// An acceptor with everything around it made by hand.
struct Harness {
    let acceptor: SocketAcceptor
    let recorder = Recorder()
    let engine = FakeEngine()
    let clock = ManualClock()
    let log = LogRecorder.Lines()
    /// The process's size.
    let size = Size()
    private let handed: AsyncStream<HandedOver>

    init(settings: SocketAcceptor.Settings = .init(), policy: PeerPolicy = PeerPolicy()) throws {
        let (stream, continuation) = AsyncStream<HandedOver>.makeStream()
        handed = stream
        let lines = log
        acceptor = try SocketAcceptor(
            settings: settings, policy: policy, engine: engine, observer: recorder,
            logger: Logger(label: "test") { _ in LogRecorder(lines: lines) }, clock: clock,
            resident: { [size] in size.bytes }
        ) { connection in
            let peer = connection.peer
            continuation.yield(HandedOver(descriptor: connection.takeDescriptor(), peer: peer))
        }
    }

    /// Waits for the next connection that reaches the engine.
    func nextConnection() async throws -> HandedOver {
        for await connection in handed { return connection }
        throw CancellationError()
    }

    /// The next connection, once its client counts as speaking.
    func nextConnection(speaking client: Client) async throws -> HandedOver {
        let connection = try await nextConnection()
        let before = await acceptor.speaking
        while await acceptor.speaking == before {
            _ = connection.firstBytes(1000)
            client.send([0])
        }
        _ = connection.firstBytes(1000)
        return connection
    }

    /// Moves time, and has the acceptor look at it; the engine works for all of it.
    func advance(by duration: Duration) async {
        clock.advance(by: duration)
        engine.work(for: duration)
        await acceptor.actOnTime()
    }
}
