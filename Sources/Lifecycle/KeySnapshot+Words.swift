private import Events
internal import KeyService
internal import Observability

extension KeySnapshot {
    /// What the status line says of this key at a time, seconds since 1970.
    func status(at now: Int64) -> String {
        switch state {
        case .active: "key \(name) \(reservation ?? "ok" + age(at: now))"
        case .starting: "key \(name) not known yet"
        case .failed: "key \(name) FAILED: \(trouble ?? "cause unknown")\(code)"
        }
    }

    /// What /readyz says of this key; a key that only decrypts does not make the daemon unready.
    var check: Readiness.Check {
        let subject = "key \(name)"
        switch state {
        case .active: return Readiness.Check(subject, note: reservation)
        case .starting, .failed:
            let problem = trouble.map { $0 + code } ?? "not known yet whether it works"
            return encrypts
                ? Readiness.Check(subject, problem: problem) : Readiness.Check(subject, note: problem)
        }
    }

    /// ` 12 s ago`, of the last proof.
    private func age(at now: Int64) -> String { lastProof.map { " \(max(0, now - $0)) s ago" } ?? "" }

    /// ` (KW-KEY-UNAVAILABLE)`, for `kmsward explain`.
    private var code: String { troubleEvent.map { " (\($0.code))" } ?? "" }

    /// What is wrong with a key that serves, and for how long it still writes; nil if nothing is wrong.
    private var reservation: String? {
        guard let trouble else { return nil }
        guard encrypts, let writesStopIn else { return "serves, with trouble: \(trouble)\(code)" }
        let left = writesStopIn.inWords + code
        return writesFail
            ? "writes fail: \(trouble); Status fails in \(left)"
            : "riding through: \(trouble); writes stop in \(left)"
    }
}
