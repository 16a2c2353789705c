// The system calls on a key file: checked reading into wiped memory, and replacement that is never half done.

private import CShims
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

/// A file as it was read: its bytes, its stamp, whose it is, and who may do what with it.
struct FileContent: ~Copyable {
    let bytes: SecretBytes
    let stamp: FileStamp
    let owner: UInt32
    let group: UInt32
    let mode: UInt32
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
    /// As the operator wrote it: every message names it so.
    let path: String
    /// Where the file is; other than `path` only if that is a symbolic link.
    private let location: String

    init(path: String) { self.init(path: path, location: path) }

    private init(path: String, location: String) {
        self.path = path
        self.location = location
    }

    private var directory: String {
        guard let slash = location.lastIndex(of: "/") else { return "." }
        return slash == location.startIndex ? "/" : String(location[..<slash])
    }

    private var name: String {
        guard let slash = location.lastIndex(of: "/") else { return location }
        return String(location[location.index(after: slash)...])
    }

    /// The stamp of the file as it lies there now, for one `stat`.
    func stamp() throws(LocalKeyFileError) -> FileStamp {
        var facts = stat()
        guard unsafe fstatat(AT_FDCWD, location, &facts, 0) == 0 else { throw cannotRead(errno) }
        return Self.stamp(of: facts)
    }

    /// Reads the whole of a regular file; what is in it and whose it is are the caller's to check.
    func read() throws(LocalKeyFileError) -> FileContent {
        let file = Descriptor(number: unsafe open(location, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY))
        guard file.number >= 0 else { throw cannotRead(errno) }
        var facts = stat()
        guard unsafe fstat(file.number, &facts) == 0 else { throw cannotRead(errno) }
        guard facts.st_mode & S_IFMT == S_IFREG else {
            let kind = facts.st_mode & S_IFMT == S_IFDIR ? "is a directory" : "is not a regular file"
            throw error(.notAFile, kind, remedy: "name the key file itself")
        }
        guard facts.st_size > 0 else { throw empty() }
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
            bytes: bytes, stamp: Self.stamp(of: facts), owner: facts.st_uid, group: facts.st_gid,
            mode: facts.st_mode)
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
        // Said, not left to the closing: a process that was forked meanwhile holds a copy of the descriptor.
        defer { flock(handle.number, LOCK_UN) }
        return try body()
    }

    /// A way to give a finished file its name without taking the name from another.
    enum Placement: CaseIterable {
        /// renameat2(2) with RENAME_NOREPLACE: one step, where the file system knows it.
        case rename
        /// link(2), for kernels and file systems without that.
        case link
        /// A new file under the name itself, for file systems without links, such as vfat: a power cut in the middle
        /// leaves a file that is told as empty or cut off.
        case writeInPlace
    }

    /// Writes a new file; throws `.exists` rather than touch one that is there.
    ///
    /// Call it under the edit lock. `ways` are tried in turn for as long as the file system lacks them.
    func create(
        _ content: borrowing SecretBytes, by ways: [Placement] = Placement.allCases
    ) throws(LocalKeyFileError) {
        var facts = stat()
        if unsafe lstat(location, &facts) == 0 {
            throw facts.st_mode & S_IFMT == S_IFREG && facts.st_size == 0 ? empty() : alreadyThere()
        }
        try place(write(content, to: clearedTemporary(), owner: nil), holding: content, by: ways)
        try syncDirectory()
    }

    /// Gives the finished file its name; whatever happens, nothing is left at `temporary`.
    func place(
        _ temporary: String, holding content: borrowing SecretBytes, by ways: [Placement]
    ) throws(LocalKeyFileError) {
        var failure = ENOTSUP
        for way in ways {
            switch way {
            case .rename: failure = unsafe ksw_rename_new(AT_FDCWD, temporary, location) == 0 ? 0 : errno
            case .link: failure = unsafe Glibc.link(temporary, location) == 0 ? 0 : errno
            case .writeInPlace:
                unsafe unlink(temporary)
                _ = try write(content, to: location, owner: nil)
                failure = 0
            }
            guard Self.meansLacking.contains(failure) else { break }
        }
        unsafe unlink(temporary)
        if failure == EEXIST { throw alreadyThere() }
        guard failure == 0 else { throw cannotWrite(failure) }
    }

    /// What file systems and kernels answer to a call that they do not have; link(2) says EPERM.
    private static let meansLacking = [EINVAL, ENOSYS, ENOTSUP, EPERM]

    /// Replaces the file by one with other content and the same owner.
    ///
    /// Call it under the edit lock.
    func replace(
        with content: borrowing SecretBytes, ownedBy owner: UInt32, _ group: UInt32
    ) throws(LocalKeyFileError) {
        let temporary = try write(content, to: clearedTemporary(), owner: (owner, group))
        guard unsafe rename(temporary, location) == 0 else {
            let failure = errno
            unsafe unlink(temporary)
            throw cannotWrite(failure)
        }
        try syncDirectory()
    }

    /// The file that a symbolic link leads to, still called as the operator wrote it, so that a replacement does not
    /// replace the link.
    func resolved() -> KeyFileAccess {
        var facts = stat()
        guard unsafe lstat(path, &facts) == 0, facts.st_mode & S_IFMT == S_IFLNK,
            let real = unsafe realpath(path, nil)
        else { return self }
        defer { unsafe free(real) }
        return KeyFileAccess(path: path, location: unsafe String(cString: real))
    }

    /// A fixed name beside the file, free now: what a killed process left there is removed by the next one, which holds
    /// the lock.
    private func clearedTemporary() -> String {
        let temporary = "\(directory)/.\(name).new"
        unsafe unlink(temporary)
        return temporary
    }

    /// Writes the bytes to a new file, synced to disk, and returns its path; leaves nothing if it fails.
    private func write(
        _ content: borrowing SecretBytes, to target: String, owner: (UInt32, UInt32)?
    ) throws(LocalKeyFileError) -> String {
        let file = Descriptor(
            number: unsafe open(target, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o600))
        guard file.number >= 0 else { throw errno == EEXIST ? alreadyThere() : cannotWrite(errno) }
        var failure = Self.makePrivate(file)
        if failure == EPERM {  // of a file that we have just made
            unsafe unlink(target)
            throw error(
                .unwritable,
                "cannot be made private: its file system has no permissions; nothing was changed",
                remedy: "mount that with umask=077, or choose another place")
        }
        if failure == 0, let owner, geteuid() == 0, fchown(file.number, owner.0, owner.1) != 0 {
            failure = errno
        }
        if failure == 0 { failure = Self.write(content, to: file) }
        if failure == 0, fsync(file.number) != 0 { failure = errno }
        if failure != 0 {
            unsafe unlink(target)
            throw cannotWrite(failure)
        }
        return target
    }

    /// Mode 0600 whatever the umask; a file system without modes is left alone if it shows the file to its owner only.
    private static func makePrivate(_ file: borrowing Descriptor) -> Int32 {
        var facts = stat()
        guard unsafe fstat(file.number, &facts) == 0 else { return errno }
        if facts.st_mode & 0o677 == 0o600 { return 0 }
        return fchmod(file.number, 0o600) == 0 ? 0 : errno
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

    /// Checks that nobody but the file's owner can read it, and that the owner is one whom the reader trusts.
    func checkPrivacy(
        of content: borrowing FileContent, for reader: FileReader
    ) throws(LocalKeyFileError) {
        let isTrustedOwner =
            content.owner == 0 || content.owner == geteuid() || (reader == .tool && geteuid() == 0)
        guard isTrustedOwner else {
            throw error(
                .wrongOwner,
                "belongs to uid \(content.owner), who is neither root nor this process (uid \(geteuid()))",
                remedy: "chown it to root or to uid \(geteuid())")
        }
        guard content.mode & 0o077 == 0 else {
            throw error(
                .exposed,
                "is open to others than its owner (mode \(String(content.mode & 0o7777, radix: 8)))",
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

    private func empty() -> LocalKeyFileError {
        error(
            .empty, "is empty",
            remedy:
                "restore it from a backup or another host; only if it never held a key, remove it and run "
                + "`kmsward key init --file \(path)`")
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
