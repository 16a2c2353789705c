import EnvelopeCrypto
import GRPCEngine
import InMemoryLogging
import Logging
import Observability
import RemoteKMS
import SocketAcceptance
import Synchronization
import TestSupport
import Testing

@testable import KeyService
@testable import Lifecycle

@Suite struct ContentWatchTests {
    @Test(
        "a content is taken when it is seen twice in a row and is not the one that was judged",
        arguments: [
            // What is judged; what is seen; at which looks it is taken.
            ("a", "aaaa", []), ("a", "ab", []), ("a", "abb", [2]), ("a", "abcbb", [4]), ("a", "abcdef", []),
            ("a", "abab", []), ("a", "abba", [2]), ("", "aa", [1]),
        ] as [(String, String, [Int])])
    func settling(_ judged: String, _ seen: String, _ taken: [Int]) {
        var watch = ContentWatch()
        let judged = Array(judged.utf8)
        let looks = seen.utf8.map { watch.sees([$0], judged: judged) }
        #expect(looks.indices.filter { looks[$0] } == taken)
    }
}

/// A configuration whose contents are one letter each, and which does what the test says.
private actor ScriptedConfiguration: LiveConfiguration {
    private var content: Mark
    private(set) var judged: Mark
    private var reports: [ReloadReport]
    private(set) var reloads = 0
    private(set) var tidied = 0

    init(_ content: Character, _ reports: [ReloadReport]) {
        self.content = Array(String(content).utf8)
        judged = self.content
        self.reports = reports
    }

    func becomes(_ content: Character) { self.content = Array(String(content).utf8) }
    func look() -> Mark { content }
    func tidy() { tidied += 1 }

    func reload(_ daemon: RunningDaemon) -> ReloadReport {
        judged = content
        reloads += 1
        return reports.isEmpty ? ReloadReport(.unchanged) : reports.removeFirst()
    }
}

/// A clock that the test lets tick.
private final class TickingClock: Clock {
    typealias Duration = Swift.Duration
    typealias Instant = ContinuousClock.Instant

    private let ticks: AsyncStream<Void>
    private let sink: AsyncStream<Void>.Continuation
    let now = ContinuousClock.now
    let minimumResolution = Duration.zero

    init() { (ticks, sink) = AsyncStream.makeStream() }

    func tick() { sink.yield() }

    func sleep(until deadline: Instant, tolerance: Duration?) async throws {
        for await _ in ticks { return }
        throw CancellationError()
    }
}

@Suite("Reloads of the configuration", .timeLimit(.minutes(1)))
struct ReloadingTests {
    private struct Rig {
        let configuration: ScriptedConfiguration
        let clock = TickingClock()
        let registry = PrometheusRegistry(process: false)
        let log = InMemoryLogHandler()
        let hangUp: AsyncStream<Void>.Continuation
        let requests = ReloadRequests()
        let manager = RecordingManager()
        let state = DaemonState()
        let acceptor: SocketAcceptor
        let service: Reloading<AsyncStream<Void>>

        init(_ reports: [ReloadReport]) throws {
            configuration = ScriptedConfiguration("a", reports)
            let (hangups, hangUp) = AsyncStream<Void>.makeStream()
            self.hangUp = hangUp
            let log = log
            let logger = Logger(label: "test") { _ in log }
            let ring = KeyRing(
                KeyRingSettings(
                    keys: [KeySettings(name: "primary", provider: FailingProvider(), suite: .aes256GCM)]),
                on: PoolExecutor(), logger: logger)
            acceptor = try SocketAcceptor(
                policy: PeerPolicy(), engine: ScriptedEngine(answers: []), logger: logger
            ) { _ in }
            service = Reloading(
                configuration: configuration, daemon: RunningDaemon(ring: ring, acceptor: acceptor),
                hangups: hangups, requests: requests, manager: manager, state: state, clock: clock,
                epochSeconds: { 1_000 },
                metrics: ReloadMetrics(factory: registry), logger: logger)
        }

        /// Runs the service while `body` runs.
        func running(_ body: () async throws -> Void) async throws {
            let run = Task { try await service.run() }
            try await body()
            run.cancel()
            try await run.value
            await acceptor.close()
        }

        func value(_ series: String) -> String? {
            String(decoding: registry.render(.text), as: UTF8.self).split(separator: "\n")
                .first { $0.hasPrefix("\(series) ") }.map { String($0.dropFirst(series.count + 1)) }
        }

        func until(reloads: Int) async { while await configuration.reloads < reloads { await Task.yield() } }
        func until(looks: Int) async { while await configuration.tidied < looks { await Task.yield() } }

        func logged(_ level: Logger.Level) -> [String] {
            log.entries.filter { $0.level == level }.map { entry in
                let data = entry.metadata.map { "\($0.key)=\($0.value)" }.sorted()
                return ([entry.message.description] + data).joined(separator: " | ")
            }
        }
    }

    @Test("SIGHUP reloads at once, though the file is the same")
    func hangup() async throws {
        let rig = try Rig([ReloadReport(.applied, changes: "log.level")])
        try await rig.running {
            rig.hangUp.yield()
            rig.hangUp.yield()
            await rig.until(reloads: 2)
            while rig.value("kmsward_config_reloads_total{result=\"unchanged\"}") != "1" {
                await Task.yield()
            }
        }
        #expect(rig.value("kmsward_config_reloads_total{result=\"applied\"}") == "1")
        #expect(
            rig.logged(.notice) == [
                "the new configuration is in effect | changes=log.level | event=KW-CONFIG-TAKEN"
            ])
        #expect(rig.logged(.info) == ["the configuration is read again, and is as before"])
    }

    @Test("a changed file is taken at the second look that finds it the same, and a refused one not again")
    func change() async throws {
        let rig = try Rig([
            ReloadReport(
                .refused, reasons: ["f:1:2: error: no", "f:3:4: error: nor this"],
                warnings: ["f:1:1: warning: w"])
        ])
        try await rig.running {
            rig.clock.tick()
            await rig.until(looks: 1)
            await rig.configuration.becomes("b")
            rig.clock.tick()
            await rig.until(looks: 2)
            #expect(await rig.configuration.reloads == 0)
            for look in 3...6 {
                rig.clock.tick()
                await rig.until(looks: look)
                #expect(await rig.configuration.reloads == 1)
            }
            #expect(rig.value("kmsward_config_last_reload_successful") == "0")
            await rig.configuration.becomes("a")
            for look in 7...8 {
                rig.clock.tick()
                await rig.until(looks: look)
            }
            #expect(await rig.configuration.reloads == 2)
        }
        #expect(rig.value("kmsward_config_reloads_total{result=\"refused\"}") == "1")
        #expect(rig.value("kmsward_config_last_reload_successful") == "1")
        #expect(rig.value("kmsward_config_last_reload_success_timestamp_seconds") == "1000")
        #expect(
            rig.logged(.error) == [
                "the new configuration was looked through | cause=f:3:4: error: nor this "
                    + "| event=KW-CONFIG-REFUSED",
                "the new configuration is refused; the former one goes on | event=KW-CONFIG-REFUSED "
                    + "| reason=f:1:2: error: no | remedy=correct it; if what it names came later: kmsward reload",
            ])
        #expect(
            rig.logged(.warning) == [
                "the new configuration was looked through | cause=f:1:1: warning: w "
                    + "| event=KW-CONFIG-REMARK"
            ])
    }

    @Test("what waits for a restart is named in one warning")
    func waiting() async throws {
        let rig = try Rig([
            ReloadReport(
                .applied, changes: "log.level", waiting: ["socket.path", "limits.drain"],
                warnings: ["f: warning: w"])
        ])
        try await rig.running {
            rig.hangUp.yield()
            while rig.logged(.warning).count < 2 { await Task.yield() }
        }
        #expect(
            rig.logged(.warning) == [
                "the new configuration was looked through | cause=f: warning: w | event=KW-CONFIG-REMARK",
                "restart to apply: these options do not change while the daemon runs | changes=socket.path, limits.drain "
                    + "| event=KW-CONFIG-WAITS",
            ])
    }

    @Test("where everything that has changed waits for a restart, nothing says that nothing has changed")
    func onlyWaiting() async throws {
        let rig = try Rig([ReloadReport(.unchanged, waiting: ["limits.drain"])])
        try await rig.running {
            rig.hangUp.yield()
            while rig.logged(.warning).isEmpty { await Task.yield() }
        }
        #expect(
            rig.logged(.warning) == [
                "restart to apply: these options do not change while the daemon runs | changes=limits.drain "
                    + "| event=KW-CONFIG-WAITS"
            ])
        #expect(rig.logged(.info).isEmpty)
    }

    @Test("every result has its series from the start, and the start counts as a success")
    func series() async throws {
        let rig = try Rig([])
        try await rig.running {
            while rig.value("kmsward_config_last_reload_successful") == nil { await Task.yield() }
        }
        for result in ["applied", "unchanged", "refused"] {
            #expect(rig.value("kmsward_config_reloads_total{result=\"\(result)\"}") == "0")
        }
        #expect(Names.Value.reloads == ReloadReport.Result.allCases.map(\.rawValue))
        #expect(Names.Value.troubles.sorted() == RemoteKMSError.Code.allCases.map(\.rawValue).sorted())
    }

    @Test("all who ask are answered by one reload, and the service manager knows of it")
    func asked() async throws {
        let report = ReloadReport(.applied, changes: "log.level", waiting: ["socket.path"])
        let rig = try Rig([report])
        rig.state.announceReadiness()
        let both = (0..<2).map { _ in Task { await rig.requests.reload() } }
        while rig.requests.count < 2 { await Task.yield() }
        try await rig.running {
            for one in both { #expect(await one.value == report) }
            #expect(await rig.requests.reload()?.result == .unchanged, "who asks later has another one")
        }
        #expect(await rig.configuration.reloads == 2)
        #expect(rig.manager.told == ["RELOADING", "RELOADED", "RELOADING", "RELOADED"])
        #expect(await rig.requests.reload() == nil, "the daemon has ended")
    }

    @Test(
        "a reload before READY=1, or cut short by the stop, says READY=1 in nobody's place",
        arguments: [false, true])
    func notReady(isStopping: Bool) async throws {
        let rig = try Rig([ReloadReport(.applied, changes: "log.level")])
        if isStopping {
            rig.state.announceReadiness()
            rig.state.beginStopping()
        }
        try await rig.running { #expect(await rig.requests.reload()?.result == .applied) }
        #expect(rig.manager.told == [])
    }

    @Test("who gives up ends its own wait alone")
    func givesUp() async throws {
        let rig = try Rig([ReloadReport(.applied, changes: "log.level")])
        let patient = Task { await rig.requests.reload() }
        let impatient = Task { await rig.requests.reload() }
        while rig.requests.count < 2 { await Task.yield() }
        impatient.cancel()
        #expect(await impatient.value == nil)
        try await rig.running { #expect(await patient.value?.result == .applied) }
    }

    @Test("a report crosses the socket whole, but for what is too long to read")
    func report() throws {
        var report = ReloadReport(
            .refused, changes: "", waiting: ["socket.path"], reasons: (1...60).map { "f:\($0):1: error: no" },
            warnings: ["f: warning: \"\u{fc}ber\""])
        let bytes = try encoded(report.shortened)
        let read = ReloadReport(bytes.withBytes { MessageBytes(copying: $0) })
        report.reasons = report.reasons.prefix(50) + ["and 10 more: see the log"]
        #expect(read == report)
        let readiness = Readiness([
            .init("daemon"), .init("key a", problem: "gone"), .init("key b", note: "late"),
        ])
        let answer = try encoded(readiness)
        let same = Readiness(answer.withBytes { MessageBytes(copying: $0) })
        #expect(same == readiness)
        let foreign = Array("no report".utf8)
        let isTaken = ReloadReport(MessageBytes(copying: unsafe foreign.span.bytes)) != nil
        #expect(!isTaken)
    }
}
