private import Events
internal import KeyService
private import Observability

/// Is it well, and if not, whose fault is it: the first thing on the page.
struct Verdict: Equatable {
    enum Level: String {
        case well, trouble, down

        var symbol: String {
            switch self {
            case .well: "✓"
            case .trouble: "!"
            case .down: "✕"
            }
        }
    }

    /// Something that is not as it should be.
    struct Finding: Equatable {
        /// Where to look.
        let whose: String
        /// What is wrong, one line.
        let what: String
        /// The code that `kmsward explain` takes, where there is one.
        var code: String?
    }

    let level: Level
    let headline: String
    let findings: [Finding]

    init(_ report: Report) {
        findings = Self.findings(in: report)
        if report.isStopping {
            level = .trouble
            headline = "Stopping: calls in flight may finish"
        } else if !report.readiness.isReady {
            level = .down
            headline = "Not ready: Secrets cannot be written, perhaps not read"
        } else if findings.isEmpty {
            level = .well
            headline = "Serving"
        } else {
            level = .trouble
            headline = "Serving, but not all is well"
        }
    }

    private static func findings(in report: Report) -> [Finding] {
        var findings = report.keys.filter { $0.trouble != nil || $0.encrypts && $0.state != .active }
            .map { finding(of: $0, report) }
        // What is not ready for another reason than a key.
        let told = Set(report.keys.map { "key \($0.name)" })
        for check in report.readiness.checks where !told.contains(check.name) {
            if let problem = check.problem { findings.append(Finding(whose: check.name, what: problem)) }
        }
        for key in report.keys { findings += ends(of: key, report.now) }
        if report.failedLately > 0 {
            findings.append(
                Finding(
                    whose: "Calls",
                    what: "\(Words.count(report.failedLately, "call", "calls")) failed in the last "
                        + "\(Report.lately / 60) minutes; the events below say why"))
        }
        if report.isLastReloadRefused {
            findings.append(
                Finding(
                    whose: "Configuration",
                    what: "the new one was refused, the former goes on; the events below say why"))
        }
        if report.isAcceptingPaused {
            findings.append(
                Finding(
                    whose: "This host", what: "no connection is accepted for want of descriptors or memory"))
        }
        if !report.isMemoryLocked {
            findings.append(
                Finding(
                    whose: "This host", what: "secrets are in memory that may be swapped out: LimitMEMLOCK="))
        }
        return findings
    }

    private static func finding(of key: KeySnapshot, _ report: Report) -> Finding {
        var what = "key \(key.name): \(key.trouble ?? "not known yet whether it works")"
        if key.encrypts, key.state == .active, let left = key.writesStopIn {
            what +=
                key.writesFail
                ? "; writes fail already" : "; writes stop in \(Words.span(left.components.seconds))"
        }
        if report.openBreakers.contains(key.name) { what += "; its service is left alone for now" }
        return Finding(
            whose: blame(for: key.troubleCode ?? ""), what: what, code: key.troubleEvent?.code)
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

    /// What ends soon enough to be seen to, at the times when the alerts for it fire.
    ///
    /// Credentials that a service hands out are renewed minutes before; certificates are renewed by people.
    private static func ends(of key: KeySnapshot, _ now: Int64) -> [Finding] {
        var findings: [Finding] = []
        if let end = key.credentialsEnd, end - now < 180 {
            let when = end > now ? "end in \(Words.span(end - now))" : "have ended"
            findings.append(Finding(whose: "Credentials", what: "key \(key.name): credentials \(when)"))
        }
        if let end = key.certificateEnd, end - now < 14 * 86_400 {
            let when = end > now ? "ends in \(Words.span(end - now))" : "has ended"
            findings.append(
                Finding(
                    whose: "Key-management service",
                    what: "key \(key.name): the certificate of its service \(when)"))
        }
        return findings
    }
}
