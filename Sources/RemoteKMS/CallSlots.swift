/// Who may call the backend now and who waits, first come, first served: no calls, no clock, no locks.
///
/// One slot is kept for urgent calls, so that neither probes nor the wrap of a new local KEK wait behind a storm of
/// requests.
struct CallSlots {
    /// Calls at once, urgent ones included.
    let limit: Int

    private(set) var busy = 0
    private var urgent: [Int] = []
    private var patient: [Int] = []

    init(limit: Int) {
        precondition(limit >= 2, "one slot for requests and one for urgent calls")
        self.limit = limit
    }

    /// Calls that wait.
    var waiting: Int { urgent.count + patient.count }

    /// Takes a slot, if one is free and nobody came before.
    mutating func take(isUrgent: Bool) -> Bool {
        guard isFree(isUrgent: isUrgent), isUrgent ? urgent.isEmpty : waiting == 0 else { return false }
        busy += 1
        return true
    }

    /// Joins the end of the queue.
    mutating func wait(_ ticket: Int, isUrgent: Bool) {
        if isUrgent { urgent.append(ticket) } else { patient.append(ticket) }
    }

    /// Leaves the queue without a slot; false if the ticket had got one.
    mutating func leave(_ ticket: Int) -> Bool {
        let before = waiting
        urgent.removeAll { $0 == ticket }
        patient.removeAll { $0 == ticket }
        return waiting < before
    }

    /// Gives a slot back; the tickets that have one now.
    mutating func release() -> [Int] {
        busy -= 1
        var admitted: [Int] = []
        while !urgent.isEmpty, isFree(isUrgent: true) {
            admitted.append(urgent.removeFirst())
            busy += 1
        }
        while !patient.isEmpty, isFree(isUrgent: false) {
            admitted.append(patient.removeFirst())
            busy += 1
        }
        return admitted
    }

    /// How long a call that joined the queue now would wait, if each takes `typical`.
    func expectedWait(isUrgent: Bool, typical: Duration) -> Duration {
        if isFree(isUrgent: isUrgent) && waiting == 0 { return .zero }
        let ahead = isUrgent ? urgent.count : waiting
        return typical * ((ahead + limit - 1) / (limit - 1))
    }

    private func isFree(isUrgent: Bool) -> Bool { busy < (isUrgent ? limit : limit - 1) }
}
