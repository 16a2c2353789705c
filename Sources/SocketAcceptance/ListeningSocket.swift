private import CShims
private import Glibc

/// A socket that listens, bound by us or adopted from systemd.
///
/// Dropping it ends it.
///
/// A bound one takes its own file away with it, and nobody else's. An adopted one is only closed: never unlinked, chmodded
/// or shut down, so that systemd's copy keeps collecting connections.
public struct ListeningSocket: ~Copyable, Sendable {
    /// Where it came from.
    public enum Origin: Sendable, Equatable {
        /// Made by `init(binding:)`.
        case bound
        /// Passed on by systemd under this name.
        case adopted(name: String)
    }

    /// Path or '@' name, for people.
    public let address: String
    /// Where it came from.
    public let origin: Origin
    /// Whether the name is abstract: then only the peer check protects it.
    public let isAbstract: Bool
    /// The group that its file admits, allowed by itself in the peer check.
    public let group: UInt32?
    /// One line each for the operator: things that are allowed but unwise.
    public let warnings: [String]

    let descriptor: OwnedDescriptor
    private let file: OwnFile?

    /// Name and identity of a file we made, with the lock under which it may be taken away.
    private struct OwnFile: ~Copyable, Sendable {
        let directory: OwnedDescriptor
        let base: String
        let facts: FileFacts
        let lock: SocketLock

        borrowing func remove() {
            guard let now = FileFacts(named: base, in: directory.number), now.kind == .socket,
                now.isSameFile(as: facts)
            else { return }
            _ = unsafe unlinkat(directory.number, base, 0)
        }
    }

    deinit { if let file { file.remove() } }

    /// Stops listening, and removes the file if it is still ours.
    public consuming func withdraw() {}

    // MARK: Binding

    /// Binds and listens.
    ///
    /// When the name appears it is already listening with its final permissions.
    ///
    /// A file left by a killed process is replaced; a live owner is not, nor anything that is not a socket. A missing
    /// directory is made (0750, the socket's group; 0751 if another user owns the socket).
    public init(
        binding address: SocketAddress, permissions: SocketPermissions = .ownerOnly, backlog: Int32 = 512
    ) throws(SocketFailure) {
        switch address.name {
        case .path(let path): self = try Self.bound(path: path, permissions, backlog)
        case .abstract(let name): self = try Self.bound(abstract: name, backlog)
        }
    }

    private init(
        address: String, origin: Origin, isAbstract: Bool, group: UInt32?, warnings: [String],
        descriptor: consuming OwnedDescriptor, file: consuming OwnFile?
    ) {
        self.address = address
        self.origin = origin
        self.isAbstract = isAbstract
        self.group = group
        self.warnings = warnings
        self.descriptor = descriptor
        self.file = file
    }

    private static func bound(
        abstract name: String, _ backlog: Int32
    ) throws(SocketFailure) -> ListeningSocket {
        let shown = "@" + name
        let descriptor = try newSocket(shown)
        guard unsafe ksw_unix_bind(descriptor.number, name, name.utf8.count, 1) == 0 else {
            let number = errno
            guard number == EADDRINUSE else { throw .failed("bind", shown, number) }
            guard case .live(let owner) = Probe.connect(name, isAbstract: true) else {
                throw .owned(shown, by: .unknown)
            }
            throw .owned(shown, by: owner)
        }
        guard listen(descriptor.number, backlog) == 0 else { throw .failed("listen on", shown, errno) }
        return ListeningSocket(
            address: shown, origin: .bound, isAbstract: true, group: nil, warnings: [],
            descriptor: descriptor,
            file: nil)
    }

    private static func bound(
        path: String, _ permissions: SocketPermissions, _ backlog: Int32
    ) throws(SocketFailure) -> ListeningSocket {
        let (directoryPath, base) = split(path)
        let directory = try openDirectory(directoryPath, for: path, permissions)
        let lock = try takeLock(path, base, directory.number)
        let existing = try examine(path, base, directory.number)

        let descriptor = try newSocket(path)
        // A socket file is created with the mode of its socket, less the umask: so it is never wider than asked for.
        guard fchmod(descriptor.number, permissions.mode) == 0 else { throw .failed("prepare", path, errno) }
        let temporary = try bindTemporary(descriptor.number, path, directoryPath, base, directory.number)
        let facts: FileFacts
        do throws(SocketFailure) {
            facts = try settle(temporary, in: directory.number, path, permissions)
            guard listen(descriptor.number, backlog) == 0 else { throw .failed("listen on", path, errno) }
            try publish(temporary, as: base, in: directory.number, path, replacing: existing)
        } catch {
            _ = unsafe unlinkat(directory.number, temporary, 0)
            throw error
        }
        var warnings: [String] = []
        if let facts = FileFacts(of: directory.number), facts.mode & 0o1002 == 0o002 {
            warnings.append(
                "directory \(directoryPath) is writable by everybody, who can replace the socket: chmod o-w it"
            )
        }
        return ListeningSocket(
            address: path, origin: .bound, isAbstract: false, group: permissions.group, warnings: warnings,
            descriptor: descriptor, file: OwnFile(directory: directory, base: base, facts: facts, lock: lock))
    }

    private static func newSocket(_ shown: String) throws(SocketFailure) -> OwnedDescriptor {
        guard let descriptor = OwnedDescriptor(adopting: ksw_unix_socket()) else {
            throw .failed("make a socket for", shown, errno)
        }
        return descriptor
    }

    private static func split(_ path: String) -> (directory: String, base: String) {
        guard let slash = path.lastIndex(of: "/") else { return (".", path) }
        let directory = path[..<slash]
        return (directory.isEmpty ? "/" : String(directory), String(path[path.index(after: slash)...]))
    }

    private static func openDirectory(
        _ directory: String, for path: String, _ permissions: SocketPermissions
    ) throws(SocketFailure) -> OwnedDescriptor {
        if let opened = OwnedDescriptor(adopting: unsafe ksw_open_path(AT_FDCWD, directory, 1)) {
            return opened
        }
        guard errno == ENOENT else { throw .directory(directory, path, "cannot be opened", errno) }
        try makeDirectory(directory, path, permissions)
        guard let opened = OwnedDescriptor(adopting: unsafe ksw_open_path(AT_FDCWD, directory, 1)) else {
            throw .directory(directory, path, "cannot be opened", errno)
        }
        return opened
    }

    private static func makeDirectory(
        _ directory: String, _ path: String, _ permissions: SocketPermissions
    ) throws(SocketFailure) {
        if unsafe mkdir(directory, 0o700) != 0 {
            if errno == EEXIST { return }
            let parent = split(directory).directory
            guard errno == ENOENT, parent != directory else {
                throw .directory(directory, path, "does not exist and cannot be made", errno)
            }
            try makeDirectory(parent, path, permissions)
            guard unsafe mkdir(directory, 0o700) == 0 || errno == EEXIST else {
                throw .directory(directory, path, "does not exist and cannot be made", errno)
            }
        }
        guard let made = OwnedDescriptor(adopting: unsafe ksw_open_path(AT_FDCWD, directory, 1)) else {
            throw .directory(directory, path, "cannot be opened", errno)
        }
        if let group = permissions.group, ksw_change_owner(made.number, .max, group) != 0 {
            throw .directory(directory, path, "cannot be given to group \(group)", errno)
        }
        let isForeign = permissions.owner.map { $0 != geteuid() } ?? false
        guard ksw_change_mode(made.number, isForeign ? 0o751 : 0o750) == 0 else {
            throw .directory(directory, path, "cannot be given its mode", errno)
        }
    }

    private static func takeLock(
        _ path: String, _ base: String, _ directory: Int32
    ) throws(SocketFailure) -> SocketLock {
        do throws(SocketLock.Failure) {
            return try SocketLock(named: base + ".lock", in: directory)
        } catch {
            switch error {
            case .held(let noted):
                // The kernel knows better than the file: a number in it may be of another PID namespace.
                if case .live(let owner) = Probe.connect(path, isAbstract: false), owner != .unknown {
                    throw .owned(path, by: owner)
                }
                throw .owned(path, by: noted.map(Owner.process) ?? .unknown)
            case .notAFile:
                throw SocketFailure(
                    .notASocket,
                    "cannot lock \(path).lock: it is not a regular file; remove it and start again")
            case .system(let number):
                throw .directory(split(path).directory, path, "does not let us lock \(base).lock", number)
            }
        }
    }

    private enum Existing { case nothing, stale(FileFacts) }

    private static func examine(
        _ path: String, _ base: String, _ directory: Int32
    ) throws(SocketFailure) -> Existing {
        guard let facts = FileFacts(named: base, in: directory) else {
            guard errno == ENOENT else { throw .failed("look at", path, errno) }
            return .nothing
        }
        guard facts.kind == .socket else {
            let what =
                switch facts.kind {
                case .directory: "a directory"
                case .regular: "a regular file"
                case .symbolicLink: "a symbolic link"
                case .socket, .other: "not a socket"
                }
            throw SocketFailure(
                .notASocket,
                "cannot listen on \(path): it is \(what), which is not deleted; remove it or change socket.path"
            )
        }
        switch Probe.connect(path, isAbstract: false) {
        case .live(let owner): throw .owned(path, by: owner)
        case .gone: return .nothing
        case .stale: return .stale(facts)
        case .failed(let number):
            throw SocketFailure(
                .ownedByAnother,
                "cannot listen on \(path): whether the socket there is alive cannot be told "
                    + "(\(SocketFailure.text(of: number))); stop its owner, or remove it if there is none")
        }
    }

    /// Binds under a name that nobody dials, in the same directory.
    private static func bindTemporary(
        _ descriptor: Int32, _ path: String, _ directoryPath: String, _ base: String, _ directory: Int32
    ) throws(SocketFailure) -> String {
        var temporary = base + ".new"
        var address = path + ".new"
        if address.utf8.count > SocketAddress.longestName {
            temporary = ".\(getpid()).new"
            address = "/proc/self/fd/\(directory)/\(temporary)"
        }
        // We hold the lock, so a socket of that name is what we left when we were killed right here.
        if let left = FileFacts(named: temporary, in: directory), left.kind == .socket {
            _ = unsafe unlinkat(directory, temporary, 0)
        }
        guard unsafe ksw_unix_bind(descriptor, address, address.utf8.count, 0) == 0 else {
            let number = errno
            guard number == EADDRINUSE else {
                throw .directory(directoryPath, path, "does not let us make a socket", number)
            }
            throw SocketFailure(
                .notASocket,
                "cannot listen on \(path): \(directoryPath)/\(temporary) is in the way; remove it")
        }
        return temporary
    }

    /// Gives the file its owner, group and exact mode, whatever the umask.
    private static func settle(
        _ temporary: String, in directory: Int32, _ path: String, _ permissions: SocketPermissions
    ) throws(SocketFailure) -> FileFacts {
        guard let node = OwnedDescriptor(adopting: unsafe ksw_open_path(directory, temporary, 0)),
            let facts = FileFacts(of: node.number), facts.kind == .socket
        else { throw .failed("find the new socket of", path, errno) }
        if permissions.owner != nil || permissions.group != nil,
            ksw_change_owner(node.number, permissions.owner ?? .max, permissions.group ?? .max) != 0
        {
            let owner = permissions.owner.map { "user \($0)" }
            let group = permissions.group.map { "group \($0)" }
            let whom = [owner, group].compactMap(\.self).joined(separator: " and ")
            throw SocketFailure(
                .badPermissions,
                "cannot give \(path) to \(whom) (\(SocketFailure.text(of: errno))): "
                    + "start as root, or be a member of that group, or let a systemd socket unit make the socket"
            )
        }
        guard ksw_change_mode(node.number, permissions.mode) == 0 else {
            throw .failed("set the mode of", path, errno)
        }
        return facts
    }

    private static func publish(
        _ temporary: String, as base: String, in directory: Int32, _ path: String,
        replacing existing: Existing
    ) throws(SocketFailure) {
        var outcome: Int32
        switch existing {
        case .nothing:
            outcome = unsafe ksw_rename_new(directory, temporary, base)
            if outcome != 0, errno == EINVAL {
                outcome = unsafe renameat(directory, temporary, directory, base)
            }
        case .stale(let facts):
            guard let now = FileFacts(named: base, in: directory), now.isSameFile(as: facts) else {
                throw .owned(path, by: .unknown)
            }
            outcome = unsafe renameat(directory, temporary, directory, base)
        }
        guard outcome == 0 else {
            if errno == EEXIST { throw .owned(path, by: .unknown) }
            throw .failed("name the new socket", path, errno)
        }
    }

    // MARK: Adopting

    /// Adopts a socket from systemd: it must be a UNIX stream socket that listens.
    public init(adopting activated: ActivatedDescriptor) throws(SocketFailure) {
        let which = "descriptor \(activated.number) (\(activated.name)) from systemd"
        guard FileFacts(of: activated.number) != nil,
            let descriptor = OwnedDescriptor(adopting: activated.number)
        else {
            throw SocketFailure(
                .badActivation, "\(which) is not open: start the daemon through its socket unit")
        }
        guard ksw_is_unix_listener(descriptor.number) == 1 else {
            throw SocketFailure(
                .badActivation,
                "\(which) is not a listening UNIX stream socket: the socket unit needs "
                    + "ListenStream=/run/kmsward/kms.sock and Accept=no")
        }
        guard ksw_prepare_descriptor(descriptor.number) == 0 else {
            throw SocketFailure(.system, "cannot prepare \(which): \(SocketFailure.text(of: errno))")
        }
        let address = Self.name(of: descriptor.number)
        let isAbstract = address.hasPrefix("@")
        var group: UInt32?
        var warnings: [String] = []
        if !isAbstract, let facts = FileFacts(named: address, in: AT_FDCWD), facts.kind == .socket {
            // Not group 0: it is what systemd leaves when no group was chosen, and the group of many a container.
            if facts.mode & 0o020 != 0, facts.group != 0 { group = facts.group }
            if facts.mode & 0o002 != 0 {
                warnings.append(
                    "socket \(address) is writable by everybody: set SocketMode=0660 and SocketGroup= in the socket unit"
                )
            }
        }
        self.init(
            address: address, origin: .adopted(name: activated.name), isAbstract: isAbstract, group: group,
            warnings: warnings, descriptor: descriptor, file: nil)
    }

    static func name(of descriptor: Int32) -> String {
        var bytes = [UInt8](repeating: 0, count: SocketAddress.longestName + 1)
        let count = unsafe bytes.withUnsafeMutableBytes { buffer in
            unsafe buffer.withMemoryRebound(to: CChar.self) {
                unsafe ksw_unix_name(descriptor, $0.baseAddress, $0.count)
            }
        }
        return count > 0 ? String(decoding: bytes.prefix(count), as: UTF8.self) : "(unnamed)"
    }
}

/// Who serves a socket.
private enum Owner: Equatable {
    case process(Int32)
    /// A process that this one cannot see.
    case elsewhere
    case unknown
}

/// What a connection attempt tells about the owner of a name.
private enum Probe {
    case live(Owner)
    case stale
    case gone
    case failed(Int32)

    static func connect(_ name: String, isAbstract: Bool) -> Probe {
        guard let probe = OwnedDescriptor(adopting: ksw_unix_socket()) else { return .failed(errno) }
        guard unsafe ksw_unix_connect(probe.number, name, name.utf8.count, isAbstract ? 1 : 0) == 0 else {
            switch errno {
            case ECONNREFUSED: return .stale
            case ENOENT: return .gone
            case EAGAIN, EPROTOTYPE: return .live(.unknown)  // a full queue; a datagram socket in use
            default: return .failed(errno)
            }
        }
        var pid: pid_t = 0
        var uid: uid_t = 0
        var gid: gid_t = 0
        let isKnown = unsafe ksw_peer_credentials(probe.number, &pid, &uid, &gid) == 0
        guard isKnown else { return .live(.unknown) }
        return .live(pid > 0 ? .process(pid) : .elsewhere)
    }
}

extension SocketFailure {
    fileprivate static func failed(_ what: String, _ shown: String, _ number: Int32) -> SocketFailure {
        SocketFailure(.system, "cannot \(what) \(shown): \(text(of: number))")
    }

    fileprivate static func owned(_ shown: String, by owner: Owner) -> SocketFailure {
        let who =
            switch owner {
            case .process(let pid): "process \(pid)"
            case .elsewhere: "a process outside of this container"
            case .unknown: "another process"
            }
        return SocketFailure(
            .ownedByAnother,
            "cannot listen on \(shown): \(who) is serving it; stop that process or change socket.path")
    }

    fileprivate static func directory(
        _ directory: String, _ path: String, _ what: String, _ number: Int32
    ) -> SocketFailure {
        let remedy =
            switch number {
            case EACCES, EPERM:
                "make it owned by the daemon's user, or let tmpfiles.d or a socket unit make the socket"
            case EROFS:
                "it is on a read-only file system; choose a path under /run, or list it in ReadWritePaths="
            case ENOTDIR, ELOOP: "a part of it is not a directory; correct socket.path"
            case ENOSPC, EDQUOT: "make room on its file system"
            default: "correct socket.path or the directory"
            }
        return SocketFailure(
            .badDirectory,
            "cannot listen on \(path): directory \(directory) \(what) (\(text(of: number))): \(remedy)")
    }
}
