/// Everything the daemon is told by its configuration file; `Settings()` holds the built-in defaults and no key.
///
/// Values made by `parse` and `load` are within the bounds of the reference page; values made in code are the caller's
/// responsibility.
public struct Settings: Sendable, Equatable {
    /// The socket that API servers connect to.
    public var socket = Socket()
    /// Who may connect, beside uid 0 and the daemon's own uid.
    public var allow = Allow()
    /// What is said to the API server.
    public var api = API()
    /// Bound into every key_id and ciphertext; up to 255 bytes, the same on every replica.
    public var clusterContext = ""
    /// The directory of the key history.
    public var stateDirectory = Settings.usualStateDirectory
    /// Where that is if nobody says otherwise.
    public static let usualStateDirectory = "/var/lib/kmsward"
    /// The keys: the first encrypts, all decrypt.
    public var keys: [Key] = []
    /// When a changed remote key is noticed and taken over.
    public var rotation = Rotation()
    /// Bounds of the work in hand.
    public var limits = Limits()
    /// What is kept of what the keys' services unwrapped.
    public var cache = Cache()
    /// The endpoint for Prometheus and health checks.
    public var metrics = Metrics()
    /// The log.
    public var log = Log()
    /// The process's memory.
    public var memory = Memory()

    /// Where the file says each value; settings are equal wherever they stand.
    var origin = Origin()

    /// The built-in defaults, without a key.
    public init() {}

    /// Where the file gives the option at `path`, such as `keys[0].local.file`; nil when it is a default or the
    /// settings were made in code.
    public func position(of path: String) -> FilePosition? {
        origin.positions[path]
    }

    /// A diagnostic about the option at `path`, for stages after parsing, so that they too name file and line.
    ///
    /// Where the option is a default, the place is the file as a whole; without a file, `(no file)`.
    public func diagnostic(
        _ severity: Diagnostic.Severity, about path: String, _ message: String
    ) -> Diagnostic {
        let whole = FilePosition(nil, in: origin.file ?? "(no file)")
        return Diagnostic(severity, at: position(of: path) ?? whole, "\(path): \(message)")
    }

    /// Settings for a daemon under development: everything below one directory, metrics on loopback.
    ///
    /// Socket `DIR/kms.sock`, key file `DIR/dev.keys`, state `DIR/state`, metrics `127.0.0.1:9464`.
    public static func development(runDirectory: String) -> Settings {
        let directory =
            runDirectory.count > 1 && runDirectory.hasSuffix("/")
            ? String(runDirectory.dropLast()) : runDirectory
        var settings = Settings()
        settings.socket.path = "\(directory)/kms.sock"
        settings.stateDirectory = "\(directory)/state"
        settings.keys = [Key(name: "dev", provider: .local(LocalProvider(file: "\(directory)/dev.keys")))]
        return settings
    }
}

extension Settings {
    /// The socket that API servers connect to.
    public struct Socket: Sendable, Equatable {
        /// A path, `unix:///PATH`, or `@NAME` for an abstract socket; at most 107 bytes.
        public var path = "/run/kmsward/kms.sock"
        /// The permission bits of the socket file; never world-writable.
        public var mode: UInt32 = 0o600
        /// The owner of the socket file, or nil for the daemon's uid.
        public var owner: Account?
        /// The group of the socket file, or nil for the daemon's gid; its members may connect.
        public var group: Account?
        /// The most connections open at once.
        public var maxConnections = 128
        /// How long a peer has for its HTTP/2 preface.
        public var handshakeTimeout = Duration.seconds(10)

        /// Whether the socket has an abstract name and therefore no file, owner or mode.
        public var isAbstract: Bool { name.hasPrefix("@") || name.hasPrefix("/@") }

        /// The path without `unix://`.
        var name: Substring { path.hasPrefix("unix://") ? path.dropFirst("unix://".count) : path[...] }
    }

    /// Who may connect, beside uid 0 and the daemon's own uid.
    public struct Allow: Sendable, Equatable {
        /// Users, by name or number.
        public var uids: [Account] = []
        /// Groups, by name or number; a peer's supplementary groups count.
        public var gids: [Account] = []
    }

    /// A user or group as the file names it; `Settings.accounts(in:)` turns names into numbers.
    public enum Account: Sendable, Hashable {
        /// A uid or gid.
        case number(UInt32)
        /// A name of the user or group database.
        case name(String)
    }

    /// What is said to the API server.
    public struct API: Sendable, Equatable {
        /// The version that the v2 Status call answers.
        public enum V2Version: String, Sendable, CaseIterable {
            /// For Kubernetes 1.29 and later.
            case v2
            /// For Kubernetes 1.27 and later.
            case v2beta1
        }

        /// The version that the v2 Status call answers; must not change while API servers run.
        public var v2Version = V2Version.v2beta1
    }

    /// One key: what encrypts, and where its key-encryption key lives.
    public struct Key: Sendable, Equatable {
        /// The algorithms that a key encrypts with.
        public enum Suite: String, Sendable, CaseIterable {
            /// AES-256-GCM with HKDF-SHA-512.
            case aes256GCM = "aes-256-gcm"
            /// SM4-CTR with HMAC-SM3.
            case sm4CTRHMACSM3 = "sm4-ctr-hmac-sm3"
            /// SM4-GCM, where the loaded OpenSSL has it.
            case sm4GCM = "sm4-gcm"
        }

        /// How long one local key-encryption key is used.
        public struct LocalKEK: Sendable, Equatable {
            /// The age at which a new one is made.
            public var maxAge = Duration.seconds(30 * 86_400)
            /// The uses after which a new one is made.
            public var maxUses: UInt64 = 1 << 32
        }

        /// Where the key-encryption key lives.
        public enum Provider: Sendable, Equatable {
            /// A file on this machine.
            case local(LocalProvider)
            /// JD Cloud KMS.
            case jdcloud(JDCloudProvider)
        }

        /// How ciphertexts are written.
        public enum Format: String, Sendable, CaseIterable {
            /// Kmsward's own: sealed here, under a key that the provider wrapped.
            case envelope
            /// That of the provider's other plugin: what the provider returns.
            case compatible
        }

        /// What becomes of what was unwrapped when the backend has refused the daemon for `authGrace`.
        public enum OnForbidden: String, Sendable, CaseIterable {
            /// It is read for a day, as in an outage.
            case keep
            /// It is wiped: whoever takes the daemon's permission away wants nothing to be read any more.
            case wipe
        }

        /// The name in metrics and logs: 1 to 63 of `a-z`, `0-9` and `-`.
        public var name: String
        /// What it encrypts with; each ciphertext says itself what opens it.
        public var suite = Suite.aes256GCM
        /// Raised when a key returns to an earlier version; part of the key_id.
        public var epoch: UInt64 = 0
        /// Identity parts (22 base64url characters) of other keys whose ciphertexts this key opens.
        public var acceptIdentities: [String] = []
        /// Whole key ids, written by other plugins, whose ciphertexts this key opens.
        public var adoptKeyIDs: [String] = []
        /// What a million calls to the key's service cost, in whatever currency; 0 where nobody counts.
        public var pricePerMillionCalls: UInt64 = 0
        /// How long writing goes on after the last proof that the key decrypts, while its backend does not answer.
        public var rideThrough = Duration.seconds(86_400)
        /// The same while the backend refuses the daemon, or the key's set-up is wrong.
        public var authGrace = Duration.seconds(15 * 60)
        /// What becomes of what is in memory when that time is over and the backend still refuses the daemon.
        public var onForbidden = OnForbidden.keep
        /// How new ciphertexts are written.
        public var writeFormat = Format.envelope
        /// Which ciphertexts are read; none given means those of `writeFormat`.
        public var acceptFormats: [Format] = []
        /// How long one local key-encryption key is used.
        public var localKEK = LocalKEK()
        /// Where the key-encryption key lives.
        public var provider: Provider

        /// A key with the defaults for all but its name and provider.
        public init(name: String, provider: Provider) {
            self.name = name
            self.provider = provider
        }

        var local: LocalProvider {
            get {
                switch provider {
                case .local(let local): local
                case .jdcloud: LocalProvider(file: "")
                }
            }
            set { provider = .local(newValue) }
        }
    }

    /// The provider that keeps its keys in a file on this machine.
    public struct LocalProvider: Sendable, Equatable {
        /// The path of the key file, made by `kmsward key init`.
        public var file: String

        /// Names the key file.
        public init(file: String) {
            self.file = file
        }
    }

    /// When a changed remote key is noticed and taken over.
    public struct Rotation: Sendable, Equatable {
        /// How often the remote key's version is looked up.
        public var observeEvery = Duration.seconds(30)
        /// How long a new version must be seen before it is used.
        public var settle = Duration.seconds(90)
    }

    /// Bounds of the work in hand.
    public struct Limits: Sendable, Equatable {
        /// The most calls served at once; further ones are refused.
        public var callsInFlight = 1024
        /// How long calls in hand may finish at shutdown.
        public var drain = Duration.seconds(10)
    }

    /// What is kept of what the keys' services unwrapped.
    public struct Cache: Sendable, Equatable {
        /// The most unwrapped keys in memory; 0 for none.
        public var entries = 10_000
    }

    /// The endpoint for Prometheus and health checks.
    public struct Metrics: Sendable, Equatable {
        /// Where it listens, or nil when it is off.
        public var listen: ListenAddress? = ListenAddress(host: "127.0.0.1", port: 9464)
    }

    /// A literal IP address and a TCP port.
    public struct ListenAddress: Sendable, Equatable {
        /// An IPv4 or IPv6 literal, without brackets.
        public var host: String
        /// The TCP port; 0 lets the kernel choose.
        public var port: UInt16

        /// Makes an address; the host is not checked.
        public init(host: String, port: UInt16) {
            self.host = host
            self.port = port
        }

        /// Whether only this machine can reach it.
        public var isLoopback: Bool { host.hasPrefix("127.") || host == "::1" }
    }

    /// The log.
    public struct Log: Sendable, Equatable {
        /// The levels, named as in swift-log.
        public enum Level: String, Sendable, CaseIterable {
            // The least important first.
            // swift-format-ignore: AllPublicDeclarationsHaveDocumentation
            case trace, debug, info, notice, warning, error, critical
        }

        /// How a line looks.
        public enum Format: String, Sendable, CaseIterable {
            /// The journal under systemd, text otherwise.
            case auto
            /// Lines for people.
            case text
            /// One JSON object a line.
            case json
            /// Fields of the systemd journal.
            case journal
        }

        /// The least important level that is written.
        public var level = Level.info
        /// How a line looks.
        public var format = Format.auto
    }

    /// The process's memory.
    public struct Memory: Sendable, Equatable {
        /// Whether core dumps and debuggers may see the process's memory.
        public var dumpable = false
    }

    /// Where each value stands in the file; equal to every other one, since it is no setting.
    struct Origin: Sendable, Equatable {
        var file: String?
        var positions: [String: FilePosition] = [:]
        /// How the JSON file of JD Cloud's plugin spells the names of its secrets; empty for other files.
        var secretNames: [String] = []

        static func == (_: Origin, _: Origin) -> Bool { true }
    }
}
