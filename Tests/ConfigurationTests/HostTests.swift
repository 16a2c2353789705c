import Glibc
import TestSupport
import Testing

@testable import Configuration

@Suite struct HostTests {
    static let database = AccountDatabase(
        user: { $0 == "kube" ? .number(1001) : .unknown },
        group: {
            $0 == "slow" ? .failed("the directory does not answer") : $0 == "api" ? .number(2002) : .unknown
        })

    private func file(_ options: String) throws -> Settings {
        try settings("keys: [{ name: a, local: { file: /k } }]\n" + options)
    }

    @Test("names become numbers, and the socket's group is allowed by itself")
    func resolves() throws {
        let settings = try file("socket: { owner: kube, group: api }\nallow: { uids: [7, kube], gids: [9] }")
        let (accounts, diagnostics) = settings.accounts(in: Self.database)
        var expected = ResolvedAccounts()
        expected.socketOwner = 1001
        expected.socketGroup = 2002
        expected.allowedUsers = [7, 1001]
        expected.allowedGroups = [9, 2002]
        #expect(accounts == expected)
        #expect(diagnostics.isEmpty)
    }

    @Test("names that are not found are all reported, in the order of the file")
    func reportsUnknownNames() throws {
        let settings = try file("allow: { uids: [nobody-here], gids: [slow] }\nsocket: { owner: ghost }")
        let (accounts, diagnostics) = settings.accounts(in: Self.database)
        #expect(accounts == nil)
        #expect(
            diagnostics.map(\.description) == [
                "f:2:17: error: allow.uids[0]: there is no user \"nobody-here\" here; create it, or write its number",
                "f:2:38: error: allow.gids[0]: group \"slow\" could not be looked up: the directory does not answer",
                "f:3:18: error: socket.owner: there is no user \"ghost\" here; create it, or write its number",
            ])
    }

    @Test("this machine's databases know root, and nobody whom they do not")
    func systemDatabase() {
        #expect(AccountDatabase.system.user("root") == .number(0))
        #expect(AccountDatabase.system.group("root") == .number(0))
        #expect(AccountDatabase.system.user("no such user") == .unknown)
        #expect(AccountDatabase.system.group("no such group") == .unknown)
    }

    @Test("a key file that cannot be read is reported at its option")
    func unreadableKeyFile() throws {
        let settings = try settings(
            "keys: [{ name: a, local: { file: /nowhere/k } }, { name: b, local: { file: / } }]")
        #expect(
            settings.unreadableFiles().map(\.description) == [
                "f:1:34: error: keys[0].local.file: \"/nowhere/k\" cannot be read: No such file or directory"
            ])
    }

    @Test(
        "a configuration file that cannot be read is reported as one line",
        arguments: [
            ("/nowhere/kmsward.yaml", "No such file or directory"), ("/", "Is a directory"),
        ])
    func unreadableConfiguration(_ path: String, _ reason: String) throws {
        let error = #expect(throws: ConfigurationError.self) { try Settings.load(path: path) }
        #expect(error?.description == "\(path): error: the file cannot be read: \(reason)")
    }

    @Test("a file without end is refused at the limit")
    func endlessFile() throws {
        let error = #expect(throws: ConfigurationError.self) { try Settings.load(path: "/dev/zero") }
        #expect(
            error?.description
                == "/dev/zero:1:1: error: the file is larger than 1048576 bytes; "
                + "a configuration file needs a few thousand")
    }

    @Test("a file is loaded with its warnings, and refused with all its mistakes")
    func loads() throws {
        let folder = TemporaryFolder()
        folder.write(
            "keys: [{ name: a, local: { file: /k } }]\nmemory: { dumpable: true }", to: "good.yaml")
        let (settings, warnings) = try Settings.load(path: folder("good.yaml"))
        #expect(settings.memory.dumpable)
        #expect(warnings.map(\.severity) == [.warning])
        folder.write("log: { level: x }\n", to: "bad.yaml")
        let error = #expect(throws: ConfigurationError.self) { try Settings.load(path: folder("bad.yaml")) }
        #expect(error?.diagnostics.map(\.position.mark?.line) == [1, 1])
    }
}
