/// The twelve messages, by the full protobuf name.
public enum WireMessage: String, Sendable, CaseIterable {
    /// v1beta1 Version asks.
    case v1VersionRequest = "v1beta1.VersionRequest"
    /// v1beta1 Version answers.
    case v1VersionResponse = "v1beta1.VersionResponse"
    /// v1beta1 Encrypt asks.
    case v1EncryptRequest = "v1beta1.EncryptRequest"
    /// v1beta1 Encrypt answers.
    case v1EncryptResponse = "v1beta1.EncryptResponse"
    /// v1beta1 Decrypt asks.
    case v1DecryptRequest = "v1beta1.DecryptRequest"
    /// v1beta1 Decrypt answers.
    case v1DecryptResponse = "v1beta1.DecryptResponse"
    /// v2 Status asks.
    case v2StatusRequest = "v2.StatusRequest"
    /// v2 Status answers.
    case v2StatusResponse = "v2.StatusResponse"
    /// v2 Encrypt asks.
    case v2EncryptRequest = "v2.EncryptRequest"
    /// v2 Encrypt answers.
    case v2EncryptResponse = "v2.EncryptResponse"
    /// v2 Decrypt asks.
    case v2DecryptRequest = "v2.DecryptRequest"
    /// v2 Decrypt answers.
    case v2DecryptResponse = "v2.DecryptResponse"

    /// Whether the API server sends this message.
    ///
    /// Requests with unknown fields are refused, replies with unknown fields are read.
    public var isRequest: Bool {
        switch self {
        case .v1VersionRequest, .v1EncryptRequest, .v1DecryptRequest: true
        case .v2StatusRequest, .v2EncryptRequest, .v2DecryptRequest: true
        case .v1VersionResponse, .v1EncryptResponse, .v1DecryptResponse: false
        case .v2StatusResponse, .v2EncryptResponse, .v2DecryptResponse: false
        }
    }
}

extension KMSMethod {
    /// The message that calls this method.
    public var request: WireMessage {
        switch self {
        case .v1Version: .v1VersionRequest
        case .v1Encrypt: .v1EncryptRequest
        case .v1Decrypt: .v1DecryptRequest
        case .v2Status: .v2StatusRequest
        case .v2Encrypt: .v2EncryptRequest
        case .v2Decrypt: .v2DecryptRequest
        }
    }

    /// The message that answers this method.
    public var response: WireMessage {
        switch self {
        case .v1Version: .v1VersionResponse
        case .v1Encrypt: .v1EncryptResponse
        case .v1Decrypt: .v1DecryptResponse
        case .v2Status: .v2StatusResponse
        case .v2Encrypt: .v2EncryptResponse
        case .v2Decrypt: .v2DecryptResponse
        }
    }
}

/// Bounds, all inclusive.
///
/// Those of replies are the API server's own: it throws away an Encrypt reply beyond them.
public enum WireLimit {
    /// Bytes of a plaintext key; the API server sends 4 or 32.
    public static let plaintext = 32_768
    /// Bytes of a v2 ciphertext.
    public static let ciphertext = 1_024
    /// Bytes of a v1beta1 ciphertext, which is stored behind a 16-bit length.
    public static let v1Ciphertext = 65_535
    /// Bytes of a key_id.
    public static let keyID = 1_024
    /// Bytes of all keys and values of a message's annotations, repeated keys included.
    public static let annotations = 32_768
    /// Bytes of a uid; the API server sends a UUID of 36.
    public static let uid = 256
    /// Bytes of `version`, `runtime_name` and `runtime_version`.
    public static let name = 256
    /// Bytes of the text in a Status reply's `healthz`.
    public static let healthz = 65_536
    /// Groups within groups, in the unknown fields of a reply.
    public static let groupDepth = 100
}

/// One row of a message: every field of the twelve is length-delimited.
struct WireField {
    enum Content {
        /// Any bytes.
        case bytes
        /// UTF-8.
        case text
        /// UTF-8 that goes to logs: no control, format or line-breaking characters.
        case printable
        /// A v1beta1 request's `version`: empty, or `v1beta1`.
        case apiVersion
        /// One entry of `map<string, bytes>`; the limit is that of all entries together.
        case annotation
    }

    let number: Int
    let name: StaticString
    let content: Content
    let limit: Int
    let isRequired: Bool

    init(_ number: Int, _ name: StaticString, _ content: Content, limit: Int, isRequired: Bool = false) {
        self.number = number
        self.name = name
        self.content = content
        self.limit = limit
        self.isRequired = isRequired
    }
}

extension WireMessage {
    /// The fields, in ascending order of their numbers.
    var fields: [WireField] {
        switch self {
        case .v1VersionRequest: WireField.v1VersionRequest
        case .v1VersionResponse: WireField.v1VersionResponse
        case .v1EncryptRequest: WireField.v1EncryptRequest
        case .v1EncryptResponse: WireField.v1EncryptResponse
        case .v1DecryptRequest: WireField.v1DecryptRequest
        case .v1DecryptResponse: WireField.v1DecryptResponse
        case .v2StatusRequest: []
        case .v2StatusResponse: WireField.v2StatusResponse
        case .v2EncryptRequest: WireField.v2EncryptRequest
        case .v2EncryptResponse: WireField.v2EncryptResponse
        case .v2DecryptRequest: WireField.v2DecryptRequest
        case .v2DecryptResponse: WireField.v2DecryptResponse
        }
    }

    func field(_ number: Int) -> WireField? {
        for field in fields where field.number == number { return field }
        return nil
    }
}

extension WireField {
    fileprivate static let v1VersionRequest = [
        WireField(1, "version", .apiVersion, limit: WireLimit.name)
    ]
    fileprivate static let v1VersionResponse = [
        WireField(1, "version", .text, limit: WireLimit.name),
        WireField(2, "runtime_name", .text, limit: WireLimit.name),
        WireField(3, "runtime_version", .text, limit: WireLimit.name),
    ]
    fileprivate static let v1EncryptRequest = [
        WireField(1, "version", .apiVersion, limit: WireLimit.name),
        WireField(2, "plain", .bytes, limit: WireLimit.plaintext, isRequired: true),
    ]
    fileprivate static let v1EncryptResponse = [
        WireField(1, "cipher", .bytes, limit: WireLimit.v1Ciphertext, isRequired: true)
    ]
    fileprivate static let v1DecryptRequest = [
        WireField(1, "version", .apiVersion, limit: WireLimit.name),
        WireField(2, "cipher", .bytes, limit: WireLimit.v1Ciphertext, isRequired: true),
    ]
    fileprivate static let v1DecryptResponse = [
        WireField(1, "plain", .bytes, limit: WireLimit.plaintext, isRequired: true)
    ]
    fileprivate static let v2StatusResponse = [
        WireField(1, "version", .text, limit: WireLimit.name),
        WireField(2, "healthz", .text, limit: WireLimit.healthz),
        // Required of a healthy plugin only: `StatusReply` looks at both fields.
        WireField(3, "key_id", .printable, limit: WireLimit.keyID),
    ]
    fileprivate static let v2EncryptRequest = [
        WireField(1, "plaintext", .bytes, limit: WireLimit.plaintext, isRequired: true),
        WireField(2, "uid", .printable, limit: WireLimit.uid),
    ]
    fileprivate static let v2EncryptResponse = [
        WireField(1, "ciphertext", .bytes, limit: WireLimit.ciphertext, isRequired: true),
        WireField(2, "key_id", .printable, limit: WireLimit.keyID, isRequired: true),
        WireField(3, "annotations", .annotation, limit: WireLimit.annotations),
    ]
    fileprivate static let v2DecryptRequest = [
        WireField(1, "ciphertext", .bytes, limit: WireLimit.ciphertext, isRequired: true),
        WireField(2, "uid", .printable, limit: WireLimit.uid),
        WireField(3, "key_id", .printable, limit: WireLimit.keyID, isRequired: true),
        WireField(4, "annotations", .annotation, limit: WireLimit.annotations),
    ]
    fileprivate static let v2DecryptResponse = [
        WireField(1, "plaintext", .bytes, limit: WireLimit.plaintext, isRequired: true)
    ]
}
