private import EnvelopeCrypto
private import Events
private import GRPCEngine
public import KeyService
public import Logging
public import Observability
private import RequestDecoding
private import ServiceLifecycle
public import SocketAcceptance
public import StatusPage
private import UnixSignals

/// Why the daemon did not start, in one line.
public struct StartFailure: Error, Sendable, Equatable, CustomStringConvertible {
    /// What failed, why, what to do.
    public let description: String
    /// Whether it starts no better before somebody changes the configuration, or the unit that passes the socket on.
    public let isConfiguration: Bool

    init(_ description: String, isConfiguration: Bool = false) {
        self.description = description
        self.isConfiguration = isConfiguration
    }

    init(_ failure: SocketFailure) {
        switch failure.code {
        case .badAddress, .badPermissions, .allowListRequired, .badActivation, .unknownAccount:
            self.init(failure.message, isConfiguration: true)
        case .ownedByAnother, .notASocket, .badDirectory, .system: self.init(failure.message)
        }
    }
}

/// The daemon, from the listening socket to the last reply.
public struct Daemon: Sendable {
    /// What it is made of and held to.
    public struct Plan: Sendable {
        /// Where connections come from.
        public enum Source: Sendable {
            /// A socket of our own.
            case bound(SocketAddress, SocketPermissions)
            /// The one that systemd passed on.
            case activated(ActivatedDescriptor)
        }

        /// Where connections come from.
        public var source: Source
        /// Who may connect.
        public var policy: PeerPolicy
        /// Limits of connections.
        public var acceptance: SocketAcceptor.Settings
        /// Calls served at a time.
        public var callsInFlight: Int
        /// How long calls in flight may go on when the daemon ends.
        public var drain: Duration
        /// Where metrics and health are served; nil for nowhere.
        public var endpoint: HealthEndpoint.Source?
        /// How long READY=1 waits for the first verdict on the keys.
        public var longestSilence: Duration

        /// A plan.
        public init(
            source: Source, policy: PeerPolicy, acceptance: SocketAcceptor.Settings, callsInFlight: Int,
            drain: Duration, endpoint: HealthEndpoint.Source?, longestSilence: Duration = .seconds(20)
        ) {
            self.source = source
            self.policy = policy
            self.acceptance = acceptance
            self.callsInFlight = callsInFlight
            self.drain = drain
            self.endpoint = endpoint
            self.longestSilence = longestSilence
        }
    }

    private let plan: Plan
    private let keys: @Sendable (any SerialExecutor) -> (KeyRing, any KMSServing)
    private let registry: PrometheusRegistry
    private let identity: StatusPage.Identity
    private let log: LogOutput
    private let configuration: (any LiveConfiguration)?
    private let manager: any ServiceManager
    private let logger: Logger

    /// A daemon that serves what `keys` makes: a service, and the ring of keys behind it, both for actors of the given
    /// executor.
    ///
    /// `configuration` is what it goes by, if that may change while it runs. `registry` must be the process's metrics backend
    /// already, and `log` its log.
    public init(
        _ plan: Plan, as identity: StatusPage.Identity, configuration: (any LiveConfiguration)? = nil,
        registry: PrometheusRegistry, log: LogOutput,
        manager: any ServiceManager = Systemd(), logger: Logger,
        keys: @escaping @Sendable (any SerialExecutor) -> (KeyRing, any KMSServing)
    ) {
        self.plan = plan
        self.keys = keys
        self.configuration = configuration
        self.identity = identity
        self.registry = registry
        self.log = log
        self.manager = manager
        self.logger = logger
    }

    /// Listens, serves until SIGTERM or SIGINT, and drains.
    ///
    /// Returns whether every call ended; if not, threads are still at work and the process can only exit. `listening` is
    /// called once connections are accepted, with the addresses of the socket and of the endpoint.
    public func run(
        listening: (_ socket: String, _ endpoint: String?) -> Void
    ) async throws(StartFailure) -> Bool {
        let state = DaemonState()
        // What can fail comes first, while there is nothing to undo.
        let socket = try listen()
        let address = socket.address
        let clock = ContinuousClock()
        let began = clock.now
        let history = History(of: registry) { began.duration(to: clock.now) }
        let endpoint = try endpoint(state, history)
        defer { endpoint?.stop() }

        EngineLog.redirect { [logger] line in
            logger.debug("libgrpc", metadata: [Names.LogKey.cause: "\(line)"])
        }
        let engine = EngineThread()
        let (ring, service) = keys(engine)
        state.keysAreKnown(ring)
        let requests = ReloadRequests()
        let handler = DaemonCalls(
            kms: KMSCallHandler(
                service: service, decoder: RequestDecoder(on: engine, logger: logger), logger: logger),
            readiness: { readiness(state) }, reloads: configuration == nil ? nil : requests)
        let server = Server(
            engine: engine, methods: DaemonCalls.methods, handler: handler,
            limits: Server.Limits(callsInFlight: plan.callsInFlight))
        registry.gauge(Names.Metric.ready) { readiness(state).isReady ? 1 : 0 }
        registry.gauge(Names.Metric.requestsInFlight) { Double(server.callsInFlight) }
        let acceptor: SocketAcceptor
        do throws(SocketFailure) {
            acceptor = try SocketAcceptor(
                settings: plan.acceptance, policy: plan.policy, engine: engine, observer: AcceptanceMetrics(),
                logger: logger
            ) { server.adopt(connection: $0.takeDescriptor()) }
        } catch {
            await end(server, engine)
            throw StartFailure(error)
        }
        do throws(SocketFailure) { try await acceptor.accept(from: socket) } catch {
            await acceptor.close()
            await end(server, engine)
            throw StartFailure(error)
        }
        await server.start()
        listening(address, endpoint?.address)
        await serve(ring, acceptor, server, engine, state, requests, history)
        guard !state.hasAbandonedCalls else { return false }
        engine.stop()
        return true
    }

    private func listen() throws(StartFailure) -> ListeningSocket {
        do throws(SocketFailure) {
            switch plan.source {
            case .bound(let address, let permissions):
                return try ListeningSocket(binding: address, permissions: permissions)
            case .activated(let descriptor): return try ListeningSocket(adopting: descriptor)
            }
        } catch { throw StartFailure(error) }
    }

    /// Where metrics and health are served from now on, if anywhere.
    private func endpoint(
        _ state: DaemonState, _ history: History
    ) throws(StartFailure) -> HealthEndpoint? {
        guard let source = plan.endpoint else { return nil }
        let page: StatusPage
        do throws(CryptoFailure) {
            page = try StatusPage(
                of: identity,
                from: StatusPage.Sources(
                    keys: { state.keys }, readiness: { readiness(state) }, isStopping: { state.isStopping },
                    epochSeconds: KeyRing.timeOfDay),
                registry: registry, log: log, history: history)
        } catch { throw StartFailure("cannot make the status page: \(error)") }
        let endpoint = HealthEndpoint(
            source, registry: registry, ready: { readiness(state) }, page: page.render)
        do throws(EndpointError) {
            try endpoint.start()
            return endpoint
        } catch {
            // API servers wait at systemd's socket already, and it would start the daemon again and again: keys come first.
            guard case .activated = plan.source else { throw StartFailure(error.description) }
            logger.event(
                .metricsNotServed, "no metrics and health checks until the next start",
                metadata: [Names.LogKey.cause: "\(error)"])
            return nil
        }
    }

    private func end(_ server: Server, _ engine: EngineThread) async {
        // Nothing was ever handed to it, so nothing can be in flight.
        _ = await server.drain(grace: .zero)
        engine.stop()
    }

    /// Runs the services until a signal comes; they start in this order and stop in the reverse one.
    private func serve(
        _ ring: KeyRing, _ acceptor: SocketAcceptor, _ server: Server, _ engine: EngineThread,
        _ state: DaemonState, _ requests: ReloadRequests, _ history: History
    ) async {
        var services: [any Service] = [
            HistoryKeeping(history: history, clock: ContinuousClock()),
            KeyObservation(ring: ring),
            StatusLine(
                ring: ring, callsInFlight: { server.callsInFlight }, longestSilence: plan.longestSilence,
                manager: manager, state: state, clock: ContinuousClock(), epochSeconds: KeyRing.timeOfDay,
                logger: logger),
            Watchdog(engine: engine, manager: manager, clock: ContinuousClock(), logger: logger),
        ]
        if let configuration {
            services.append(
                Reloading(
                    configuration: configuration, daemon: RunningDaemon(ring: ring, acceptor: acceptor),
                    hangups: await UnixSignalsSequence(trapping: .sighup), requests: requests,
                    manager: manager, state: state, clock: ContinuousClock(),
                    epochSeconds: KeyRing.timeOfDay, metrics: ReloadMetrics(), logger: logger))
        }
        #if DEBUG
            services.append(WatchdogTrial(engine: engine))
        #endif
        services.append(
            Serving(
                clock: ContinuousClock(), acceptor: acceptor, server: server, grace: plan.drain,
                state: state, reloads: requests, manager: manager, logger: logger))
        var quiet = logger
        // The group's own steps are the daemon's, and told in its words.
        quiet.logLevel = max(logger.logLevel, .warning)
        let group = ServiceGroup(
            configuration: ServiceGroupConfiguration(
                services: services,
                gracefulShutdownSignals: [.sigterm, .sigint],
                logger: quiet))
        do { try await group.run() } catch {
            // No service of ours throws; one that ended early would be a defect that must not pass for a clean stop.
            logger.event(
                .serviceFailed, "a service of the daemon failed", metadata: [Names.LogKey.cause: "\(error)"])
            state.abandonCalls()
        }
    }

    private func readiness(_ state: DaemonState) -> Readiness {
        let life = Readiness.Check("daemon", problem: state.isStopping ? "stopping" : nil)
        let keys = state.keys.map { $0.check }
        return Readiness([life] + (keys.isEmpty ? [Readiness.Check("keys", problem: "starting")] : keys))
    }
}
