import EnvelopeCrypto
import FoundationEssentials
import KMSWire
import SecureMemory
import Testing

@testable import KeyService

/// The vectors of Tests/Vectors/ciphertext.json, which an independent implementation in Python made.
struct CiphertextVectors: Decodable {
    struct KeyIDVector: Decodable, Sendable, CustomTestStringConvertible {
        let provider, identity, clusterContext: String
        let epoch: UInt32
        let version, versionCreatedAt, keyId: String
        var testDescription: String { keyId }
    }

    struct Payload: Decodable, Sendable, CustomTestStringConvertible {
        let suite: UInt8
        let keyId, clusterContext, localKek, payload: String
        var testDescription: String { "suite \(suite), \(keyId)" }
    }

    struct EnvelopeVector: Decodable, Sendable, CustomTestStringConvertible {
        let name: String
        let suite, api: UInt8
        let keyId, clusterContext, wrapped: String
        let inAnnotation: Bool
        let localKek, salt, plaintext, commitment, ciphertext, ciphertextSha256: String
        let annotations: [String: String]
        var testDescription: String { name }
    }

    let keyIds: [KeyIDVector]
    let localKekPayloads: [Payload]
    let envelopes: [EnvelopeVector]

    static let all: CiphertextVectors = {
        let tests = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        do {
            let data = try Data(contentsOf: tests.appending(path: "Vectors/ciphertext.json"))
            return try decoder.decode(CiphertextVectors.self, from: data)
        } catch {
            fatalError("Tests/Vectors/ciphertext.json cannot be read: \(error)")
        }
    }()
}

extension CiphertextVectors.EnvelopeVector {
    /// The local KEK of the vector.
    func kek() throws -> LocalKEK {
        try LocalKEK(
            secret(localKek), keyID: KeyID(parsing: keyId), suite: #require(Suite(rawValue: suite)),
            clusterContext: clusterContext)
    }

    /// The Decrypt request that carries the vector.
    func request() throws -> DecryptRequest {
        let api = try #require(KMSAPI(rawValue: api))
        return DecryptRequest(
            api: api, ciphertext: hex(ciphertext), keyID: api == .v2 ? keyId : "",
            annotations: annotations.map { Annotation(key: $0, value: hex($1)) })
    }
}

extension CiphertextVectors {
    /// The vectors whose suite the loaded OpenSSL has.
    static var openable: [EnvelopeVector] {
        all.envelopes.filter { Suite(rawValue: $0.suite)?.isAvailable == true }
    }
}

func hex(_ text: String) -> [UInt8] {
    let digits = text.utf8.map { UInt8(Character(UnicodeScalar($0)).hexDigitValue ?? 0) }
    return stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
}

/// A secret of the given hexadecimal digits; of test data only.
func secret(_ text: String) -> SecretBytes {
    let bytes = hex(text)
    return SecretBytes(count: bytes.count) { $0.copy(bytes.span, toByteOffset: 0) }
}

/// The bytes of a secret; of test data only.
func bytes(of secret: borrowing SecretBytes) -> [UInt8] {
    secret.withBytes { span in unsafe span.withUnsafeBytes { unsafe Array($0) } }
}
