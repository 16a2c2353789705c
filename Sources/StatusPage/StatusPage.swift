// StatusPage: what a person sees at `/` on the metrics port: is it well, if not whose fault, since when.
//
// From memory alone: snapshots of the keys, the metrics, the latest events, and an hour of history that it keeps itself.
// Nothing on it acts, nothing on it is secret, and nothing is loaded for it.

public import EnvelopeCrypto
public import KeyService
private import Logging
public import Observability

/// The page, made anew whenever somebody asks for it.
public struct StatusPage: Sendable {
    /// What the rest of the daemon has to say; each is asked at every request, and must answer from memory.
    public struct Sources: Sendable {
        let keys: @Sendable () -> [KeySnapshot]
        let readiness: @Sendable () -> Readiness
        let isStopping: @Sendable () -> Bool
        let epochSeconds: @Sendable () -> Int64

        /// What the page is made of.
        public init(
            keys: @escaping @Sendable () -> [KeySnapshot], readiness: @escaping @Sendable () -> Readiness,
            isStopping: @escaping @Sendable () -> Bool, epochSeconds: @escaping @Sendable () -> Int64
        ) {
            self.keys = keys
            self.readiness = readiness
            self.isStopping = isStopping
            self.epochSeconds = epochSeconds
        }
    }

    /// What does not change while the process runs.
    public struct Identity: Sendable {
        let host: String
        let version: String
        let startedAt: Int64

        /// Name of the host, version of the daemon, and when it started, seconds since 1970.
        public init(host: String, version: String, startedAt: Int64) {
            self.host = host
            self.version = version
            self.startedAt = startedAt
        }
    }

    private let identity: Identity
    private let sources: Sources
    private let registry: PrometheusRegistry
    private let log: LogOutput
    private let history: History
    private let policy: Policy

    /// A page of this daemon; throws where the loaded OpenSSL has no SHA-256.
    public init(
        of identity: Identity, from sources: Sources, registry: PrometheusRegistry, log: LogOutput,
        history: History
    ) throws(CryptoFailure) {
        policy = try Policy()
        self.identity = identity
        self.sources = sources
        self.registry = registry
        self.log = log
        self.history = history
    }

    /// The page as of now.
    ///
    /// Some 30 KB; takes about a millisecond, and asks nobody outside this process.
    public func render() -> Page {
        Page(html: Array(Layout(report: report()).document.text.utf8), policy: policy.text)
    }

    /// All that the page shows.
    func report() -> Report {
        let keys = sources.keys()
        func ofEach(_ metric: String) -> [String: Double] {
            Dictionary(keys.map { ($0.name, registry.total(metric, [Names.Label.key: [$0.name]])) }) { $1 }
        }
        let refusals = registry.total(Names.Metric.reloads, [Names.Label.result: ["refused"]])
        return Report(
            identity: identity, now: sources.epochSeconds(), isStopping: sources.isStopping(),
            readiness: sources.readiness(), keys: keys,
            openBreakers: Set(ofEach(Names.Metric.backendBreakerOpen).filter { $0.value > 0 }.keys),
            probeIntervals: ofEach(Names.Metric.keyProbeInterval).filter { $0.value > 0 },
            events: log.recent.latest, hidesEvents: log.level > .notice, curves: history.curves,
            lately: Report.Lately(
                failedCalls: history.growth(of: \.failedCalls, within: 1800),
                slowCalls: [300, 1800, 3600].map { history.slowCalls(beyond: 1, within: $0) },
                unreadable: history.growth(of: \.unreadable, within: 600),
                throttled: history.growth(of: \.throttledBackendCalls, within: 300),
                refused: history.growth(of: \.refused, within: 600),
                calls: history.growth(of: \.calls, within: 600)),
            connections: Int(registry.total(Names.Metric.connections)),
            callsInFlight: Int(registry.total(Names.Metric.requestsInFlight)),
            cacheEntries: Int(registry.total(Names.Metric.cacheEntries)),
            isMemoryLocked: registry.total(Names.Metric.memoryLocked) > 0,
            isAcceptingPaused: registry.total(Names.Metric.acceptingPaused) > 0,
            isLastReloadRefused: refusals > 0 && registry.total(Names.Metric.reloadSucceeded) == 0,
            configuredAt: Int64(registry.total(Names.Metric.reloadedAt)))
    }
}

/// All that the page shows, of one moment.
struct Report {
    /// What happened in the last minutes.
    struct Lately {
        var failedCalls = 0
        /// Encrypts and Decrypts that took longer than a second, and all, in 5 minutes, half an hour and an hour.
        var slowCalls: [(slow: Int, all: Int)] = []
        var unreadable = 0
        var throttled = 0
        var refused = 0
        /// Of any kind, in ten minutes.
        var calls = 1
    }

    var identity: StatusPage.Identity
    var now: Int64
    var isStopping = false
    var readiness = Readiness()
    var keys: [KeySnapshot] = []
    var openBreakers: Set<String> = []
    /// How often each key is probed, in seconds.
    var probeIntervals: [String: Double] = [:]
    var events: [RecentEvents.Entry] = []
    /// Whether `log.level` keeps events from being told, here as in the log.
    var hidesEvents = false
    var curves: [Curve] = []
    var lately = Lately()
    var connections = 0
    var callsInFlight = 0
    var cacheEntries = 0
    var isMemoryLocked = true
    var isAcceptingPaused = false
    var isLastReloadRefused = false
    /// When the configuration that runs was read; 0 if there is none.
    var configuredAt: Int64 = 0

    /// Where the reason of something is to be found, if it is: among events whose codes begin so.
    func told(by codes: String...) -> String {
        if events.contains(where: { event in codes.contains { event.code.hasPrefix($0) } }) {
            return "; the events below say why"
        }
        return hidesEvents ? "; log.level hides why" : ""
    }
}
