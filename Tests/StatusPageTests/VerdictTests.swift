import Events
import Glibc
import Logging
import TestSupport
import Testing

@testable import KeyService
@testable import Observability
@testable import StatusPage

/// A key that is well, but for what is said.
private func key(
    _ state: KeySnapshot.State = .active, name: String = "primary", encrypts: Bool = true,
    trouble: String? = nil, code: String? = nil, stops: Duration? = nil, fails: Bool = false,
    credentials: Int64? = nil, certificate: Int64? = nil, offset: Duration? = nil,
    _ change: (inout KeySnapshot) -> Void = { _ in }
) -> KeySnapshot {
    var key = KeySnapshot(
        name: name, provider: "jdcloud", encrypts: encrypts, state: state, keyID: "kw1.a", trouble: trouble,
        troubleCode: code, writesStopIn: stops, writesFail: fails, localKEKAge: .seconds(90),
        localKEKUses: 12,
        lastProof: 988, credentialsEnd: credentials, clockOffset: offset, version: "v7", suite: "aes-256-gcm",
        writeFormat: "envelope", certificateEnd: certificate,
        troubleEvent: code == "unavailable" ? .keyUnavailable : nil)
    change(&key)
    return key
}

/// A report of the second 1000 that has nothing bad to say, but for what `change` does to it.
private func report(_ keys: [KeySnapshot] = [key()], _ change: (inout Report) -> Void = { _ in }) -> Report {
    var report = Report(identity: .init(host: "cp-1", version: "9.9", startedAt: 100), now: 1000)
    report.keys = keys
    report.connections = 1
    report.readiness = Readiness([Readiness.Check("key primary")])
    change(&report)
    return report
}

/// A report whose readiness is what the daemon makes of it.
private func judged(
    _ keys: [KeySnapshot], isStopping: Bool = false, _ change: (inout Report) -> Void = { _ in }
) -> Report {
    var checks = [Readiness.Check("daemon", problem: isStopping ? "stopping" : nil)]
    checks += keys.isEmpty ? [Readiness.Check("keys", problem: "starting")] : []
    for key in keys {
        let isBad = key.encrypts && key.state != .active
        checks.append(
            Readiness.Check("key \(key.name)", problem: isBad ? key.trouble ?? "not known yet" : nil))
    }
    return report(keys) {
        $0.isStopping = isStopping
        $0.readiness = Readiness(checks)
        change(&$0)
    }
}

struct VerdictTests {
    @Test(
        "the headline says how it is, and each finding whose fault it is",
        arguments: [
            (judged([key()]), .well, "Serving", []),
            (judged([key()], isStopping: true), .trouble, "Stopping: calls in flight may finish", []),
            (judged([]), .trouble, "Starting: not known yet whether the key works", []),
            (judged([key(.starting)]), .trouble, "Starting: not known yet whether the key works", []),
            (
                judged([key(trouble: "no answer", code: "unavailable", stops: .seconds(83_579))]), .trouble,
                "Serving, but not all is well",
                [
                    (
                        "Key-management service, or the way to it",
                        "key primary: no answer; writes stop in 23 h 12 min"
                    )
                ]
            ),
            (
                judged([key(trouble: "no answer", code: "deadlineExceeded", stops: .seconds(60), fails: true)]
                ) {
                    $0.openBreakers = ["primary"]
                }, .down, "Writes fail; what is in memory can be read",
                [
                    (
                        "Key-management service, or the way to it",
                        "key primary: no answer; writes fail already; its service is left alone for now"
                    )
                ]
            ),
            (
                judged([key(.failed, trouble: "expired", code: "unauthenticated")]), .down,
                "Not ready: Secrets cannot be written, perhaps not read",
                [("Credentials, or this host's clock", "key primary: expired")]
            ),
            (
                judged([
                    key(),
                    key(.failed, name: "old", encrypts: false, trouble: "disabled", code: "keyDisabled"),
                ]),
                .trouble, "Serving, but not all is well",
                [("The key at the key-management service", "key old: disabled")]
            ),
            (judged([key(), key(.starting, name: "old", encrypts: false)]), .well, "Serving", []),
            (
                report { $0.readiness = Readiness([Readiness.Check("socket", problem: "lost")]) }, .down,
                "Not ready: Secrets cannot be written, perhaps not read", [("socket", "lost")]
            ),
        ] as [(Report, Verdict.Level, String, [(String, String)])])
    func verdicts(report: Report, level: Verdict.Level, headline: String, findings: [(String, String)]) {
        let verdict = Verdict(report)
        #expect(verdict.level == level && verdict.headline == headline)
        #expect(verdict.findings.map(\.whose) == findings.map(\.0))
        #expect(verdict.findings.map(\.what) == findings.map(\.1))
    }

    /// Each alert, and what makes the page say the same of this plugin; nil with the reason why it cannot.
    private static let alerts: [(String, (just: Report, not: Report)?, String)] = [
        ("KmswardDown", nil, "a daemon that does not answer shows no page; the script says so"),
        ("KmswardAbsent", nil, "of Prometheus, not of a plugin"),
        ("KmswardRestarting", nil, "the page's memory begins with the daemon"),
        ("KmswardFormerKeyInUse", nil, "goes by seven days"),
        ("KmswardKeyIDDiffers", nil, "of several control planes"),
        ("KmswardEpochDiffers", nil, "of several control planes"),
        ("KmswardSuiteDiffers", nil, "of several control planes"),
        ("KmswardNotReady", (judged([key(.failed, trouble: "gone")]), judged([key()])), ""),
        (
            "KmswardRidingThrough", (judged([key(trouble: "gone", stops: .seconds(9000))]), judged([key()])),
            ""
        ),
        ("KmswardWritesStopSoon", (judged([key(trouble: "gone", stops: .seconds(60))]), judged([key()])), ""),
        ("KmswardUnauthorised", (judged([key(trouble: "no", code: "unauthenticated")]), judged([key()])), ""),
        ("KmswardKeyDisabled", (judged([key(trouble: "no", code: "keyDisabled")]), judged([key()])), ""),
        (
            "KmswardKeyMisconfigured", (judged([key(trouble: "no", code: "misconfigured")]), judged([key()])),
            ""
        ),
        ("KmswardBreakerOpen", (judged([key(trouble: "no", code: "unavailable")]), judged([key()])), ""),
        ("KmswardCallsFailing", (lately { $0.failedCalls = 1 }, lately { $0.failedCalls = 0 }), ""),
        (
            "KmswardNotCalled",
            (lately { $0.calls = 0 }, lately { $0.calls = 1 }), ""
        ),
        (
            "KmswardCallsSlow",
            (
                lately { $0.slowCalls = [(3, 20), (3, 100), (3, 100)] },
                lately { $0.slowCalls = [(3, 21), (3, 50), (3, 50)] }
            ), ""
        ),
        (
            "KmswardCallsSlow",
            (
                lately { $0.slowCalls = [(0, 10), (7, 100), (7, 200)] },
                lately { $0.slowCalls = [(2, 2), (2, 2), (2, 2)] }
            ), ""
        ),
        ("KmswardObjectsUnreadable", (lately { $0.unreadable = 11 }, lately { $0.unreadable = 10 }), ""),
        ("KmswardThrottled", (lately { $0.throttled = 1 }, lately { $0.throttled = 0 }), ""),
        ("KmswardPeersRefused", (lately { $0.refused = 1 }, lately { $0.refused = 0 }), ""),
        (
            "KmswardCredentialsExpiring",
            (judged([key(credentials: 1179)]), judged([key(credentials: 1180)])), ""
        ),
        (
            "KmswardCertificateExpiring",
            (judged([key(certificate: 999 + 14 * 86_400)]), judged([key(certificate: 1000 + 14 * 86_400)])),
            ""
        ),
        (
            "KmswardProbeStale",
            (
                judged([key { $0.lastProbe = 639 }]) { $0.probeIntervals = ["primary": 30] },
                judged([key { $0.lastProbe = 640 }]) { $0.probeIntervals = ["primary": 30] }
            ), ""
        ),
        (
            "KmswardLocalKEKTooOld",
            (
                judged([key { $0.localKEKMaximumAge = .seconds(81) }]),
                judged([key { $0.localKEKMaximumAge = .seconds(82) }])
            ), ""
        ),
        ("KmswardClockOff", (judged([key(offset: .seconds(-61))]), judged([key(offset: .seconds(60))])), ""),
        ("KmswardReloadRefused", (judged([key()]) { $0.isLastReloadRefused = true }, judged([key()])), ""),
        ("KmswardAcceptingPaused", (judged([key()]) { $0.isAcceptingPaused = true }, judged([key()])), ""),
        ("KmswardMemoryNotLocked", (judged([key()]) { $0.isMemoryLocked = false }, judged([key()])), ""),
    ]

    private static func lately(_ change: (inout Report.Lately) -> Void) -> Report {
        judged([key()]) { change(&$0.lately) }
    }

    @Test(
        "what an alert says of one plugin, its page says too, from the same threshold on, or there is a reason why not"
    )
    func alerts() {
        let rules = Repository.text("ops/prometheus/kmsward.rules.yml")
        let named = rules.split(separator: "\n").compactMap { line in
            line.split(separator: "- alert: ").count == 2
                ? line.split(separator: "- alert: ").last.map(String.init) : nil
        }
        #expect(Set(named) == Set(Self.alerts.map(\.0)), "alerts of the rules, and those told of here")
        for (alert, reports, reason) in Self.alerts {
            guard let reports else {
                #expect(!reason.isEmpty, "\(alert)")
                continue
            }
            // Trouble of a key has the runbook of its class, whichever of its alerts it is.
            let pages = Verdict(reports.just).findings.map { $0.runbook ?? "" }
            let isTrouble = reports.just.keys.contains { $0.trouble != nil }
            #expect(isTrouble ? pages.count == 1 : pages == [alert], "\(alert): \(pages)")
            #expect(Verdict(reports.not).level == .well, "\(alert)")
        }
    }

    @Test("that no API server calls is said after a while, also where others are refused")
    func nobody() {
        func findings(_ change: (inout Report) -> Void) -> [String] {
            Verdict(
                judged([key()]) {
                    $0.now = 10_000
                    $0.identity = .init(host: "cp-1", version: "9.9", startedAt: 9_399)
                    $0.lately.calls = 0
                    change(&$0)
                }
            ).findings.map(\.whose)
        }
        #expect(findings { _ in } == ["API server"])
        #expect(findings { $0.lately.calls = 1 } == [])
        #expect(findings { $0.identity = .init(host: "cp-1", version: "9.9", startedAt: 9_400) } == [])
        #expect(findings { $0.lately.refused = 2 } == ["API server, or whoever else connects", "API server"])
    }

    @Test("a finding names the code to look up, where there is one")
    func code() {
        let finding = Verdict(report([key(trouble: "x", code: "unavailable")])).findings.first
        #expect(finding?.event == .keyUnavailable && finding?.runbook == "KW-KEY-UNAVAILABLE")
    }

    @Test("the events are named as the reason only where they are, and log.level only where it hides them")
    func reasons() {
        let refused = RecentEvents()
        refused.add(
            LogRecord(
                time: Timestamp(seconds: 1), level: .error, logger: "l", message: "no",
                metadata: ["event": "KW-CONFIG-REFUSED"], file: "f", function: "g", line: 1))
        for (events, hides, end) in [
            (refused.latest, true, "; the events below say why"),
            (refused.latest, false, "; the events below say why"),
            ([], true, "; log.level hides why"), ([], false, "goes on"),
        ] {
            let verdict = Verdict(
                judged([key()]) {
                    ($0.isLastReloadRefused, $0.events, $0.hidesEvents) = (true, events, hides)
                })
            #expect(verdict.findings.first?.what.hasSuffix(end) == true, "\(end)")
        }
    }

    @Test("every class of trouble has somebody to blame", arguments: Names.Value.troubles)
    func blame(code: String) {
        // What cannot be read says nothing of the service: it is the key, or what was written.
        #expect((Verdict.blame(for: code) == "Key") == (code == "invalidCiphertext"))
    }
}

struct LayoutTests {
    private func page(_ report: Report) -> String { Layout(report: report).document.text }

    @Test("what a service, a peer or a host said is shown as text, wherever it stands")
    func hostile() {
        let evil = "<img src=x onerror=alert(1)>\"'"
        let recent = RecentEvents()
        for _ in 0..<3 {
            recent.add(
                LogRecord(
                    time: Timestamp(seconds: 900), level: .error, logger: "l", message: evil,
                    metadata: ["event": "KW-KEY-DENIED"], file: "f", function: "g", line: 1))
        }
        var hostile = report([key(name: evil, trouble: evil, code: "unavailable", stops: .seconds(60))])
        hostile.identity = .init(host: evil, version: evil, startedAt: 100)
        hostile.events = recent.latest
        hostile.readiness = Readiness([Readiness.Check(evil, problem: evil)])
        let text = page(hostile)
        #expect(!text.contains("<img"))
        #expect(text.contains("&lt;img src=x onerror=alert(1)&gt;&quot;&#39;"))
        #expect(text.contains("3 times since"))
    }

    @Test("a page without keys, events and history says so")
    func empty() {
        let text = page(report([]))
        for words in ["None is known yet.", "None since the start."] { #expect(text.contains(words)) }
    }

    @Test("a key's card tells its role, its age and what it writes, and says in words how it is")
    func card() {
        let text = page(report([key(credentials: 4600)]))
        for words in [
            "primary <span class=\"state\">well</span>", "encrypts and decrypts", "12 s ago",
            "<code>kw1.a</code>",
            "<code>v7</code>", "envelope, aes-256-gcm, epoch 0", "1 min old", "in 1 h",
        ] { #expect(text.contains(words), "\(words)") }
    }

    @Test(
        "the policy allows the page's own style and script by their digests, and nothing else to run or load")
    func policy() throws {
        let registry = PrometheusRegistry(process: false)
        let nowhere = unsafe open("/dev/null", O_WRONLY)
        let log = try LogOutput(format: .text, level: .info, sink: .stream(fd: nowhere))
        defer {
            log.close(within: .seconds(10))
            close(nowhere)
        }
        let page = try StatusPage(
            of: .init(host: "h", version: "1", startedAt: 0),
            from: .init(keys: { [] }, readiness: { Readiness() }, isStopping: { false }, epochSeconds: { 1 }),
            registry: registry, log: log, history: History(of: registry) { .zero }
        ).render()
        #expect(page.policy.hasPrefix("default-src 'none'; ") && !page.policy.contains("unsafe"))
        let html = String(decoding: page.html, as: UTF8.self)
        for (element, directive) in [("style", "style-src"), ("script", "script-src")] {
            let content = try #require(
                html.split(separator: "<\(element)>").last?.split(separator: "</\(element)>").first)
            #expect(page.policy.contains("\(directive) \(try Policy.source(Array(content.utf8)));"))
        }
    }
}
