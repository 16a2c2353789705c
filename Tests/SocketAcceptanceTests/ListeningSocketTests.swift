import CShims
import Glibc
import TestSupport
import Testing

@testable import SocketAcceptance

struct ListeningSocketTests {
    @Test("a bound socket has exactly the mode asked for, listens, and goes with its owner")
    func binds() throws {
        let directory = TemporaryFolder(mode: 0o711)
        for mode in [0o600, 0o660, 0o640, 0o700] as [UInt32] {
            let path = directory("kms.sock")
            let socket = try socketAt(path, mode: mode)
            #expect(FileFacts(named: path, in: AT_FDCWD)?.mode == mode)
            #expect(canConnect(path))
            #expect(!exists(path + ".new"))
            socket.withdraw()
            #expect(!exists(path))
        }
    }

    @Test("the umask neither widens nor narrows the mode", arguments: [0o000, 0o077, 0o777] as [UInt32])
    func umaskProof(mask: UInt32) async throws {
        let directory = TemporaryFolder(mode: 0o711)
        await #expect(processExitsWith: .success) {
            [path = directory("kms.sock") as String, mask = mask as UInt32] in
            umask(mask)
            let socket = try socketAt(path, mode: 0o660)
            let facts = try #require(FileFacts(named: path, in: AT_FDCWD))
            #expect(facts.mode == 0o660)
            #expect(canConnect(path))
            socket.withdraw()
        }
    }

    @Test("no mode lets everybody connect", arguments: [0o602, 0o666, 0o777, 0o1600, 0o4600] as [UInt32])
    func worldWritable(mode: UInt32) throws {
        #expect(try failure { _ = try SocketPermissions(mode: mode) }.code == .badPermissions)
    }

    @Test("owner and group are set", .enabled(if: geteuid() == 0))
    func owned() throws {
        let directory = TemporaryFolder(mode: 0o711)
        let path = directory("made/kms.sock")
        let permissions = try SocketPermissions(mode: 0o660, owner: 1234, group: 4321)
        let socket = try ListeningSocket(binding: SocketAddress(parsing: path), permissions: permissions)
        #expect(socket.group == 4321)
        #expect(FileFacts(named: path, in: AT_FDCWD)?.group == 4321)
        #expect(FileFacts(named: directory("made"), in: AT_FDCWD)?.group == 4321)
        #expect(FileFacts(named: directory("made"), in: AT_FDCWD)?.mode == 0o751)
        var status = stat()
        #expect(unsafe stat(path, &status) == 0 && status.st_uid == 1234)
    }

    @Test("a missing directory is made, and not for everybody to read")
    func directoryMade() throws {
        let directory = TemporaryFolder(mode: 0o711)
        let socket = try socketAt(directory("a/b/kms.sock"))
        #expect(FileFacts(named: directory("a/b"), in: AT_FDCWD)?.mode == 0o750)
        #expect(canConnect(directory("a/b/kms.sock")))
        socket.withdraw()
    }

    @Test("a path of the greatest length works, though a temporary name beside it would be too long")
    func longest() throws {
        let directory = TemporaryFolder(mode: 0o711)
        let start = directory("")
        for length in [103, 104, 107] {
            let path = start + String(repeating: "k", count: length - start.utf8.count)
            let socket = try socketAt(path)
            #expect(canConnect(path))
            socket.withdraw()
            #expect(!exists(path))
        }
    }

    @Test("the socket of a killed process is replaced")
    func staleIsReplaced() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let path = directory("kms.sock")
        await #expect(processExitsWith: .signal(SIGKILL)) { [path = path as String] in
            let socket = try socketAt(path)
            #expect(canConnect(socket.address))
            kill(getpid(), SIGKILL)
            socket.withdraw()
        }
        #expect(exists(path))
        #expect(!canConnect(path))
        let socket = try socketAt(path)
        #expect(canConnect(path))
        socket.withdraw()
    }

    @Test("what a process killed between bind and rename left is in nobody's way")
    func leftover() throws {
        let directory = TemporaryFolder(mode: 0o711)
        let left = try required(OwnedDescriptor(adopting: ksw_unix_socket()))
        let name = directory("kms.sock.new")
        #expect(unsafe ksw_unix_bind(left.number, name, name.utf8.count, 0) == 0)
        let socket = try socketAt(directory("kms.sock"))
        #expect(canConnect(socket.address))
        socket.withdraw()
    }

    @Test("a live owner is not displaced, and is named")
    func liveOwner() throws {
        let directory = TemporaryFolder(mode: 0o711)
        let path = directory("kms.sock")
        let first = try socketAt(path)
        let error = try failure { _ = try socketAt(path) }
        #expect(error.code == .ownedByAnother)
        #expect(error.message.contains("process \(getpid())"), "\(error.message)")
        #expect(canConnect(path))

        // Even if somebody has deleted the lock.
        #expect(unsafe unlink(path + ".lock") == 0)
        let again = try failure { _ = try socketAt(path) }
        #expect(again.code == .ownedByAnother)
        #expect(again.message.contains("process \(getpid())"), "\(again.message)")
        #expect(canConnect(path))
        first.withdraw()
    }

    @Test("a process that holds the lock but does not listen yet is named from the lock file")
    func lockOnly() throws {
        let directory = TemporaryFolder(mode: 0o711)
        let opened = try required(
            OwnedDescriptor(adopting: unsafe ksw_open_path(AT_FDCWD, directory.path, 1)))
        let lock = try SocketLock(named: "kms.sock.lock", in: opened.number)
        let error = try failure { _ = try socketAt(directory("kms.sock")) }
        #expect(error.code == .ownedByAnother)
        #expect(error.message.contains("process \(getpid())"), "\(error.message)")
        _ = consume lock
        let socket = try socketAt(directory("kms.sock"))
        socket.withdraw()
    }

    enum Obstacle: CaseIterable { case file, directory, link, lockLink, lockDirectory, temporaryFile }

    @Test("what is not a socket is refused and stays", arguments: Obstacle.allCases)
    func obstacle(_ obstacle: Obstacle) throws {
        let directory = TemporaryFolder(mode: 0o711)
        let path = directory("kms.sock")
        let victim = directory("victim")
        let there =
            switch obstacle {
            case .file, .directory, .link: path
            case .lockLink, .lockDirectory: path + ".lock"
            case .temporaryFile: path + ".new"
            }
        switch obstacle {
        case .file, .temporaryFile:
            _ = OwnedDescriptor(adopting: unsafe ksw_open_lock(AT_FDCWD, there, 0o600))
        case .directory, .lockDirectory: #expect(unsafe mkdir(there, 0o700) == 0)
        case .link, .lockLink: #expect(unsafe symlink(victim, there) == 0)
        }
        let error = try failure { _ = try socketAt(path) }
        #expect(obstacle == .lockDirectory || error.code == .notASocket, "\(error.message)")
        #expect(error.message.contains(directory.path) && !error.message.contains("\n"), "\(error.message)")
        #expect(exists(there))
        #expect(!exists(victim))
    }

    @Test("a directory that cannot be used is one line with a remedy")
    func badDirectory() throws {
        let directory = TemporaryFolder(mode: 0o711)
        _ = OwnedDescriptor(adopting: unsafe ksw_open_lock(AT_FDCWD, directory("file"), 0o600))
        let error = try failure { _ = try socketAt(directory("file/kms.sock")) }
        #expect(error.code == .badDirectory)
        #expect(error.message.contains("not a directory; correct socket.path"), "\(error.message)")
    }

    @Test("a directory without permission is one line with a remedy", .enabled(if: geteuid() == 0))
    func forbiddenDirectory() async throws {
        let directory = TemporaryFolder(mode: 0o755)
        await #expect(processExitsWith: .success) { [path = directory("kms.sock") as String] in
            try #require(setgid(1234) == 0 && setuid(1234) == 0)
            let error = try failure { _ = try socketAt(path) }
            #expect(error.code == .badDirectory)
            #expect(error.message.contains("owned by the daemon's user"), "\(error.message)")
            let below = try failure { _ = try socketAt(path + "/new/kms.sock") }
            #expect(below.code == .badDirectory)
        }
    }

    @Test(
        "an owner that we may not set is one line with a remedy, and leaves nothing",
        .enabled(if: geteuid() == 0))
    func forbiddenOwner() async throws {
        let directory = TemporaryFolder(mode: 0o777)
        await #expect(processExitsWith: .success) { [path = directory("kms.sock") as String] in
            try #require(setgid(1234) == 0 && setuid(1234) == 0)
            let permissions = try SocketPermissions(mode: 0o600, owner: 0)
            let address = try SocketAddress(parsing: path)
            let error = try failure { _ = try ListeningSocket(binding: address, permissions: permissions) }
            #expect(error.code == .badPermissions)
            #expect(error.message.contains("to user 0"), "\(error.message)")
            #expect(!exists(path) && !exists(path + ".new"))
        }
    }

    @Test(
        "a directory that everybody may write to is warned of",
        arguments: [(0o777, 1), (0o1777, 0), (0o755, 0)])
    func openDirectory(mode: UInt32, warnings: Int) throws {
        let directory = TemporaryFolder(mode: mode)
        let socket = try socketAt(directory("kms.sock"))
        #expect(socket.warnings.count == warnings)
        socket.withdraw()
    }

    @Test("at the end only our own socket is removed: a successor's stays reachable")
    func onlyOurOwn() throws {
        let directory = TemporaryFolder(mode: 0o711)
        let path = directory("kms.sock")
        let first = try socketAt(path)
        // A successor that shares nothing with us, not even the lock.
        #expect(unsafe unlink(path) == 0 && unlink(path + ".lock") == 0)
        let second = try socketAt(path)
        first.withdraw()
        #expect(canConnect(path))
        second.withdraw()
        #expect(!exists(path))
    }

    @Test("an abstract name has one owner, who is named")
    func abstract() throws {
        let address = try SocketAddress(parsing: "@ksw-test-\(getpid())-one")
        let socket = try ListeningSocket(binding: address)
        let isAbstract = socket.isAbstract
        #expect(isAbstract)
        #expect(canConnect(socket.address))
        let error = try failure { _ = try ListeningSocket(binding: address) }
        #expect(error.code == .ownedByAnother)
        #expect(error.message.contains("process \(getpid())"), "\(error.message)")
        socket.withdraw()
    }

    // MARK: Adopting

    /// A listening socket as a service manager would make it; `keeper` is its own copy.
    private func managed(
        _ path: String, mode: mode_t, group: gid_t? = nil
    ) throws -> (keeper: Int32, passed: Int32) {
        let keeper = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        try #require(unsafe ksw_unix_bind(keeper, path, path.utf8.count, 0) == 0)
        try #require(listen(keeper, 16) == 0)
        if let group { try #require(unsafe chown(path, 0, group) == 0) }
        try #require(unsafe chmod(path, mode) == 0)
        return (keeper, dup(keeper))
    }

    @Test("an adopted socket is neither removed, nor changed, nor shut down at the end")
    func adopted() throws {
        let directory = TemporaryFolder(mode: 0o711)
        let path = directory("kms.sock")
        let (keeper, passed) = try managed(path, mode: 0o666)
        defer { close(keeper) }
        let adopted = try ListeningSocket(adopting: ActivatedDescriptor(number: passed, name: "kms"))
        #expect(adopted.address == path)
        #expect(adopted.origin == .adopted(name: "kms"))
        #expect(adopted.warnings.count == 1)
        #expect(adopted.group == nil)
        adopted.withdraw()
        #expect(FileFacts(named: path, in: AT_FDCWD)?.mode == 0o666)
        let client = try Client(path)
        #expect(client.isOpen)
    }

    @Test("the group of an adopted socket counts if its mode lets it connect", .enabled(if: geteuid() == 0))
    func adoptedGroup() throws {
        let directory = TemporaryFolder(mode: 0o711)
        for (name, mode, group, wanted) in [
            ("a", 0o660, 4321, 4321), ("b", 0o600, 4321, nil), ("c", 0o660, 0, nil),
        ] as [(String, mode_t, gid_t, UInt32?)] {
            let (keeper, passed) = try managed(directory(name), mode: mode, group: group)
            let adopted = try ListeningSocket(adopting: ActivatedDescriptor(number: passed, name: "kms"))
            #expect(adopted.group == wanted)
            #expect(adopted.warnings.count == 0)
            adopted.withdraw()
            close(keeper)
        }
    }

    enum Wrong: CaseIterable { case closed, file, datagram, network, notListening }

    @Test("what is no listening UNIX stream socket is not adopted", arguments: Wrong.allCases)
    func notAdopted(_ wrong: Wrong) throws {
        let stream = Int32(SOCK_STREAM.rawValue)
        let number: Int32 =
            switch wrong {
            case .closed: 1_000_000
            case .file: unsafe open("/dev/null", O_RDONLY)
            case .datagram: socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue), 0)
            case .network: socket(AF_INET, stream, 0)
            case .notListening: socket(AF_UNIX, stream, 0)
            }
        if wrong == .network { #expect(listen(number, 1) == 0) }
        let error = try failure {
            _ = try ListeningSocket(adopting: ActivatedDescriptor(number: number, name: "kms"))
        }
        #expect(error.code == .badActivation)
        #expect(error.message.contains("(kms)"))
    }

    @Test("activation is read once and leaves nothing to children")
    func take() async {
        await #expect(processExitsWith: .success) {
            try #require(unsafe setenv("LISTEN_PID", "\(getpid())", 1) == 0)
            try #require(unsafe setenv("LISTEN_FDS", "1", 1) == 0)
            try #require(unsafe setenv("LISTEN_FDNAMES", "kms", 1) == 0)
            #expect(try Activation.take() == [ActivatedDescriptor(number: 3, name: "kms")])
            #expect(
                unsafe getenv("LISTEN_PID") == nil && getenv("LISTEN_FDS") == nil
                    && getenv("LISTEN_FDNAMES") == nil)
            #expect(try Activation.take().isEmpty)
        }
    }
}
