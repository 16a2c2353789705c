private import Glibc
internal import RemoteKMS
internal import SecureMemory
private import Synchronization

/// Credentials that never change.
struct GivenCredentials: CredentialSource {
    let credentials: Credentials

    func fetch(by deadline: Deadline) async throws(RemoteKMSError) -> FetchedCredentials {
        FetchedCredentials(credentials: credentials)
    }
}

/// Credentials in files, a value each, blanks around it left out.
final class FileCredentials: CredentialSource {
    /// What tells one content of a file from another without reading it.
    private struct Stamp: Equatable {
        var device: UInt = 0
        var inode: UInt = 0
        var size = 0
        var seconds = 0
        var nanoseconds = 0
        /// Of the last change of owner or mode too: what could not be read may be readable now.
        var changedAt = [0, 0]

        init(of path: String) {
            var facts = stat()
            guard unsafe stat(path, &facts) == 0 else { return }
            device = UInt(facts.st_dev)
            inode = UInt(facts.st_ino)
            size = Int(facts.st_size)
            seconds = facts.st_mtim.tv_sec
            nanoseconds = facts.st_mtim.tv_nsec
            changedAt = [facts.st_ctim.tv_sec, facts.st_ctim.tv_nsec]
        }
    }

    private let files: CredentialFiles
    private let stamps = Mutex<[Stamp]>([])

    init(_ files: CredentialFiles) { self.files = files }

    private var paths: [String] {
        [files.accessKey, files.secretKey] + (files.sessionToken.map { [$0] } ?? [])
    }

    func hasChanged() -> Bool {
        let now = paths.map(Stamp.init(of:))
        return stamps.withLock { $0 != now }
    }

    /// Blocks for a moment: the files are small and local.
    func fetch(by deadline: Deadline) async throws(RemoteKMSError) -> FetchedCredentials {
        // Before reading, so that what changes meanwhile is read again.
        let now = paths.map(Stamp.init(of:))
        stamps.withLock { $0 = now }
        let accessKey = try Self.read(files.accessKey)
        guard let name = accessKey.accessKeyText else {
            throw Self.failure(
                files.accessKey, "does not hold an access key", remedy: "give it that one word")
        }
        let secretKey = SharedSecret(try Self.read(files.secretKey))
        var token: SharedSecret?
        if let path = files.sessionToken { token = SharedSecret(try Self.read(path)) }
        return FetchedCredentials(
            credentials: Credentials(accessKey: name, secretKey: secretKey, sessionToken: token))
    }

    /// More than any credential has.
    private static let limit = 8192

    private static func read(_ path: String) throws(RemoteKMSError) -> SecretBytes {
        let file = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard file >= 0 else {
            throw failure(
                path, "cannot be read: \(reason(errno))", remedy: "make it readable for the daemon's user")
        }
        defer { close(file) }
        var count = 0
        var problem: Int32?
        let whole = SecretBytes(count: limit) { cell in
            unsafe cell.withUnsafeMutableBytes { cell in
                while count < cell.count, problem == nil {
                    let got = unsafe Glibc.read(
                        file, cell.baseAddress?.advanced(by: count), cell.count - count)
                    if got < 0, errno != EINTR { problem = errno }
                    if got == 0 { break }
                    if got > 0 { count += got }
                }
            }
        }
        if let problem {
            throw failure(path, "cannot be read: \(reason(problem))", remedy: "give the path of a file")
        }
        guard count < limit else {
            throw failure(path, "has \(limit) bytes or more", remedy: "give it one credential")
        }
        let word = whole.withBytes { bytes in
            var range = 0..<count
            while let last = range.last, bytes.byte(at: last) <= 0x20 { range = range.dropLast() }
            while let first = range.first, bytes.byte(at: first) <= 0x20 { range = range.dropFirst() }
            return SecretBytes(copying: bytes.extracting(range))
        }
        guard word.isOneWord else {
            throw failure(
                path, "does not hold one line of ASCII", remedy: "give it one credential and nothing else")
        }
        return word
    }

    private static func failure(_ path: String, _ what: String, remedy: String) -> RemoteKMSError {
        RemoteKMSError(.misconfigured, "credential file \(path) \(what)", remedy: remedy)
    }

    private static func reason(_ code: Int32) -> String { unsafe String(cString: strerror(code)) }
}

/// Credentials in environment variables, as JD Cloud's tools know them.
struct EnvironmentCredentials: CredentialSource {
    private static let names = [
        ("JDCLOUD_ACCESS_KEY_ID", "JDCLOUD_SECRET_ACCESS_KEY", "JDCLOUD_SESSION_TOKEN"),
        ("JDCLOUD_AK", "JDCLOUD_SK", nil), ("JDC_ACCESS_KEY", "JDC_SECRET_KEY", nil),
    ]

    /// Reads a variable; the process's own unless a test says otherwise.
    var variable: @Sendable (String) -> String? = { name in
        guard let value = unsafe getenv(name) else { return nil }
        return unsafe String(cString: value)
    }

    func fetch(by deadline: Deadline) async throws(RemoteKMSError) -> FetchedCredentials {
        for (accessKey, secretKey, token) in Self.names {
            guard let name = variable(accessKey), let secret = variable(secretKey) else { continue }
            guard name.isAccessKey, let secret = SecretBytes(word: secret) else {
                throw RemoteKMSError(
                    .misconfigured, "\(accessKey) and \(secretKey) do not hold credentials",
                    remedy: "set them to one word each")
            }
            var session: SharedSecret?
            if let text = token.flatMap(variable), let word = SecretBytes(word: text) {
                session = SharedSecret(word)
            }
            return FetchedCredentials(
                credentials: Credentials(
                    accessKey: name, secretKey: SharedSecret(secret), sessionToken: session))
        }
        throw RemoteKMSError(
            .misconfigured, "the environment has no JD Cloud credentials",
            remedy:
                "set \(Self.names[0].0) and \(Self.names[0].1) for the daemon, or use another credential source"
        )
    }
}

extension CredentialFiles {
    /// The same in the directory that systemd made for this service.
    func inCredentialsDirectory() throws(RemoteKMSError) -> CredentialFiles {
        guard let directory = unsafe getenv("CREDENTIALS_DIRECTORY") else {
            throw RemoteKMSError(
                .misconfigured, "systemd gave this process no credentials",
                remedy:
                    "add LoadCredential= or LoadCredentialEncrypted= lines to the unit, or use another credential source"
            )
        }
        let folder = unsafe String(cString: directory)
        return CredentialFiles(
            accessKey: "\(folder)/\(accessKey)", secretKey: "\(folder)/\(secretKey)",
            sessionToken: sessionToken.map { "\(folder)/\($0)" })
    }
}

extension String {
    /// Whether this could be an access key, which goes into a header as it is.
    var isAccessKey: Bool {
        (1...128).contains(utf8.count)
            && utf8.allSatisfy {
                $0.isDigit || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0 | 0x20)
                    || $0 == UInt8(ascii: "-")
                    || $0 == UInt8(ascii: "_")
            }
    }
}

extension SecretBytes {
    /// A secret that came as text; nil unless it is one word of ASCII.
    init?(word text: String) {
        let bytes = Array(text.utf8)
        // Bytes of UInt8 have no padding.
        let copy = unsafe SecretBytes(copying: bytes.span.bytes)
        guard copy.isOneWord else { return nil }
        self = copy
    }

    /// Printable ASCII without blanks.
    var isOneWord: Bool {
        withBytes { bytes in
            bytes.byteCount > 0 && bytes.byteOffsets.allSatisfy { 0x21...0x7E ~= bytes.byte(at: $0) }
        }
    }

    /// The access key, which is public, if these bytes are one.
    var accessKeyText: String? {
        let text = withBytes { bytes in
            String(decoding: bytes.byteOffsets.map { bytes.byte(at: $0) }, as: UTF8.self)
        }
        return text.isAccessKey ? text : nil
    }
}
