// The text of a key file, written and read. The keys stay in wiped memory on both ways.

internal import EnvelopeCrypto
private import Glibc
internal import SecureMemory

private let magic = "kmsward local keys "
private let formatVersion = "1"
private let endWord = "end sha256 "
private let warning = """
    # Secret. Whoever reads this can read every Kubernetes Secret it protects; whoever loses it loses them all.
    # Back it up. Change it with `kmsward key` only.

    """

extension LocalKeys {
    /// The file as it is to be written.
    func text() throws(CryptoFailure) -> SecretBytes {
        var pieces: [Piece] = [
            .open("\(magic)\(formatVersion)\n\(warning)file \(id)\nsuite \(suite.configurationName)\n")
        ]
        for entry in entries {
            let version = entry.version
            pieces += [
                .open("key \(version.id) \(version.createdAt) \(version.state) "), .secret(entry.key),
                .open(" \(hex(try entry.check(in: id)))\n"),
            ]
        }
        let body = assemble(pieces)
        let end = "\(endWord)\(hex(try fileDigest(of: body)))\n"
        return assemble(pieces + [.open(end)])
    }

    /// Reads and parses a key file.
    static func read(
        _ access: KeyFileAccess, for reader: FileReader
    ) throws(LocalKeyFileError) -> (keys: LocalKeys, stamp: FileStamp, owner: UInt32, group: UInt32) {
        let content = try access.read()
        // In this order: nobody is to chmod or chown a file that is something else.
        try checkMagic(content.bytes, access: access)
        try access.checkPrivacy(of: content, for: reader)
        let keys = try LocalKeys(parsing: content.bytes, access: access)
        return (keys, content.stamp, content.owner, content.group)
    }

    /// Parses a file that begins as a key file does; `access` is for the errors only.
    init(parsing content: borrowing SecretBytes, access: KeyFileAccess) throws(LocalKeyFileError) {
        let lines = content.withBytes { lineRanges(in: $0) }
        try Self.checkFrame(content, lines.complete, rest: lines.rest, access: access)
        // Everything between the first and the last line.
        let inner = lines.complete.dropFirst().dropLast()
        let end = lines.complete[lines.complete.count - 1]
        let isIntact = try access.withCrypto { () throws(CryptoFailure) in
            try content.withBytes { span throws(CryptoFailure) in
                openText(span, end) == endWord + hex(try fileDigest(of: span, count: end.lowerBound))
            }
        }

        var facts: [Substring: String] = [:]
        var entries: [Entry] = []
        for (number, range) in inner.enumerated() {
            let line = number + 2
            let first = content.withBytes { openText($0, range.prefix(4)) }
            if first.hasPrefix("#") && facts.isEmpty { continue }
            if first == "key " {
                guard let name = facts["file"], let file = KeyUUID(name), facts["suite"] != nil,
                    let entry = Self.entry(content, range)
                else { throw Self.damaged(access, "line \(line) cannot be read") }
                let check = try access.withCrypto { () throws(CryptoFailure) in
                    try entry.entry.check(in: file)
                }
                guard entry.check == hex(check) else {
                    throw Self.damaged(
                        access, "the key of version \(entry.entry.version.id) (line \(line)) was changed")
                }
                entries.append(entry.entry)
                continue
            }
            // A longer line may be a damaged `key` line: nothing of it becomes a String.
            guard range.count <= 48 else { throw Self.damaged(access, "line \(line) cannot be read") }
            let words = content.withBytes { openText($0, range) }.split(
                separator: " ", omittingEmptySubsequences: false)
            guard words.count == 2, entries.isEmpty, ["file", "suite"].contains(words[0]),
                facts[words[0]] == nil
            else { throw Self.damaged(access, "line \(line) cannot be read") }
            facts[words[0]] = String(words[1])
        }
        guard isIntact else {
            throw Self.damaged(access, "its keys are whole, but something beside them was changed")
        }
        guard let name = facts["file"], let file = KeyUUID(name), let suiteName = facts["suite"],
            let suite = Suite(configurationName: suiteName)
        else { throw Self.damaged(access, "it names no file UUID or no suite that is known") }
        let active = entries.indices.filter { entries[$0].version.state == .active }
        guard active.count == 1, Set(entries.map(\.version.id)).count == entries.count else {
            throw Self.damaged(access, "it has \(active.count) active versions, or one version twice")
        }
        self.init(id: file, suite: suite, entries: entries, activeIndex: active[0])
    }

    /// Tells a foreign file from a key file, of which perhaps only the beginning is there.
    private static func checkMagic(
        _ content: borrowing SecretBytes, access: KeyFileAccess
    ) throws(LocalKeyFileError) {
        let head = content.withBytes { openText($0, (0..<$0.byteCount).prefix(magic.utf8.count)) }
        guard magic.hasPrefix(head) else {
            throw access.error(
                .foreign, "is not a key file of kmsward: its first line is not `\(magic)\(formatVersion)`",
                remedy: "name the right file")
        }
    }

    /// Tells an unknown format and a missing end from a whole file.
    private static func checkFrame(
        _ content: borrowing SecretBytes, _ complete: [Range<Int>], rest: Range<Int>, access: KeyFileAccess
    ) throws(LocalKeyFileError) {
        let head = content.withBytes { openText($0, (complete.first ?? rest).prefix(64)) }
        guard complete.isEmpty || head == magic + formatVersion else {
            throw access.error(
                .unknownFormat,
                "has format \(head.dropFirst(magic.count).prefix(8)), this program knows \(formatVersion)",
                remedy: "use the version of kmsward that wrote it, or a newer one")
        }
        let last = complete.last.map { range in
            content.withBytes { openText($0, range.prefix(endWord.utf8.count)) }
        }
        guard rest.isEmpty, last == endWord else {
            // An end line with something behind it was not cut off.
            let isCut = !complete.contains { range in
                content.withBytes { openText($0, range.prefix(endWord.utf8.count)) } == endWord
            }
            throw isCut
                ? access.error(
                    .truncated, "is cut off after line \(complete.count): its end line is missing",
                    remedy: "restore it from a backup or from another host")
                : damaged(access, "there is something after its end line")
        }
    }

    private static func damaged(_ access: KeyFileAccess, _ how: String) -> LocalKeyFileError {
        access.error(.damaged, "is damaged: \(how)", remedy: "restore it from a backup or from another host")
    }

    /// Reads a `key` line; nil if it is not one.
    private static func entry(
        _ content: borrowing SecretBytes, _ line: Range<Int>
    ) -> (entry: Entry, check: String)? {
        // key <uuid> <created> <state> : split without making text of the secret that follows.
        let words = content.withBytes { span in wordRanges(in: span, line) }
        guard words.count == 6, words[1].count == 36, words[2].count == 20, words[3].count <= 8,
            words[4].count == 2 * keyBytes, words[5].count == 2 * checkBytes
        else { return nil }
        let open = content.withBytes { span in [1, 2, 3, 5].map { openText(span, words[$0]) } }
        guard let id = KeyUUID(open[0]), let state = LocalKeyFile.VersionState(rawValue: open[2]) else {
            return nil
        }
        let key: SecretBytes
        do throws(NotHex) {
            key = try content.withBytes { span throws(NotHex) in try decodeHex(span, words[4]) }
        } catch { return nil }
        let version = LocalKeyFile.Version(id: id, createdAt: open[1], state: state)
        return (Entry(version: version, key: SharedSecret(key)), open[3])
    }
}

extension LocalKeys.Entry {
    /// A new version with a random key.
    static func make(_ state: LocalKeyFile.VersionState) -> LocalKeys.Entry {
        LocalKeys.Entry(
            version: .init(id: KeyUUID(), createdAt: timestamp(), state: state),
            key: SharedSecret(SecretBytes(randomCount: LocalKeys.keyBytes)))
    }

    /// The check value over everything of this version but its state.
    fileprivate func check(in file: KeyUUID) throws(CryptoFailure) -> [UInt8] {
        let open =
            Array("kmsward local key 1".utf8) + [0] + file.bytes + version.id.bytes
            + Array(version.createdAt.utf8)
        let whole = SecretBytes(count: open.count + key.bytes.count) { span in
            put(open, into: &span, at: 0)
            key.bytes.withBytes { bytes in
                for index in 0..<bytes.byteCount {
                    put(byte(bytes, index), into: &span, at: open.count + index)
                }
            }
        }
        return Array(try fileDigest(of: whole).prefix(checkBytes))
    }
}

private let checkBytes = 16

/// The time now, UTC, as in `2026-01-31T12:00:00Z`.
private func timestamp() -> String {
    var now = time(nil)
    var parts = unsafe tm()
    _ = unsafe gmtime_r(&now, &parts)
    func two(_ value: Int32) -> String { value < 10 ? "0\(value)" : "\(value)" }
    let date = unsafe [parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday].map(two).joined(separator: "-")
    let clock = unsafe [parts.tm_hour, parts.tm_min, parts.tm_sec].map(two).joined(separator: ":")
    return "\(date)T\(clock)Z"
}

// MARK: bytes

/// A part of the text: open, or the hex digits of a secret.
private enum Piece {
    case open(String)
    case secret(SharedSecret)

    var count: Int {
        switch self {
        case .open(let text): text.utf8.count
        case .secret(let secret): 2 * secret.bytes.count
        }
    }
}

private func assemble(_ pieces: [Piece]) -> SecretBytes {
    SecretBytes(count: pieces.reduce(0) { $0 + $1.count }) { span in
        var next = 0
        for piece in pieces {
            switch piece {
            case .open(let text): put(Array(text.utf8), into: &span, at: next)
            case .secret(let secret):
                secret.bytes.withBytes { bytes in
                    for index in 0..<bytes.byteCount {
                        let value = byte(bytes, index)
                        put(hexDigit(value >> 4), into: &span, at: next + 2 * index)
                        put(hexDigit(value & 15), into: &span, at: next + 2 * index + 1)
                    }
                }
            }
            next += piece.count
        }
    }
}

/// Hex digits by arithmetic: a table would be read at addresses that depend on the secret.
private func hexDigit(_ nibble: UInt8) -> UInt8 {
    let isLetter: UInt8 = (nibble &+ 6) >> 4
    return nibble + 0x30 + isLetter * 0x27
}

/// SHA-256 of the first `count` bytes.
private func fileDigest(of span: RawSpan, count: Int) throws(CryptoFailure) -> [UInt8] {
    try DigestAlgorithm.sha256.hash(Span<UInt8>(_bytes: span.extracting(first: count)))
}

private func fileDigest(of bytes: borrowing SecretBytes) throws(CryptoFailure) -> [UInt8] {
    try bytes.withBytes { span throws(CryptoFailure) in try fileDigest(of: span, count: span.byteCount) }
}

private struct NotHex: Error {}

private func hexValue(_ digit: UInt8) throws(NotHex) -> UInt8 {
    switch digit {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - UInt8(ascii: "a") + 10
    default: throw NotHex()
    }
}

private func decodeHex(_ span: RawSpan, _ range: Range<Int>) throws(NotHex) -> SecretBytes {
    try SecretBytes(count: range.count / 2) { out throws(NotHex) in
        for index in 0..<range.count / 2 {
            let high = try hexValue(byte(span, range.lowerBound + 2 * index))
            let low = try hexValue(byte(span, range.lowerBound + 2 * index + 1))
            put(high << 4 | low, into: &out, at: index)
        }
    }
}

private func hex(_ bytes: some Sequence<UInt8>) -> String {
    String(decoding: bytes.flatMap { [hexDigit($0 >> 4), hexDigit($0 & 15)] }, as: UTF8.self)
}

private func put(_ value: UInt8, into span: inout MutableRawSpan, at offset: Int) {
    span.storeBytes(of: value, toByteOffset: offset, as: UInt8.self)
}

private func put(_ values: [UInt8], into span: inout MutableRawSpan, at offset: Int) {
    for (index, value) in values.enumerated() { put(value, into: &span, at: offset + index) }
}

private func byte(_ span: RawSpan, _ offset: Int) -> UInt8 {
    // Every bit pattern is a UInt8, and the offset is checked.
    unsafe span.unsafeLoad(fromByteOffset: offset, as: UInt8.self)
}

/// The text of a range that holds no secret.
private func openText(_ span: RawSpan, _ range: Range<Int>) -> String {
    String(decoding: range.map { byte(span, $0) }, as: UTF8.self)
}

private func lineRanges(in span: RawSpan) -> (complete: [Range<Int>], rest: Range<Int>) {
    var complete: [Range<Int>] = []
    var start = 0
    for index in 0..<span.byteCount where byte(span, index) == UInt8(ascii: "\n") {
        complete.append(start..<index)
        start = index + 1
    }
    return (complete, start..<span.byteCount)
}

private func wordRanges(in span: RawSpan, _ line: Range<Int>) -> [Range<Int>] {
    var words: [Range<Int>] = []
    var start = line.lowerBound
    for index in line where byte(span, index) == UInt8(ascii: " ") {
        words.append(start..<index)
        start = index + 1
    }
    return words + [start..<line.upperBound]
}

extension Range<Int> {
    fileprivate func prefix(_ count: Int) -> Range<Int> {
        lowerBound..<Swift.min(upperBound, lowerBound + count)
    }
}
