// kmsward: the command line. It parses, wires the rooms together, and exits; every decision is made in a room.

internal import ArgumentParser

/// The root command.
@main struct Kmsward: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "kmsward",
        abstract: "A Kubernetes KMS plugin: wraps and unwraps the keys that encrypt a cluster's Secrets.",
        discussion: """
            kube-apiserver calls `kmsward serve` over a UNIX socket. To try it: kmsward serve --dev, and in another \
            terminal: kmsward doctor --socket .run/kms.sock.
            """,
        version: Version.current,
        subcommands: [
            Serve.self, ReloadCommand.self, DoctorCommand.self, ExplainCommand.self, ConfigCommand.self,
            KeyCommand.self, MetricsCommand.self, VersionCommand.self,
        ])
}

extension Kmsward {
    /// Says what is wrong with the options of a subcommand, as ArgumentParser says what it finds itself: what is thrown
    /// in `run` would come with the usage of the root.
    static func wrongUsage(of command: any ParsableCommand.Type, _ message: String) -> ExitCode {
        printError("Error: \(message)\nUsage: \(usageString(for: command))")
        let name = command.configuration.commandName ?? ""
        printError("  See 'kmsward \(name) --help' for more information.")
        return .validationFailure
    }
}

/// Reads a path of the command line; nothing is none, and must not come to mean the current directory.
func parsePath(_ text: String) throws -> String {
    guard !text.isEmpty else { throw ValidationError("the path is empty") }
    return text
}

/// `kmsward version`.
struct VersionCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "version", abstract: "Print the version.")

    func run() { print("kmsward \(Version.current)") }
}

/// What this build is.
enum Version {
    /// Semantic version; also the runtime_version that v1beta1 Version reports.
    static let current = "0.1.0"
}

/// Exit codes besides 0 and ArgumentParser's 64 for wrong usage.
extension ExitCode {
    /// The configuration is broken: a restart does not help (EX_CONFIG; systemd is told not to hurry).
    static let brokenConfiguration = ExitCode(78)
}
