// Tests of the codec. `Sample` is a message as a bag of named values, the common ground of three codecs: ours,
// swift-protobuf's (here) and Python's (a script that tests run).

import Foundation
import KMSWire
import SecureMemory
import SwiftProtobuf
import Testing

/// The values of one message, by the names of the .proto file.
struct Sample: Equatable {
    let message: WireMessage
    var values: [String: [UInt8]]
    var annotations: [String: [UInt8]] = [:]

    init(_ message: WireMessage, _ values: [String: [UInt8]], annotations: [String: [UInt8]] = [:]) {
        self.message = message
        self.values = values.filter { !$0.value.isEmpty }
        self.annotations = annotations
    }

    subscript(_ name: String) -> [UInt8] { values[name, default: []] }

    func text(_ name: String) -> String { String(decoding: self[name], as: UTF8.self) }

    /// One line that the Python script writes too.
    ///
    /// A v1beta1 request's version is judged and forgotten.
    var line: String {
        let shown = values.filter { !(message.isRequest && $0.key == "version") }
        let fields = shown.sorted { $0.key < $1.key }.map { "\($0.key)=\(hex($0.value))" }
        let entries = annotations.map { "\(hex(Array($0.key.utf8))):\(hex($0.value))" }.sorted()
        return (fields + ["{\(entries.joined(separator: ","))}"]).joined(separator: ";")
    }
}

extension Sample: CustomTestStringConvertible {
    /// Test output is for people: no kilobytes of values.
    var testDescription: String {
        let sizes = values.sorted { $0.key < $1.key }.map { "\($0.key) of \($0.value.count)" }
        return "\(message.rawValue) with \(sizes.joined(separator: ", "))"
    }
}

/// A message as a test argument, shown by its beginning.
struct Encoded: CustomTestStringConvertible {
    let bytes: [UInt8]

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    var testDescription: String { "\(bytes.count) bytes \(hex(Array(bytes.prefix(8))))..." }
}

func hex(_ bytes: [UInt8]) -> String {
    let digits = Array("0123456789abcdef".utf8)
    return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
}

func bytes(hex: some StringProtocol) -> [UInt8] {
    let digits = hex.utf8.map { UInt8($0 > 0x60 ? $0 - 0x57 : $0 - 0x30) }
    return stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
}

func contents(_ secret: borrowing SecretBytes) -> [UInt8] {
    secret.withBytes { span in unsafe span.withUnsafeBytes { unsafe Array($0) } }
}

func secretBytes(_ bytes: [UInt8]) -> SecretBytes {
    SecretBytes(count: bytes.count) { target in
        for (index, byte) in bytes.enumerated() {
            target.storeBytes(of: byte, toByteOffset: index, as: UInt8.self)
        }
    }
}

// MARK: our codec

extension WireMessage {
    var method: KMSMethod {
        for method in KMSMethod.allCases where method.request == self || method.response == self {
            return method
        }
        preconditionFailure("every message belongs to a method")
    }
}

func ourRequest(_ bytes: [UInt8], _ method: KMSMethod) throws(WireError) -> KMSRequest {
    try KMSRequest(parsing: unsafe bytes.span.bytes, as: method)
}

func ourReply(_ bytes: [UInt8], _ method: KMSMethod) throws(WireError) -> KMSReply {
    try KMSReply(parsing: unsafe bytes.span.bytes, to: method)
}

/// Reads with our codec.
func ourSample(_ message: WireMessage, _ bytes: [UInt8]) throws(WireError) -> Sample {
    let method = message.method
    return message.isRequest
        ? sample(message, try ourRequest(bytes, method)) : sample(message, try ourReply(bytes, method))
}

private func sample(_ message: WireMessage, _ request: consuming KMSRequest) -> Sample {
    switch consume request {
    case .version: return Sample(message, [:])
    case .status: return Sample(message, [:])
    case .encrypt(let encrypt):
        return Sample(
            message,
            [
                encrypt.api == .v2 ? "plaintext" : "plain": contents(encrypt.plaintext),
                "uid": Array(encrypt.uid.utf8),
            ])
    case .decrypt(let decrypt):
        return Sample(
            message,
            [
                decrypt.api == .v2 ? "ciphertext" : "cipher": decrypt.ciphertext,
                "uid": Array(decrypt.uid.utf8), "key_id": Array(decrypt.keyID.utf8),
            ],
            annotations: Dictionary(uniqueKeysWithValues: decrypt.annotations.map { ($0.key, $0.value) }))
    }
}

private func sample(_ message: WireMessage, _ reply: consuming KMSReply) -> Sample {
    switch consume reply {
    case .version(let version):
        return Sample(
            message,
            [
                "version": Array(version.version.utf8), "runtime_name": Array(version.runtimeName.utf8),
                "runtime_version": Array(version.runtimeVersion.utf8),
            ])
    case .status(let status):
        return Sample(
            message,
            [
                "version": Array(status.version.utf8), "healthz": Array(status.healthz.utf8),
                "key_id": Array(status.keyID.utf8),
            ])
    case .encrypted(let api, let encrypted):
        return Sample(
            message,
            [
                api == .v2 ? "ciphertext" : "cipher": encrypted.ciphertext,
                "key_id": Array(encrypted.keyID.utf8),
            ],
            annotations: Dictionary(uniqueKeysWithValues: encrypted.annotations.map { ($0.key, $0.value) }))
    case .decrypted(let api, let plaintext):
        return Sample(message, [api == .v2 ? "plaintext" : "plain": contents(plaintext)])
    }
}

extension Sample {
    private var sortedAnnotations: [Annotation] {
        annotations.sorted { $0.key < $1.key }.map { Annotation(key: $0.key, value: $0.value) }
    }

    /// Writes with our codec.
    func ourBytes() throws(WireError) -> [UInt8] {
        switch message {
        case .v1VersionRequest: encoded(.version)
        case .v2StatusRequest: encoded(.status)
        case .v1EncryptRequest:
            encoded(
                .encrypt(EncryptRequest(api: .v1beta1, plaintext: secretBytes(self["plain"]), uid: "")))
        case .v2EncryptRequest:
            encoded(
                .encrypt(
                    EncryptRequest(api: .v2, plaintext: secretBytes(self["plaintext"]), uid: text("uid"))))
        case .v1DecryptRequest:
            encoded(.decrypt(DecryptRequest(api: .v1beta1, ciphertext: self["cipher"])))
        case .v2DecryptRequest:
            encoded(
                .decrypt(
                    DecryptRequest(
                        api: .v2, ciphertext: self["ciphertext"], uid: text("uid"), keyID: text("key_id"),
                        annotations: sortedAnnotations)))
        case .v1VersionResponse:
            try encoded(
                .version(
                    VersionReply(
                        version: text("version"), runtimeName: text("runtime_name"),
                        runtimeVersion: text("runtime_version"))))
        case .v2StatusResponse:
            try encoded(
                .status(
                    StatusReply(version: text("version"), healthz: text("healthz"), keyID: text("key_id"))))
        case .v1EncryptResponse:
            try encoded(.encrypted(.v1beta1, EncryptReply(ciphertext: self["cipher"], keyID: "")))
        case .v2EncryptResponse:
            try encoded(
                .encrypted(
                    .v2,
                    EncryptReply(
                        ciphertext: self["ciphertext"], keyID: text("key_id"), annotations: sortedAnnotations)
                ))
        case .v1DecryptResponse: try encoded(.decrypted(.v1beta1, secretBytes(self["plain"])))
        case .v2DecryptResponse: try encoded(.decrypted(.v2, secretBytes(self["plaintext"])))
        }
    }
}

func encoded(_ request: consuming KMSRequest) -> [UInt8] {
    var out = [UInt8](repeating: 0xff, count: request.encodedCount)
    var span = out.mutableSpan
    var raw = unsafe span.mutableBytes
    request.encode(into: &raw)
    return out
}

func encoded(_ reply: consuming KMSReply) throws(WireError) -> [UInt8] {
    try reply.encode { count, fill in
        var out = [UInt8](repeating: 0xff, count: count)
        var span = out.mutableSpan
        var raw = unsafe span.mutableBytes
        fill(&raw)
        return out
    }
}

// MARK: swift-protobuf

/// Reads with swift-protobuf.
func referenceSample(_ message: WireMessage, _ bytes: [UInt8]) throws -> Sample {
    switch message {
    case .v1VersionRequest:
        let read = try V1beta1_VersionRequest(serializedBytes: bytes)
        return Sample(message, ["version": Array(read.version.utf8)])
    case .v1VersionResponse:
        let read = try V1beta1_VersionResponse(serializedBytes: bytes)
        return Sample(
            message,
            [
                "version": Array(read.version.utf8), "runtime_name": Array(read.runtimeName.utf8),
                "runtime_version": Array(read.runtimeVersion.utf8),
            ])
    case .v1EncryptRequest:
        let read = try V1beta1_EncryptRequest(serializedBytes: bytes)
        return Sample(message, ["version": Array(read.version.utf8), "plain": Array(read.plain)])
    case .v1EncryptResponse:
        return Sample(message, ["cipher": Array(try V1beta1_EncryptResponse(serializedBytes: bytes).cipher)])
    case .v1DecryptRequest:
        let read = try V1beta1_DecryptRequest(serializedBytes: bytes)
        return Sample(message, ["version": Array(read.version.utf8), "cipher": Array(read.cipher)])
    case .v1DecryptResponse:
        return Sample(message, ["plain": Array(try V1beta1_DecryptResponse(serializedBytes: bytes).plain)])
    case .v2StatusRequest:
        _ = try V2_StatusRequest(serializedBytes: bytes)
        return Sample(message, [:])
    case .v2StatusResponse:
        let read = try V2_StatusResponse(serializedBytes: bytes)
        return Sample(
            message,
            [
                "version": Array(read.version.utf8), "healthz": Array(read.healthz.utf8),
                "key_id": Array(read.keyID.utf8),
            ])
    case .v2EncryptRequest:
        let read = try V2_EncryptRequest(serializedBytes: bytes)
        return Sample(message, ["plaintext": Array(read.plaintext), "uid": Array(read.uid.utf8)])
    case .v2EncryptResponse:
        let read = try V2_EncryptResponse(serializedBytes: bytes)
        return Sample(
            message, ["ciphertext": Array(read.ciphertext), "key_id": Array(read.keyID.utf8)],
            annotations: read.annotations.mapValues { Array($0) })
    case .v2DecryptRequest:
        let read = try V2_DecryptRequest(serializedBytes: bytes)
        return Sample(
            message,
            [
                "ciphertext": Array(read.ciphertext), "uid": Array(read.uid.utf8),
                "key_id": Array(read.keyID.utf8),
            ],
            annotations: read.annotations.mapValues { Array($0) })
    case .v2DecryptResponse:
        return Sample(message, ["plaintext": Array(try V2_DecryptResponse(serializedBytes: bytes).plaintext)])
    }
}

extension Sample {
    /// Writes with swift-protobuf.
    func referenceBytes() throws -> [UInt8] {
        func data(_ name: String) -> Data { Data(self[name]) }
        func bytes(_ message: some SwiftProtobuf.Message) throws -> [UInt8] { try message.serializedBytes() }
        let map = annotations.mapValues { Data($0) }
        return switch message {
        case .v1VersionRequest: try bytes(V1beta1_VersionRequest.with { $0.version = text("version") })
        case .v1VersionResponse:
            try bytes(
                V1beta1_VersionResponse.with {
                    $0.version = text("version")
                    $0.runtimeName = text("runtime_name")
                    $0.runtimeVersion = text("runtime_version")
                })
        case .v1EncryptRequest:
            try bytes(
                V1beta1_EncryptRequest.with {
                    $0.version = text("version")
                    $0.plain = data("plain")
                })
        case .v1EncryptResponse: try bytes(V1beta1_EncryptResponse.with { $0.cipher = data("cipher") })
        case .v1DecryptRequest:
            try bytes(
                V1beta1_DecryptRequest.with {
                    $0.version = text("version")
                    $0.cipher = data("cipher")
                })
        case .v1DecryptResponse: try bytes(V1beta1_DecryptResponse.with { $0.plain = data("plain") })
        case .v2StatusRequest: try bytes(V2_StatusRequest())
        case .v2StatusResponse:
            try bytes(
                V2_StatusResponse.with {
                    $0.version = text("version")
                    $0.healthz = text("healthz")
                    $0.keyID = text("key_id")
                })
        case .v2EncryptRequest:
            try bytes(
                V2_EncryptRequest.with {
                    $0.plaintext = data("plaintext")
                    $0.uid = text("uid")
                })
        case .v2EncryptResponse:
            try bytes(
                V2_EncryptResponse.with {
                    $0.ciphertext = data("ciphertext")
                    $0.keyID = text("key_id")
                    $0.annotations = map
                })
        case .v2DecryptRequest:
            try bytes(
                V2_DecryptRequest.with {
                    $0.ciphertext = data("ciphertext")
                    $0.uid = text("uid")
                    $0.keyID = text("key_id")
                    $0.annotations = map
                })
        case .v2DecryptResponse: try bytes(V2_DecryptResponse.with { $0.plaintext = data("plaintext") })
        }
    }
}
