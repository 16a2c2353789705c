private import Glibc
private import Synchronization

/// The Python that `make test-deps` makes, with all that Tests/EndToEnd/requirements.txt names.
public enum Python {
    /// KMSWARD_PYTHON, or the one in .build/venv; nil where there is neither.
    public static let path: String? = {
        if let named = unsafe getenv("KMSWARD_PYTHON") { return unsafe String(cString: named) }
        let made = Repository.root + "/.build/venv/bin/python"
        return unsafe access(made, X_OK) == 0 ? made : nil
    }()
}

/// A command that is run to its end.
public enum Command {
    /// How it ended.
    public struct Outcome: Sendable {
        /// The exit status; -1 if it was not started, or ended by a signal.
        public let status: Int32
        /// What it wrote, to standard error too.
        public let output: String
    }

    /// The path of a command of the system.
    public static func find(_ name: String) -> String? {
        let path = unsafe getenv("PATH").map { unsafe String(cString: $0) } ?? "/usr/bin:/bin"
        return path.split(separator: ":").map { "\($0)/\(name)" }.first { unsafe access($0, X_OK) == 0 }
    }

    /// Runs `arguments`, of which the first is a path; blocks until it has ended.
    public static func run(_ arguments: [String], input: [UInt8] = []) -> Outcome {
        let folder = TemporaryFolder()
        folder.write(input, to: "in")
        folder.write([], to: "out")
        let (input, output) = (
            unsafe open(folder("in"), O_RDONLY | O_CLOEXEC), unsafe open(folder("out"), O_WRONLY | O_CLOEXEC)
        )
        defer {
            close(input)
            close(output)
        }
        guard let pid = spawn(arguments, [input, output, output]) else {
            return Outcome(status: -1, output: "cannot start \(arguments[0])")
        }
        let status = wait(for: pid)
        let hasExited = status & 0x7f == 0
        return Outcome(status: hasExited ? (status >> 8) & 0xff : -1, output: folder.text(of: "out"))
    }
}

/// A process beside a test, such as a server, that ends with its standard input: at the latest with this process.
public final class ChildProcess: Sendable {
    /// Why there is none.
    public struct Failure: Error {
        /// In words.
        public let what: String
    }

    private let pid: Int32
    private let input: Int32
    private let output: Int32
    private let hasEnded = Mutex(false)

    /// Starts `arguments`, of which the first is a path.
    public init(_ arguments: [String]) throws(Failure) {
        var (toChild, fromChild): ([Int32], [Int32]) = ([0, 0], [0, 0])
        guard unsafe pipe(&toChild) == 0, unsafe pipe(&fromChild) == 0 else { throw Failure(what: "no pipe") }
        // Other children must not hold its input open.
        for end in toChild + fromChild { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        let child = spawn(arguments, [toChild[0], fromChild[1]])
        close(toChild[0])
        close(fromChild[1])
        (input, output) = (toChild[1], fromChild[0])
        pid = child ?? -1
        if child == nil { throw Failure(what: "cannot start \(arguments[0])") }
    }

    deinit {
        end()
        close(output)
    }

    /// The next line of what it writes; nil if there is none any more.
    ///
    /// Blocks until then.
    public func line() -> String? {
        var (line, byte): ([UInt8], UInt8) = ([], 0)
        while unsafe read(output, &byte, 1) == 1 {
            if byte == UInt8(ascii: "\n") { return String(decoding: line, as: UTF8.self) }
            line.append(byte)
        }
        return line.isEmpty ? nil : String(decoding: line, as: UTF8.self)
    }

    /// Ends its standard input, and waits until it has ended.
    public func end() {
        let isFirst = hasEnded.withLock { hasEnded in
            defer { hasEnded = true }
            return !hasEnded
        }
        guard isFirst else { return }
        close(input)
        if pid > 0 { _ = wait(for: pid) }
    }
}

/// Starts a program with these descriptors from 0 on, and no others but the standard ones; nil if that fails.
private func spawn(_ arguments: [String], _ descriptors: [Int32]) -> Int32? {
    var actions = unsafe posix_spawn_file_actions_t()
    unsafe posix_spawn_file_actions_init(&actions)
    defer { unsafe posix_spawn_file_actions_destroy(&actions) }
    for (number, descriptor) in descriptors.enumerated() {
        unsafe posix_spawn_file_actions_adddup2(&actions, descriptor, Int32(number))
    }
    // What a library left open for children would stay open as long as the child lives.
    for number in 3..<Int32(min(4096, sysconf(Int32(_SC_OPEN_MAX)))) {
        unsafe posix_spawn_file_actions_addclose(&actions, number)
    }
    let words: [UnsafeMutablePointer<CChar>?] = unsafe arguments.map { unsafe strdup($0) }
    defer { unsafe words.forEach { unsafe free($0) } }
    var pid: Int32 = 0
    return unsafe posix_spawn(&pid, arguments[0], &actions, nil, words + [nil], environ) == 0 ? pid : nil
}

private func wait(for pid: Int32) -> Int32 {
    var status: Int32 = 0
    while unsafe waitpid(pid, &status, 0) < 0, errno == EINTR {}
    return status
}
