// What the plugin remembers over restarts: public data, best effort. Losing it costs a few calls and one safety net
// (a reused key_id is not noticed); it never stops the daemon.

internal import FoundationEssentials
private import Glibc
private import Synchronization

/// A wrapped local KEK that was made or met.
struct RememberedKEK: Sendable, Equatable, Codable {
    /// The key_id it belongs to.
    var keyID: String
    /// Number of the suite it seals with.
    var suite: UInt8
    /// The wrapped bytes, as they stand in etcd.
    var wrapped: Data
    /// When this plugin made it, seconds since 1970; nil if another replica did.
    var madeAt: Int64?

    enum CodingKeys: String, CodingKey {
        case keyID = "key_id"
        case suite
        case wrapped
        case madeAt = "made_at"
    }
}

/// The contents of `keyring.json`.
struct History: Sendable, Equatable, Codable {
    /// Version of this layout.
    var format = 1
    /// key_ids that the write key announced, oldest first; the last one is the current one.
    var activeKeyIDs: [String] = []
    /// The highest version seen per F part, where versions are numbers.
    var highestVersions: [String: UInt64] = [:]
    /// Wrapped local KEKs, oldest first.
    var localKEKs: [RememberedKEK] = []

    static let maximumLocalKEKs = 4_096

    enum CodingKeys: String, CodingKey {
        case format
        case activeKeyIDs = "active_key_ids"
        case highestVersions = "highest_versions"
        case localKEKs = "local_keks"
    }

    /// The key_id is announced now.
    mutating func activated(_ keyID: String) {
        if activeKeyIDs.last != keyID { activeKeyIDs.append(keyID) }
    }

    /// A version was taken.
    mutating func saw(version: String, of keyPart: String) {
        guard let version = UInt64(version) else { return }
        highestVersions[keyPart] = max(version, highestVersions[keyPart] ?? 0)
    }

    /// Remembers a wrapped local KEK; at the limit the oldest that is not ours goes first, then the oldest.
    mutating func remember(_ kek: RememberedKEK) {
        if let known = localKEKs.firstIndex(where: { $0.wrapped == kek.wrapped }) {
            if localKEKs[known].madeAt == nil { localKEKs[known].madeAt = kek.madeAt }
            return
        }
        localKEKs.append(kek)
        if localKEKs.count > Self.maximumLocalKEKs {
            localKEKs.remove(at: localKEKs.firstIndex { $0.madeAt == nil } ?? 0)
        }
    }
}

/// `keyring.json` in the state directory, or memory only where there is none.
final class HistoryFile: Sendable {
    private struct State {
        var history: History
        var isSaved: Bool
        var isWriting = false
    }

    private let path: String?
    private let state: Mutex<State>

    static let maximumBytes = 16 * 1024 * 1024

    /// Reads the file; a missing one is an empty history, a damaged one is put aside with a warning for the log.
    init(directory: String?) {
        path = directory.map { "\($0)/keyring.json" }
        let (history, warning) = path.map(Self.read) ?? (History(), nil)
        state = Mutex(State(history: history, isSaved: true))
        self.warning = warning
    }

    /// What was wrong with the file at start; nil if nothing was.
    let warning: String?

    var history: History { state.withLock { $0.history } }

    /// Changes the history in memory; `save` writes it.
    func change(_ body: (inout History) -> Void) {
        state.withLock { state in
            let before = state.history
            body(&state.history)
            if state.history != before { state.isSaved = false }
        }
    }

    /// Writes the file if the history changed since the last writing; returns what went wrong, or nil.
    ///
    /// Blocks for a few system calls; the old or the new file is there at any time.
    func save() -> String? {
        guard let path else { return nil }
        let unsaved = state.withLock { state -> History? in
            // One writer at a time: they share the temporary file. What it misses, the next save writes.
            guard !state.isSaved, !state.isWriting else { return nil }
            state.isSaved = true
            state.isWriting = true
            return state.history
        }
        guard let unsaved else { return nil }
        let failure = Self.write(unsaved, to: path)
        state.withLock { state in
            state.isWriting = false
            if failure != nil { state.isSaved = false }
        }
        guard let failure else { return nil }
        return "\(path) cannot be written: \(failure): make room and let uid \(geteuid()) write there"
    }

    private static func read(_ path: String) -> (History, String?) {
        let again =
            "starting with an empty history: restarts may cost one more wrapped key, and a key_id that comes back is not noticed"
        let data: Data
        switch bytes(of: path) {
        case .success(let bytes): data = bytes
        case .failure(.missing): return (History(), nil)  // as at every first start
        case .failure(.unreadable(let cause)): return (History(), "\(path) \(cause), \(again)")
        }
        guard let history = try? JSONDecoder().decode(History.self, from: data), history.format == 1 else {
            let aside = "\(path).damaged"
            _ = unsafe rename(path, aside)  // or it is overwritten by the next one: it is best effort
            return (History(), "\(path) is damaged or of another format and now called \(aside), \(again)")
        }
        return (history, nil)
    }

    private enum FileFailure: Error {
        case missing
        case unreadable(String)
    }

    private static func bytes(of path: String) -> Result<Data, FileFailure> {
        let file = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)
        guard file >= 0 else {
            return .failure(errno == ENOENT ? .missing : .unreadable("cannot be read: \(reason(errno))"))
        }
        defer { close(file) }
        var data = Data()
        var chunk = [UInt8](repeating: 0, count: 64 * 1024)
        while true {
            let got = unsafe Glibc.read(file, &chunk, chunk.count)
            if got < 0 && errno == EINTR { continue }
            guard got >= 0 else { return .failure(.unreadable("cannot be read: \(reason(errno))")) }
            guard got > 0 else { return .success(data) }
            data.append(contentsOf: chunk[..<got])
            guard data.count <= maximumBytes else { return .failure(.unreadable("is too large")) }
        }
    }

    private static func write(_ history: History, to path: String) -> String? {
        guard let data = try? JSONEncoder().encode(history) else { return "the history has no JSON form" }
        let temporary = "\(path).new"
        let flags = O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC
        var file = unsafe open(temporary, flags, 0o600)
        if file < 0, errno == ENOENT, let slash = path.lastIndex(of: "/") {
            // The first start without a service manager that makes the state directory.
            _ = unsafe mkdir(String(path[..<slash]), 0o700)
            file = unsafe open(temporary, flags, 0o600)
        }
        guard file >= 0 else { return reason(errno) }
        var failure = unsafe data.span.withUnsafeBytes { buffer -> Int32 in
            var done = 0
            while done < buffer.count {
                // In bounds: `done` and the rest add up to the buffer's size.
                let put =
                    unsafe buffer.baseAddress.map { unsafe Glibc.write(file, $0 + done, buffer.count - done) }
                    ?? 0
                if put < 0 && errno == EINTR { continue }
                guard put > 0 else { return put < 0 ? errno : EIO }
                done += put
            }
            return 0
        }
        if failure == 0, fsync(file) != 0 { failure = errno }
        close(file)
        if failure == 0, unsafe rename(temporary, path) != 0 { failure = errno }
        guard failure == 0 else {
            unsafe unlink(temporary)
            return reason(failure)
        }
        return nil
    }

    private static func reason(_ number: Int32) -> String { unsafe String(cString: strerror(number)) }
}
