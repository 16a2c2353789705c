import EnvelopeCrypto
import Glibc
import SecureMemory
import TestSupport
import Testing

@testable import LocalProvider

@Suite("Key file")
struct LocalKeyFileTests {
    @Test(
        "init makes a file that only its owner can read, with one active version",
        arguments: Suite.allCases.filter(\.isAvailable))
    func create(_ suite: EnvelopeCrypto.Suite) throws {
        let folder = TemporaryFolder()
        let path = folder("local.keys")
        let made = try LocalKeyFile.create(at: path, suite: suite)
        #expect(made.versions.map(\.state) == [.active])
        #expect(made.suite == suite)
        #expect(folder.facts(of: "local.keys").mode == 0o600)
        #expect(folder.names == ["local.keys"])
        #expect(try LocalKeyFile.list(at: path) == made)
        #expect(try LocalKeyFile.load(at: path) == made)
    }

    @Test("a suite that OpenSSL lacks makes no file", arguments: Suite.allCases.filter { !$0.isAvailable })
    func missingSuite(_ suite: EnvelopeCrypto.Suite) {
        let folder = TemporaryFolder()
        let error = #expect(throws: LocalKeyFileError.self) {
            try LocalKeyFile.create(at: folder("local.keys"), suite: suite)
        }
        #expect(error?.reason == .cryptography)
        #expect(folder.names == [])
    }

    @Test("a file is never overwritten", arguments: ["file", "dangling link", "directory"])
    func neverOverwritten(_ kind: String) throws {
        let folder = TemporaryFolder()
        let path = folder("local.keys")
        switch kind {
        case "file": folder.write("precious", to: "local.keys")
        case "directory": folder.makeDirectory("local.keys")
        default: folder.link("local.keys", to: "/nonexistent/target")
        }
        let error = #expect(throws: LocalKeyFileError.self) {
            try LocalKeyFile.create(at: path, suite: .aes256GCM)
        }
        #expect(error?.reason == .exists)
        #expect(folder.names == ["local.keys"])
        if kind == "file" { #expect(folder.text(of: "local.keys") == "precious") }
    }

    @Test(
        "a new file gets its name whatever the file system can do, and never over another one",
        arguments: [[.rename], [.link], [.writeInPlace], KeyFileAccess.Placement.allCases])
    func placement(_ ways: [KeyFileAccess.Placement]) throws {
        let folder = TemporaryFolder()
        let access = KeyFileAccess(path: folder("local.keys"))
        try access.create(secret("one"), by: ways)
        #expect(folder.text(of: "local.keys") == "one")
        #expect(folder.facts(of: "local.keys").mode == 0o600)
        #expect(folder.names == ["local.keys"], "no second copy of the keys")
        let error = #expect(throws: LocalKeyFileError.self) {
            try access.create(secret("two"), by: ways)
        }
        #expect(error?.reason == .exists)
        #expect(folder.text(of: "local.keys") == "one")
    }

    @Test(
        "a name that is taken after it was looked at stays with who took it",
        arguments: KeyFileAccess.Placement.allCases)
    func lateTaken(_ way: KeyFileAccess.Placement) throws {
        let folder = TemporaryFolder()
        let access = KeyFileAccess(path: folder("local.keys"))
        let temporary = folder(".local.keys.new")
        folder.write("ours", to: ".local.keys.new")
        folder.write("theirs", to: "local.keys")
        let content = secret("ours")
        let error = #expect(throws: LocalKeyFileError.self) {
            try access.place(temporary, holding: content, by: [way])
        }
        #expect(error?.reason == .exists)
        #expect(folder.text(of: "local.keys") == "theirs")
        #expect(folder.names == ["local.keys"])
    }

    @Test("where a file system has none of the ways, it is told and nothing is left")
    func noWay() throws {
        let folder = TemporaryFolder()
        let access = KeyFileAccess(path: folder("local.keys"))
        let error = #expect(throws: LocalKeyFileError.self) {
            try access.create(secret("one"), by: [])
        }
        #expect(error?.reason == .unwritable)
        #expect(folder.names == [])
    }

    @Test("two files never have the same identity, version or key")
    func distinct() throws {
        let folder = TemporaryFolder()
        let one = try LocalKeyFile.create(at: folder("a"), suite: .aes256GCM)
        let two = try LocalKeyFile.create(at: folder("b"), suite: .aes256GCM)
        #expect(one.id != two.id)
        #expect(one.active.id != two.active.id)
        #expect(keyDigits(folder.text(of: "a")) != keyDigits(folder.text(of: "b")))
        #expect(keyDigits(folder.text(of: "a")) != String(repeating: "0", count: 64))
    }

    @Test("rotation has two steps: a version is added, then activated, and the former one retires")
    func rotation() throws {
        let folder = TemporaryFolder()
        let path = folder("local.keys")
        let first = try LocalKeyFile.create(at: path, suite: .aes256GCM)
        let added = try LocalKeyFile.add(at: path)
        #expect(added.state == .added)
        let between = try LocalKeyFile.list(at: path)
        #expect(between.active == first.active)
        #expect(between.id == first.id)
        #expect(try LocalKeyFile.activate(at: path, version: added.id))
        let after = try LocalKeyFile.list(at: path)
        #expect(after.versions.map(\.state) == [.retired, .active])
        #expect(after.active.id == added.id)
        #expect(folder.facts(of: "local.keys").mode == 0o600)
        #expect(folder.names == ["local.keys"])
    }

    @Test("the version that is active already is no error, and the file is not touched")
    func activeAlready() throws {
        let folder = TemporaryFolder()
        let path = folder("local.keys")
        let made = try LocalKeyFile.create(at: path, suite: .aes256GCM)
        let before = try KeyFileAccess(path: path).stamp()
        #expect(try LocalKeyFile.activate(at: path, version: made.active.id) == false)
        #expect(try KeyFileAccess(path: path).stamp() == before)
    }

    @Test("a retired or unknown version cannot be activated, and the file stays as it was")
    func refusedActivation() throws {
        let folder = TemporaryFolder()
        let path = folder("local.keys")
        let first = try LocalKeyFile.create(at: path, suite: .aes256GCM)
        let second = try LocalKeyFile.add(at: path)
        try LocalKeyFile.activate(at: path, version: second.id)
        let before = folder.text(of: "local.keys")
        for (version, reason) in [
            (first.active.id, LocalKeyFileError.Reason.notActivatable), (KeyUUID(), .unknownVersion),
        ] {
            let error = #expect(throws: LocalKeyFileError.self) {
                try LocalKeyFile.activate(at: path, version: version)
            }
            #expect(error?.reason == reason)
            #expect(error?.remedy.isEmpty == false)
        }
        #expect(folder.text(of: "local.keys") == before)
    }

    @Test("the identity stays when the file moves")
    func identityIsNotThePath() throws {
        let folder = TemporaryFolder()
        let made = try LocalKeyFile.create(at: folder("a"), suite: .aes256GCM)
        folder.move("a", to: "b")
        #expect(try LocalKeyFile.list(at: folder("b")) == made)
    }

    @Test("editing through a symbolic link changes the file, not the link")
    func editThroughLink() throws {
        let folder = TemporaryFolder()
        try LocalKeyFile.create(at: folder("real"), suite: .aes256GCM)
        folder.link("link", to: "real")
        try LocalKeyFile.add(at: folder("link"))
        #expect(try LocalKeyFile.list(at: folder("real")).versions.count == 2)
        #expect(folder.facts(of: "link").isLink)
    }

    @Test("what a killed command left is taken away by the next one")
    func leftover() throws {
        let folder = TemporaryFolder()
        folder.write("half a key", to: ".local.keys.new")
        try LocalKeyFile.create(at: folder("local.keys"), suite: .aes256GCM)
        #expect(folder.names == ["local.keys"])
    }

    @Test("while one command changes the directory's keys, another is refused and told to run again")
    func busy() throws {
        let folder = TemporaryFolder()
        let path = folder("local.keys")
        try LocalKeyFile.create(at: path, suite: .aes256GCM)
        try KeyFileAccess(path: path).withEditLock { () throws(LocalKeyFileError) in
            let error = #expect(throws: LocalKeyFileError.self) { try LocalKeyFile.add(at: path) }
            #expect(error?.reason == .busy)
        }
        try LocalKeyFile.add(at: path)
    }

    @Test("versions added at the same time are all kept, or their command fails")
    func concurrentEditors() async throws {
        let folder = TemporaryFolder()
        let path = folder("local.keys")
        try LocalKeyFile.create(at: path, suite: .aes256GCM)
        let added = await withTaskGroup(of: KeyUUID?.self) { group in
            for _ in 0..<16 { group.addTask { try? LocalKeyFile.add(at: path).id } }
            return await group.reduce(into: [KeyUUID]()) { if let id = $1 { $0.append(id) } }
        }
        let kept = try LocalKeyFile.list(at: path).versions.dropFirst().map(\.id)
        #expect(Set(kept) == Set(added))
    }
}

@Suite("Broken key file")
struct BrokenKeyFileTests {
    @Test("a missing file names the command that makes one")
    func missing() {
        let folder = TemporaryFolder()
        let path = folder("no.keys")
        let error = #expect(throws: LocalKeyFileError.self) { try LocalKeyFile.list(at: path) }
        #expect(error?.reason == .missing)
        #expect(error?.description.contains("kmsward key init --file \(path)") == true)
    }

    @Test(
        "files that are no key files are told apart",
        arguments: [
            ("", LocalKeyFileError.Reason.empty), ("kms", .truncated), ("kmsward local keys 1", .truncated),
            ("kmsward local keys 1\n", .truncated), ("kmsward local keys 2\nwhatever\n", .unknownFormat),
            ("-----BEGIN PRIVATE KEY-----\n", .foreign), ("\0\u{1}\u{2}", .foreign),
            ("apiVersion: v1\nkind: Secret\n", .foreign),
            (String(repeating: "x", count: LocalKeyFile.maximumBytes + 1), .tooLarge),
        ])
    func notAKeyFile(_ content: String, _ reason: LocalKeyFileError.Reason) {
        let folder = TemporaryFolder()
        folder.write(content, to: "local.keys")
        let error = #expect(throws: LocalKeyFileError.self) {
            try LocalKeyFile.list(at: folder("local.keys"))
        }
        #expect(error?.reason == reason)
        #expect(folder.text(of: "local.keys") == content)
    }

    @Test(
        "a foreign or empty file is called so even if everybody can read it: nobody is to chmod or chown it")
    func foreignFirst() throws {
        let folder = TemporaryFolder()
        for (content, reason) in [("root:x:0:0\n", LocalKeyFileError.Reason.foreign), ("", .empty)] {
            folder.write(content, to: "passwd")
            folder.setMode(0o644, of: "passwd")
            if geteuid() == 0 { folder.setOwner(4242, 4243, of: "passwd") }
            for isDaemon in [false, true] {
                let error = #expect(throws: LocalKeyFileError.self) {
                    _ =
                        try isDaemon
                        ? LocalKeyFile.load(at: folder("passwd"))
                        : LocalKeyFile.list(at: folder("passwd"))
                }
                #expect(error?.reason == reason)
                #expect(error?.remedy.contains("chmod") == false && error?.remedy.contains("chown") == false)
            }
        }
    }

    @Test("an empty file gets the same advice from every command")
    func emptyAdvice() throws {
        let folder = TemporaryFolder()
        let path = folder("local.keys")
        folder.write("", to: "local.keys")
        let said = [
            #expect(throws: LocalKeyFileError.self) { try LocalKeyFile.create(at: path, suite: .aes256GCM) },
            #expect(throws: LocalKeyFileError.self) { try LocalKeyFile.list(at: path) },
            #expect(throws: LocalKeyFileError.self) { try LocalKeyFile.add(at: path) },
        ]
        #expect(Set(said.map { $0?.description }).count == 1)
        #expect(said[0]?.reason == .empty)
        #expect(said[0]?.remedy.contains("restore it") == true)
        #expect(folder.names == ["local.keys"])
    }

    @Test("errors name the file as the operator did, also where it is a link")
    func namedAsTyped() throws {
        let folder = TemporaryFolder()
        folder.makeDirectory("real")
        folder.write("kmsward local keys 1\n", to: "real/local.keys")
        folder.link("link.keys", to: "real/local.keys")
        folder.link("elsewhere", to: "real")
        for name in ["link.keys", "elsewhere/local.keys", "./real/local.keys", "real/../none.keys"] {
            let path = folder(name)
            let said = [
                #expect(throws: LocalKeyFileError.self) { try LocalKeyFile.list(at: path) },
                #expect(throws: LocalKeyFileError.self) { try LocalKeyFile.add(at: path) },
                #expect(throws: LocalKeyFileError.self) {
                    try LocalKeyFile.activate(at: path, version: KeyUUID())
                },
            ]
            for error in said {
                #expect(error?.path == path)
                #expect(error?.description.contains(" \(path) ") == true)
            }
        }
    }

    @Test("a directory or a pipe is named as such", arguments: ["directory", "pipe"])
    func notAFile(_ kind: String) {
        let folder = TemporaryFolder()
        let path = folder("local.keys")
        if kind == "pipe" { folder.makePipe("local.keys") } else { folder.makeDirectory("local.keys") }
        let error = #expect(throws: LocalKeyFileError.self) { try LocalKeyFile.list(at: path) }
        #expect(error?.reason == .notAFile)
    }

    @Test("a file that others can read or write is refused", arguments: [0o640, 0o604, 0o620, 0o602, 0o666])
    func exposed(_ mode: Int) throws {
        let folder = TemporaryFolder()
        let path = folder("local.keys")
        try LocalKeyFile.create(at: path, suite: .aes256GCM)
        folder.setMode(mode, of: "local.keys")
        let error = #expect(throws: LocalKeyFileError.self) { try LocalKeyFile.load(at: path) }
        #expect(error?.reason == .exposed)
        #expect(error?.summary.contains(String(mode, radix: 8)) == true)
    }

    // Only root can give a file away; others cannot meet this case with a file of mode 0600.
    @Test(
        "the daemon refuses another user's file; root may still edit it, and it stays that user's",
        .enabled(if: geteuid() == 0, "giving a file away needs root"))
    func wrongOwner() throws {
        let folder = TemporaryFolder()
        let path = folder("local.keys")
        try LocalKeyFile.create(at: path, suite: .aes256GCM)
        folder.setOwner(4242, 4243, of: "local.keys")
        let error = #expect(throws: LocalKeyFileError.self) { try LocalKeyFile.load(at: path) }
        #expect(error?.reason == .wrongOwner)
        try LocalKeyFile.add(at: path)
        let facts = folder.facts(of: "local.keys")
        #expect(facts.user == 4242 && facts.group == 4243)
    }

    @Test("a file cut off anywhere is called truncated")
    func truncated() throws {
        let folder = TemporaryFolder()
        try LocalKeyFile.create(at: folder("whole"), suite: .aes256GCM)
        let whole = folder.text(of: "whole")
        for count in 1..<whole.utf8.count {
            folder.write(String(whole.prefix(count)), to: "local.keys")
            let error = #expect(throws: LocalKeyFileError.self) {
                try LocalKeyFile.list(at: folder("local.keys"))
            }
            #expect(error?.reason == .truncated, "cut after \(count) bytes")
        }
    }

    @Test("any changed byte is noticed, and the damaged key is named")
    func damaged() throws {
        let folder = TemporaryFolder()
        let made = try LocalKeyFile.create(at: folder("whole"), suite: .aes256GCM)
        let whole = Array(folder.text(of: "whole").utf8)
        let keyStart = try #require(whole.indices.first { whole[$0...].starts(with: "active ".utf8) }) + 7
        for index in whole.indices {
            var bytes = whole
            bytes[index] ^= 1
            folder.write(bytes, to: "local.keys")
            let error = #expect(throws: LocalKeyFileError.self) {
                try LocalKeyFile.list(at: folder("local.keys"))
            }
            if (keyStart..<keyStart + 64).contains(index), whole[index] ^ 1 != UInt8(ascii: "`") {
                #expect(error?.reason == .damaged)
                let named = error?.summary.contains(made.active.id.description) == true
                #expect(named || error?.summary.contains("cannot be read") == true)
            }
            let digits = keyDigits(String(decoding: whole, as: UTF8.self))
            #expect(error?.description.contains(digits.prefix(8)) == false)
        }
    }

    @Test(
        "a file that its editor made consistent but impossible is damaged",
        arguments: ["state", "twice", "tail"])
    func impossible(_ how: String) throws {
        let folder = TemporaryFolder()
        let path = folder("local.keys")
        try LocalKeyFile.create(at: path, suite: .aes256GCM)
        let keys = try LocalKeys.read(KeyFileAccess(path: path), for: .tool).keys
        switch how {
        case "state":
            let none = LocalKeys(
                id: keys.id, suite: keys.suite, entries: [keys.entries[0].in(.retired)], activeIndex: 0)
            folder.write(try none.textForTests(), to: "local.keys")
        case "twice":
            let twice = LocalKeys(
                id: keys.id, suite: keys.suite, entries: [keys.entries[0], keys.entries[0].in(.added)],
                activeIndex: 0)
            folder.write(try twice.textForTests(), to: "local.keys")
        default:
            folder.write(folder.text(of: "local.keys") + "# more\n", to: "local.keys")
        }
        let error = #expect(throws: LocalKeyFileError.self) { try LocalKeyFile.list(at: path) }
        #expect(error?.reason == .damaged)
    }

    @Test("a full disk leaves nothing behind and says so")
    func fullDisk() async {
        // A limit on the file size fails writes as a full disk does; it is the process's, so it gets one of its own.
        await #expect(processExitsWith: .success) {
            let folder = TemporaryFolder()
            try LocalKeyFile.create(at: folder("old.keys"), suite: .aes256GCM)
            let before = folder.text(of: "old.keys")
            limitFileSize(64)
            do throws(LocalKeyFileError) {
                try LocalKeyFile.create(at: folder("local.keys"), suite: .aes256GCM)
                preconditionFailure("a key file was made in 64 bytes")
            } catch { precondition(error.reason == .unwritable) }
            do throws(LocalKeyFileError) {
                try LocalKeyFile.add(at: folder("old.keys"))
                preconditionFailure("a key file grew within 64 bytes")
            } catch { precondition(error.reason == .unwritable) }
            precondition(folder.names == ["old.keys"])
            precondition(folder.text(of: "old.keys") == before)
        }
    }

    @Test("a directory that is missing or cannot be written is named")
    func noDirectory() {
        let folder = TemporaryFolder()
        let error = #expect(throws: LocalKeyFileError.self) {
            try LocalKeyFile.create(at: folder("none/local.keys"), suite: .aes256GCM)
        }
        #expect(error?.reason == .unwritable)
        #expect(error?.summary.contains(folder("none")) == true)
    }
}

@Suite("UUID")
struct KeyUUIDTests {
    @Test("its text reads back, and it is a random one by its marks")
    func roundTrip() {
        for _ in 0..<100 {
            let uuid = KeyUUID()
            let text = Array(uuid.description.utf8)
            #expect(KeyUUID(uuid.description) == uuid)
            #expect(KeyUUID(in: uuid.bytes, at: 0) == uuid)
            #expect(text[14] == UInt8(ascii: "4"))
            #expect("89ab".utf8.contains(text[19]))
        }
    }

    @Test(
        "other texts are refused",
        arguments: [
            "", "0", "00000000-0000-4000-8000-00000000000", "00000000-0000-4000-8000-0000000000000",
            "00000000-0000-4000-8000-00000000000G", "00000000-0000-4000-8000-00000000000A",
            "00000000_0000-4000-8000-000000000000", "{0000000-0000-4000-8000-000000000000",
        ])
    func refused(_ text: String) { #expect(KeyUUID(text) == nil) }
}

/// Lets no write of this process make a file longer; such a write fails instead of ending the process.
private func limitFileSize(_ bytes: UInt) {
    signal(SIGXFSZ, SIG_IGN)
    var limit = rlimit(rlim_cur: bytes, rlim_max: bytes)
    precondition(unsafe setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit) == 0)
}

private func secret(_ text: String) -> SecretBytes {
    unsafe SecretBytes(copying: Array(text.utf8).span.bytes)
}
