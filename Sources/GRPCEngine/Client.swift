internal import CGRPC
private import Synchronization

/// Makes unary calls to one server, on the engine's thread.
@safe public actor Client: CompletionSink {
    /// Where the server is.
    public enum Target: Sendable, Equatable {
        /// A UNIX socket in the file system.
        case unix(path: String)
        /// A UNIX socket with an abstract name (without the `@`).
        case abstract(name: String)
        /// A TCP port; `host` is an IP literal or a name. Plain text.
        case tcp(host: String, port: UInt16)
        /// A TCP port behind TLS.
        case tls(host: String, port: UInt16, TLS)
    }

    /// How to trust a TLS server, and how to be trusted by it.
    public struct TLS: Sendable, Equatable {
        /// PEM of the authorities; nil for the system's.
        public var authorities: String?
        /// PEM of the client's certificate chain and key; nil for none.
        public var identity: Identity?
        /// The name to expect in the server's certificate; nil for `host`.
        public var serverName: String?

        /// A client certificate.
        public struct Identity: Sendable, Equatable {
            /// PEM chain, leaf first.
            public var chain: String
            /// PEM private key.
            public var privateKey: String

            /// A client certificate.
            public init(chain: String, privateKey: String) {
                self.chain = chain
                self.privateKey = privateKey
            }
        }

        /// Trust settings.
        public init(authorities: String? = nil, identity: Identity? = nil, serverName: String? = nil) {
            self.authorities = authorities
            self.identity = identity
            self.serverName = serverName
        }
    }

    /// The engine's thread.
    public nonisolated var unownedExecutor: UnownedSerialExecutor { unsafe engine.asUnownedSerialExecutor() }

    private let engine: EngineThread
    private let channel: OpaquePointer  // C-core locks inside; destroyed once, in close
    private nonisolated let sink = Atomic<Int>(-1)
    private var calls: [Int: PendingCall] = [:]
    private var nextCall = 0
    private nonisolated let isClosed = Atomic(false)
    private var whenIdle: CheckedContinuation<Void, Never>?

    /// A call whose tag is under way: its batch writes into `storage` until the tag is back, cancelled or not.
    @safe private struct PendingCall {
        let storage: UnsafeMutablePointer<ksw_client_call>
        let continuation: CheckedContinuation<Void, Never>
    }

    /// Makes a channel; it connects at the first call.
    ///
    /// The engine keeps it until `close()`. `messageBytes` bounds one message, in and out.
    public init(engine: EngineThread, target: Target, messageBytes: Int = 4 * 1024 * 1024) {
        self.engine = engine
        let name: String
        var serverName: String?
        let credentials: OpaquePointer?
        switch target {
        case .unix(let path):
            name = "unix:\(path)"
            unsafe credentials = grpc_insecure_credentials_create()
        case .abstract(let abstract):
            name = "unix-abstract:\(abstract)"
            unsafe credentials = grpc_insecure_credentials_create()
        case .tcp(let host, let port):
            name = Self.authority(host, port)
            unsafe credentials = grpc_insecure_credentials_create()
        case .tls(let host, let port, let tls):
            name = Self.authority(host, port)
            serverName = tls.serverName
            unsafe credentials = Self.credentials(for: tls)
        }
        guard let channel = unsafe ksw_channel_create(name, credentials, Int32(messageBytes), serverName)
        else {
            preconditionFailure("C-core refuses to make a channel")
        }
        unsafe self.channel = unsafe channel
        unsafe grpc_channel_credentials_release(credentials)
        sink.store(engine.register(self), ordering: .relaxed)
    }

    private static func authority(_ host: String, _ port: UInt16) -> String {
        host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    }

    private static func credentials(for tls: TLS) -> OpaquePointer? {
        guard let identity = tls.identity else {
            return unsafe grpc_ssl_credentials_create(tls.authorities, nil, nil, nil)
        }
        return unsafe identity.privateKey.withCString { key in
            unsafe identity.chain.withCString { chain in
                var pair = unsafe grpc_ssl_pem_key_cert_pair(private_key: key, cert_chain: chain)
                return unsafe grpc_ssl_credentials_create(tls.authorities, &pair, nil, nil)
            }
        }
    }

    /// Makes one call and waits for its reply, connecting first where needed.
    ///
    /// Fails with the server's status, with DEADLINE_EXCEEDED at `deadline`, or with CANCELLED when the task
    /// is cancelled; with UNAVAILABLE where the first attempt to connect fails, unless it `waitsForReady`.
    public func unary(
        _ path: String, _ request: consuming ReplyBytes, deadline: ContinuousClock.Instant,
        waitsForReady: Bool = true
    ) async throws(CallFailure) -> MessageBytes {
        guard !isClosed.load(ordering: .relaxed) else {
            throw CallFailure(.unavailable, "the client is closed")
        }
        guard !Task.isCancelled else {
            throw CallFailure(.cancelled, "the call was cancelled before it began")
        }
        let index = nextCall
        nextCall = (nextCall + 1) & 0xFFF_FFFF
        let tag = Tag(sink: sink.load(ordering: .relaxed), slot: index, generation: 0, kind: .unary)
        let left = ContinuousClock.now.duration(to: deadline)
        let (seconds, attoseconds) = left.components
        let nanoseconds = max(0, min(seconds, 1 << 32) * 1_000_000_000 + attoseconds / 1_000_000_000)
        let body = unsafe request.release()
        let started = unsafe ksw_client_call_start(
            channel, engine.queue, path, body.baseAddress, body.count, nanoseconds, waitsForReady ? 1 : 0,
            tag.rawValue)
        guard let storage = unsafe started else {
            throw CallFailure(.internal, "\(path): C-core refuses the call")
        }
        defer { unsafe ksw_client_call_free(storage) }
        let handle = unsafe CallHandle(storage.pointee.call)
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                unsafe calls[index] = PendingCall(storage: storage, continuation: continuation)
            }
        } onCancel: {
            handle.cancel()
        }
        if calls.isEmpty { whenIdle.take()?.resume() }
        let code = StatusCode(rawValue: Int(unsafe storage.pointee.status.rawValue)) ?? .unknown
        guard code == .ok else {
            let text = unsafe String(received: storage.pointee.details, atMost: Server.longestText)
            throw CallFailure(code, text)
        }
        guard let reply = unsafe storage.pointee.reply else {
            throw CallFailure(.internal, "\(path): the server sent status OK without a message")
        }
        unsafe storage.pointee.reply = nil
        guard let message = unsafe MessageBytes(adopting: reply) else {
            throw CallFailure(.internal, "\(path): the reply cannot be decompressed")
        }
        return message
    }

    /// Closes the channel after the calls under way, each bounded by its own deadline, have ended.
    ///
    /// Call it once.
    public func close() async {
        precondition(!isClosed.exchange(true, ordering: .relaxed), "client closed twice")
        if !calls.isEmpty { await withCheckedContinuation { whenIdle = $0 } }
        unsafe grpc_channel_destroy(channel)
        engine.unregister(sink.load(ordering: .relaxed))
    }

    nonisolated func settled() {}

    nonisolated func completed(_ tag: Tag, ok: Bool) {
        // grpc_call_start_batch returned before the actor gave up the thread, so the record is there.
        assumeIsolated { client in
            guard let call = client.calls.removeValue(forKey: tag.slot) else {
                preconditionFailure("completion of a call that was over")
            }
            call.continuation.resume()
        }
    }
}

/// A call that may be cancelled from any thread; C-core counts the references and locks inside.
@safe private final class CallHandle: @unchecked Sendable {
    private let call: OpaquePointer?

    init(_ call: OpaquePointer?) {
        unsafe self.call = unsafe call
        unsafe grpc_call_ref(call)
    }

    func cancel() { unsafe _ = grpc_call_cancel(call, nil) }

    deinit { unsafe grpc_call_unref(call) }
}
