private import CShims
private import Glibc

/// What can be known of a UNIX socket before a word is spoken over it.
struct SocketProbe {
    /// The process that listens.
    struct Owner: Equatable {
        var pid: Int32
        var uid: UInt32
    }

    /// Why nobody can be reached, and what to do.
    struct Problem: Error, Equatable {
        var detail: String
        var remedy: String
    }

    /// Connects to a path, or to an abstract name where `isAbstract`, and asks the kernel who listens.
    ///
    /// Then greets as an HTTP/2 client does and waits for an answer, at most `patience`.
    static func connect(
        to path: String, isAbstract: Bool, patience: Duration
    ) throws(Problem) -> Owner {
        let shown = isAbstract ? "@\(path)" : path
        if !isAbstract, let kind = kind(of: path), kind != "a socket" {
            throw Problem(
                detail: "\(path) is \(kind), not a socket", remedy: "give the path of the plugin's socket")
        }
        let fd = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard fd >= 0 else { throw Problem(detail: "no socket can be made: \(text(errno))", remedy: "") }
        defer { close(fd) }
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let name = (isAbstract ? [0] : []) + Array(path.utf8)
        guard name.count <= 107 else {
            throw Problem(
                detail: "the path has \(name.count) bytes; a socket's path has at most 107",
                remedy: "use a shorter directory")
        }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: name) }
        let length = MemoryLayout<sa_family_t>.size + name.count + (isAbstract ? 0 : 1)
        let connected = unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe Glibc.connect(fd, $0, socklen_t(length))
            }
        }
        guard connected == 0 else { throw problem(errno, shown, isAbstract: isAbstract) }
        var owner = Owner(pid: 0, uid: 0)
        var gid: gid_t = 0
        unsafe _ = ksw_peer_credentials(fd, &owner.pid, &owner.uid, &gid)
        try greet(fd, shown, owner, patience)
        return owner
    }

    /// The HTTP/2 client preface and an empty SETTINGS frame; the answer must begin with a SETTINGS frame.
    private static func greet(
        _ fd: Int32, _ path: String, _ owner: Owner, _ patience: Duration
    ) throws(Problem) {
        let greeting = Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) + [0, 0, 0, 4, 0, 0, 0, 0, 0]
        // A peer that has gone already shows in the read.
        _ = unsafe send(fd, greeting, greeting.count, Int32(MSG_NOSIGNAL))
        var waiting = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
        let milliseconds = Int32(clamping: Int64(patience / .milliseconds(1)))
        guard unsafe poll(&waiting, 1, milliseconds) > 0 else {
            // systemd listens for a service that does not run; the daemon names itself as soon as it takes the socket over.
            let isManager = owner.pid == 1
            let who =
                isManager
                ? "systemd holds \(path) but no service answers"
                : "pid \(owner.pid) listens on \(path) but said nothing"
            throw Problem(
                detail:
                    "\(who) within \(Doctor.text(patience)): DEADLINE_EXCEEDED is what the API server sees",
                remedy: isManager
                    ? "its service does not run, or hangs: systemctl status kmsward; journalctl -u kmsward -n 20"
                    : "look at that process's log; it may be hung, or have as many connections as it allows"
            )
        }
        var answer = [UInt8](repeating: 0, count: 9)
        let count = unsafe read(fd, &answer, answer.count)
        guard count > 0 else {
            throw Problem(
                detail: "pid \(owner.pid) listens on \(path) but closed the connection at once",
                remedy:
                    "this user (uid \(geteuid())) is probably not admitted: put it into allow.uids, or a group of it into "
                    + "allow.gids; its log has the line"
            )
        }
        guard count == 9, answer[3] == 4 else {
            throw Problem(
                detail: "pid \(owner.pid) listens on \(path) but does not speak HTTP/2",
                remedy: "give the socket of a KMS plugin")
        }
    }

    /// What is at a path, in words; nil if nothing is there or it may not be seen.
    private static func kind(of path: String) -> String? {
        var status = stat()
        guard unsafe lstat(path, &status) == 0 else { return nil }
        switch status.st_mode & S_IFMT {
        case S_IFSOCK: return "a socket"
        case S_IFREG: return "a regular file"
        case S_IFDIR: return "a directory"
        default: return "something else"
        }
    }

    /// Mode and owner of the socket file, for the report: `0600 0:0`.
    static func permissions(of path: String) -> String? {
        var status = stat()
        guard unsafe lstat(path, &status) == 0 else { return nil }
        let mode = String(status.st_mode & 0o7777, radix: 8)
        return "mode \(String(repeating: "0", count: max(0, 4 - mode.count)) + mode), "
            + "uid \(status.st_uid), gid \(status.st_gid)"
    }

    /// How a user comes to connect where the file system does not let it.
    static func admission(to path: String) -> String {
        // What cannot be looked at lies in a directory that cannot be entered: the innermost that shows decides.
        var seen = path
        var status = stat()
        while unsafe lstat(seen, &status) != 0, let slash = seen.lastIndex(of: "/"), slash > seen.startIndex {
            seen = String(seen[..<slash])
        }
        let needed: mode_t = status.st_mode & S_IFMT == S_IFDIR ? 0o010 : 0o020
        guard status.st_mode & needed != 0 else {
            return
                "run as root, or let a group of this user in: socket.mode \"0660\" and socket.group, or where systemd "
                + "makes the socket SocketMode=0660 and SocketGroup= of its unit"
        }
        let group = groupName(status.st_gid)
        return
            "run as root, or make this user a member of group \(group), which may: usermod -a -G \(group) USER, "
            + "and log in anew"
    }

    private static func groupName(_ gid: gid_t) -> String {
        var text = [CChar](repeating: 0, count: 256)
        unsafe ksw_group_name(gid, &text, text.count)
        return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    private static func problem(_ code: Int32, _ path: String, isAbstract: Bool) -> Problem {
        switch code {
        case ECONNREFUSED where isAbstract:
            Problem(
                detail: "nobody listens on \(path): an abstract socket is there only while somebody does",
                remedy:
                    "start the plugin, in this network namespace, or give the name that its configuration has"
            )
        case ENOENT:
            Problem(
                detail: "there is no socket at \(path)",
                remedy: "start the plugin, or give the path that its configuration names")
        case ECONNREFUSED:
            Problem(
                detail: "nobody listens on \(path): a socket left behind by a process that was killed",
                remedy: "start the plugin; it replaces such a socket by itself")
        case EACCES, EPERM:
            Problem(
                detail: "this user may not connect to \(path) (\(permissions(of: path) ?? "not visible"))",
                remedy: admission(to: path))
        case ENOTSOCK:
            Problem(detail: "\(path) is not a socket", remedy: "give the path of the plugin's socket")
        case EAGAIN:
            Problem(
                detail: "the backlog of \(path) is full: the plugin does not accept",
                remedy: "look at the plugin's log; it may be hung")
        default: Problem(detail: "cannot connect to \(path): \(text(code))", remedy: "")
        }
    }

    private static func text(_ code: Int32) -> String { unsafe String(cString: strerror(code)) }
}
