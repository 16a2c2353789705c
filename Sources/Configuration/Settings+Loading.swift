private import CShims
private import Glibc

extension Settings {
    /// Reads settings from the bytes of a file called `name`.
    ///
    /// Gives every mistake at once, sorted by position. Settings are nil exactly when one of the diagnostics is an
    /// error; with warnings alone they can be used. Touches neither the file system nor the user database. Traps on no
    /// input; at most 1 MiB is accepted.
    public static func parse(bytes: [UInt8], name: String) -> (settings: Settings?, diagnostics: [Diagnostic])
    {
        let (root, syntax) = YAMLReader.read(bytes)
        var pass = DecodingPass()
        for problem in syntax { pass.error("", at: problem.mark, problem.message) }
        var settings: Settings?
        // After a syntax error half a tree would only yield false alarms.
        if root != nil || syntax.isEmpty {
            let empty = Node(mark: Mark.start, content: .scalar(Scalar(text: "", isPlain: true)))
            if let root, SeedFile.isSeed(root) {
                settings = SeedFile.decode(root, &pass)
            } else {
                var decoded = Schema.file.decode(root ?? empty, path: "", owner: .start, &pass)
                decoded.settleRideThrough(pass)
                decoded.check(&pass)
                settings = decoded
            }
        }
        let diagnostics = pass.problems.enumerated()
            .sorted { ($0.element.mark, $0.offset) < ($1.element.mark, $1.offset) }
            .map { _, problem in
                var diagnostic = Diagnostic(
                    problem.severity, at: FilePosition(problem.mark, in: name), problem.message)
                diagnostic.isAboutOwnSocket = problem.isAboutOwnSocket
                return diagnostic
            }
        guard !diagnostics.contains(where: { $0.severity == .error }) else { return (nil, diagnostics) }
        settings?.origin.file = name
        settings?.origin.positions = pass.marks.mapValues { mark in FilePosition(mark, in: name) }
        return (settings, diagnostics)
    }

    /// Reads settings from a file, with the warnings it deserves.
    ///
    /// Throws all that is wrong at once. Blocks while the file is read.
    public static func load(
        path: String
    ) throws(ConfigurationError) -> (settings: Settings, warnings: [Diagnostic]) {
        try load(bytes: try read(path), path: path)
    }

    /// The same, where the bytes of the file have been read already.
    public static func load(
        bytes: [UInt8], path: String
    ) throws(ConfigurationError) -> (settings: Settings, warnings: [Diagnostic]) {
        let (settings, diagnostics) = parse(bytes: bytes, name: path)
        guard let settings else { throw ConfigurationError(diagnostics) }
        return (settings, diagnostics + settings.exposed(in: path))
    }

    /// Says that others can read the secrets of a file, if they can.
    private func exposed(in path: String) -> [Diagnostic] {
        var facts = stat()
        guard holdsSecrets, unsafe stat(path, &facts) == 0, facts.st_mode & 0o077 != 0 else { return [] }
        let mode = String(facts.st_mode & 0o777, radix: 8)
        return [
            Diagnostic(
                .warning, at: FilePosition(nil, in: path),
                "it holds a secret key and its mode is 0\(mode), so others than its owner can use it; chmod 600, or put the secret key into a file of its own"
            )
        ]
    }

    /// A file's bytes, one more than the limit at most; throws if it cannot be read.
    ///
    /// They may hold a secret: keep them no longer than needed.
    public static func read(_ path: String) throws(ConfigurationError) -> [UInt8] {
        let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw ConfigurationError(unreadable: path, errno) }
        defer { close(file) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 1 << 16)
        while bytes.count <= YAMLReader.byteLimit {
            let count = unsafe Glibc.read(file, &chunk, chunk.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw ConfigurationError(unreadable: path, errno) }
            guard count > 0 else { break }
            bytes += chunk[..<count]
        }
        return bytes
    }
}

extension ConfigurationError {
    fileprivate init(unreadable path: String, _ code: Int32) {
        let remedy = code == EACCES ? ": \(Self.admission(to: path))" : ""
        let message = "the file cannot be read: \(reason(code))\(remedy)"
        self.init([Diagnostic(.error, at: FilePosition(nil, in: path), message)])
    }

    /// How this process's user comes to read a file that it may not.
    private static func admission(to path: String) -> String {
        let user = unsafe name(ksw_user_name, geteuid())
        let group = unsafe name(ksw_group_name, getegid())
        var facts = stat()
        // What may not even be looked at is in a directory that may not be entered.
        let isHidden = unsafe stat(path, &facts) != 0 && errno == EACCES
        let directory = path.lastIndex(of: "/").map { path[..<$0] } ?? "."
        let (what, mode) = isHidden ? (directory, "750") : (path[...], "640")
        return "let user \(user) in: chgrp \(group) \(what); chmod \(mode) \(what)"
    }

    private static func name(
        _ write: (UInt32, UnsafeMutablePointer<CChar>?, Int) -> Void, _ number: UInt32
    ) -> String {
        var text = [CChar](repeating: 0, count: 256)
        unsafe write(number, &text, text.count)
        return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }
}

/// errno in words.
func reason(_ code: Int32) -> String {
    // glibc gives a constant, or text of this thread, that lives until the next call.
    unsafe String(cString: strerror(code))
}
