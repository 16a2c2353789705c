// RequestDecoding: between the engine, which knows no KMS word, and the key service, which knows no byte of the wire:
// messages become validated requests, replies become messages, and each call leaves its trace in log and metrics.

private import Events
public import GRPCEngine
public import KMSWire
public import Logging
private import Observability

/// Turns messages into requests and replies into messages, and keeps account of what was refused.
///
/// Runs on the engine's own executor, so that a call that awaits it crosses no thread.
public actor RequestDecoder {
    private let executor: any SerialExecutor
    private let logger: Logger
    private let now: @Sendable () -> ContinuousClock.Instant
    private var refusals: [WireError.Reason: Int] = [:]
    private let start: ContinuousClock.Instant
    private var warnings = Repeats<Refusal>()

    private struct Refusal: Hashable {
        let method: KMSMethod
        let reason: WireError.Reason
    }

    /// The engine's executor, which must outlive the decoder.
    public nonisolated var unownedExecutor: UnownedSerialExecutor {
        // `executor` is held for as long as the actor lives.
        unsafe executor.asUnownedSerialExecutor()
    }

    /// A decoder on `executor`; `now` is the clock of its rate-limited warnings.
    public init(
        on executor: any SerialExecutor, logger: Logger,
        now: @escaping @Sendable () -> ContinuousClock.Instant = { ContinuousClock.now }
    ) {
        self.executor = executor
        self.logger = logger
        self.now = now
        start = now()
    }

    /// How many messages were refused for `reason` since the start.
    public func refused(_ reason: WireError.Reason) -> Int { refusals[reason, default: 0] }

    /// Reads the message of one call and lets its bytes go, which wipes them.
    ///
    /// `method` is the call's own, by name. The first refusal for a reason is logged at once as a warning, further ones ever more seldom with their
    /// number.
    public func decode(
        _ call: consuming IncomingCall, as method: KMSMethod
    ) throws(WireError) -> KMSRequest {
        do throws(WireError) {
            return try call.message.withBytes { span throws(WireError) in
                try KMSRequest(parsing: span, as: method)
            }
        } catch {
            note(error, method)
            throw error
        }
    }

    /// Writes one reply in place; it throws if the API server would not take it, which is the plugin's own fault.
    public func encode(_ reply: consuming KMSReply) throws(WireError) -> ReplyBytes {
        try reply.encode { count, fill in ReplyBytes(count: count, fill: fill) }
    }

    private func note(_ error: WireError, _ method: KMSMethod) {
        refusals[error.reason, default: 0] += 1
        let refusal = Refusal(method: method, reason: error.reason)
        guard let omitted = warnings.admit(refusal, at: start.duration(to: now())) else { return }
        var metadata: Logger.Metadata = [
            Names.LogKey.api: "\(method.api.name)", Names.LogKey.method: "\(method.name)",
            Names.LogKey.reason: "\(error.reason.rawValue)", Names.LogKey.cause: "\(error)",
            Names.LogKey.remedy: "find the caller: kube-apiserver sends nothing like this",
        ]
        if omitted > 0 { metadata[Names.LogKey.count] = "\(omitted)" }
        logger.event(
            .requestMalformed, "refused a KMS request that breaks the API", metadata: metadata)
    }
}
