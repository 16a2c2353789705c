public import CoreMetrics
public import GRPCEngine
private import KMSWire
public import KeyService
public import Logging
internal import RemoteKMS

/// Serves the KMS API: decodes a call, has the key service answer it in what is left of its time, encodes the reply.
///
/// Every failure is a `CallFailure` with one line for the operator. A trap of the Swift runtime cannot be contained: it
/// ends the process, and systemd starts another; so peer input is decoded by code that throws and never traps.
///
/// Each call is counted and timed. With the log level at `debug` it leaves one line; above that it leaves none if it
/// succeeds. Failures of one method, code, key and trouble leave one at once and then ever fewer, with the number of those
/// left out. The first ten requests of a method that are refused for what is in them, in ten minutes, are notices; what goes on is a warning.
public struct KMSCallHandler: CallHandler {
    /// The list of methods to make the engine's server with; `IncomingCall.method` is an index of it.
    ///
    /// Status and Version are answered from memory, and must be while everything else is refused: they are exempt
    /// from the limit of calls in flight.
    public static let methods = KMSMethod.allCases.map { method in
        Server.Method(path: method.path, isExemptFromLimit: method == .v2Status || method == .v1Version)
    }

    private let service: any KMSServing
    private let decoder: RequestDecoder
    private let record: CallRecord
    private let now: @Sendable () -> ContinuousClock.Instant

    /// A handler; its metrics are made once, here.
    ///
    /// `now` is read at the start and the end of each call.
    public init(
        service: any KMSServing, decoder: RequestDecoder, logger: Logger,
        metrics: any MetricsFactory = MetricsSystem.factory,
        now: @escaping @Sendable () -> ContinuousClock.Instant = { ContinuousClock.now }
    ) {
        self.service = service
        self.decoder = decoder
        self.now = now
        record = CallRecord(metrics: metrics, logger: logger, now: now)
    }

    /// Answers one call.
    public func serve(_ call: consuming IncomingCall) async throws(CallFailure) -> ReplyBytes {
        guard let method = KMSMethod(rawValue: call.method) else {
            throw CallFailure(.internal, "the server was not made with the methods of this handler")
        }
        var trace = CallTrace(method, start: now())
        do throws(CallFailure) {
            let reply = try await answer(call, &trace)
            record.answered(trace)
            return reply
        } catch {
            record.failed(trace, error)
            throw error
        }
    }

    private func answer(
        _ call: consuming IncomingCall, _ trace: inout CallTrace
    ) async throws(CallFailure) -> ReplyBytes {
        let method = trace.method
        guard let deadline = Self.budget(of: call.deadline, from: trace.start) else {
            throw CallFailure(.deadlineExceeded, "the caller's deadline had passed before the call was read")
        }
        let request: KMSRequest
        do throws(WireError) { request = try await decoder.decode(call, as: method) } catch {
            trace.isLoggedElsewhere = true
            throw CallFailure(refused: error)
        }
        trace.learn(request)
        let reply: KMSReply
        do throws(KMSFailure) {
            reply = try await service.perform(request, deadline: deadline, keyID: &trace.keyID)
        } catch {
            trace.key = error.key
            trace.trouble = error.trouble
            throw CallFailure(error)
        }
        guard reply.method == method else {
            throw CallFailure(.internal, "the key service answered another method than it was asked")
        }
        trace.learn(reply)
        do throws(WireError) { return try await decoder.encode(reply) } catch {
            throw CallFailure(unsendable: error)
        }
    }

    /// When the key service must have answered: the caller's deadline, or three seconds if it has none, less a
    /// twentieth of the time and at least 50 ms, so that our error arrives before the caller's own timer fires.
    ///
    /// Nil if the deadline has passed. With less than 50 ms to go the result lies in the past: what is answered from
    /// memory still is, and nothing remote is begun.
    static func budget(
        of deadline: ContinuousClock.Instant?, from start: ContinuousClock.Instant
    ) -> Deadline? {
        let end = deadline ?? start + .seconds(3)
        guard end > start else { return nil }
        return Deadline(end - max(.milliseconds(50), start.duration(to: end) / 20))
    }
}
