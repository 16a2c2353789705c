// EnvelopeCrypto: the only callers of OpenSSL's ciphers: the suites, the digests, HKDF, and the one construct that
// seals everything the plugin stores. Published constructions only; keys and plaintexts live in SecretBytes.

/// The algorithms that seal one message; fixed per key by configuration, never chosen by what happens to be there.
public enum Suite: UInt8, Sendable, CaseIterable {
    /// HKDF-SHA-512 and AES-256-GCM.
    case aes256GCM = 1
    /// HKDF-SM3, SM4-CTR and HMAC-SM3 (encrypt, then MAC).
    case sm4CTRHMACSM3 = 2
    /// HKDF-SM3 and SM4-GCM; not in OpenSSL 3.0.
    case sm4GCM = 3

    /// The suite's name in the configuration file.
    public var configurationName: String {
        switch self {
        case .aes256GCM: "aes-256-gcm"
        case .sm4CTRHMACSM3: "sm4-ctr-hmac-sm3"
        case .sm4GCM: "sm4-gcm"
        }
    }

    /// The suite of that configuration name; nil for any other.
    public init?(configurationName: String) {
        guard let suite = Self.allCases.first(where: { $0.configurationName == configurationName }) else {
            return nil
        }
        self = suite
    }

    /// Whether the loaded OpenSSL has every algorithm of the suite; asked once in the life of the process.
    public var isAvailable: Bool { Algorithms.loaded.has(self) }

    /// The suite's digest: of HKDF, of what is bound, and of annotations.
    public var digest: DigestAlgorithm {
        switch self {
        case .aes256GCM: .sha512
        case .sm4CTRHMACSM3, .sm4GCM: .sm3
        }
    }

    /// Bytes of the tag at the end of a message.
    public var tagCount: Int {
        switch self {
        case .aes256GCM, .sm4GCM: 16
        case .sm4CTRHMACSM3: 32
        }
    }

    /// Bytes that a message has beyond header and plaintext: salt, commitment and tag.
    public var overhead: Int { CommittingAEAD.saltCount + CommittingAEAD.commitmentCount + tagCount }

    /// Bytes of the keys derived for one message, without the commitment.
    var derivedKeyCount: Int {
        switch self {
        case .aes256GCM: 32
        case .sm4CTRHMACSM3: 16 + 32
        case .sm4GCM: 16
        }
    }
}

/// Digests of public data.
public enum DigestAlgorithm: Sendable, CaseIterable {
    /// SHA-256, 32 bytes.
    case sha256
    /// SHA-512, 64 bytes.
    case sha512
    /// SM3, 32 bytes.
    case sm3

    /// Length of the digest in bytes.
    public var count: Int {
        switch self {
        case .sha256, .sm3: 32
        case .sha512: 64
        }
    }

    var openSSLName: StaticString {
        switch self {
        case .sha256: "SHA2-256"
        case .sha512: "SHA2-512"
        case .sm3: "SM3"
        }
    }
}
