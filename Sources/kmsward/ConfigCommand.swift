internal import ArgumentParser
internal import Configuration
internal import EnvelopeCrypto
private import Events
private import Glibc
private import HTTPTransport
internal import Lifecycle
private import LocalProvider
private import SocketAcceptance

/// `kmsward config ...`: look at a configuration file without serving.
struct ConfigCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "config", abstract: "Check, print and explain configuration files.",
        subcommands: [Check.self, Print.self, Convert.self, Reference.self])

    /// `kmsward config check FILE`.
    struct Check: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "check", abstract: "Report all that is wrong with a configuration file, at once.",
            discussion: """
                Each line is FILE:LINE:COLUMN: what is wrong: what would be right. Exit code 0: usable, perhaps with \
                warnings; 78: broken.
                """)

        @Argument(
            help: ArgumentHelp("The file.", valueName: "file"), completion: .file(), transform: parsePath)
        var file: String

        @Flag(
            help: "Also look up users, groups and files: for the host, and as the user, that the file is for."
        )
        var onThisHost = false

        func run() throws {
            let settings = try loadSettings(file)
            var problems = settings.problems()
            if onThisHost { problems += settings.accounts().diagnostics + settings.unusableKeys() }
            for problem in problems { printError("\(problem)") }
            guard problems.isEmpty else { throw ExitCode.brokenConfiguration }
            print("\(file): ok")
        }
    }

    /// `kmsward config print FILE`.
    struct Print: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "print",
            abstract: "Print the settings in force with a file, defaults included, no secrets.")

        @Argument(
            help: ArgumentHelp("The file.", valueName: "file"), completion: .file(), transform: parsePath)
        var file: String

        func run() throws { print(try loadSettings(file).yaml(), terminator: "") }
    }

    /// `kmsward config convert FILE`.
    struct Convert: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "convert",
            abstract:
                "Print the YAML form of the JSON file of JD Cloud's plugin, secrets in files of their own.",
            discussion: """
                No secret is printed: the comment at the top says which files to make. A YAML file is taken as well.
                """)

        @Argument(
            help: ArgumentHelp("The file.", valueName: "file"), completion: .file(), transform: parsePath)
        var file: String

        @Option(
            help: ArgumentHelp("Where the files with the secrets will be.", valueName: "directory"),
            transform: parsePath)
        var secretsDirectory = "/etc/kmsward"

        func run() throws {
            let (settings, files) = try loadSettings(file).withSecretsInFiles(below: secretsDirectory)
            if !files.isEmpty {
                print("# Make these first, readable for the daemon's user alone, with one value each:")
                for secret in files {
                    print(
                        secret.name.map {
                            "#   (umask 077; jq -rj .\($0) \(Self.word(file)) > \(Self.word(secret.path)))"
                        } ?? "#   \(secret.path)")
                }
                print(
                    "# and give them to that user: chown kmsward \(files.map { Self.word($0.path) }.joined(separator: " "))"
                )
            }
            print(settings.yaml(), terminator: "")
        }

        /// A path as a shell takes it for one word, quoted where it must be.
        private static func word(_ path: String) -> String {
            let isPlain = path.allSatisfy {
                $0.isASCII && ($0.isLetter || $0.isNumber || "/._-+,:@%".contains($0))
            }
            return isPlain ? path : "'" + path.replacing("'", with: #"'\''"#) + "'"
        }
    }

    /// `kmsward config reference`.
    struct Reference: ParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "reference", abstract: "Print the reference page of every option, as Markdown.")

        func run() { print(ConfigurationReference.markdown(), terminator: "") }
    }
}

/// Reads a configuration file; says all that is wrong with it on standard error, and exits 78 if it cannot be used.
func loadSettings(_ file: String) throws -> Settings { try loadMarkedSettings(file).settings }

/// The same, with what tells the content of the file from others.
///
/// `units` are those that systemd passed on, if it is for them.
func loadMarkedSettings(
    _ file: String, _ units: UnitSockets? = nil
) throws -> (settings: Settings, mark: ConfigurationFile.Mark) {
    do throws(ConfigurationError) {
        let bytes = try Settings.read(file)
        let (settings, warnings) = try Settings.load(bytes: bytes, path: file)
        for warning in warnings where units?.leaves(warning) != false {
            complain("\(warning)", .configurationRemark)
        }
        return (settings, ConfigurationFile.mark(of: bytes))
    } catch {
        complain("\(error)", .configurationBroken)
        throw ExitCode.brokenConfiguration
    }
}

extension Settings {
    /// What is wrong with values that only other rooms can judge: the socket's address, the suites of the OpenSSL here.
    func problems() -> [Diagnostic] {
        var problems: [Diagnostic] = []
        do throws(SocketFailure) { _ = try SocketAddress(parsing: socket.path) } catch {
            problems.append(diagnostic(.error, about: "socket.path", error.message))
        }
        for (index, key) in keys.enumerated() where !key.cryptoSuite.isAvailable {
            problems.append(
                diagnostic(
                    .error, about: "keys[\(index)].suite",
                    "the OpenSSL of this machine does not have \(key.suite.rawValue); "
                        + "use sm4-ctr-hmac-sm3, or an OpenSSL that has it"))
        }
        for (index, key) in keys.enumerated() {
            guard case .jdcloud(let jdcloud) = key.provider else { continue }
            for (option, url) in jdcloud.urls {
                do throws(HTTPFailure) { _ = try HTTPOrigin(parsing: url) } catch {
                    problems.append(
                        diagnostic(
                            .error, about: "keys[\(index)].jdcloud.\(option)",
                            "it is neither a host nor an address, perhaps with a port"))
                }
            }
        }
        return problems
    }
}

extension Settings {
    /// What the daemon would say of the files of its keys, as this user.
    func unusableKeys() -> [Diagnostic] {
        keys.enumerated().flatMap { index, key in
            switch key.provider {
            case .local(let local):
                do throws(LocalKeyFileError) { _ = try LocalKeyFile.load(at: local.file) } catch {
                    return [diagnostic(.error, about: "keys[\(index)].local.file", "\(error)")]
                }
                return []
            case .jdcloud: return unreadableFiles(ofKeyAt: index)
            }
        }
    }
}

extension Settings.Key {
    /// The suite as the cryptographic room names it.
    var cryptoSuite: EnvelopeCrypto.Suite {
        switch suite {
        case .aes256GCM: .aes256GCM
        case .sm4CTRHMACSM3: .sm4CTRHMACSM3
        case .sm4GCM: .sm4GCM
        }
    }
}
