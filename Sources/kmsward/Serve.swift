internal import ArgumentParser
private import Configuration
private import CoreMetrics
private import EnvelopeCrypto
private import Events
private import Glibc
private import KeyService
private import Lifecycle
private import LocalProvider
private import Logging
private import Observability
private import SecureMemory
private import SocketAcceptance
private import StatusPage

/// `kmsward serve`: the daemon.
struct Serve: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve",
        abstract: "Serve the KMS API until told to stop.",
        discussion: """
            Takes a configuration file, or --dev: an embedded key and everything else below one directory, to try things \
            out. Only --dev makes a key file that is missing; otherwise make it with: kmsward key init.

            A changed configuration file is taken while it runs, at once by `kmsward reload` or SIGHUP; a wrong one is refused, \
            and the former one goes on.

            On SIGTERM or SIGINT (Ctrl-C) it finishes the calls in flight, at most for limits.drain; a second one ends it at \
            once.

            Exit code 0: stopped by a signal; 1: could not start, or calls did not end; 64: wrong usage; 78: broken \
            configuration, or a socket from systemd that cannot be served.
            """)

    @Option(
        name: [.customShort("f"), .customLong("config")],
        help: ArgumentHelp("The configuration file.", valueName: "file"), completion: .file(),
        transform: parsePath)
    var config: String?

    @Flag(help: "Serve with an embedded key, for development.")
    var dev = false

    @Option(
        help: ArgumentHelp("With --dev: where socket, key and state are.", valueName: "directory"),
        completion: .directory, transform: parsePath)
    var runDir = ".run"

    @Option(
        help: ArgumentHelp(
            "With --dev: where metrics and health are served, 127.0.0.1:9464 if not said; or off.",
            valueName: "address:port"),
        completion: .list(["127.0.0.1:9464", "off"]))
    var metrics: String?

    /// Throws if the options do not go together.
    ///
    /// Not `validate`: that is asked before an argument too many is found, and its message would hide the mistake.
    private func checkOptions() throws {
        guard dev != (config != nil) else {
            throw Kmsward.wrongUsage(of: Serve.self, "give either --config FILE or --dev")
        }
        guard dev || metrics == nil else {
            throw Kmsward.wrongUsage(
                of: Serve.self, "--metrics goes with --dev; in a configuration it is metrics.listen")
        }
        if let metrics, metrics != "off" {
            do throws(EndpointError) { try HealthEndpoint.check(listen: metrics) } catch {
                throw Kmsward.wrongUsage(of: Serve.self, "--metrics: \(error)")
            }
        }
    }

    func run() async throws {
        try checkOptions()
        _ = signal(SIGPIPE, SIG_IGN)
        // It means to read the configuration anew; one that comes before there is somebody to do it must not end a control
        // plane's plugin. A developer's terminal may: there it means that nobody looks any more.
        if !dev { _ = signal(SIGHUP, SIG_IGN) }
        // What the service manager passed on is its unit's business: a part of the configuration.
        let activated = try failing(.brokenConfiguration) { () throws(SocketFailure) in
            try Activation.take()
        }
        let units = try failing(.brokenConfiguration) { () throws(EndpointError) in try UnitSockets(activated)
        }
        let (settings, mark) = try effectiveSettings(units)
        let hardening = ProcessHardening.apply(dumpable: settings.memory.dumpable)
        let room = try failing(.failure) { () throws(StartFailure) in
            try OpenFiles.makeRoom(for: settings.socket.maxConnections)
        }
        let log = try failing(.failure) { () throws(LogFailure) in
            try LogOutput.bootstrap(format: settings.log.outputFormat, level: settings.log.outputLevel)
        }
        let logger = Logger(label: "kmsward")
        let registry = PrometheusRegistry()
        MetricsSystem.bootstrap(registry)
        log.report(to: registry)
        registry.gauge(Names.Metric.buildInfo, [(Names.Label.version, Version.current)]) { 1 }
        registry.gauge(Names.Metric.memoryLocked) { SecureMemory.isLocked ? 1 : 0 }
        logger.info("starting", metadata: [Names.LogKey.version: "\(Version.current)"])
        for warning in hardening { logger.event(.processReadable, "\(warning)") }
        if let room { logger.event(.openFilesLow, "\(room)") }
        if let warning = SecureMemory.takeWarning() { logger.event(.memoryNotLocked, "\(warning)") }

        let backends = Backends()
        let keys = try await keys(of: settings, backends)
        for key in keys where key.writeFormat == .compatible {
            logger.notice(
                "the key writes compatible: every write and first read needs its service; envelope would do without",
                metadata: [Names.LogKey.key: "\(key.name)"])
        }
        var plan = try settings.plan(activated: activated)
        if let metrics { plan.endpoint = metrics == "off" ? nil : .address(metrics) }
        for remark in units.remarks(on: settings) { logger.event(.configurationRemark, "\(remark)") }
        let file = config.map {
            ConfigurationFile($0, running: settings, judged: mark, units: units, backends: backends, log: log)
        }
        let identity = StatusPage.Identity(
            host: Self.hostName, version: Version.current, startedAt: KeyRing.timeOfDay())
        let daemon = Daemon(
            plan, as: identity, configuration: file, registry: registry, log: log, logger: logger
        ) { executor in
            let ring = KeyRing(settings.ring(of: keys), on: executor, logger: logger)
            let service = KeyService(
                ring: ring, v2Version: settings.api.v2Version == .v2 ? .v2 : .v2beta1,
                runtimeVersion: Version.current)
            return (ring, service)
        }
        let isClean: Bool
        do throws(StartFailure) {
            isClean = try await daemon.run { socket, endpoint in
                if dev {
                    print(Self.welcome(socket: socket, endpoint: endpoint))
                    fflush(nil)  // also where standard output is a file: whoever waits for it reads it now
                }
            }
        } catch {
            logger.event(
                error.isConfiguration ? .configurationBroken : .startFailed,
                "\(error)\(dev ? "; with --dev, see --run-dir and --metrics" : "")")
            await backends.close()
            log.close(within: .seconds(2))
            LogOutput.letJournalLook()
            throw error.isConfiguration ? ExitCode.brokenConfiguration : ExitCode.failure
        }
        await backends.close()
        log.close(within: .seconds(2))
        guard isClean else { throw ExitCode.failure }
    }

    /// The settings of the file with its mark, or those of --dev.
    private func effectiveSettings(_ units: UnitSockets) throws -> (Settings, ConfigurationFile.Mark) {
        guard let config else { return (try Self.development(in: runDir), []) }
        let (settings, mark) = try loadMarkedSettings(config, units)
        let problems = settings.problems()
        for problem in problems { complain("\(problem)", .configurationBroken) }
        guard problems.isEmpty else { throw ExitCode.brokenConfiguration }
        return (settings.withUnitsDirectory(), mark)
    }

    /// The keys; says on standard error which cannot be reached as it is configured, and exits 78.
    private func keys(of settings: Settings, _ backends: Backends) async throws -> [KeySettings] {
        do throws(ConfigurationError) {
            let keys = try await backends.keys(of: settings)
            await backends.run(keys, of: settings)
            return keys
        } catch {
            complain("\(error)", .configurationBroken)
            await backends.close()
            throw ExitCode.brokenConfiguration
        }
    }

    /// Everything below `directory`, with a key made there if none is.
    private static func development(in directory: String) throws -> Settings {
        guard let root = absolute(directory) else {
            printError("kmsward: --run-dir \(directory): the current directory is not there any more")
            throw ExitCode.failure
        }
        if unsafe mkdir(root, 0o700) != 0 && errno != EEXIST {
            let why = unsafe String(cString: strerror(errno))
            printError("kmsward: cannot make \(root): \(why): give another directory with --run-dir")
            throw ExitCode.failure
        }
        let settings = Settings.development(runDirectory: root)
        for case .local(let local) in settings.keys.map(\.provider) {
            do throws(LocalKeyFileError) { try LocalKeyFile.create(at: local.file, suite: .aes256GCM) } catch
            {
                guard error.reason == .exists else {
                    printError("kmsward: \(error)")
                    throw ExitCode.failure
                }
            }
        }
        return settings
    }

    private static var hostName: String {
        var name = [CChar](repeating: 0, count: 256)
        guard unsafe gethostname(&name, name.count - 1) == 0 else { return "this host" }
        return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    private static func absolute(_ path: String) -> String? {
        if path.hasPrefix("/") { return path }
        guard let here = unsafe getcwd(nil, 0) else { return nil }
        defer { unsafe free(here) }
        return unsafe String(cString: here) + "/" + path
    }

    /// What a newcomer needs to see: where it listens, and what to paste where.
    private static func welcome(socket: String, endpoint: String?) -> String {
        let scrape = endpoint.map { "http://\($0)/metrics, /livez, /readyz; / for people" } ?? "off"
        return """

            kmsward \(Version.current) serves the KMS API, with a key for development.

              socket   \(socket)
              metrics  \(scrape)

            Give kube-apiserver --encryption-provider-config=FILE with this in the file:

              apiVersion: apiserver.config.k8s.io/v1
              kind: EncryptionConfiguration
              resources:
                - resources: [secrets]
                  providers:
                    - kms:
                        apiVersion: v2
                        name: kmsward
                        endpoint: unix://\(socket)
                        timeout: 3s
                    - identity: {}

            Try it: \(CommandLine.arguments[0]) doctor --socket \(socket)
            Stop it: Ctrl-C

            """
    }
}

/// Says in one line why something at the start failed, and exits so.
private func failing<R, F: Error & CustomStringConvertible>(
    _ code: ExitCode, _ body: () throws(F) -> R
) throws -> R {
    do throws(F) { return try body() } catch {
        complain("kmsward: \(error)", code == .brokenConfiguration ? .configurationBroken : .startFailed)
        throw code
    }
}
