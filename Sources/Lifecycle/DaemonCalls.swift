private import FoundationEssentials
public import GRPCEngine
public import Observability
internal import RequestDecoding

/// What is served on the socket: the KMS API, and what operators ask of the daemon itself.
///
/// Whoever may connect may ask: a reload takes nothing but what the owner of the configuration file wrote there, and how the keys
/// are is no secret.
public struct DaemonCalls: CallHandler {
    /// Has the configuration read anew, and answers when that is done: an empty message in, a `ReloadReport` as JSON out.
    public static let reloadPath = "/kmsward.v1.Daemon/Reload"

    /// Says what /readyz says: an empty message in, a `Readiness` as JSON out.
    public static let readinessPath = "/kmsward.v1.Daemon/Readiness"

    /// The list of methods to make the engine's server with.
    static let methods =
        KMSCallHandler.methods
        + [reloadPath, readinessPath].map { Server.Method(path: $0, isExemptFromLimit: true) }

    let kms: KMSCallHandler
    let readiness: @Sendable () -> Readiness
    /// Nil for a daemon without a configuration file.
    let reloads: ReloadRequests?

    /// Answers one call.
    public func serve(_ call: consuming IncomingCall) async throws(CallFailure) -> ReplyBytes {
        switch call.method - KMSCallHandler.methods.count {
        case 0: return try await reload()
        case 1: return try encoded(readiness())
        default: return try await kms.serve(call)
        }
    }

    private func reload() async throws(CallFailure) -> ReplyBytes {
        guard let reloads else {
            throw CallFailure(
                .failedPrecondition, "the daemon was started with --dev and has no configuration file to read"
            )
        }
        guard let report = await reloads.reload() else {
            // Not UNAVAILABLE, which is what a caller sees who reaches nobody.
            throw CallFailure(
                .aborted,
                "the daemon ends, or the caller gave up, before the reload was done; see the log")
        }
        return try encoded(report.shortened)
    }
}

/// What a caller can decode with `decoded`.
func encoded(_ answer: some Encodable) throws(CallFailure) -> ReplyBytes {
    do {
        let bytes = try JSONEncoder().encode(answer)
        return ReplyBytes(count: bytes.count) { span in
            for (offset, byte) in bytes.enumerated() {
                span.storeBytes(of: byte, toByteOffset: offset, as: UInt8.self)
            }
        }
    } catch { throw CallFailure(.internal, "the answer cannot be written: \(error)") }
}

/// What the daemon answered; nil if it is nothing of the kind.
private func decoded<Answer: Decodable>(_ message: borrowing MessageBytes) -> Answer? {
    let bytes = message.withBytes { unsafe $0.withUnsafeBytes { unsafe Data($0) } }
    return try? JSONDecoder().decode(Answer.self, from: bytes)
}

extension ReloadReport {
    /// No more lines of a kind than these cross the socket; the log has them all.
    private static let longestList = 50

    var shortened: ReloadReport {
        var short = self
        for list in [\ReloadReport.waiting, \.reasons, \.warnings] {
            let left = short[keyPath: list].count - Self.longestList
            guard left > 0 else { continue }
            short[keyPath: list] =
                short[keyPath: list].prefix(Self.longestList) + ["and \(left) more: see the log"]
        }
        return short
    }

    /// The report in an answer of the daemon's; nil if it is none.
    public init?(_ message: borrowing MessageBytes) {
        guard let report: Self = decoded(message) else { return nil }
        self = report
    }
}

extension Readiness {
    /// How the daemon is, from an answer of its own; nil if it is none.
    public init?(_ message: borrowing MessageBytes) {
        guard let readiness: Self = decoded(message) else { return nil }
        self = readiness
    }
}
