// What the plugin remembers over restarts: public data, best effort. Losing it costs a few calls and one safety net
// (a reused key_id is not noticed); it never stops the daemon.

private import EnvelopeCrypto
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

    /// At most so many bytes of the file.
    var writtenBytes: Int { (wrapped.count + 2) / 3 * 4 + keyID.utf8.count + 128 }
}

/// Something that stands for nothing, wrapped by the backend itself (`compatible`): what was written under this key_id is
/// readable if this is.
struct RememberedProbe: Sendable, Equatable, Codable {
    /// The key_id it was made under.
    var keyID: String
    /// The wrapped bytes; nobody remembers what of.
    var wrapped: Data

    enum CodingKeys: String, CodingKey {
        case keyID = "key_id"
        case wrapped
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

    /// One per key_id that was written in `compatible`, oldest first; files of earlier versions have none.
    var probes: [RememberedProbe]?

    /// A tenth of a megabyte of the file.
    static let maximumProbes = 64
    static let maximumLocalKEKs = 4_096
    /// Bytes of the file that local KEKs may take; with the key_ids that is less than is accepted at reading.
    static let maximumLocalKEKBytes = 8 * 1024 * 1024
    /// A new one every day for a century and a half.
    static let maximumKeyIDs = 65_536

    enum CodingKeys: String, CodingKey {
        case format
        case activeKeyIDs = "active_key_ids"
        case highestVersions = "highest_versions"
        case localKEKs = "local_keks"
        case probes
    }

    /// The key_id is announced now.
    mutating func activated(_ keyID: String) {
        if activeKeyIDs.last != keyID { activeKeyIDs.append(keyID) }
        activeKeyIDs.removeFirst(max(0, activeKeyIDs.count - Self.maximumKeyIDs))
    }

    /// A version was taken.
    mutating func saw(version: String, of keyPart: String) {
        guard let version = UInt64(version) else { return }
        highestVersions[keyPart] = max(version, highestVersions[keyPart] ?? 0)
    }

    /// Remembers a wrapped local KEK; at the limit the oldest that is not ours goes first, then the oldest.
    ///
    /// Returns what was forgotten.
    @discardableResult
    mutating func remember(_ kek: RememberedKEK) -> [RememberedKEK] {
        if let known = localKEKs.firstIndex(where: { $0.wrapped == kek.wrapped }) {
            if localKEKs[known].madeAt == nil { localKEKs[known].madeAt = kek.madeAt }
            return []
        }
        return remember(new: [kek])
    }

    /// Remembers wrapped local KEKs that are not among the remembered ones; returns what was forgotten.
    @discardableResult
    mutating func remember(new keks: [RememberedKEK]) -> [RememberedKEK] {
        localKEKs += keks
        var count = localKEKs.count
        var bytes = localKEKs.reduce(0) { $0 + $1.writtenBytes }
        var gone: Set<Int> = []
        // Those of others first, then ours; the newest stays in any case.
        for isOurs in [false, true] {
            for (index, kek) in localKEKs.enumerated().dropLast() where (kek.madeAt != nil) == isOurs {
                guard count > Self.maximumLocalKEKs || bytes > Self.maximumLocalKEKBytes else { break }
                gone.insert(index)
                count -= 1
                bytes -= kek.writtenBytes
            }
        }
        guard !gone.isEmpty else { return [] }
        defer { localKEKs = localKEKs.enumerated().filter { !gone.contains($0.offset) }.map(\.element) }
        return gone.map { localKEKs[$0] }
    }

    /// Remembers a probe of a key_id that has none: the oldest says most of what was written under it.
    mutating func remember(_ probe: RememberedProbe) {
        var all = probes ?? []
        guard !all.contains(where: { $0.keyID == probe.keyID }) else { return }
        all.append(probe)
        probes = all.suffix(Self.maximumProbes)
    }

    /// Adds what happened later.
    mutating func append(_ later: History) {
        for keyID in later.activeKeyIDs { activated(keyID) }
        highestVersions.merge(later.highestVersions, uniquingKeysWith: max)
        for kek in later.localKEKs { remember(kek) }
        for probe in later.probes ?? [] { remember(probe) }
    }
}

/// `keyring.json` in the state directory, or memory only where there is none.
///
/// A file that is there and cannot be read is never overwritten: the history stays in memory until it can be read.
final class HistoryFile: Sendable {
    private struct State {
        var history = History()
        /// Digests of all remembered local KEKs.
        var known: Set<[UInt8]> = []
        /// Local KEKs met by requests, not yet in the history.
        var met: [RememberedKEK] = []
        var isSaved = true
        /// Whether the file was read, or there was none: only then may it be replaced.
        var isRead: Bool
        var lastWarning: String?

        /// Puts what the file says before what happened since.
        mutating func follow(_ earlier: History) {
            fold()
            var whole = earlier
            whole.append(history)
            isSaved = whole == earlier
            history = whole
            known = Set(whole.localKEKs.compactMap(digest))
            isRead = true
        }

        /// Takes what requests met into the history.
        mutating func fold() {
            guard !met.isEmpty else { return }
            forget(history.remember(new: met))
            met = []
        }

        mutating func remember(_ kek: RememberedKEK) {
            fold()
            if let digest = digest(of: kek) { known.insert(digest) }
            forget(history.remember(kek))
        }

        mutating func forget(_ keks: [RememberedKEK]) {
            for kek in keks { if let digest = digest(of: kek) { known.remove(digest) } }
        }
    }

    private let path: String?
    private let sync: @Sendable (Int32) -> Int32
    private let state: Mutex<State>
    /// Held while the file is read or written: whoever saves next waits, and finds its change written or writes it.
    private let writing = Mutex(())

    static let maximumBytes = 16 * 1024 * 1024
    /// How many local KEKs requests may add between two saves.
    private static let maximumMet = History.maximumLocalKEKs

    /// Nothing is read yet; without a directory nothing ever is.
    ///
    /// `sync` is fsync(2), for tests.
    init(directory: String?, sync: @escaping @Sendable (Int32) -> Int32 = { fsync($0) }) {
        path = directory.map { "\($0)/keyring.json" }
        self.sync = sync
        state = Mutex(State(isRead: path == nil))
    }

    /// Reads the file, if it was not read yet; returns what went wrong and was not returned before, or nil.
    ///
    /// A missing one is an empty history, a damaged one is put aside. Blocks for a few system calls.
    func load() -> String? {
        guard let path else { return nil }
        return writing.withLock { _ in news(loadAlone(path)) }
    }

    /// Call it with `writing` held.
    private func loadAlone(_ path: String) -> String? {
        guard !state.withLock({ $0.isRead }) else { return nil }
        switch Self.read(path) {
        case .read(let earlier, let warning):
            state.withLock { $0.follow(earlier) }
            return warning
        case .unreadable(let cause): return cause
        }
    }

    /// The warning, unless it is the one that was told last.
    private func news(_ warning: String?) -> String? {
        state.withLock { state in
            defer { state.lastWarning = warning }
            return warning == state.lastWarning ? nil : warning
        }
    }

    var history: History {
        state.withLock { state in
            state.fold()
            return state.history
        }
    }

    /// A key_id is announced, with its local KEK if it has one, or with a probe; `save` writes it.
    func activated(_ keyID: String, with kek: RememberedKEK?, probe: RememberedProbe? = nil) {
        state.withLock { state in
            state.history.activated(keyID)
            if let kek { state.remember(kek) }
            if let probe { state.history.remember(probe) }
            state.isSaved = false
        }
    }

    /// A version was taken.
    func saw(version: String, of keyPart: String) {
        state.withLock { state in
            state.history.saw(version: version, of: keyPart)
            state.isSaved = false
        }
    }

    /// A request brought a local KEK that opened; costs one digest and one look-up.
    func met(_ kek: RememberedKEK) {
        guard let digest = digest(of: kek) else { return }
        state.withLock { state in
            guard state.met.count < Self.maximumMet, state.known.insert(digest).inserted else { return }
            state.met.append(kek)
            state.isSaved = false
        }
    }

    /// Writes the file if the history changed since the last writing; returns what went wrong and was not returned
    /// before, or nil.
    ///
    /// When it returns, every change made before the call is on disk, or cannot be. Blocks for a few system calls; the
    /// old or the new file is there at any time.
    func save() -> String? {
        guard let path else { return nil }
        return writing.withLock { _ in news(saveAlone(path)) }
    }

    /// Call it with `writing` held.
    private func saveAlone(_ path: String) -> String? {
        let warning = loadAlone(path)
        let unsaved = state.withLock { state -> History? in
            guard state.isRead, !state.isSaved else { return nil }
            state.fold()
            state.isSaved = true
            return state.history
        }
        guard let unsaved, let failure = write(unsaved, to: path) else { return warning }
        state.withLock { $0.isSaved = false }
        return "\(path) cannot be written: \(failure): make room and let uid \(geteuid()) write there"
    }

    private enum Reading {
        case read(History, warning: String?)
        case unreadable(String)
    }

    private static func read(_ path: String) -> Reading {
        let again =
            "starting with an empty history: restarts may cost one more wrapped key, and a key_id that comes back is not noticed"
        let data: Data
        switch bytes(of: path) {
        case .success(let bytes): data = bytes
        case .failure(.missing): return .read(History(), warning: nil)  // as at every first start
        case .failure(.unreadable(let cause)):
            return .unreadable(
                "\(path) \(cause), \(again); it stays as it is, and the history in memory only, until uid \(geteuid()) can read it"
            )
        }
        guard let history = try? JSONDecoder().decode(History.self, from: data), history.format == 1 else {
            let aside = "\(path).damaged"
            _ = unsafe rename(path, aside)  // or it is overwritten by the next one: it is best effort
            return .read(
                History(),
                warning: "\(path) is damaged or of another format and now called \(aside), \(again)")
        }
        return .read(history, warning: nil)
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

    private func write(_ history: History, to path: String) -> String? {
        let encoder = JSONEncoder()
        // An escaped slash would be two bytes of base64 for one.
        encoder.outputFormatting = .withoutEscapingSlashes
        guard let data = try? encoder.encode(history) else { return "the history has no JSON form" }
        guard data.count <= Self.maximumBytes else { return "the history has too many bytes (\(data.count))" }
        let temporary = "\(path).new"
        let flags = O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC
        var file = unsafe open(temporary, flags, 0o600)
        if file < 0, errno == ENOENT, let slash = path.lastIndex(of: "/") {
            // The first start without a service manager that makes the state directory.
            _ = unsafe mkdir(String(path[..<slash]), 0o700)
            file = unsafe open(temporary, flags, 0o600)
        }
        guard file >= 0 else { return Self.reason(errno) }
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
        if failure == 0, sync(file) != 0 { failure = errno }
        close(file)
        if failure == 0, unsafe rename(temporary, path) != 0 { failure = errno }
        guard failure == 0 else {
            unsafe unlink(temporary)
            return Self.reason(failure)
        }
        return syncDirectory(of: path)
    }

    /// Without this a power cut could bring the former file back.
    private func syncDirectory(of path: String) -> String? {
        guard let slash = path.lastIndex(of: "/") else { return nil }
        let directory = unsafe open(String(path[...slash]), O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard directory >= 0 else { return Self.reason(errno) }
        defer { close(directory) }
        // Some network file systems cannot sync a directory; they have no such promise to give.
        return sync(directory) == 0 || errno == EINVAL ? nil : Self.reason(errno)
    }

    private static func reason(_ number: Int32) -> String { unsafe String(cString: strerror(number)) }
}

/// What a wrapped local KEK is found by; nil where OpenSSL has no SHA-256, and so no key_id either.
private func digest(of kek: RememberedKEK) -> [UInt8]? {
    try? DigestAlgorithm.sha256.hash([UInt8](kek.wrapped).span)
}
