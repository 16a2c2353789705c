private import Glibc

/// Why a connection was closed before or instead of being served.
///
/// The raw value is the metric label.
public enum RefusalReason: String, Sendable, CaseIterable {
    /// The peer's user and groups are not allowed.
    case uid
    /// There are as many connections as allowed.
    case limit
    /// No HTTP/2 client preface in time.
    case handshakeTimeout = "handshake_timeout"
    /// The first bytes are not the HTTP/2 client preface.
    case notHTTP2 = "not_http2"
    /// It kept the engine from turning, or did not read its replies.
    case stalled
    /// Its process was cut for stalling the engine again and again.
    case barred
}

/// A connection that passed the peer check and sent the HTTP/2 client preface, which is still unread.
///
/// Owns the descriptor.
public struct AcceptedConnection: ~Copyable, Sendable {
    /// Who connected.
    public let peer: PeerCredentials
    private let descriptor: Int32

    init(adopting descriptor: Int32, peer: PeerCredentials) {
        self.descriptor = descriptor
        self.peer = peer
    }

    /// Gives the descriptor (non-blocking, close-on-exec) away; who takes it closes it, after a `shutdown(2)`: the
    /// acceptor holds a copy, without which it would not notice the end.
    public consuming func takeDescriptor() -> Int32 {
        let number = descriptor
        discard self
        return number
    }

    deinit {
        shutdown(descriptor, Int32(SHUT_RDWR))
        close(descriptor)
    }
}

/// What the acceptor needs from the engine to see whether it still turns.
///
/// All are called on the acceptor's thread and return at once.
public protocol EngineProgress: Sendable {
    /// Asks the engine's thread to count one more answered probe when it comes round.
    func postProbe()
    /// How many probes the engine's thread has answered.
    var answeredProbes: UInt64 { get }
    /// Processor time that the engine's thread has spent so far.
    var busyTime: Duration { get }
}

/// Hears what the acceptor does, for metrics.
///
/// Called on the acceptor's thread; returns at once.
public protocol AcceptanceObserver: Sendable {
    /// The number of served connections changed.
    func connectionsChanged(to count: Int)
    /// A connection was handed to the engine.
    func connectionAccepted()
    /// A connection was closed by us.
    func connectionRefused(_ reason: RefusalReason)
    /// A peer went away before its preface was complete: a probe, or a client that died.
    func connectionAbandoned()
    /// Accepting stopped for lack of descriptors or memory, or goes on again.
    func acceptingPaused(_ isPaused: Bool)
}

/// Numbers of an acceptor at one moment.
public struct AcceptanceCounts: Sendable, Equatable {
    /// Connections handed over that have not ended.
    public var connections = 0
    /// Accepted connections whose preface is not complete yet.
    public var pending = 0
    /// Connections handed over since the start.
    public var accepted: UInt64 = 0
    /// Connections that left before their preface was complete.
    public var abandoned: UInt64 = 0
    /// Connections closed by us, by reason.
    public var refused: [RefusalReason: UInt64] = [:]
    /// How often accepting had to pause.
    public var pauses: UInt64 = 0
    /// Whether accepting is paused now.
    public var isPaused = false
    /// Whether the engine has not answered for as long as the stall guard tolerates.
    public var isEngineStalled = false
}
