// The system calls on a key file: checked reading into wiped memory, and replacement that is never half done.

internal import EnvelopeCrypto
private import Glibc
internal import SecureMemory

/// Tells two states of a file apart without reading it.
struct FileStamp: Sendable, Equatable {
    let device: UInt64
    let inode: UInt64
    let size: Int64
    let modified: [Int]
    let changed: [Int]
}

/// A file as it was read: its bytes, its stamp, and whose it is.
struct FileContent: ~Copyable {
    let bytes: SecretBytes
    let stamp: FileStamp
    let owner: UInt32
    let group: UInt32
}

/// Who wants to read a key file.
enum FileReader {
    /// The daemon: the file must belong to root or to the daemon's user, since its owner could exchange the keys.
    case daemon
    /// The command line: root may work on the file of the daemon's user, whose file it stays.
    case tool
}

/// Closes a descriptor when it goes.
private struct Descriptor: ~Copyable {
    let number: Int32
    deinit { _ = Glibc.close(number) }
}

/// A key file's path and what may be done to it.
struct KeyFileAccess {
    let path: String

    private var directory: String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    private var name: String {
        guard let slash = path.lastIndex(of: "/") else { return path }
        return String(path[path.index(after: slash)...])
    }

    /// The stamp of the file as it lies there now, for one `stat`.
    func stamp() throws(LocalKeyFileError) -> FileStamp {
        var facts = stat()
        guard unsafe fstatat(AT_FDCWD, path, &facts, 0) == 0 else { throw cannotRead(errno) }
        return Self.stamp(of: facts)
    }

    /// Reads the whole file after checking that it is a regular file which nobody but its owner can read.
    func read(for reader: FileReader) throws(LocalKeyFileError) -> FileContent {
        let file = Descriptor(number: unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY))
        guard file.number >= 0 else { throw cannotRead(errno) }
        var facts = stat()
        guard unsafe fstat(file.number, &facts) == 0 else { throw cannotRead(errno) }
        try check(facts, for: reader)
        guard facts.st_size > 0 else {
            throw error(
                .empty, "is empty",
                remedy: "restore it from a backup or another host, or remove it and run `kmsward key init`")
        }
        guard facts.st_size <= LocalKeyFile.maximumBytes else {
            throw error(
                .tooLarge, "has more than \(LocalKeyFile.maximumBytes) bytes, which no key file has",
                remedy: "name the right file")
        }
        let bytes = try SecretBytes(count: Int(facts.st_size)) { span throws(LocalKeyFileError) in
            var done = 0
            while done < span.byteCount {
                let wanted = span.byteCount - done
                let got = unsafe span.withUnsafeMutableBytes { buffer in
                    // In bounds: `done` and `wanted` add up to the buffer's size.
                    unsafe buffer.baseAddress.map { unsafe Glibc.read(file.number, $0 + done, wanted) } ?? 0
                }
                if got < 0 && errno == EINTR { continue }
                guard got >= 0 else { throw cannotRead(errno) }
                guard got > 0 else {
                    throw error(
                        .truncated, "became shorter while it was read", remedy: "copy it again, then retry")
                }
                done += got
            }
        }
        return FileContent(
            bytes: bytes, stamp: Self.stamp(of: facts), owner: facts.st_uid, group: facts.st_gid)
    }

    /// Runs `body` while nobody else who asks this way changes a key file of the directory.
    ///
    /// The lock is on the directory, not on the file: a file that is replaced by renaming cannot carry a lock.
    func withEditLock<R: ~Copyable>(
        _ body: () throws(LocalKeyFileError) -> R
    ) throws(LocalKeyFileError) -> R {
        let handle = Descriptor(number: unsafe open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC))
        guard handle.number >= 0 else {
            throw error(
                .unwritable, "cannot be made: directory \(directory): \(Self.reason(errno))",
                remedy: "make the directory first, writable for this user")
        }
        guard flock(handle.number, LOCK_EX | LOCK_NB) == 0 else {
            if errno == EWOULDBLOCK {
                throw error(
                    .busy, "is being changed by another `kmsward key` command", remedy: "run this one again")
            }
            throw error(
                .unwritable, "cannot be locked: directory \(directory): \(Self.reason(errno))",
                remedy: "keep the key file on a local file system")
        }
        return try body()
    }

    /// Writes a new file; throws `.exists` rather than touch one that is there.
    ///
    /// Call it under the edit lock.
    func create(_ content: borrowing SecretBytes) throws(LocalKeyFileError) {
        var facts = stat()
        if unsafe lstat(path, &facts) == 0 { throw alreadyThere() }
        let temporary = try writeTemporary(content, owner: nil)
        // link(2) fails if the name is taken; rename(2) would take it over.
        guard unsafe link(temporary, path) == 0 else {
            let failure = errno
            unsafe unlink(temporary)
            if failure == EEXIST { throw alreadyThere() }
            throw cannotWrite(failure)
        }
        unsafe unlink(temporary)
        try syncDirectory()
    }

    /// Replaces the file by one with other content and the same owner.
    ///
    /// Call it under the edit lock.
    func replace(
        with content: borrowing SecretBytes, ownedBy owner: UInt32, _ group: UInt32
    ) throws(LocalKeyFileError) {
        let temporary = try writeTemporary(content, owner: (owner, group))
        guard unsafe rename(temporary, path) == 0 else {
            let failure = errno
            unsafe unlink(temporary)
            throw cannotWrite(failure)
        }
        try syncDirectory()
    }

    /// The same path with symbolic links followed, so that a replacement does not replace a link.
    func resolved() -> KeyFileAccess {
        guard let real = unsafe realpath(path, nil) else { return self }
        defer { unsafe free(real) }
        return KeyFileAccess(path: unsafe String(cString: real))
    }

    /// Writes the bytes beside the file, synced to disk, and returns where; leaves nothing if it fails.
    ///
    /// The name is fixed: what a killed process left there is removed by the next one, which holds the lock.
    private func writeTemporary(
        _ content: borrowing SecretBytes, owner: (UInt32, UInt32)?
    ) throws(LocalKeyFileError) -> String {
        let temporary = "\(directory)/.\(name).new"
        unsafe unlink(temporary)
        let file = Descriptor(
            number: unsafe open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600))
        guard file.number >= 0 else { throw cannotWrite(errno) }
        var failure: Int32 = 0
        if fchmod(file.number, 0o600) != 0 { failure = errno }
        if failure == 0, let owner, geteuid() == 0, fchown(file.number, owner.0, owner.1) != 0 {
            failure = errno
        }
        if failure == 0 { failure = Self.write(content, to: file) }
        if failure == 0, fsync(file.number) != 0 { failure = errno }
        if failure != 0 {
            unsafe unlink(temporary)
            throw cannotWrite(failure)
        }
        return temporary
    }

    /// Writes all bytes; returns 0 or the error number.
    private static func write(_ content: borrowing SecretBytes, to file: borrowing Descriptor) -> Int32 {
        content.withBytes { span in
            var done = 0
            while done < span.byteCount {
                let rest = span.byteCount - done
                let put = unsafe span.withUnsafeBytes { buffer in
                    // In bounds: `done` and `rest` add up to the buffer's size.
                    unsafe buffer.baseAddress.map { unsafe Glibc.write(file.number, $0 + done, rest) } ?? 0
                }
                if put < 0 && errno == EINTR { continue }
                guard put > 0 else { return put < 0 ? errno : EIO }
                done += put
            }
            return 0
        }
    }

    private func syncDirectory() throws(LocalKeyFileError) {
        let handle = Descriptor(number: unsafe open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC))
        // Some network file systems cannot sync a directory; they have no such promise to give.
        guard handle.number >= 0, fsync(handle.number) == 0 || errno == EINVAL else {
            throw error(
                .unwritable, "is in place, but may not survive a power cut: \(Self.reason(errno))",
                remedy: "check the disk, then look at the file with `kmsward key list --file \(path)`")
        }
    }

    private func check(_ facts: stat, for reader: FileReader) throws(LocalKeyFileError) {
        guard facts.st_mode & S_IFMT == S_IFREG else {
            let kind = facts.st_mode & S_IFMT == S_IFDIR ? "is a directory" : "is not a regular file"
            throw error(.notAFile, kind, remedy: "name the key file itself")
        }
        let isTrustedOwner =
            facts.st_uid == 0 || facts.st_uid == geteuid() || (reader == .tool && geteuid() == 0)
        guard isTrustedOwner else {
            throw error(
                .wrongOwner,
                "belongs to uid \(facts.st_uid), who is neither root nor this process (uid \(geteuid()))",
                remedy: "chown it to root or to uid \(geteuid())")
        }
        guard facts.st_mode & 0o077 == 0 else {
            throw error(
                .exposed,
                "is open to others than its owner (mode \(String(facts.st_mode & 0o7777, radix: 8)))",
                remedy: "chmod 600 \(path), and rotate the key if somebody may have read it")
        }
    }

    private static func stamp(of facts: stat) -> FileStamp {
        FileStamp(
            device: UInt64(facts.st_dev), inode: UInt64(facts.st_ino), size: Int64(facts.st_size),
            modified: [facts.st_mtim.tv_sec, facts.st_mtim.tv_nsec],
            changed: [facts.st_ctim.tv_sec, facts.st_ctim.tv_nsec])
    }

    private static func reason(_ number: Int32) -> String { unsafe String(cString: strerror(number)) }

    private func cannotRead(_ number: Int32) -> LocalKeyFileError {
        number == ENOENT
            ? error(
                .missing, "does not exist",
                remedy:
                    "copy it from a host or a backup that has it; only for a cluster's very first host, make it with "
                    + "`kmsward key init --file \(path)`"
            )
            : error(
                .unreadable, "cannot be read: \(Self.reason(number))",
                remedy: "let this user (uid \(geteuid())) read it and enter its directory")
    }

    private func cannotWrite(_ number: Int32) -> LocalKeyFileError {
        error(
            .unwritable, "cannot be written: \(Self.reason(number)); nothing was changed",
            remedy: "make room and let this user write in directory \(directory)")
    }

    private func alreadyThere() -> LocalKeyFileError {
        error(
            .exists, "exists already and is never overwritten",
            remedy: "use it, add a version with `kmsward key add --file \(path)`, or choose another path")
    }

    /// Runs `body` and says of its failure that this file cannot be used.
    func withCrypto<R: ~Copyable>(_ body: () throws(CryptoFailure) -> R) throws(LocalKeyFileError) -> R {
        do throws(CryptoFailure) { return try body() } catch { throw self.error(error) }
    }

    func error(_ failure: CryptoFailure) -> LocalKeyFileError {
        switch failure {
        case .unavailable(let name):
            error(
                .cryptography, "needs \(name), which the loaded OpenSSL lacks",
                remedy: "install an OpenSSL 3 that has it, or choose another suite for a new key file")
        case .notAuthentic, .wrongKeyLength, .openSSL:
            error(.cryptography, "cannot be checked: \(failure)", remedy: "check the installed OpenSSL 3")
        }
    }

    func error(_ reason: LocalKeyFileError.Reason, _ summary: String, remedy: String) -> LocalKeyFileError {
        LocalKeyFileError(reason, path, summary, remedy: remedy)
    }
}
