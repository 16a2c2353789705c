public import EnvelopeCrypto
public import RemoteKMS

/// The key_id `kw1.<F>.<E>.<V>`: which key, which epoch, which version.
///
/// The same on every replica, computed without looking anything up, and free of secrets. F stands for the key's
/// identity, E is the epoch from the configuration, V stands for the remote version.
public struct KeyID: Sendable, Hashable, CustomStringConvertible {
    /// A text that is no key_id of ours.
    public struct Malformed: Error, Sendable, Equatable {}

    /// The key_id as the API server stores it; 51 to 60 printable ASCII characters.
    public let description: String
    /// E.
    public let epoch: UInt32

    /// F, 22 characters: names the key; Decrypt accepts a key_id by this part alone.
    public var keyPart: String { part(at: Self.prefix.utf8.count) }

    /// V, 22 characters: names the version within the key.
    public var versionPart: String { part(at: description.utf8.count - Self.partCount) }

    /// Computes the key_id of the key that `key` describes.
    ///
    /// Throws only where OpenSSL has no SHA-256.
    public init(
        provider: String, key: KeyDescription, clusterContext: String, epoch: UInt32
    ) throws(CryptoFailure) {
        let keyPart = try Self.keyPart(
            provider: provider, identity: key.identity, clusterContext: clusterContext)
        let versionPart = try Self.hash(["kmsward version 1", keyPart, key.version, key.versionCreatedAt])
        description = "\(Self.prefix)\(keyPart).\(epoch).\(versionPart)"
        self.epoch = epoch
    }

    /// Reads a key_id; throws for every text that `init(provider:…)` could not have written, except that the bits
    /// which base64url leaves over at the end of F and V may be any.
    public init(parsing text: String) throws(Malformed) {
        try self.init(parsing: Array(text.utf8).span)
    }

    /// Reads a key_id from its ASCII bytes.
    public init(parsing bytes: Span<UInt8>) throws(Malformed) {
        let prefix = Self.prefix.utf8.count
        // Prefix, F, ".", at least one digit, ".", V.
        guard bytes.count >= prefix + Self.partCount + 3 + Self.partCount else { throw Malformed() }
        guard Self.prefix.utf8.enumerated().allSatisfy({ bytes[$0] == $1 }) else { throw Malformed() }
        let epochStart = prefix + Self.partCount + 1
        let versionStart = bytes.count - Self.partCount
        guard Self.isPart(bytes.extracting(prefix..<epochStart - 1)), bytes[epochStart - 1] == Self.dot,
            let epoch = Self.epoch(bytes.extracting(epochStart..<versionStart - 1)),
            bytes[versionStart - 1] == Self.dot, Self.isPart(bytes.extracting(versionStart..<bytes.count))
        else { throw Malformed() }
        self.epoch = epoch
        guard let text = try? UTF8Span(validating: bytes) else { throw Malformed() }
        description = String(copying: text)
    }

    /// F of a key: what stands in another key's `accept_identities`.
    public static func keyPart(
        provider: String, identity: String, clusterContext: String
    ) throws(CryptoFailure) -> String {
        try hash(["kmsward key 1", provider, identity, clusterContext])
    }

    /// Whether `text` could be an F or a V: 22 characters of base64url.
    public static func isPart(_ text: String) -> Bool {
        text.utf8.count == partCount && text.utf8.allSatisfy(isBase64URL)
    }

    // MARK: Parts

    private static let prefix = "kw1."
    private static let partCount = 22
    private static let dot = UInt8(ascii: ".")
    private static let alphabet = Array(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".utf8)

    private func part(at offset: Int) -> String {
        let utf8 = description.utf8
        let start = utf8.index(utf8.startIndex, offsetBy: offset)
        return String(description[start..<utf8.index(start, offsetBy: Self.partCount)])
    }

    private static func isPart(_ bytes: Span<UInt8>) -> Bool {
        for index in bytes.indices where !isBase64URL(bytes[index]) { return false }
        return bytes.count == partCount
    }

    private static func isBase64URL(_ character: UInt8) -> Bool {
        switch character {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "a")...UInt8(ascii: "z"),
            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
            true
        default: false
        }
    }

    /// A decimal number without sign or leading zeros.
    private static func epoch(_ digits: Span<UInt8>) -> UInt32? {
        guard 1...10 ~= digits.count, digits.count == 1 || digits[0] != UInt8(ascii: "0") else { return nil }
        var value: UInt64 = 0
        for index in digits.indices {
            let digit = digits[index]
            guard UInt8(ascii: "0")...UInt8(ascii: "9") ~= digit else { return nil }
            value = value * 10 + UInt64(digit - UInt8(ascii: "0"))
        }
        return UInt32(exactly: value)
    }

    /// Every item with its length before it (four bytes, big endian), SHA-256, the first 16 bytes in base64url.
    private static func hash(_ items: [String]) throws(CryptoFailure) -> String {
        var bytes: [UInt8] = []
        for item in items { bytes.appendLengthPrefixed(Array(item.utf8)) }
        let digest = try DigestAlgorithm.sha256.hash(bytes.span)
        return base64URL(digest.prefix(16))
    }

    private static func base64URL(_ bytes: ArraySlice<UInt8>) -> String {
        var text: [UInt8] = []
        var pending: UInt32 = 0
        var bits = 0
        for byte in bytes {
            pending = pending << 8 | UInt32(byte)
            bits += 8
            while bits >= 6 {
                bits -= 6
                text.append(alphabet[Int(pending >> UInt32(bits) & 63)])
            }
        }
        if bits > 0 { text.append(alphabet[Int(pending << UInt32(6 - bits) & 63)]) }
        return String(decoding: text, as: UTF8.self)
    }
}

/// Which key_ids belong to one configured key.
///
/// Decided from the configuration alone: no lookup, no backend call.
public struct KeyAcceptance: Sendable, Equatable {
    /// F of the key itself.
    public let keyPart: String
    private let acceptedParts: Set<String>
    private let adoptedKeyIDs: Set<String>

    /// The rule of a key with F `keyPart`, the F parts in its `accept_identities`, and the ids of other plugins in its
    /// `adopt_key_ids`.
    public init(keyPart: String, acceptIdentities: [String] = [], adoptKeyIDs: [String] = []) {
        self.keyPart = keyPart
        acceptedParts = Set(acceptIdentities).union([keyPart])
        adoptedKeyIDs = Set(adoptKeyIDs)
    }

    /// Whether the key_id is the key's own: by its own F.
    public func owns(_ text: String) -> Bool { (try? KeyID(parsing: text))?.keyPart == keyPart }

    /// Whether the key answers for a key_id of ours: by its F.
    public func accepts(_ keyID: KeyID) -> Bool { acceptedParts.contains(keyID.keyPart) }

    /// Whether the key answers for any key_id: one of ours by its F, one of another plugin literally.
    public func accepts(_ text: String) -> Bool {
        if adoptedKeyIDs.contains(text) { return true }
        guard let keyID = try? KeyID(parsing: text) else { return false }
        return accepts(keyID)
    }
}

extension [UInt8] {
    /// Appends `value`, big endian.
    mutating func append<Value: FixedWidthInteger>(bigEndian value: Value) {
        for shift in stride(from: Value.bitWidth - 8, through: 0, by: -8) {
            append(UInt8(truncatingIfNeeded: value >> shift))
        }
    }

    /// Appends the length of `item` in four bytes, then `item`.
    mutating func appendLengthPrefixed(_ item: [UInt8]) {
        append(bigEndian: UInt32(item.count))
        append(contentsOf: item)
    }
}
