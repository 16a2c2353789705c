import Events
import Logging
import Testing

@testable import KeyService
@testable import Observability
@testable import StatusPage

/// A key that is well, but for what is said.
private func key(
    _ state: KeySnapshot.State = .active, name: String = "primary", encrypts: Bool = true,
    trouble: String? = nil, code: String? = nil, stops: Duration? = nil, fails: Bool = false,
    credentials: Int64? = nil, certificate: Int64? = nil
) -> KeySnapshot {
    KeySnapshot(
        name: name, provider: "jdcloud", encrypts: encrypts, state: state, keyID: "kw1.a", trouble: trouble,
        troubleCode: code, writesStopIn: stops, writesFail: fails, localKEKAge: .seconds(90),
        localKEKUses: 12,
        lastProof: 988, credentialsEnd: credentials, clockOffset: nil, version: "v7", suite: "aes-256-gcm",
        writeFormat: "envelope", certificateEnd: certificate,
        troubleEvent: code == "unavailable" ? .keyUnavailable : nil)
}

/// A report of the second 1000 that has nothing bad to say, but for what `change` does to it.
private func report(_ keys: [KeySnapshot] = [key()], _ change: (inout Report) -> Void = { _ in }) -> Report {
    var report = Report(identity: .init(host: "cp-1", version: "9.9", startedAt: 100), now: 1000)
    report.keys = keys
    report.readiness = Readiness([Readiness.Check("key primary")])
    change(&report)
    return report
}

private let notReady = Readiness([Readiness.Check("key primary", problem: "gone")])

struct VerdictTests {
    @Test(
        "the headline says how it is, and each finding whose fault it is",
        arguments: [
            (report(), .well, []),
            (report { $0.isStopping = true }, .trouble, []),
            (
                report([key(trouble: "no answer", code: "unavailable", stops: .seconds(83_579))]), .trouble,
                [
                    (
                        "Key-management service, or the way to it",
                        "key primary: no answer; writes stop in 23 h 12 min"
                    )
                ]
            ),
            (
                report([key(trouble: "no answer", code: "deadlineExceeded", stops: .seconds(60), fails: true)]
                ) {
                    $0.openBreakers = ["primary"]
                }, .trouble,
                [
                    (
                        "Key-management service, or the way to it",
                        "key primary: no answer; writes fail already; its service is left alone for now"
                    )
                ]
            ),
            (
                report([key(.failed, trouble: "expired", code: "unauthenticated")]) {
                    $0.readiness = notReady
                }, .down,
                [("Credentials, or this host's clock", "key primary: expired")]
            ),
            (
                report([key(.starting)]) { $0.readiness = notReady }, .down,
                [("Key", "key primary: not known yet whether it works")]
            ),
            (
                report([
                    key(),
                    key(.failed, name: "old", encrypts: false, trouble: "disabled", code: "keyDisabled"),
                ]),
                .trouble, [("The key at the key-management service", "key old: disabled")]
            ),
            (report([key(), key(.starting, name: "old", encrypts: false)]), .well, []),
            (
                report { $0.readiness = Readiness([Readiness.Check("socket", problem: "lost")]) }, .down,
                [("socket", "lost")]
            ),
            (
                report { $0.failedLately = 1 }, .trouble,
                [("Calls", "1 call failed in the last 5 minutes; the events below say why")]
            ),
            (
                report([key(credentials: 1179, certificate: 1000 + 14 * 86_400)]), .trouble,
                [("Credentials", "key primary: credentials end in 2 min")]
            ),
            (
                report([key(credentials: 1180, certificate: 999)]), .trouble,
                [("Key-management service", "key primary: the certificate of its service has ended")]
            ),
            (
                report { $0.isLastReloadRefused = true }, .trouble,
                [("Configuration", "the new one was refused, the former goes on; the events below say why")]
            ),
            (
                report { $0.isAcceptingPaused = true }, .trouble,
                [("This host", "no connection is accepted for want of descriptors or memory")]
            ),
            (
                report { $0.isMemoryLocked = false }, .trouble,
                [("This host", "secrets are in memory that may be swapped out: LimitMEMLOCK=")]
            ),
        ] as [(Report, Verdict.Level, [(String, String)])])
    func verdicts(report: Report, level: Verdict.Level, findings: [(String, String)]) {
        let verdict = Verdict(report)
        #expect(verdict.level == level)
        #expect(verdict.findings.map(\.whose) == findings.map(\.0))
        #expect(verdict.findings.map(\.what) == findings.map(\.1))
    }

    @Test("a finding names the code to look up, where there is one")
    func code() {
        #expect(
            Verdict(report([key(trouble: "x", code: "unavailable")])).findings.map(\.code) == [
                "KW-KEY-UNAVAILABLE"
            ])
        #expect(Verdict(report { $0.failedLately = 1 }).findings.map(\.code) == [nil])
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
        let event = RecentEvents.Entry(
            code: "KW-KEY-DENIED", level: .error, line: evil, first: Timestamp(seconds: 900),
            last: Timestamp(seconds: 990),
            count: 3)
        var hostile = report([key(name: evil, trouble: evil, code: "unavailable", stops: .seconds(60))])
        hostile.identity = .init(host: evil, version: evil, startedAt: 100)
        hostile.events = [event]
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
        let page = try StatusPage(
            of: .init(host: "h", version: "1", startedAt: 0),
            from: .init(keys: { [] }, readiness: { Readiness() }, isStopping: { false }, epochSeconds: { 1 }),
            registry: registry, events: RecentEvents(), history: History(of: registry) { .zero }
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
