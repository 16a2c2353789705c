import EnvelopeCrypto
import Events
import Logging
import Observability
import RemoteKMS
import TestSupport
import Testing

@testable import KeyService
@testable import Lifecycle

@Suite struct WatchdogTests {
    @Test(
        "the watchdog is fed only if the engine has answered a probe since the last time",
        arguments: [
            // Whether the engine answers each probe; whether it is fed at each tick. The first has nothing to go by.
            ([true, true, true], [false, true, true, true]),
            ([false, false, false], [false, false, false, false]),
            ([true, false, true], [false, true, false, true]),
        ])
    func pulse(answers: [Bool], fed: [Bool]) {
        var pulse = EnginePulse()
        var answered: UInt64 = 0
        var seen = [pulse.tick(answered: answered) == .feed]
        for answer in answers {
            answered += answer ? 1 : 0
            seen.append(pulse.tick(answered: answered) == .feed)
        }
        #expect(seen == fed)
    }

    @Test(
        "it ticks four times in the interval that the service manager asks for, and goes silent with the engine"
    )
    func service() async throws {
        let manager = RecordingManager(watchdogInterval: .seconds(20))
        let clock = ImpatientClock(sleeps: 5)
        let watchdog = Watchdog(
            engine: ScriptedEngine(answers: [true, true, false, false, false]), manager: manager,
            clock: clock,
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
        try await watchdog.run()
        #expect(manager.told == ["WATCHDOG", "WATCHDOG"])
        #expect(clock.durations.allSatisfy { abs(($0 - .seconds(5)) / .milliseconds(1)) < 1000 })
    }
}

@Suite struct StatusLineTests {
    private func told(
        _ provider: any Provider, clock: ImpatientClock, observed: Bool
    ) async throws -> [String] {
        let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
        let ring = KeyRing(
            KeyRingSettings(keys: [KeySettings(name: "primary", provider: provider, suite: .aes256GCM)]),
            on: PoolExecutor(), logger: logger)
        let manager = RecordingManager()
        let line = StatusLine(
            ring: ring, callsInFlight: { 3 }, longestSilence: .seconds(20), manager: manager,
            state: DaemonState(), clock: clock, epochSeconds: { 1_000 }, logger: logger
        )
        let watching = Task { await ring.run() }
        if observed { _ = await ring.waitForFirstVerdict(atMost: .seconds(60)) }
        try await line.run()
        watching.cancel()
        return manager.told
    }

    @Test("READY=1 follows a verdict even if it is a bad one, and the status says cause and remedy")
    func failedKey() async throws {
        let told = try await told(FailingProvider(), clock: ImpatientClock(sleeps: 1), observed: true)
        let line =
            "serving; key primary FAILED: there is no key file: make one (KW-KEY-MISCONFIGURED); "
            + "3 calls in flight"
        let ready = told.map { $0.replacing("key primary: ", with: "") }.drop { $0.hasPrefix("STARTING") }
        #expect(ready.first == "READY \(line)")
        #expect(ready.count > 1 && ready.dropFirst().allSatisfy { $0 == "STATUS \(line)" })
    }

    @Test("READY=1 does not wait for ever for a backend that does not answer")
    func silentKey() async throws {
        let told = try await told(SilentProvider(), clock: ImpatientClock(sleeps: 1), observed: false)
        // Longer than systemd may have been told to wait.
        #expect(told.first == "STARTING 30.0 seconds starting; key primary not known yet; 3 calls in flight")
        #expect(
            told.first { !$0.hasPrefix("STARTING") }
                == "READY serving; key primary not known yet; 3 calls in flight")
    }
}

@Suite struct KeySnapshotTests {
    /// A snapshot of what matters here.
    private static func snapshot(
        encrypts: Bool, _ state: KeySnapshot.State, trouble: String? = nil, stops: Duration? = nil,
        fails: Bool = false, proof: Int64? = nil, event: Event? = nil
    ) -> KeySnapshot {
        var snapshot = KeySnapshot(
            name: "k", provider: "p", encrypts: encrypts, state: state, keyID: nil, trouble: trouble,
            troubleCode: nil, writesStopIn: stops, writesFail: fails, localKEKAge: nil, localKEKUses: nil,
            lastProof: proof, credentialsEnd: nil, clockOffset: nil)
        snapshot.troubleEvent = event
        return snapshot
    }

    @Test(
        "status line and /readyz say what is ridden through and when writes stop",
        arguments: [
            (snapshot(encrypts: true, .active), "key k ok", nil, nil),
            (snapshot(encrypts: true, .active, proof: 988), "key k ok 12 s ago", nil, nil),
            // The time of day was set back.
            (snapshot(encrypts: true, .active, proof: 1_001), "key k ok 0 s ago", nil, nil),
            (
                snapshot(encrypts: true, .active, trouble: "gone: look", stops: .seconds(83_579)),
                "key k riding through: gone: look; writes stop in 23 h 12 min", nil,
                "riding through: gone: look; writes stop in 23 h 12 min"
            ),
            (
                snapshot(encrypts: true, .active, trouble: "gone", stops: .seconds(3_599)),
                "key k riding through: gone; writes stop in 59 min", nil,
                "riding through: gone; writes stop in 59 min"
            ),
            (
                snapshot(encrypts: true, .active, trouble: "gone", stops: .seconds(59)),
                "key k riding through: gone; writes stop in less than a minute", nil,
                "riding through: gone; writes stop in less than a minute"
            ),
            (
                snapshot(encrypts: true, .active, trouble: "gone", stops: .seconds(90), fails: true),
                "key k writes fail: gone; Status fails in 1 min", nil,
                "writes fail: gone; Status fails in 1 min"
            ),
            (
                snapshot(encrypts: true, .active, trouble: "late"), "key k serves, with trouble: late", nil,
                "serves, with trouble: late"
            ),
            (
                snapshot(encrypts: true, .failed, trouble: "gone", stops: .zero), "key k FAILED: gone",
                "gone", nil
            ),
            (
                snapshot(encrypts: true, .starting), "key k not known yet", "not known yet whether it works",
                nil
            ),
            (snapshot(encrypts: false, .failed, trouble: "gone"), "key k FAILED: gone", nil, "gone"),
            // With the code that is looked up.
            (
                snapshot(
                    encrypts: true, .active, trouble: "gone", stops: .seconds(90), event: .keyUnavailable),
                "key k riding through: gone; writes stop in 1 min (KW-KEY-UNAVAILABLE)", nil,
                "riding through: gone; writes stop in 1 min (KW-KEY-UNAVAILABLE)"
            ),
            (
                snapshot(
                    encrypts: true, .active, trouble: "gone", stops: .seconds(90), fails: true,
                    event: .keyThrottled),
                "key k writes fail: gone; Status fails in 1 min (KW-KEY-THROTTLED)", nil,
                "writes fail: gone; Status fails in 1 min (KW-KEY-THROTTLED)"
            ),
            (
                snapshot(encrypts: true, .active, trouble: "late", event: .keyDenied),
                "key k serves, with trouble: late (KW-KEY-DENIED)", nil,
                "serves, with trouble: late (KW-KEY-DENIED)"
            ),
            (
                snapshot(encrypts: true, .failed, trouble: "gone", event: .keyDisabled),
                "key k FAILED: gone (KW-KEY-DISABLED)", "gone (KW-KEY-DISABLED)", nil
            ),
        ] as [(KeySnapshot, String, String?, String?)])
    func words(_ key: KeySnapshot, _ status: String, _ problem: String?, _ note: String?) {
        #expect(key.status(at: 1_000) == status)
        #expect(key.check == Readiness.Check("key k", problem: problem, note: note))
    }
}
