// JDCloudProvider: keys of JD Cloud KMS. It signs, calls and says what an answer means; nothing else.

public import HTTPTransport
public import RemoteKMS
private import RequestSigning
public import SecureMemory
private import Synchronization

/// A key of JD Cloud KMS, and how it is reached.
public struct JDCloudSettings: Sendable {
    /// Which signature requests carry.
    public enum Signature: Sendable {
        /// JDCLOUD2-HMAC-SHA256.
        case v2
        /// JDCLOUD3-HMAC-SHA256.
        case v3
    }

    /// The key's identifier, 1 to 64 letters, digits, `-` and `_`.
    public var keyID: String
    /// Tells apart keys of one identifier, in different clouds of JD's; usually empty.
    public var realm: String
    /// `https://HOST` or `https://HOST:PORT`; with http only where the transport allows it.
    public var endpoint: String
    /// The region that requests are signed for; the service takes any.
    public var region: String
    /// Which signature requests carry.
    public var signature: Signature
    /// Whether session tokens are sent as they are, not in base64.
    public var sendsRawTokens: Bool
    /// Whether the version is read; if not, `static` stands for it, and rotations are not noticed.
    public var observesVersion: Bool
    /// Where the credentials come from.
    public var credentials: CredentialSettings

    /// A key.
    public init(
        keyID: String, realm: String = "", endpoint: String, region: String = "jdcloud-api",
        signature: Signature = .v2,
        sendsRawTokens: Bool = false, observesVersion: Bool = true, credentials: CredentialSettings
    ) {
        self.keyID = keyID
        self.realm = realm
        self.endpoint = endpoint
        self.region = region
        self.signature = signature
        self.sendsRawTokens = sendsRawTokens
        self.observesVersion = observesVersion
        self.credentials = credentials
    }
}

/// The `jdcloud` provider: one key of JD Cloud KMS.
///
/// What `wrap` returns is the decoded ciphertextBlob, as the vendor's own plugin stores it. JD Cloud has no additional
/// authenticated data, so the context is not sent: what it binds must be bound by the caller.
public final class JDCloudProvider: Provider {
    /// `jdcloud`.
    public let name = "jdcloud"

    private let keyID: String
    private let identity: String
    private let observesVersion: Bool
    private let gateway: Gateway
    private let keeper: CredentialKeeper
    private let refusals = Mutex<[(error: RemoteKMSError, remedy: Remedy)]>([])

    /// What `recover` can do about a refusal.
    private enum Remedy {
        case clock(used: Int64, right: Int64)
        case credentials(generation: Int)
    }

    /// A provider; nothing is read or called yet.
    ///
    /// The transport stays the caller's, who closes it when the last call has ended. Throws `misconfigured`.
    public convenience init(_ settings: JDCloudSettings, transport: HTTPTransport) throws(RemoteKMSError) {
        try self.init(
            settings, transport: transport, clock: ContinuousClock(), systemTime: SkewedClock.system)
    }

    init(
        _ settings: JDCloudSettings, transport: HTTPTransport, clock: any DeadlineClock,
        systemTime: @escaping @Sendable () -> Int64
    ) throws(RemoteKMSError) {
        guard Self.isKeyID(settings.keyID) else {
            throw RemoteKMSError(
                .misconfigured, "key_id of a JD Cloud key is not 1 to 64 letters, digits, - and _",
                remedy: "copy it from the console")
        }
        let skewed = SkewedClock(systemTime)
        func gateway(_ origin: HTTPOrigin, _ service: String) -> Gateway {
            Gateway(
                origin, service: service, region: service == "kms" ? settings.region : "jdcloud-api",
                scheme: settings.signature == .v2 ? .jdcloud2 : .jdcloud3,
                sendsRawTokens: settings.sendsRawTokens,
                transport: transport, clock: skewed)
        }
        keyID = settings.keyID
        identity = settings.realm.isEmpty ? settings.keyID : "\(settings.realm)/\(settings.keyID)"
        observesVersion = settings.observesVersion
        self.gateway = gateway(try HTTPOrigin(configured: settings.endpoint), "kms")
        keeper = CredentialKeeper(
            try settings.credentials.source(
                gateway, transport: transport, clock: clock, systemTime: systemTime),
            clock: clock)
    }

    /// Whether a key can be called that: what is sent needs no escapes.
    public static func isKeyID(_ text: String) -> Bool { text.utf8.count <= 64 && text.isAccessKey }

    /// How long temporary credentials still serve, what the clock is set right by, when the service's certificate ends, what was
    /// asked of the service, and new credentials that do not serve.
    public var facts: ProviderFacts {
        get async {
            await ProviderFacts(
                credentialsServeFor: keeper.timeLeft, clockOffset: .seconds(gateway.clock.offset),
                certificateEnd: gateway.certificateEnd, billedCalls: gateway.billedCalls,
                reservation: keeper.reservation)
        }
    }

    /// The key's identifier.
    public var configuredIdentity: String? { identity }

    /// The key's identifier and a version of our own, where the version is not to be read.
    public var fixedDescription: KeyDescription? {
        observesVersion ? nil : KeyDescription(identity: identity, version: "static", versionCreatedAt: "")
    }

    /// The key's identifier, with the version that was made last of those that are enabled.
    ///
    /// Which version encrypts is published nowhere; the newest is what the service's rotation makes. Two calls, and one
    /// more per hundred versions.
    public func describe(_ attempt: Attempt) async throws(RemoteKMSError) -> KeyDescription {
        let status = try await perform(.describeKey, call(.describeKey, "GET", path), attempt) { result, _ in
            result["keyInfo"]?["keyStatus"]?.integer
        }
        try check(status: status)
        let versions = try await versions(attempt)
        guard let current = versions.filter({ $0.status == Self.enabled }).max(by: { $0.isOlder(than: $1) })
        else {
            throw RemoteKMSError(
                .keyDisabled, "key \(keyID) at \(gateway.origin) has no version that is enabled",
                remedy: "enable a version, or rotate the key")
        }
        return KeyDescription(
            identity: identity, version: current.name, versionCreatedAt: current.createdAt)
    }

    /// Wraps under the version that the service takes; at most 4,095 bytes.
    public func wrap(
        _ plaintext: borrowing SecretBytes, context: WrapContext, attempt: Attempt
    ) async throws(RemoteKMSError) -> [UInt8] {
        let body = plaintext.withBytes { plaintext in
            Base64.encode(plaintext, between: #"{"keyId":"\#(keyID)","plaintext":""#, and: #""}"#)
        }
        let call = call(.encrypt, "POST", path + ":Encrypt", body: body)
        let blob = try await perform(.encrypt, call, attempt) {
            (result, bytes) -> SecretBytes? in
            guard let value = result["ciphertextBlob"], let blob = Base64.decode(value, in: bytes),
                blob.count > 0
            else {
                return nil
            }
            return blob
        }
        return blob.withBytes { blob in blob.byteOffsets.map { blob.byte(at: $0) } }
    }

    /// Unwraps what `wrap` returned, or the vendor's own plugin stored.
    ///
    /// Throws `invalidCiphertext` where the service says no and the key is enabled.
    public func unwrap(
        _ wrapped: [UInt8], context: WrapContext, attempt: Attempt
    ) async throws(RemoteKMSError) -> SecretBytes {
        // Bytes of UInt8 have no padding.
        let body = unsafe Base64.encode(
            wrapped.span.bytes, between: #"{"keyId":"\#(keyID)","ciphertextBlob":""#, and: #""}"#)
        let call = call(.decrypt, "POST", path + ":Decrypt", body: body)
        return try await perform(.decrypt, call, attempt) {
            (result, bytes) -> SecretBytes? in
            guard let value = result["plaintext"] else { return nil }
            return Base64.decode(value, in: bytes)
        }
    }

    /// Takes up the service's time, goes back to former credentials or fetches them anew; true if either is another one now.
    public func recover(from error: RemoteKMSError, deadline: Deadline) async -> Bool {
        let remedy = refusals.withLock { refusals in
            refusals.firstIndex { $0.error == error }.map { refusals.remove(at: $0).remedy }
        }
        switch remedy {
        case .clock(let used, let right):
            guard abs(right - used) > 1 else { return false }
            gateway.clock.set(right)
            return true
        case .credentials(let generation):
            return await keeper.renew(after: generation, error, by: deadline)
        case nil: return false
        }
    }

    // MARK: Calls

    private var path: String { "/v1/key/\(keyID)" }

    private func call(
        _ operation: Operation, _ method: String, _ path: String, query: [(name: String, value: String)] = [],
        body: consuming SecretBytes = SecretBytes(count: 0) { _ in }
    ) -> Gateway.Call {
        Gateway.Call(
            what: "\(operation.rawValue) with key \(keyID)", method: method, path: path, query: query,
            body: body)
    }

    private func perform<R: ~Copyable>(
        _ operation: Operation, _ call: consuming Gateway.Call, _ attempt: Attempt,
        read: (JSON, RawSpan) -> R?
    ) async throws(RemoteKMSError) -> R {
        let numbered = try await keeper.credentials(by: attempt.deadline)
        let refusal: Refusal
        do throws(Gateway.Failure) {
            let result = try await gateway.perform(
                call, signedWith: numbered.credentials, attempt: attempt, read: read)
            if !numbered.taken.contains(operation) {
                await keeper.accepted(numbered.generation, for: operation)
            }
            return result
        } catch {
            switch error {
            case .failed(let error): throw error
            case .refused(let refused): refusal = refused
            }
        }
        switch refusal.meaning {
        case .request, .absent, .permission:
            var isEnabled = false
            if !operation.describes { isEnabled = try await confirm(numbered.credentials, attempt) }
            if operation == .decrypt, refusal.status == 400 {
                throw Self.refusedBlob(refusal, isEnabled: isEnabled)
            }
        case .clock, .credentials, .rate, .trouble, .between: break
        }
        var error = RemoteKMSError(refusal, host: gateway.origin.description)
        if operation.describes, refusal.meaning == .permission {
            error = RemoteKMSError(
                error.code, error.summary,
                remedy:
                    "allow these credentials, and this address, describeKey and describeKeyDetail of the key "
                    + "in IAM, or set version: static", reference: error.reference)
        }
        remember(refusal, as: error, numbered)
        throw error
    }

    /// Throws what the service says of the key itself, if it says that the key is not usable; true if it says that it is.
    ///
    /// The words with which Encrypt and Decrypt refuse then are not published, so the key is asked for.
    private func confirm(
        _ credentials: Credentials, _ attempt: Attempt
    ) async throws(RemoteKMSError) -> Bool {
        let status: Int64
        do throws(Gateway.Failure) {
            status = try await gateway.perform(
                call(.describeKey, "GET", path), signedWith: credentials, attempt: attempt
            ) { result, _ in result["keyInfo"]?["keyStatus"]?.integer }
        } catch {
            // Nothing was said of the key: the first refusal counts.
            guard case .refused(let refusal) = error, case .absent(isRoute: false) = refusal.meaning else {
                return false
            }
            throw RemoteKMSError(refusal, host: gateway.origin.description)
        }
        try check(status: status)
        return true
    }

    private static let enabled: Int64 = 0

    private func check(status: Int64) throws(RemoteKMSError) {
        let (state, remedy): (String, String)
        switch status {
        case Self.enabled: return
        case 1: (state, remedy) = ("disabled", "enable it")
        case 2: (state, remedy) = ("scheduled for deletion", "cancel its deletion, then enable it")
        default:
            // Not the service's word that the key may not be used, so nothing is stopped or wiped for it.
            throw RemoteKMSError(
                .malformedReply,
                "key \(keyID) at \(gateway.origin) is in state \(status), which is not documented",
                remedy: "ask JD Cloud what that means")
        }
        throw RemoteKMSError(.keyDisabled, "key \(keyID) at \(gateway.origin) is \(state)", remedy: remedy)
    }

    /// The key is enabled, or may not be asked about, and the blob is refused.
    private static func refusedBlob(_ refusal: Refusal, isEnabled: Bool) -> RemoteKMSError {
        let summary = "\(refusal.answer.what) was refused: \(refusal.words)"
        let reference = Refusal.reference(refusal.requestID)
        let text = refusal.message?.lowercased() ?? ""
        if text.contains("version"), ["disable", "delet"].contains(where: text.contains) {
            return RemoteKMSError(
                .permissionDenied, summary, remedy: "enable the version of the key that wrapped it",
                reference: reference)
        }
        return RemoteKMSError(
            .invalidCiphertext, summary,
            remedy: (isEnabled ? "" : "see that the key is enabled; if it is, ")
                + "restore the object, or add the key that it was written with", reference: reference)
    }

    private func remember(
        _ refusal: Refusal, as error: RemoteKMSError, _ numbered: CredentialKeeper.Numbered
    ) {
        let remedy: Remedy
        switch refusal.meaning {
        case .clock(let serverTime?):
            remedy = .clock(
                used: refusal.answer.clockOffset, right: gateway.clock.offset(toReach: serverTime))
        case .credentials: remedy = .credentials(generation: numbered.generation)
        // Others that served before may be allowed what these are not.
        case .permission where numbered.isOnTrial: remedy = .credentials(generation: numbered.generation)
        case .clock, .permission, .absent, .rate, .trouble, .between, .request: return
        }
        refusals.withLock { refusals in
            // Not each is asked about; what is that old was given up.
            if refusals.count >= 64 { refusals.removeFirst() }
            refusals.append((error, remedy))
        }
    }

    // MARK: Versions

    private struct Version {
        let name: String
        let createdAt: String
        let status: Int64

        /// Times are all of one length, so they compare as texts; equal ones by name, the same on every replica.
        func isOlder(than other: Version) -> Bool {
            (createdAt, name) < (other.createdAt, other.name)
        }
    }

    private struct Page {
        let versions: [Version]
        let count: Int64
    }

    private func versions(_ attempt: Attempt) async throws(RemoteKMSError) -> [Version] {
        var versions: [String: Version] = [:]
        for number in 1...100 {
            var call = call(
                .describeKeyDetail, "GET", path + ":describeKeyDetail",
                query: [("pageNumber", String(number)), ("pageSize", "100")])
            call.responseLimit = 256 << 10
            let keyID = keyID
            let page = try await perform(.describeKeyDetail, call, attempt) { result, bytes in
                Self.page(result, bytes, of: keyID)
            }
            for version in page.versions { versions[version.name] = version }
            if versions.count >= page.count { return Array(versions.values) }
            guard !page.versions.isEmpty else { break }
        }
        throw RemoteKMSError(
            .malformedReply,
            "DescribeKeyDetail of key \(keyID) at \(gateway.origin) did not list every version",
            remedy: "wait; if it lasts, ask JD Cloud")
    }

    private static func page(_ result: JSON, _ bytes: RawSpan, of keyID: String) -> Page? {
        guard let detail = result["keyDetail"], detail["keyId"]?.text(in: bytes) == keyID,
            let count = detail["keyVersionCount"]?.integer, let items = detail["keyVersionList"]?.items
        else { return nil }
        var versions: [Version] = []
        for item in items {
            guard let name = item["keyVersion"]?.text(in: bytes), (1...256).contains(name.utf8.count),
                let createdAt = item["createTime"]?.text(in: bytes), SigningTime(iso8601: createdAt) != nil,
                let status = item["keyStatus"]?.integer
            else { return nil }
            versions.append(Version(name: name, createdAt: createdAt, status: status))
        }
        return Page(versions: versions, count: count)
    }
}
