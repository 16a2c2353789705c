private import FoundationEssentials
public import GRPCEngine
internal import RequestDecoding

/// What is served on the socket: the KMS API, and what operators ask of the daemon itself.
///
/// Whoever may connect may ask: a reload takes nothing but what the owner of the configuration file wrote there.
public struct DaemonCalls: CallHandler {
    /// Has the configuration read anew, and answers when that is done: an empty message in, a `ReloadReport` as JSON out.
    public static let reloadPath = "/kmsward.v1.Daemon/Reload"

    /// The list of methods to make the engine's server with.
    static let methods = KMSCallHandler.methods + [Server.Method(path: reloadPath, isExemptFromLimit: true)]

    let kms: KMSCallHandler
    /// Nil for a daemon without a configuration file.
    let reloads: ReloadRequests?

    /// Answers one call.
    public func serve(_ call: consuming IncomingCall) async throws(CallFailure) -> ReplyBytes {
        guard call.method == KMSCallHandler.methods.count else { return try await kms.serve(call) }
        guard let reloads else {
            throw CallFailure(
                .failedPrecondition, "the daemon was started with --dev and has no configuration file to read"
            )
        }
        guard let report = await reloads.reload() else {
            throw CallFailure(
                .unavailable,
                "the daemon ends, or the caller gave up, before the reload was done; see the log")
        }
        return try report.encoded()
    }
}

extension ReloadReport {
    /// No more lines of a kind than these cross the socket; the log has them all.
    private static let longestList = 50

    func encoded() throws(CallFailure) -> ReplyBytes {
        var short = self
        for list in [\ReloadReport.waiting, \.reasons, \.warnings] {
            let left = short[keyPath: list].count - Self.longestList
            guard left > 0 else { continue }
            short[keyPath: list] =
                short[keyPath: list].prefix(Self.longestList) + ["and \(left) more: see the log"]
        }
        do {
            let bytes = try JSONEncoder().encode(short)
            return ReplyBytes(count: bytes.count) { span in
                for (offset, byte) in bytes.enumerated() {
                    span.storeBytes(of: byte, toByteOffset: offset, as: UInt8.self)
                }
            }
        } catch { throw CallFailure(.internal, "the report cannot be written: \(error)") }
    }

    /// The report in an answer of the daemon's; nil if it is none.
    public init?(_ message: borrowing MessageBytes) {
        let bytes = message.withBytes { unsafe $0.withUnsafeBytes { unsafe Data($0) } }
        guard let report = try? JSONDecoder().decode(ReloadReport.self, from: bytes) else { return nil }
        self = report
    }
}
