internal import CoreMetrics
private import Events
internal import GRPCEngine
internal import KMSWire
internal import KeyService
internal import Logging
private import Observability
private import Synchronization

/// What a log line says of a call; never a key.
struct CallTrace {
    let method: KMSMethod
    let start: ContinuousClock.Instant
    /// The API server's id of the call.
    var uid = ""
    /// The key_id that the key service goes by; until it was found, the one that a v2 Decrypt asks with.
    var keyID = ""
    /// Name of the key that failed it, and the class of its trouble; empty where there is none.
    var key = ""
    var trouble = ""
    /// The decoder has counted and logged this failure.
    var isLoggedElsewhere = false

    init(_ method: KMSMethod, start: ContinuousClock.Instant) {
        self.method = method
        self.start = start
    }

    mutating func learn(_ request: borrowing KMSRequest) {
        switch request {
        case .version: break
        case .status: break
        case .encrypt(let encrypt): uid = encrypt.uid
        case .decrypt(let decrypt):
            uid = decrypt.uid
            keyID = decrypt.keyID
        }
    }

    mutating func learn(_ reply: borrowing KMSReply) {
        switch reply {
        case .version: break
        case .decrypted: break
        case .status(let status): keyID = status.keyID
        case .encrypted: break
        }
    }
}

/// Where calls leave their trace: counters, durations and log lines.
///
/// A call that succeeds costs two metric updates; a log line is built only if its level is on.
final class CallRecord: Sendable {
    private struct Kind: Hashable {
        let method: KMSMethod
        let code: StatusCode
        let key: String
        let trouble: String
        let level: Logger.Level
    }

    /// By method, then by code.
    private let counters: [[any CounterHandler]]
    /// By method.
    private let durations: [any TimerHandler]
    private let logger: Logger
    private let now: @Sendable () -> ContinuousClock.Instant
    private let start: ContinuousClock.Instant
    private let warnings = Mutex(Repeats<Kind>())
    private let refusals = Mutex(Recurrence<KMSMethod>(limit: 10, interval: .seconds(600)))

    init(
        metrics: any MetricsFactory, logger: Logger,
        now: @escaping @Sendable () -> ContinuousClock.Instant
    ) {
        counters = KMSMethod.allCases.map { method in
            StatusCode.allCases.map { code in
                metrics.makeCounter(
                    label: Names.Metric.requests,
                    dimensions: [
                        (Names.Label.api, method.api.name), (Names.Label.method, method.name),
                        (Names.Label.code, code.name),
                    ])
            }
        }
        durations = KMSMethod.allCases.map { method in
            metrics.makeTimer(
                label: Names.Metric.requestDuration,
                dimensions: [(Names.Label.api, method.api.name), (Names.Label.method, method.name)])
        }
        self.logger = logger
        self.now = now
        start = now()
    }

    func answered(_ trace: CallTrace) {
        let duration = count(trace, .ok)
        guard logger.logLevel <= .debug else { return }
        logger.debug("answered a KMS call", metadata: metadata(trace, .ok, duration))
    }

    func failed(_ trace: CallTrace, _ failure: CallFailure) {
        let duration = count(trace, failure.code)
        let level = level(trace, failure.code, at: trace.start + duration)
        guard logger.logLevel <= level else { return }
        var omitted = 0
        if level > .debug {
            let kind = Kind(
                method: trace.method, code: failure.code, key: trace.key, trouble: trace.trouble,
                level: level)
            let time = start.duration(to: trace.start + duration)
            guard let count = warnings.withLock({ $0.admit(kind, at: time) }) else {
                return traceOmitted(trace, failure, duration)
            }
            omitted = count
        }
        var metadata = metadata(trace, failure.code, duration)
        metadata[Names.LogKey.cause] = "\(failure.message)"
        if omitted > 0 { metadata[Names.LogKey.count] = "\(omitted)" }
        guard level > .debug else {
            return logger.debug("failed a KMS call", metadata: metadata)
        }
        logger.event(Event(failure.code), "failed a KMS call", level: level, metadata: metadata)
    }

    /// A failure whose warning was left out is still there for whoever reads at debug.
    private func traceOmitted(_ trace: CallTrace, _ failure: CallFailure, _ duration: Duration) {
        guard logger.logLevel <= .debug else { return }
        var metadata = metadata(trace, failure.code, duration)
        metadata[Names.LogKey.cause] = "\(failure.message)"
        logger.debug("failed a KMS call", metadata: metadata)
    }

    /// A caller that has gone is no trouble of ours; a defect is more than a warning.
    ///
    /// A request refused for what is in it is worth a look, and `kmsward doctor` makes a few on purpose; only when they
    /// go on does an API server fail to read or write something.
    private func level(
        _ trace: CallTrace, _ code: StatusCode, at now: ContinuousClock.Instant
    ) -> Logger.Level {
        if trace.isLoggedElsewhere { return .debug }
        switch code {
        case .cancelled: return .debug
        case .internal: return .error
        case .invalidArgument:
            return refusals.withLock { $0.goesOn(trace.method, at: now) } ? .warning : .notice
        default: return Event(code).entry.level
        }
    }

    private func count(_ trace: CallTrace, _ code: StatusCode) -> Duration {
        let duration = trace.start.duration(to: now())
        counters[trace.method.rawValue][code.rawValue].increment(by: 1)
        durations[trace.method.rawValue].recordNanoseconds(duration.nanoseconds)
        return duration
    }

    private func metadata(
        _ trace: CallTrace, _ code: StatusCode, _ duration: Duration
    ) -> Logger.Metadata {
        var metadata: Logger.Metadata = [
            Names.LogKey.api: "\(trace.method.api.name)", Names.LogKey.method: "\(trace.method.name)",
            Names.LogKey.code: "\(code.name)",
            Names.LogKey.durationMS: "\(Double(duration.nanoseconds / 1_000) / 1_000)",
        ]
        if !trace.uid.isEmpty { metadata[Names.LogKey.uid] = "\(trace.uid)" }
        if !trace.key.isEmpty { metadata[Names.LogKey.key] = "\(trace.key)" }
        if !trace.keyID.isEmpty { metadata[Names.LogKey.keyID] = "\(trace.keyID)" }
        return metadata
    }
}
