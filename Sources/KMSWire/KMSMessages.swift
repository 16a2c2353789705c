// KMSWire: the messages of the Kubernetes KMS API, v1beta1 and v2, read and written over borrowed bytes, so that
// plaintext keys never pass through memory that nobody can wipe. The .proto files beside this one are the reference.

public import SecureMemory

/// The two KMS APIs of kube-apiserver.
public enum KMSAPI: UInt8, Sendable, CaseIterable {
    /// `v1beta1.KeyManagementService`.
    case v1beta1 = 1
    /// `v2.KeyManagementService`.
    case v2 = 2
}

/// The six methods; `path` is the gRPC `:path`.
public enum KMSMethod: Int, Sendable, CaseIterable {
    /// v1beta1 Version.
    case v1Version
    /// v1beta1 Encrypt.
    case v1Encrypt
    /// v1beta1 Decrypt.
    case v1Decrypt
    /// v2 Status.
    case v2Status
    /// v2 Encrypt.
    case v2Encrypt
    /// v2 Decrypt.
    case v2Decrypt

    /// The gRPC path, `/package.service/method`.
    public var path: String {
        switch self {
        case .v1Version: "/v1beta1.KeyManagementService/Version"
        case .v1Encrypt: "/v1beta1.KeyManagementService/Encrypt"
        case .v1Decrypt: "/v1beta1.KeyManagementService/Decrypt"
        case .v2Status: "/v2.KeyManagementService/Status"
        case .v2Encrypt: "/v2.KeyManagementService/Encrypt"
        case .v2Decrypt: "/v2.KeyManagementService/Decrypt"
        }
    }

    /// The API this method belongs to.
    public var api: KMSAPI {
        switch self {
        case .v1Version, .v1Encrypt, .v1Decrypt: .v1beta1
        case .v2Status, .v2Encrypt, .v2Decrypt: .v2
        }
    }
}

/// One entry of the v2 `annotations` map: an FQDN key and arbitrary public bytes.
public struct Annotation: Sendable, Equatable {
    /// Lower-case FQDN, for instance `wrapped-kek.kmsward.internal`.
    public var key: String
    /// Public bytes.
    public var value: [UInt8]

    /// An entry.
    public init(key: String, value: [UInt8]) {
        self.key = key
        self.value = value
    }
}

/// Encrypt of either API.
///
/// `uid` is empty in v1beta1, which has none.
public struct EncryptRequest: ~Copyable, Sendable {
    /// Which API asked.
    public let api: KMSAPI
    /// The key to wrap.
    public let plaintext: SecretBytes
    /// The API server's id of this call (v2).
    public let uid: String

    /// A request.
    public init(api: KMSAPI, plaintext: consuming SecretBytes, uid: String) {
        self.api = api
        self.plaintext = plaintext
        self.uid = uid
    }
}

/// Decrypt of either API.
///
/// In v1beta1 `uid`, `keyID` and `annotations` are empty.
public struct DecryptRequest: Sendable, Equatable {
    /// Which API asked.
    public var api: KMSAPI
    /// What Encrypt returned, at any time, on any replica.
    public var ciphertext: [UInt8]
    /// The API server's id of this call (v2).
    public var uid: String
    /// The key_id stored beside the ciphertext (v2); attacker-chosen.
    public var keyID: String
    /// The annotations stored beside the ciphertext (v2), sorted by key; attacker-chosen.
    public var annotations: [Annotation]

    /// A request.
    public init(
        api: KMSAPI, ciphertext: [UInt8], uid: String = "", keyID: String = "", annotations: [Annotation] = []
    ) {
        self.api = api
        self.ciphertext = ciphertext
        self.uid = uid
        self.keyID = keyID
        self.annotations = annotations
    }
}

/// A validated request of either API.
public enum KMSRequest: ~Copyable, Sendable {
    /// v1beta1 Version.
    case version
    /// v2 Status.
    case status
    /// Encrypt.
    case encrypt(EncryptRequest)
    /// Decrypt.
    case decrypt(DecryptRequest)
}

/// v1beta1 VersionResponse.
public struct VersionReply: Sendable, Equatable {
    /// Always `v1beta1`.
    public var version: String
    /// Name of the plugin.
    public var runtimeName: String
    /// Semantic version of the plugin.
    public var runtimeVersion: String

    /// A reply.
    public init(version: String, runtimeName: String, runtimeVersion: String) {
        self.version = version
        self.runtimeName = runtimeName
        self.runtimeVersion = runtimeVersion
    }
}

/// v2 StatusResponse.
public struct StatusReply: Sendable, Equatable {
    /// `v2` or `v2beta1`.
    public var version: String
    /// `ok`, always: trouble is a gRPC error.
    public var healthz: String
    /// The key_id that Encrypt uses now.
    public var keyID: String

    /// A reply.
    public init(version: String, healthz: String, keyID: String) {
        self.version = version
        self.healthz = healthz
        self.keyID = keyID
    }
}

/// EncryptResponse of either API; `keyID` and `annotations` are written in v2 only.
public struct EncryptReply: Sendable, Equatable {
    /// The ciphertext.
    public var ciphertext: [UInt8]
    /// The key_id (v2).
    public var keyID: String
    /// The annotations (v2).
    public var annotations: [Annotation]

    /// A reply.
    public init(ciphertext: [UInt8], keyID: String, annotations: [Annotation] = []) {
        self.ciphertext = ciphertext
        self.keyID = keyID
        self.annotations = annotations
    }
}

/// The reply to a `KMSRequest`.
public enum KMSReply: ~Copyable, Sendable {
    /// To Version.
    case version(VersionReply)
    /// To Status.
    case status(StatusReply)
    /// To Encrypt.
    case encrypted(KMSAPI, EncryptReply)
    /// To Decrypt: the plaintext key.
    case decrypted(KMSAPI, SecretBytes)
}
