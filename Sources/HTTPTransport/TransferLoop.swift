private import CCurl
private import Synchronization

/// What the thread `http-client` runs: curl's multi handle, its transfers, and the inbox that others reach it by.
///
/// @unchecked: `transfers`, `names`, `lookups` and `nextNumber` belong to the thread; the multi handle too, but for
/// wake-ups, which curl allows from anywhere while it lives, and which the inbox's lock keeps within its life.
@safe final class TransferLoop: @unchecked Sendable {
    private enum Life { case open, closing, ended }

    private struct Inbox {
        var life = Life.open
        var submitted: [Transfer] = []
        var cancelled: [Transfer] = []
        var answers: [(name: String, answer: NameCache.Answer)] = []
        var underWay = 0
        var isWakePosted = false
        var whenEnded: [CheckedContinuation<Void, Never>] = []
    }

    private let settings: HTTPTransport.Settings
    private let rules: ProxyRules
    private let look: Lookup.Function
    private let multi: OpaquePointer
    private let inbox = Mutex(Inbox())
    private var transfers: [UInt: Transfer] = [:]
    private var nextNumber: UInt = 1
    private var names = NameCache()
    private var lookups: [String: Lookup.Running] = [:]

    /// Why libcurl cannot be used, if so.
    ///
    /// Found out once in a process, and before curl does anything: its memory hooks must know every allocation.
    private static let unusable: String? = {
        if let reason = unsafe ksw_curl_load() {
            return unsafe "\(String(cString: reason)): install libcurl4"
        }
        return ksw_curl_global_init() == CURLE_OK ? nil : "it cannot be set up: out of memory or descriptors"
    }()

    /// A loop for a thread that the caller starts with `run()`.
    init(
        settings: HTTPTransport.Settings, rules: ProxyRules, lookup: @escaping Lookup.Function
    ) throws(HTTPFailure) {
        if let reason = Self.unusable { throw HTTPFailure(.system, "libcurl: \(reason)") }
        guard let multi = unsafe ksw_curl_multi_init() else {
            throw HTTPFailure(.system, "libcurl: out of memory or descriptors")
        }
        self.settings = settings
        self.rules = rules
        look = lookup
        unsafe self.multi = unsafe multi
        let perHost = max(1, settings.connectionsPerHost)
        for (option, value) in [
            (CURLMOPT_MAX_HOST_CONNECTIONS, perHost), (CURLMOPT_MAXCONNECTS, max(16, perHost)),
        ] {
            let code = unsafe ksw_curl_multi_set_long(multi, option, value)
            precondition(code == CURLM_OK, "libcurl refuses a limit: \(code.rawValue)")
        }
    }

    // MARK: From any thread

    /// Gives a transfer to the thread, which resumes `continuation` when it is over.
    func submit(_ transfer: Transfer, _ continuation: CheckedContinuation<Void, Never>) {
        let peer = transfer.request.origin
        let refusal = inbox.withLock { inbox -> HTTPFailure? in
            guard inbox.life == .open else {
                return HTTPFailure(.closed, "request to \(peer): the transport is closed")
            }
            guard inbox.underWay < settings.maximumRequests else {
                let text = "request to \(peer): \(settings.maximumRequests) requests are under way already"
                return HTTPFailure(.overloaded, text)
            }
            inbox.underWay += 1
            transfer.continuation = continuation
            inbox.submitted.append(transfer)
            wake(&inbox)
            return nil
        }
        guard let refusal else { return }
        transfer.fail(refusal)
        continuation.resume()
    }

    /// Ends a transfer, at whatever point it is; also one that is not submitted yet.
    func cancel(_ transfer: Transfer) {
        // Ordered by the lock: whoever submits later is seen to be cancelled.
        transfer.isCancelled.store(true, ordering: .relaxed)
        inbox.withLock { inbox in
            guard inbox.life != .ended else { return }
            inbox.cancelled.append(transfer)
            wake(&inbox)
        }
    }

    /// Ends everything, and waits until the thread has nothing more to do.
    func close() async {
        await withCheckedContinuation { continuation in
            let isOver = inbox.withLock { inbox in
                guard inbox.life != .ended else { return true }
                inbox.whenEnded.append(continuation)
                inbox.life = .closing
                wake(&inbox)
                return false
            }
            if isOver { continuation.resume() }
        }
    }

    /// Frees what the loop holds; in place of `run()`.
    func discard() {
        inbox.withLock { $0.life = .ended }
        unsafe ksw_curl_multi_cleanup(multi)
    }

    /// Whether nothing is left.
    var hasEnded: Bool { inbox.withLock { $0.life == .ended } }

    private func wake(_ inbox: inout Inbox) {
        guard !inbox.isWakePosted else { return }
        inbox.isWakePosted = true
        _ = unsafe ksw_curl_multi_wakeup(multi)
    }

    private func answered(_ name: String, _ answer: NameCache.Answer) {
        inbox.withLock { inbox in
            guard inbox.life != .ended else { return }
            inbox.answers.append((name, answer))
            wake(&inbox)
        }
    }

    // MARK: On the thread

    /// Serves until `close()`.
    func run() {
        while takeInbox() {
            startLookups()
            var running: Int32 = 0
            _ = unsafe ksw_curl_multi_perform(multi, &running)
            takeResults()
            let next = expire(now: .now)
            _ = unsafe ksw_curl_multi_poll(multi, Self.milliseconds(until: next))
        }
        for lookup in lookups.values { lookup.abandon() }
        lookups.removeAll()
        let waiters = inbox.withLock { inbox in
            inbox.life = .ended
            return inbox.whenEnded
        }
        unsafe ksw_curl_multi_cleanup(multi)
        for waiter in waiters { waiter.resume() }
    }

    /// Takes in what came; false when the end has come.
    private func takeInbox() -> Bool {
        var taken = Inbox()
        inbox.withLock { inbox in
            inbox.isWakePosted = false
            swap(&taken.submitted, &inbox.submitted)
            swap(&taken.cancelled, &inbox.cancelled)
            swap(&taken.answers, &inbox.answers)
            taken.life = inbox.life
        }
        for transfer in taken.submitted { begin(transfer) }
        for transfer in taken.cancelled where transfers[transfer.number] === transfer {
            end(transfer, cancellation(of: transfer))
        }
        for (name, answer) in taken.answers { deliver(answer, to: name) }
        guard taken.life == .closing else { return true }
        for transfer in Array(transfers.values) {
            let text = "request to \(transfer.peer): the transport was closed"
            end(transfer, HTTPFailure(.closed, text, phase: transfer.phase))
        }
        return false
    }

    private func cancellation(of transfer: Transfer) -> HTTPFailure {
        HTTPFailure(.cancelled, "the request to \(transfer.peer) was cancelled", phase: transfer.phase)
    }

    private func begin(_ transfer: Transfer) {
        transfer.number = nextNumber
        nextNumber += 1
        transfers[transfer.number] = transfer
        transfer.proxy = rules.proxy(for: transfer.request.origin)
        transfer.responseLimit = transfer.request.responseLimit ?? settings.responseLimit
        transfer.connectDeadline =
            transfer.startedAt + (transfer.request.connectTimeout ?? settings.connectTimeout)
        guard !transfer.isCancelled.load(ordering: .relaxed) else {
            end(transfer, cancellation(of: transfer))
            return
        }
        guard transfer.deadline > .now else {
            end(transfer, CurlVerdict.timeout(transfer.peer, .queued))
            return
        }
        guard let name = transfer.nameToResolve else {
            launch(transfer, to: [])
            return
        }
        switch names.ask(name, now: .now) {
        case .use(let addresses): launch(transfer, to: addresses)
        case .wait(let orUseOldAt):
            transfer.waitsFor = name
            transfer.useOldAddressesAt = orUseOldAt
        }
    }

    private func launch(_ transfer: Transfer, to addresses: [IPAddress]) {
        transfer.waitsFor = nil
        do throws(HTTPFailure) {
            try unsafe transfer.start(in: multi, addresses: addresses, settings: settings)
        } catch {
            end(transfer, error)
        }
    }

    private func startLookups() {
        while let name = names.nextLookup() {
            let lookup = Lookup.Running(name, by: look) { [self] in answered(name, $0) }
            if let lookup {
                lookups[name] = lookup
            } else {
                deliver(.unknown("no thread left to ask"), to: name)
            }
        }
    }

    private func deliver(_ answer: NameCache.Answer, to name: String) {
        // It has answered, so its thread is at its end.
        lookups.removeValue(forKey: name)?.join()
        let verdict = names.answer(name, answer, now: .now)
        for transfer in Array(transfers.values) where transfer.waitsFor == name {
            switch verdict {
            case .addresses(let addresses): launch(transfer, to: addresses)
            case .noSuchName(let reason), .unknown(let reason):
                let text = "cannot find the address of \(name) for \(transfer.peer): \(reason)"
                end(transfer, HTTPFailure(.resolve, text, phase: .resolve))
            }
        }
    }

    private func takeResults() {
        var code = CURLE_OK
        while let easy = unsafe ksw_curl_next_ended(multi, &code) {
            guard let transfer = transfers[unsafe ksw_curl_get_private(easy)] else {
                preconditionFailure("curl ended a transfer that is not ours")
            }
            transfer.conclude(code)
            finish(transfer)
        }
    }

    /// Ends what has no time left; returns when to look again.
    private func expire(now: ContinuousClock.Instant) -> ContinuousClock.Instant? {
        var next: ContinuousClock.Instant?
        for transfer in Array(transfers.values) {
            var due = transfer.deadline
            if due <= now {
                end(transfer, CurlVerdict.timeout(transfer.peer, transfer.phase))
                continue
            }
            if let name = transfer.waitsFor {
                if transfer.connectDeadline <= now {
                    end(transfer, CurlVerdict.timeout(transfer.peer, .resolve))
                    continue
                }
                due = min(due, transfer.connectDeadline)
                if let useOld = transfer.useOldAddressesAt {
                    if useOld <= now { launch(transfer, to: names.old(name)) }
                    due = min(due, useOld)
                }
            }
            next = min(next ?? due, due)
        }
        return next
    }

    private static func milliseconds(until instant: ContinuousClock.Instant?) -> Int32 {
        guard let instant else { return 3_600_000 }
        let left = max(.zero, ContinuousClock.now.duration(to: instant))
        // Rounded up: waking too early would only turn the loop.
        return Int32(min(3_600_000, (left / .milliseconds(1)).rounded(.up)))
    }

    /// Ends a transfer before its end.
    private func end(_ transfer: Transfer, _ failure: HTTPFailure) {
        transfer.fail(failure)
        transfer.spoilConnection()
        finish(transfer)
    }

    /// Frees what a transfer holds, and tells its sender.
    private func finish(_ transfer: Transfer) {
        transfers.removeValue(forKey: transfer.number)
        transfer.dispose()
        inbox.withLock { $0.underWay -= 1 }
        transfer.continuation.take()?.resume()
    }
}
