// LocalProvider: a key-management service in a file of this host, for clusters without one and for trying things out.
// It protects etcd and its backups, not against whoever can read the file.

internal import EnvelopeCrypto
public import RemoteKMS
public import SecureMemory
private import Synchronization

/// The `local` provider: wraps under the active version of a key file, unwraps under all of them.
///
/// `describe` looks whether the file changed (one `stat`) and reads it if so; nothing else touches the disk, save an
/// `unwrap` that meets a version it does not know. These reads block the caller for a moment: the file is small and
/// must lie on a local disk. A file that is missing, damaged or older than what was read before is reported by
/// `describe`; the keys in memory go on, as they may be the only copy left on this host.
public final class LocalProvider: Provider {
    /// `local`.
    public let name = "local"
    /// In a file.
    public let storage = KeyStorage.file

    private struct Loaded {
        var keys: LocalKeys
        var stamp: FileStamp
    }

    private let access: KeyFileAccess
    private let loaded = Mutex<Loaded?>(nil)

    /// A provider of the key file at `path`; nothing is read yet.
    public init(path: String) { access = KeyFileAccess(path: path) }

    /// The file's UUID, the active version's UUID and when that was made.
    public func describe(_ attempt: Attempt) async throws(RemoteKMSError) -> KeyDescription {
        let keys = try refreshed()
        return KeyDescription(
            identity: keys.id.description, version: keys.active.version.id.description,
            versionCreatedAt: keys.active.version.createdAt)
    }

    /// Wraps under the active version, as `describe` named it last.
    public func wrap(
        _ plaintext: borrowing SecretBytes, context: WrapContext, attempt: Attempt
    ) async throws(RemoteKMSError) -> [UInt8] {
        let keys = try current()
        let wrap = LocalWrap(header: .init(suite: keys.suite, version: keys.active.version.id), file: keys.id)
        return try wrap.seal(plaintext, under: keys.active.key, context: context)
    }

    /// Unwraps under the version that the wrapped bytes name.
    ///
    /// Throws `.keyNotFound` if this host's file lacks it, `.invalidCiphertext` if the bytes are foreign or damaged.
    public func unwrap(
        _ wrapped: [UInt8], context: WrapContext, attempt: Attempt
    ) async throws(RemoteKMSError) -> SecretBytes {
        guard let header = LocalWrap.Header(parsing: wrapped) else {
            throw RemoteKMSError(
                .invalidCiphertext, "the wrapped key was not made by provider local, or is damaged")
        }
        var keys = try current()
        if keys.key(of: header.version) == nil { keys = try refreshed() }
        guard let key = keys.key(of: header.version) else {
            throw RemoteKMSError(
                .keyNotFound, "key file \(access.path) has no version \(header.version)",
                remedy:
                    "copy the key file from the host that has this version (`kmsward key list` shows them)")
        }
        return try LocalWrap(header: header, file: keys.id).open(wrapped, under: key, context: context)
    }

    /// The keys in memory, read first if there are none.
    private func current() throws(RemoteKMSError) -> LocalKeys {
        if let keys = loaded.withLock({ $0?.keys }) { return keys }
        return try refreshed()
    }

    /// The keys of the file as it lies there now.
    private func refreshed() throws(RemoteKMSError) -> LocalKeys {
        let before = loaded.withLock { $0 }
        do throws(LocalKeyFileError) {
            let stamp = try access.stamp()
            if let before, before.stamp == stamp { return before.keys }
            let read = try LocalKeys.read(access, for: .daemon)
            if let before, before.keys.id != read.keys.id {
                throw access.error(
                    .replaced, "holds key \(read.keys.id) now instead of \(before.keys.id)",
                    remedy:
                        "put the former file back; to change keys, add the former file as a further key, then restart"
                )
            }
            if let before { try check(read.keys, isNoOlderThan: before.keys) }
            loaded.withLock { $0 = Loaded(keys: read.keys, stamp: read.stamp) }
            return read.keys
        } catch {
            throw RemoteKMSError(
                .misconfigured, "key file \(error.path) \(error.summary)", remedy: error.remedy)
        }
    }

    /// Refuses an older copy: taking it up would wipe versions from memory, which nothing else on this host has.
    private func check(
        _ read: LocalKeys, isNoOlderThan known: LocalKeys
    ) throws(LocalKeyFileError) {
        let remedy =
            "put the newer file back, from a host or a backup that has it; until then this daemon reads from memory"
            + " what a restart could not read"
        let lost = known.entries.map(\.version.id).filter { read.key(of: $0) == nil }
        guard lost.isEmpty else {
            let names = lost.map(\.description).joined(separator: ", ")
            throw access.error(
                .lostVersion, "is older than what was read before: it lacks version \(names)", remedy: remedy)
        }
        let active = read.active.version.id
        guard known.entries.first(where: { $0.version.id == active })?.version.state != .retired else {
            throw access.error(
                .lostVersion,
                "is older than what was read before: version \(active) was retired and is active in it",
                remedy: remedy)
        }
    }
}
