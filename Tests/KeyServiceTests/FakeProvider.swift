import Glibc
import RemoteKMS
import SecureMemory
import Synchronization

/// A key-management service in memory that behaves: versions, refusals, slowness, and a count of calls.
///
/// It encodes what it wraps, 72 bytes, instead of encrypting it: `version length, version, context, bytes, padding`.
final class FakeProvider: Provider {
    enum Operation: Hashable, CaseIterable { case describe, wrap, probe, unwrap }

    struct Behaviour {
        var identity: String
        var version = "1"
        var createdAt = ""
        var knownVersions: Set<String> = ["1"]
        var failures: [Operation: RemoteKMSError] = [:]
        /// What is said of what was wrapped under these versions.
        var disabledVersions: [String: RemoteKMSError] = [:]
        /// Bytes added to every wrapped key.
        var padding = 0
        /// Versions whose unwrap gives other bytes than were wrapped.
        var lies: Set<String> = []
        /// Whether unwraps give a byte less.
        var truncates = false
        /// What the version becomes as soon as something is wrapped.
        var versionAfterWrap: String?
        var facts = ProviderFacts()
        var calls: [Operation: Int] = [:]
        var unwrapped: [[UInt8]] = []
        /// Whether every failure names its call, as services do.
        var namesCalls = false
        /// The deadline of the last unwrap.
        var deadline: Deadline?
    }

    let name = "fake"
    let storage: KeyStorage
    let configuredIdentity: String?
    private let behaviour: Mutex<Behaviour>
    /// Passed by every call; closed, it holds them.
    let gate = Gate()
    /// The same for unwraps alone.
    let unwrapGate = Gate()

    /// `isConfigured`: whether its configuration alone tells the identity.
    init(identity: String = "key-1", storage: KeyStorage = .service, isConfigured: Bool = false) {
        behaviour = Mutex(Behaviour(identity: identity))
        configuredIdentity = isConfigured ? identity : nil
        self.storage = storage
    }

    func set(_ change: (inout Behaviour) -> Void) { behaviour.withLock { change(&$0) } }
    func fail(_ operation: Operation, _ code: RemoteKMSError.Code?) {
        set {
            $0.failures[operation] = code.map {
                RemoteKMSError($0, "the fake says \($0)", remedy: "tell it otherwise")
            }
        }
    }
    func rotate(to version: String) {
        set {
            $0.version = version
            $0.knownVersions.insert(version)
        }
    }
    var facts: ProviderFacts { seen.facts }
    var seen: Behaviour { behaviour.withLock { $0 } }
    func count(_ operation: Operation) -> Int { behaviour.withLock { $0.calls[operation] ?? 0 } }

    private func enter(_ operation: Operation) async throws(RemoteKMSError) -> Behaviour {
        await gate.pass()
        if Task.isCancelled { throw RemoteKMSError(.deadlineExceeded, "cancelled") }
        let now = behaviour.withLock { behaviour in
            behaviour.calls[operation, default: 0] += 1
            return behaviour
        }
        if let failure = now.failures[operation] { throw Self.named(failure, now) }
        return now
    }

    private static func named(_ failure: RemoteKMSError, _ now: Behaviour) -> RemoteKMSError {
        guard now.namesCalls else { return failure }
        return RemoteKMSError(
            failure.code, failure.summary, remedy: failure.remedy,
            reference: "request \(now.calls.values.reduce(0, +))")
    }

    func describe(_ attempt: Attempt) async throws(RemoteKMSError) -> KeyDescription {
        let now = try await enter(.describe)
        return KeyDescription(identity: now.identity, version: now.version, versionCreatedAt: now.createdAt)
    }

    func wrap(
        _ plaintext: borrowing SecretBytes, context: WrapContext, attempt: Attempt
    ) async throws(RemoteKMSError) -> [UInt8] {
        let bytes = array(plaintext)
        // Probes are told from wraps of local KEKs, so that either can fail alone.
        let now = try await enter(context.purpose == "probe" ? .probe : .wrap)
        if context.purpose != "probe", let next = now.versionAfterWrap { rotate(to: next) }
        return Self.field(now.version) + Self.field(context.keyID) + bytes
            + [UInt8](repeating: 0, count: now.padding)
    }

    func unwrap(
        _ wrapped: [UInt8], context: WrapContext, attempt: Attempt
    ) async throws(RemoteKMSError) -> SecretBytes {
        await unwrapGate.pass()
        let now = try await enter(.unwrap)
        set {
            $0.unwrapped.append(wrapped)
            $0.deadline = attempt.deadline
        }
        guard let version = Self.field(in: wrapped, at: 0),
            let keyID = Self.field(in: wrapped, at: 1 + version.utf8.count), keyID == context.keyID
        else { throw RemoteKMSError(.invalidCiphertext, "not wrapped here, or for another key_id") }
        if let failure = now.disabledVersions[version] { throw Self.named(failure, now) }
        guard now.knownVersions.contains(version) else {
            throw RemoteKMSError(.keyNotFound, "no version \(version)")
        }
        var bytes = Array(wrapped.dropFirst(2 + version.utf8.count + keyID.utf8.count).prefix(72))
        if now.lies.contains(version), !bytes.isEmpty { bytes[bytes.count - 1] ^= 1 }
        return secret(now.truncates ? Array(bytes.dropLast()) : bytes)
    }

    private static func field(_ text: String) -> [UInt8] { [UInt8(text.utf8.count)] + Array(text.utf8) }
    private static func field(in bytes: [UInt8], at offset: Int) -> String? {
        guard offset < bytes.count, offset + 1 + Int(bytes[offset]) <= bytes.count else { return nil }
        return String(decoding: bytes[offset + 1..<offset + 1 + Int(bytes[offset])], as: UTF8.self)
    }
}

/// Holds whoever passes while it is closed; a cancelled task passes.
final class Gate: Sendable {
    private struct State {
        var isOpen = true
        var waiting: [Int: CheckedContinuation<Void, Never>] = [:]
        var next = 0
    }

    private let state = Mutex(State())

    func close() { state.withLock { $0.isOpen = false } }

    func open() {
        let waiting = state.withLock { state in
            state.isOpen = true
            defer { state.waiting = [:] }
            return state.waiting
        }
        for continuation in waiting.values { continuation.resume() }
    }

    func pass() async {
        let ticket = state.withLock { state in
            state.next += 1
            return state.next
        }
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let mustWait = state.withLock { state in
                    guard !state.isOpen, !Task.isCancelled else { return false }
                    state.waiting[ticket] = continuation
                    return true
                }
                if !mustWait { continuation.resume() }
            }
        } onCancel: {
            state.withLock { $0.waiting.removeValue(forKey: ticket) }?.resume()
        }
    }
}

/// The bytes of a secret of a test.
func array(_ bytes: borrowing SecretBytes) -> [UInt8] {
    bytes.withBytes { span in
        (0..<span.byteCount).map { unsafe span.unsafeLoad(fromByteOffset: $0, as: UInt8.self) }
    }
}

/// The secret of given bytes, for tests.
func secret(_ bytes: [UInt8]) -> SecretBytes {
    SecretBytes(count: bytes.count) { span in
        for (index, byte) in bytes.enumerated() {
            span.storeBytes(of: byte, toByteOffset: index, as: UInt8.self)
        }
    }
}
