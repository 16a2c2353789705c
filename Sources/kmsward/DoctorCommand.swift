internal import ArgumentParser
internal import Doctor
private import GRPCEngine
private import Lifecycle
private import Observability
private import SocketAcceptance

/// `kmsward doctor`: what kube-apiserver would see.
struct DoctorCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Act as the API server does towards a plugin, and say what is wrong and what to do.",
        discussion: """
            Works with any KMS plugin, not only this one. Calls Version, Status, Encrypt and Decrypt through both APIs, \
            checks the limits that the API server enforces, tries damaged input, and measures latencies. Changes nothing. \
            In kmsward's log the damaged input is three notices. A kmsward is also asked how its keys are: one that still serves \
            from memory looks sound to the API server until its time is over.

            Exit code 0: all is well, or only warnings; 1: the API server cannot work with this plugin.
            """)

    @Option(
        help: ArgumentHelp(
            "The plugin's socket, as in the EncryptionConfiguration's endpoint.",
            discussion: "A path, unix:///path, or @name for an abstract socket.", valueName: "path"),
        completion: .file(), transform: parseSocket)
    var socket = Doctor.Socket.path("/run/kmsward/kms.sock")

    @Option(
        help: ArgumentHelp(
            "What a call may take, such as 3s or 500ms; the EncryptionConfiguration's timeout.",
            valueName: "duration"),
        transform: parseTimeout)
    var timeout = Duration.seconds(3)

    func run() async throws {
        // libgrpc's own words would stand between the findings, which say it better.
        EngineLog.redirect { _ in }
        let engine = EngineThread(name: "doctor")
        var worst = await Doctor(socket: socket, timeout: timeout).examine(on: engine, report: Self.show)
        if worst != .problem {
            for finding in await troubles(on: engine) {
                Self.show(finding)
                worst = max(worst, finding.severity)
            }
        }
        engine.stop()
        switch worst {
        case .ok: print("\nThe API server can work with this plugin.")
        case .warning: print("\nThe API server can work with this plugin; see the warnings.")
        case .problem:
            print("\nThe API server cannot work with this plugin as it is; see the problems above.")
            throw ExitCode.failure
        }
    }

    /// What a kmsward says of its keys that the API server does not see yet; nothing of another plugin.
    private func troubles(on engine: EngineThread) async -> [Finding] {
        let client = Client(engine: engine, target: socket.target)
        var readiness: Readiness?
        do throws(CallFailure) {
            readiness = Readiness(
                try await client.unary(
                    DaemonCalls.readinessPath, ReplyBytes(count: 0) { _ in },
                    deadline: ContinuousClock.now + timeout))
        } catch {
            // Another plugin, or an older one.
        }
        await client.close()
        return (readiness?.checks ?? []).compactMap { check in
            (check.problem ?? check.note).map { Finding(.warning, check.name, $0) }
        }
    }

    private static func show(_ finding: Finding) {
        let mark =
            finding.severity == .ok ? "ok     " : finding.severity == .warning ? "warning" : "PROBLEM"
        let subject = finding.subject + String(repeating: " ", count: max(0, 26 - finding.subject.count))
        print("\(mark)  \(subject)  \(finding.detail)")
        if !finding.remedy.isEmpty {
            print("         \(String(repeating: " ", count: 26))  -> \(finding.remedy)")
        }
    }
}

/// Reads a socket's address of the command line.
func parseSocket(_ text: String) throws -> Doctor.Socket {
    do throws(SocketFailure) {
        switch try SocketAddress(parsing: text, relativePaths: .allowed).name {
        case .path(let path): return .path(path)
        case .abstract(let name): return .abstract(name)
        }
    } catch { throw ValidationError(error.message) }
}

/// Reads a duration of the command line: `3s`, `500ms`.
func parseTimeout(_ text: String) throws -> Duration {
    if text.hasSuffix("ms"), let value = UInt32(text.dropLast(2)), value > 0 {
        return .milliseconds(Int64(value))
    }
    if text.hasSuffix("s"), let value = UInt32(text.dropLast()), value > 0 { return .seconds(Int64(value)) }
    throw ValidationError("write it as 3s or 500ms")
}
