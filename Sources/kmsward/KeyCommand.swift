internal import ArgumentParser
internal import EnvelopeCrypto
internal import LocalProvider

/// `kmsward key ...`: the key file of the local provider.
struct KeyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "key", abstract: "Make and rotate the key file of the local provider.",
        discussion: """
            Back the file up: without it, every Secret sealed with it is lost. To rotate: key add, copy the file to every \
            control-plane host, then key activate, and copy it again; the daemons notice by themselves.
            """,
        subcommands: [Init.self, Add.self, Activate.self, List.self])

    /// The file that a subcommand works on.
    struct FileOption: ParsableArguments {
        @Option(
            help: ArgumentHelp("The key file.", valueName: "path"), completion: .file(), transform: parsePath)
        var file: String
    }

    /// `kmsward key init`.
    struct Init: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "init",
            abstract: "Make a new key file, readable by its owner alone; never overwrites one.")

        @OptionGroup var target: FileOption

        @Option(
            help: ArgumentHelp(
                "How the file's keys wrap: \(Suite.allCases.map(\.configurationName).joined(separator: ", ")).",
                valueName: "suite"),
            completion: .list(Suite.allCases.map(\.configurationName)), transform: parseSuite)
        var suite = Suite.aes256GCM

        func run() throws {
            let facts = try reporting { () throws(LocalKeyFileError) in
                try LocalKeyFile.create(at: target.file, suite: suite)
            }
            print("made \(target.file): key \(facts.id), version \(facts.active.id) active")
            print("Back this file up now: without it, every Secret sealed with it is lost.")
        }
    }

    /// `kmsward key add`.
    struct Add: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "add", abstract: "Add a version that can decrypt but does not encrypt yet.")

        @OptionGroup var target: FileOption

        func run() throws {
            let version = try reporting { () throws(LocalKeyFileError) in
                try LocalKeyFile.add(at: target.file)
            }
            print("added version \(version.id)")
            print("Copy \(target.file) to every host that serves this key, then:")
            print("  kmsward key activate --file \(target.file) \(version.id)")
        }
    }

    /// `kmsward key activate`.
    struct Activate: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "activate", abstract: "Make an added version the one that encrypts; for good.")

        @OptionGroup var target: FileOption

        @Argument(
            help: ArgumentHelp("The version, as key add printed it.", valueName: "version"),
            transform: parseVersion)
        var version: KeyUUID

        func run() throws {
            let isNew = try reporting { () throws(LocalKeyFileError) in
                try LocalKeyFile.activate(at: target.file, version: version)
            }
            guard isNew else { return print("version \(version) is active already; nothing was changed") }
            print("version \(version) is active; the one before still decrypts")
            print("Copy \(target.file) to every other host too; then let the API server rewrite the Secrets.")
        }
    }

    /// `kmsward key list`.
    struct List: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "list", abstract: "Show the versions in a key file; no secrets.")

        @OptionGroup var target: FileOption

        func run() throws {
            let facts = try reporting { () throws(LocalKeyFileError) in try LocalKeyFile.list(at: target.file)
            }
            print("key      \(facts.id)\nsuite    \(facts.suite.configurationName)")
            for version in facts.versions {
                let state = version.state.rawValue.padding(to: 8)
                print("version  \(version.id)  \(state)  made \(version.createdAt)")
            }
        }
    }
}

/// Reads the name of a key version.
private func parseVersion(_ text: String) throws -> KeyUUID {
    guard let version = KeyUUID(text) else {
        throw ValidationError("a version looks like 01234567-89ab-4cde-8f01-23456789abcd")
    }
    return version
}

/// Reads the name of a suite that the OpenSSL here has.
private func parseSuite(_ name: String) throws -> Suite {
    guard let suite = Suite(configurationName: name) else {
        let known = Suite.allCases.map(\.configurationName).joined(separator: ", ")
        throw ValidationError("there is no suite \"\(name)\"; there are \(known)")
    }
    return suite
}

/// Says in one line what went wrong with a key file, and exits 1.
private func reporting<R>(_ body: () throws(LocalKeyFileError) -> R) throws -> R {
    do throws(LocalKeyFileError) { return try body() } catch {
        printError("kmsward: \(error)")
        throw ExitCode.failure
    }
}

extension String {
    func padding(to width: Int) -> String {
        self + String(repeating: " ", count: max(0, width - count))
    }
}
