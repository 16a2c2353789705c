public import SecureMemory

extension Settings {
    /// A secret that stands in the file itself; shown by no message.
    public struct Secret: Sendable, Equatable {
        /// The secret.
        public let value: SharedSecret

        /// Takes the secret out of text, which its reader cannot wipe.
        init(_ text: String) {
            let bytes = Array(text.utf8)
            value = SharedSecret(SecretBytes(count: bytes.count) { $0.copy(bytes.span, toByteOffset: 0) })
        }

        /// Compares in a time that depends on the lengths only.
        public static func == (one: Secret, other: Secret) -> Bool {
            one.value.bytes.isEqual(to: other.value.bytes)
        }
    }

    /// The provider that keeps its keys at JD Cloud KMS.
    public struct JDCloudProvider: Sendable, Equatable {
        /// How the endpoint is reached.
        public enum Scheme: String, Sendable, CaseIterable {
            // swift-format-ignore: AllPublicDeclarationsHaveDocumentation
            case https, http
        }

        /// Which signature requests carry.
        public enum Signature: String, Sendable, CaseIterable {
            // swift-format-ignore: AllPublicDeclarationsHaveDocumentation
            case v2, v3
        }

        /// How session tokens are sent.
        public enum TokenEncoding: String, Sendable, CaseIterable {
            // swift-format-ignore: AllPublicDeclarationsHaveDocumentation
            case base64, raw
        }

        /// Whether the key's version is read.
        public enum VersionSource: String, Sendable, CaseIterable {
            // swift-format-ignore: AllPublicDeclarationsHaveDocumentation
            case observed, `static`
        }

        /// The key's identifier.
        public var keyID = ""
        /// Tells apart keys of one identifier in different clouds.
        public var realm = ""
        /// Host, or host and port.
        public var endpoint = ""
        /// How the endpoint is reached.
        public var scheme = Scheme.https
        /// Whether `http` is meant.
        public var allowPlainHTTP = false
        /// The region that requests are signed for.
        public var region = "jdcloud-api"
        /// Which signature requests carry.
        public var signature = Signature.v2
        /// How session tokens are sent.
        public var tokenEncoding = TokenEncoding.base64
        /// Whether the key's version is read.
        public var version = VersionSource.observed
        /// The only authorities to trust; nil for the system's.
        public var caFile: String?
        /// `environment`, `none` or a URL.
        public var proxy = "environment"
        /// What is reached without the proxy that is a URL.
        public var noProxy: [String] = []
        /// What requests are signed with.
        public var credentials = JDCloudCredentials()

        /// The defaults, without a key.
        public init() {}

        /// `https://HOST`.
        public var url: String { "\(scheme.rawValue)://\(endpoint)" }
    }

    /// Where JD Cloud credentials come from.
    public struct JDCloudCredentials: Sendable, Equatable {
        /// Where they come from.
        public enum Source: String, Sendable, CaseIterable {
            /// This file.
            case config
            /// Files with one value each.
            case files
            /// The same, in systemd's credentials directory.
            case systemd
            /// Environment variables.
            case environment
            /// The metadata service of this machine.
            case instanceRole = "instance-role"
        }

        /// A role that is assumed with them.
        public struct Role: Sendable, Equatable {
            /// `jrn:iam::ACCOUNT:role/NAME`; nil for none.
            public var jrn: String?
            /// Names the session in the audit trail.
            public var sessionName = "kmsward"
            /// How long a session serves.
            public var duration = Duration.seconds(3600)
            /// Where the security token service is.
            public var endpoint = "sts.jdcloud-api.com"
        }

        /// Where they come from.
        public var source = Source.files
        /// The access key, with `config`.
        public var accessKey: String?
        /// The secret key, with `config`.
        public var secretKey: Secret?
        /// Path, or with `systemd` name.
        public var accessKeyFile: String?
        /// Path, or with `systemd` name.
        public var secretKeyFile: String?
        /// Path, or with `systemd` name.
        public var sessionTokenFile: String?
        /// The metadata service.
        public var metadata = "http://169.254.169.254"
        /// A role that is assumed with them.
        public var role = Role()
    }

    /// Whether the file itself holds a secret, and must therefore be its owner's alone.
    var holdsSecrets: Bool {
        keys.contains { key in
            switch key.provider {
            case .local: false
            case .jdcloud(let jdcloud): jdcloud.credentials.secretKey != nil
            }
        }
    }
}

extension Settings.Key {
    var jdcloud: Settings.JDCloudProvider {
        get {
            switch provider {
            case .local: Settings.JDCloudProvider()
            case .jdcloud(let jdcloud): jdcloud
            }
        }
        set { provider = .jdcloud(newValue) }
    }
}
