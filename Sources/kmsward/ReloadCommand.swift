internal import ArgumentParser
internal import Doctor
private import GRPCEngine
private import Lifecycle

/// `kmsward reload`: has the running daemon read its configuration anew, and waits for what becomes of it.
struct ReloadCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "reload",
        abstract: "Have the running daemon take its changed configuration, and say what became of it.",
        discussion: """
            Waits until the new configuration is in effect, or refused with every reason; then the former one goes on. Keys that \
            are new or changed must show that they work first, which takes 20 s at most. Whoever may connect to the socket may \
            ask. `systemctl reload kmsward` does this.

            Exit code 0: the daemon goes by the file, but for what the output says waits for a restart; 1: refused, or the \
            daemon cannot be reached.
            """)

    @Option(
        help: ArgumentHelp(
            "The daemon's socket.", discussion: "A path, unix:///path, or @name for an abstract socket.",
            valueName: "path"),
        completion: .file(), transform: parseSocket)
    var socket = Doctor.Socket.path("/run/kmsward/kms.sock")

    @Option(
        help: ArgumentHelp("How long to wait for the daemon, such as 60s.", valueName: "duration"),
        transform: parseTimeout)
    var timeout = Duration.seconds(60)

    /// For a look at a socket where nobody has answered.
    private static let patience = Duration.seconds(1)

    func run() async throws {
        let start = ContinuousClock.now
        // libgrpc's own words would stand beside ours, which say it better.
        EngineLog.redirect { _ in }
        let engine = EngineThread(name: "reload")
        let client = Client(engine: engine, target: socket.target)
        let result: Result<ReloadReport, CallFailure>
        do throws(CallFailure) {
            let reply = try await client.unary(
                DaemonCalls.reloadPath, ReplyBytes(count: 0) { _ in }, deadline: start + timeout,
                waitsForReady: false)
            result = ReloadReport(reply).map(Result.success) ?? .failure(CallFailure(.unimplemented, ""))
        } catch { result = .failure(error) }
        await client.close()
        engine.stop()
        switch result {
        case .success(let report): try show(report)
        case .failure(let failure): throw Self.failed(words(failure))
        }
    }

    private func show(_ report: ReloadReport) throws {
        for warning in report.warnings { printError(warning) }
        switch report.result {
        case .applied: print("the new configuration is in effect: \(report.changes)")
        case .unchanged where report.waiting.isEmpty:
            print("the configuration is read again, and is as before")
        case .unchanged: break  // what has changed waits, as said below
        case .refused:
            for reason in report.reasons { printError(reason) }
            printError("the new configuration is refused; the former one goes on")
        }
        if !report.waiting.isEmpty {
            let rest = report.result == .unchanged ? "; all else is as before" : ""
            printError("restart to apply: \(report.waiting.joined(separator: ", "))\(rest)")
        }
        guard report.result != .refused else { throw ExitCode.failure }
    }

    private func words(_ failure: CallFailure) -> String {
        switch failure.code {
        // Nobody reached, perhaps: a look at the socket itself says it better than libgrpc.
        case .unavailable: socket.obstacle(within: Self.patience) ?? failure.message
        case .unimplemented:
            "who listens there knows no reload: is it a kmsward, and as new as this one? Else send it SIGHUP"
        case .deadlineExceeded:
            socket.obstacle(within: Self.patience)
                ?? "the daemon has not answered in time; its log says what becomes of the reload"
        default: failure.message
        }
    }

    private static func failed(_ why: String) -> ExitCode {
        printError("kmsward: cannot reload: \(why)")
        return .failure
    }
}
