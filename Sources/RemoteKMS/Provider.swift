// RemoteKMS: what a key-management service is to the rest of the plugin: a Provider that wraps and unwraps, a
// Deadline that reaches down to its socket, and one error type whose codes are the failure classes.

public import SecureMemory

/// What a remote key is, never how it is reached, and the version it would wrap with now.
public struct KeyDescription: Sendable, Equatable {
    /// The identity that key_id is derived from: JD keyId, key ARN, the local file's UUID.
    public var identity: String
    /// The version that wraps now, as the backend names it.
    public var version: String
    /// When that version came to be, as the backend writes it; empty where it does not say.
    public var versionCreatedAt: String

    /// A description.
    public init(identity: String, version: String, versionCreatedAt: String) {
        self.identity = identity
        self.version = version
        self.versionCreatedAt = versionCreatedAt
    }
}

/// What a wrapped key is bound to, for backends with additional authenticated data.
public struct WrapContext: Sendable, Equatable {
    /// What the wrapped bytes are for: `local-kek`.
    public var purpose: String
    /// The key_id they belong to.
    public var keyID: String

    /// A context.
    public init(purpose: String, keyID: String) {
        self.purpose = purpose
        self.keyID = keyID
    }
}

/// Where a key lives; decides which remedy can help.
public enum KeyStorage: Sendable {
    /// In a service: one key may come under another identity, moved or imported.
    case service
    /// In a file of this host: another identity is another key, and a former version is an older copy.
    case file
}

/// One try at the backend.
public struct Attempt: Sendable, Equatable {
    /// When it is given up.
    public var deadline: Deadline
    /// Whether it must have a connection of its own: the try beside it may hang on the one that is there.
    public var wantsFreshConnection: Bool

    /// A try.
    public init(deadline: Deadline, wantsFreshConnection: Bool = false) {
        self.deadline = deadline
        self.wantsFreshConnection = wantsFreshConnection
    }

    /// A try that is given up `duration` from now.
    public static func within(_ duration: Duration) -> Attempt { Attempt(deadline: .after(duration)) }
}

/// What a provider may say of itself beside its answers; for metrics and the log.
public struct ProviderFacts: Sendable, Equatable {
    /// How long its credentials still serve; nil where that has no end.
    public var credentialsServeFor: Duration?
    /// What it adds to this machine's time to meet the service's; nil where time does not matter.
    public var clockOffset: Duration?
    /// When the certificate that the service showed last ends, seconds since 1970; nil where none was seen.
    public var certificateEnd: Int64?
    /// How many requests its provider bills, since this object was made; nil where nobody does.
    public var billedCalls: UInt64?
    /// What somebody should look at though calls succeed: new credentials that are not taken, while the former ones serve.
    public var reservation: RemoteKMSError?

    /// Facts; nothing unless said.
    public init(
        credentialsServeFor: Duration? = nil, clockOffset: Duration? = nil, certificateEnd: Int64? = nil,
        billedCalls: UInt64? = nil, reservation: RemoteKMSError? = nil
    ) {
        self.credentialsServeFor = credentialsServeFor
        self.clockOffset = clockOffset
        self.certificateEnd = certificateEnd
        self.billedCalls = billedCalls
        self.reservation = reservation
    }
}

/// A key in a key-management service.
///
/// Signs, calls, maps errors; nothing else: retries, caches and health are the caller's. A try ends by its deadline, and
/// soon after its task is cancelled. An object, since it is one connection: the same object is the same way to the same key.
public protocol Provider: AnyObject, Sendable {
    /// The provider's name in configuration and key_id: `local`, `jdcloud`, ...
    var name: String { get }

    /// Where the key lives; in a service unless the provider says otherwise.
    var storage: KeyStorage { get }

    /// What the key is for good, where nobody is to be asked for it; `describe` is not called then.
    ///
    /// No proof of anything: the backend may be gone.
    var fixedDescription: KeyDescription? { get }

    /// The key's identity, as `describe` names it, where the configuration alone tells it; nil where the backend must be asked.
    ///
    /// So that a Decrypt need not wait for `describe` to learn whose it is.
    var configuredIdentity: String? { get }

    /// Reads the key's identity and the version it wraps with now.
    func describe(_ attempt: Attempt) async throws(RemoteKMSError) -> KeyDescription

    /// Wraps `plaintext` under the key's current version.
    func wrap(
        _ plaintext: borrowing SecretBytes, context: WrapContext, attempt: Attempt
    ) async throws(RemoteKMSError) -> [UInt8]

    /// Unwraps what `wrap` returned under any version that still exists.
    func unwrap(
        _ wrapped: [UInt8], context: WrapContext, attempt: Attempt
    ) async throws(RemoteKMSError) -> SecretBytes

    /// What it says of itself now, from memory.
    var facts: ProviderFacts { get async }

    /// Does what can be done about `unauthenticated` and `permissionDenied`: fresh credentials, the former ones, another
    /// idea of the time.
    ///
    /// True if another try may end better; asked once a call.
    func recover(from error: RemoteKMSError, deadline: Deadline) async -> Bool
}

extension Provider {
    /// In a service.
    public var storage: KeyStorage { .service }

    /// It has to be asked.
    public var fixedDescription: KeyDescription? { nil }

    /// It has to be asked for that too.
    public var configuredIdentity: String? { nil }

    /// Nothing.
    public var facts: ProviderFacts { get async { ProviderFacts() } }

    /// Nothing can be done.
    public func recover(from error: RemoteKMSError, deadline: Deadline) async -> Bool { false }
}
