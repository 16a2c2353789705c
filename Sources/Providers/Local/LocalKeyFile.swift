public import EnvelopeCrypto
internal import SecureMemory

/// The key file of the `local` provider: its own key-encryption keys, one line each, in versions.
///
/// Text of lines, each ended by a newline, all of ASCII; nothing in it is optional (docs/local-key-file.md):
///
///     kmsward local keys 1
///     # comments, only here
///     file <uuid>                                                  the identity: it stays, wherever the file goes
///     suite <suite>                                                one for the whole file, for ever
///     key <uuid> <created> <added|active|retired> <key> <check>    a version: 32 bytes and a 16-byte check value, in hex
///     end sha256 <digest>                                          over all bytes before this line
///
/// Exactly one version is active: it wraps. All of them unwrap. The check value of a version is the beginning of
/// SHA-256("kmsward local key 1" 00, file UUID, version UUID, creation time, key), so that damage to one key is told
/// from damage elsewhere; a file without its end line is told from both.
///
/// All functions block for a few system calls on the file and its directory. Changes are made beside the file and
/// moved into place, so that a reader sees the old or the new file and a full disk changes nothing.
public enum LocalKeyFile {
    /// No key file has more bytes than this, so no more are read.
    public static let maximumBytes = 256 * 1024

    /// What a version is used for.
    public enum VersionState: String, Sendable, CaseIterable {
        /// Unwraps only, and may become active once every host has it.
        case added
        /// Wraps and unwraps.
        case active
        /// Unwraps only, for ever: its key_id was announced once and must never come back.
        case retired
    }

    /// What may be said of one version.
    public struct Version: Sendable, Equatable {
        /// What it is called.
        public let id: KeyUUID
        /// When it was made, `2026-01-31T12:00:00Z`.
        public let createdAt: String
        /// What it is used for.
        public let state: VersionState
    }

    /// What may be said of a key file.
    public struct Facts: Sendable, Equatable {
        /// The identity of the file.
        public let id: KeyUUID
        /// The suite all its versions are used with.
        public let suite: Suite
        /// Oldest first; exactly one is active.
        public let versions: [Version]
        /// Position of the active one in `versions`.
        let activeIndex: Int
        /// The version that wraps.
        public var active: Version { versions[activeIndex] }
    }

    /// Makes a new key file of mode 0600 with one active version.
    ///
    /// Throws `.exists` if the path is taken: a key file is never overwritten. If it throws, nothing is left behind.
    @discardableResult
    public static func create(at path: String, suite: Suite) throws(LocalKeyFileError) -> Facts {
        let access = KeyFileAccess(path: path)
        let keys = LocalKeys(id: KeyUUID(), suite: suite, entries: [.make(.active)], activeIndex: 0)
        return try access.withEditLock { () throws(LocalKeyFileError) -> Facts in
            try access.create(written(keys, access))
            return keys.facts
        }
    }

    /// Adds a version that unwraps but does not wrap yet, and returns it.
    ///
    /// Copy the file to every host before activating it, so that each reads what any of them writes.
    @discardableResult
    public static func add(at path: String) throws(LocalKeyFileError) -> Version {
        let entry = LocalKeys.Entry.make(.added)
        try edit(path) { (keys, _) throws(LocalKeyFileError) -> LocalKeys in
            LocalKeys(
                id: keys.id, suite: keys.suite, entries: keys.entries + [entry], activeIndex: keys.activeIndex
            )
        }
        return entry.version
    }

    /// Makes an added version the one that wraps; the one before retires.
    ///
    /// False if the version is active already, and then nothing is written. Throws `.notActivatable` for a retired
    /// version, whose key_id was announced once and must never come back.
    @discardableResult
    public static func activate(at path: String, version: KeyUUID) throws(LocalKeyFileError) -> Bool {
        try edit(path) { (keys, access) throws(LocalKeyFileError) -> LocalKeys? in
            guard let index = keys.entries.firstIndex(where: { $0.version.id == version }) else {
                throw access.error(
                    .unknownVersion, "has no version \(version)",
                    remedy: "see its versions with `kmsward key list --file \(path)`")
            }
            switch keys.entries[index].version.state {
            case .added: break
            case .active: return nil
            case .retired:
                throw access.error(
                    .notActivatable, "has version \(version) retired, and a key_id may never come back",
                    remedy: "add a new version with `kmsward key add --file \(path)` and activate that")
            }
            var entries = keys.entries
            entries[keys.activeIndex] = entries[keys.activeIndex].in(.retired)
            entries[index] = entries[index].in(.active)
            return LocalKeys(id: keys.id, suite: keys.suite, entries: entries, activeIndex: index)
        } != nil
    }

    /// Reads what may be said of a key file.
    public static func list(at path: String) throws(LocalKeyFileError) -> Facts {
        try LocalKeys.read(KeyFileAccess(path: path), for: .tool).keys.facts
    }

    /// Checks that the daemon could use this file, and returns what may be said of it.
    ///
    /// Stricter than `list`: the file must belong to root or to the user of this process.
    public static func load(at path: String) throws(LocalKeyFileError) -> Facts {
        try LocalKeys.read(KeyFileAccess(path: path), for: .daemon).keys.facts
    }

    private static func written(
        _ keys: LocalKeys, _ access: KeyFileAccess
    ) throws(LocalKeyFileError) -> SecretBytes {
        guard keys.suite.isAvailable else { throw access.error(.unavailable(keys.suite.configurationName)) }
        return try access.withCrypto { () throws(CryptoFailure) in try keys.text() }
    }

    /// Replaces the keys by what `change` makes of them; nil, and nothing is written, if it makes nothing.
    @discardableResult
    private static func edit(
        _ path: String, _ change: (LocalKeys, KeyFileAccess) throws(LocalKeyFileError) -> LocalKeys?
    ) throws(LocalKeyFileError) -> LocalKeys? {
        let access = KeyFileAccess(path: path).resolved()
        return try access.withEditLock { () throws(LocalKeyFileError) -> LocalKeys? in
            let before = try LocalKeys.read(access, for: .tool)
            guard let after = try change(before.keys, access) else { return nil }
            try access.replace(with: written(after, access), ownedBy: before.owner, before.group)
            return after
        }
    }
}
