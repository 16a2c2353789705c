internal import RemoteKMS
public import SecureMemory

/// What requests are signed with.
struct Credentials: Sendable {
    /// Public: it stands in every request.
    let accessKey: String
    let secretKey: SharedSecret
    /// Only with temporary credentials.
    var sessionToken: SharedSecret?

    func isEqual(to other: Credentials) -> Bool {
        guard accessKey == other.accessKey, secretKey.bytes.isEqual(to: other.secretKey.bytes) else {
            return false
        }
        switch (sessionToken, other.sessionToken) {
        case (nil, nil): return true
        case (let mine?, let others?): return mine.bytes.isEqual(to: others.bytes)
        case (nil, _?), (_?, nil): return false
        }
    }
}

/// Where the credentials of a JD Cloud key come from.
public indirect enum CredentialSettings: Sendable {
    /// Given with the configuration.
    case given(accessKey: String, secretKey: SharedSecret)
    /// Files with one value each, read again when they change.
    case files(CredentialFiles)
    /// The same in `$CREDENTIALS_DIRECTORY`, by name.
    case systemd(CredentialFiles)
    /// `JDCLOUD_ACCESS_KEY_ID`, `JDCLOUD_SECRET_ACCESS_KEY`, `JDCLOUD_SESSION_TOKEN`; or `JDCLOUD_AK` and `JDCLOUD_SK`; or
    /// `JDC_ACCESS_KEY` and `JDC_SECRET_KEY`.
    case environment
    /// Temporary ones of the role of this machine, from the metadata service at that address.
    case instanceRole(metadata: String)
    /// Temporary ones of a role, for which others are exchanged.
    case role(AssumedRole, with: CredentialSettings)
}

/// Paths or names of the files that credentials stand in.
public struct CredentialFiles: Sendable, Equatable {
    /// Of the access key.
    public var accessKey: String
    /// Of the secret key.
    public var secretKey: String
    /// Of the session token, for temporary credentials that something else renews.
    public var sessionToken: String?

    /// Paths or names.
    public init(accessKey: String, secretKey: String, sessionToken: String? = nil) {
        self.accessKey = accessKey
        self.secretKey = secretKey
        self.sessionToken = sessionToken
    }
}

/// A role for whose temporary credentials others are exchanged.
public struct AssumedRole: Sendable, Equatable {
    /// The role's name, `jrn:iam::ACCOUNT:role/NAME`.
    public var jrn: String
    /// Names the session in the audit trail.
    public var sessionName: String
    /// How long the credentials serve, at least an hour.
    public var duration: Duration
    /// Where the security token service is, `https://sts.jdcloud-api.com`.
    public var endpoint: String

    /// A role.
    public init(jrn: String, sessionName: String, duration: Duration, endpoint: String) {
        self.jrn = jrn
        self.sessionName = sessionName
        self.duration = duration
        self.endpoint = endpoint
    }
}

/// Where credentials come from.
protocol CredentialSource: Sendable {
    /// Reads or asks for them.
    func fetch(by deadline: Deadline) async throws(RemoteKMSError) -> FetchedCredentials

    /// Whether there are others now than `fetch` found; asked before each request, so at the cost of a few file look-ups.
    func hasChanged() -> Bool
}

extension CredentialSource {
    func hasChanged() -> Bool { false }
}

/// Credentials, and how long they serve.
struct FetchedCredentials: Sendable {
    let credentials: Credentials
    /// Nil for ever.
    var lifetime: Duration?
}
