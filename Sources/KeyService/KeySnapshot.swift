public import Events

/// What may be said of one configured key now: for readiness, metrics, logs and the status line.
public struct KeySnapshot: Sendable, Equatable {
    /// Whether it serves.
    public enum State: String, Sendable, CaseIterable {
        /// Not known yet.
        case starting
        /// It encrypts and decrypts (the first key), or its ciphertexts are known (the others).
        case active
        /// It does not serve; `trouble` says why.
        case failed
    }

    /// The configured name.
    public let name: String
    /// The provider's name.
    public let provider: String
    /// Whether this is the key that encrypts.
    public let encrypts: Bool
    /// Whether it serves.
    public let state: State
    /// The key_id that is announced, or that would be (keys that only decrypt); nil while it is not known.
    public let keyID: String?
    /// One line with cause and remedy of what went wrong last; an active key may have trouble too.
    public let trouble: String?
    /// The failure class of that trouble, as `RemoteKMSError.Code` names it.
    public let troubleCode: String?
    /// How long Status goes on saying that the key encrypts if that trouble lasts, as of the last observation; zero if it
    /// has stopped, nil if nothing limits it.
    ///
    /// Until then it does encrypt, unless `writesFail`.
    public let writesStopIn: Duration?
    /// Whether Encrypt fails though the key serves: its backend wraps every message, and did not at the last observation.
    public let writesFail: Bool
    /// Age of the local KEK that encrypts now.
    public let localKEKAge: Duration?
    /// Messages sealed under it since this process took it up.
    public let localKEKUses: UInt64?
    /// When the backend last proved that it unwraps what it wrapped, seconds since 1970.
    public let lastProof: Int64?
    /// When the credentials that its backend is called with end, seconds since 1970; nil where they do not.
    public let credentialsEnd: Int64?
    /// What is added to this machine's time in calls to the backend; nil where time does not matter.
    public let clockOffset: Duration?
    /// The announced key_id's version, as the backend names it; nil where it was not looked at since the start.
    public var version: String?
    /// The configured epoch.
    public var epoch: UInt32 = 0
    /// What it encrypts with, as the configuration names it.
    public var suite = ""
    /// What it writes, as the configuration names it.
    public var writeFormat = ""
    /// The age at which the local KEK is to be replaced; nil where there is none.
    public var localKEKMaximumAge: Duration?
    /// When the last probe that has ended began, seconds since 1970.
    public var lastProbe: Int64?
    /// When the certificate of its backend ends, seconds since 1970; nil where none was seen.
    public var certificateEnd: Int64?
    /// What one call to its backend costs, if that is configured.
    public var callPrice: Double?
    /// The event under which that trouble is explained.
    public var troubleEvent: Event?
}
