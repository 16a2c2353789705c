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

    func run() async throws {
        let start = ContinuousClock.now
        if let obstacle = socket.obstacle(within: timeout) { throw Self.failed(obstacle) }
        // libgrpc's own words would stand beside ours, which say it better.
        EngineLog.redirect { _ in }
        let engine = EngineThread(name: "reload")
        let client = Client(engine: engine, target: socket.target)
        let result: Result<ReloadReport, CallFailure>
        do throws(CallFailure) {
            let reply = try await client.unary(
                DaemonCalls.reloadPath, ReplyBytes(count: 0) { _ in }, deadline: start + timeout)
            result = ReloadReport(reply).map(Result.success) ?? .failure(CallFailure(.unimplemented, ""))
        } catch { result = .failure(error) }
        await client.close()
        engine.stop()
        switch result {
        case .success(let report): try show(report)
        case .failure(let failure): throw Self.failed(Self.words(failure))
        }
    }

    private func show(_ report: ReloadReport) throws {
        for warning in report.warnings { printError(warning) }
        switch report.result {
        case .applied: print("the new configuration is in effect: \(report.changes)")
        case .unchanged: print("the configuration is read again, and is as before")
        case .refused:
            for reason in report.reasons { printError(reason) }
            printError("the new configuration is refused; the former one goes on")
        }
        if !report.waiting.isEmpty {
            printError("restart to apply: \(report.waiting.joined(separator: ", "))")
        }
        guard report.result != .refused else { throw ExitCode.failure }
    }

    private static func words(_ failure: CallFailure) -> String {
        switch failure.code {
        case .unimplemented:
            "who listens there knows no reload: is it a kmsward, and as new as this one? Else send it SIGHUP"
        case .deadlineExceeded: "the daemon has not answered in time; its log says what becomes of the reload"
        default: failure.message
        }
    }

    private static func failed(_ why: String) -> ExitCode {
        printError("kmsward: cannot reload: \(why)")
        return .failure
    }
}
