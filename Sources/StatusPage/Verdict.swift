internal import Events
internal import KeyService
private import Observability

/// Is it well, and if not, whose fault is it: the first thing on the page.
///
/// What one plugin can judge of itself within an hour is judged here as the alerts do; a test goes through their list.
struct Verdict: Equatable {
    enum Level: String, Comparable {
        case well, trouble, down

        var symbol: String {
            switch self {
            case .well: "✓"
            case .trouble: "!"
            case .down: "✕"
            }
        }

        static func < (one: Level, other: Level) -> Bool {
            let order: [Level] = [.well, .trouble, .down]
            return order.firstIndex(of: one) ?? 0 < order.firstIndex(of: other) ?? 0
        }
    }

    /// Something that is not as it should be.
    struct Finding: Equatable {
        /// Where to look.
        let whose: String
        /// What is wrong, one line.
        let what: String
        /// The event that tells more, where there is one.
        var event: Event?
        /// The runbook, without `.md`.
        var runbook: String?
    }

    let level: Level
    let headline: String
    let findings: [Finding]

    init(_ report: Report) {
        findings = Self.findings(in: report)
        let writer = report.keys.first { $0.encrypts }
        if report.isStopping {
            (level, headline) = (.trouble, "Stopping: calls in flight may finish")
        } else if writer.map({ $0.state == .starting && $0.trouble == nil }) ?? true {
            (level, headline) = (.trouble, "Starting: not known yet whether the key works")
        } else if !report.readiness.isReady {
            (level, headline) = (.down, "Not ready: Secrets cannot be written, perhaps not read")
        } else if writer?.writesFail == true {
            (level, headline) = (.down, "Writes fail; what is in memory can be read")
        } else if findings.isEmpty {
            (level, headline) = (.well, "Serving")
        } else {
            (level, headline) = (.trouble, "Serving, but not all is well")
        }
    }

    private static func findings(in report: Report) -> [Finding] {
        let keys = report.keys.flatMap { findings(of: $0, report) }
        // What is not ready for another reason than a key, or than what the headline says.
        let told = Set(report.keys.map { "key \($0.name)" } + ["daemon", "keys"])
        let others = report.readiness.checks.filter { !told.contains($0.name) }.compactMap { check in
            check.problem.map { Finding(whose: check.name, what: $0) }
        }
        return keys + others + lately(report.lately, report) + host(report)
    }

    // MARK: keys

    private static func findings(of key: KeySnapshot, _ report: Report) -> [Finding] {
        var findings: [Finding] = []
        if let trouble = key.trouble { findings.append(finding(of: key, trouble, report)) }
        let subject = "key \(key.name):"
        if let end = key.credentialsEnd, end - report.now < 3 * 60 {
            let when = end > report.now ? "end in \(Words.span(end - report.now))" : "have ended"
            findings.append(
                Finding(
                    whose: "Credentials", what: "\(subject) credentials \(when)",
                    runbook: "KmswardCredentialsExpiring"))
        }
        if let end = key.certificateEnd, end - report.now < 14 * 86_400 {
            let when = end > report.now ? "ends in \(Words.span(end - report.now))" : "has ended"
            findings.append(
                Finding(
                    whose: "Key-management service",
                    what: "\(subject) the certificate of its service \(when)",
                    runbook: "KmswardCertificateExpiring"))
        }
        if let probe = key.lastProbe, let interval = report.probeIntervals[key.name],
            Double(report.now - probe) > 5 * 60 + 2 * interval
        {
            findings.append(
                Finding(
                    whose: "This daemon",
                    what: "\(subject) its last probe that ended began \(Words.ago(probe, report.now))",
                    runbook: "KmswardProbeStale"))
        }
        if let age = key.localKEKAge, let most = key.localKEKMaximumAge, age > most * 1.1 {
            findings.append(
                Finding(
                    whose: "Key-management service, or its permissions",
                    what:
                        "\(subject) the local KEK is \(Words.span(age.components.seconds)) old and was not replaced",
                    runbook: "KmswardLocalKEKTooOld"))
        }
        if let offset = key.clockOffset, abs(offset / .seconds(1)) > 60 {
            findings.append(
                Finding(
                    whose: "This host's clock",
                    what:
                        "\(subject) it differs from its service's by \(Words.span(Int64(abs(offset / .seconds(1)))))",
                    runbook: "KmswardClockOff"))
        }
        return findings
    }

    private static func finding(of key: KeySnapshot, _ trouble: String, _ report: Report) -> Finding {
        var what = "key \(key.name): \(trouble)"
        if key.encrypts, key.state == .active, let left = key.writesStopIn {
            what +=
                key.writesFail
                ? "; writes fail already" : "; writes stop in \(Words.span(left.components.seconds))"
        }
        if report.openBreakers.contains(key.name) { what += "; its service is left alone for now" }
        return Finding(
            whose: blame(for: key.troubleCode ?? ""), what: what, event: key.troubleEvent,
            runbook: key.troubleEvent?.entry.runbook)
    }

    /// Who can mend trouble of a class.
    static func blame(for code: String) -> String {
        switch code {
        case "unavailable", "deadlineExceeded", "malformedReply": "Key-management service, or the way to it"
        case "throttled": "Quota at the key-management service"
        case "unauthenticated": "Credentials, or this host's clock"
        case "permissionDenied": "Permissions of the credentials"
        case "keyNotFound", "keyDisabled": "The key at the key-management service"
        case "misconfigured": "This host's configuration"
        default: "Key"
        }
    }

    // MARK: calls

    private static func lately(_ lately: Report.Lately, _ report: Report) -> [Finding] {
        var findings: [Finding] = []
        if lately.failedCalls > 0 {
            findings.append(
                Finding(
                    whose: "Calls",
                    what: "\(Words.count(lately.failedCalls, "call", "calls")) failed in the last 30 minutes"
                        + report.told(by: "KW-CALL-", "KW-KEY-"),
                    runbook: "KmswardCallsFailing"))
        }
        if let (slow, all) = tooSlow(lately.slowCalls) {
            findings.append(
                Finding(
                    whose: "Key-management service, or this host's load",
                    what: "\(slow) of \(all) Encrypts and Decrypts of late took longer than a second",
                    runbook: "KmswardCallsSlow"))
        }
        if lately.unreadable > 10 {
            findings.append(
                Finding(
                    whose: "Stored objects, or the keys configured",
                    what:
                        "\(lately.unreadable) Decrypts of the last 10 minutes were of what no key here reads",
                    event: .callInvalid, runbook: "KmswardObjectsUnreadable"))
        }
        if lately.throttled > 0, !report.keys.contains(where: { $0.troubleCode == "throttled" }) {
            findings.append(
                Finding(
                    whose: "Quota at the key-management service",
                    what:
                        "\(Words.count(lately.throttled, "call", "calls")) to it were throttled in the last 5 minutes",
                    runbook: "KmswardThrottled"))
        }
        if lately.refused > 0 {
            findings.append(
                Finding(
                    whose: "API server, or whoever else connects",
                    what:
                        "\(Words.count(lately.refused, "connection", "connections")) refused or cut in the last 10 minutes"
                        + report.told(by: "KW-PEER-", "KW-CONNECTIONS-"),
                    runbook: "KmswardPeersRefused"))
        }
        if lately.calls == 0, report.now - report.identity.startedAt > 600 {
            findings.append(
                Finding(
                    whose: "API server",
                    what:
                        "no call for 10 minutes: it does not run, is not let in to the socket, or dials another one",
                    runbook: "KmswardNotCalled"))
        }
        return findings
    }

    /// What the objective leaves is 1 %: 14.4 times that in 5 minutes, or 6 times in half an hour, and three in an hour.
    private static func tooSlow(_ windows: [(slow: Int, all: Int)]) -> (Int, Int)? {
        guard windows.count == 3, windows[2].slow >= 3 else { return nil }
        for (window, share) in zip(windows, [0.144, 0.06])
        where Double(window.slow) > share * Double(window.all) {
            return window
        }
        return nil
    }

    // MARK: this host

    private static func host(_ report: Report) -> [Finding] {
        var findings: [Finding] = []
        if report.isLastReloadRefused {
            findings.append(
                Finding(
                    whose: "Configuration",
                    what: "the new one was refused, the former goes on"
                        + report.told(by: "KW-CONFIG-REFUSED"),
                    event: .configurationRefused, runbook: "KmswardReloadRefused"))
        }
        if report.isAcceptingPaused {
            findings.append(
                Finding(
                    whose: "This host", what: "no connection is accepted for want of descriptors or memory",
                    event: .acceptingPaused, runbook: "KmswardAcceptingPaused"))
        }
        if !report.isMemoryLocked {
            findings.append(
                Finding(
                    whose: "This host", what: "secrets are in memory that may be swapped out",
                    event: .memoryNotLocked, runbook: "KmswardMemoryNotLocked"))
        }
        return findings
    }
}
