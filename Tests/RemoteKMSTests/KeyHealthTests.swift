import Testing

@testable import RemoteKMS

@Suite("Decision about writing in trouble")
struct KeyHealthTests {
    private static let minute = Duration.seconds(60)

    private func error(_ code: RemoteKMSError.Code) -> RemoteKMSError {
        RemoteKMSError(code, "it says \(code)", remedy: "do something")
    }

    private func health() -> KeyHealth {
        var health = KeyHealth(.init(rideThrough: .seconds(86_400), authGrace: .seconds(900)))
        health.activated(at: .seconds(100))
        return health
    }

    @Test(
        "without a proof, writing stops after the time of the failure's class",
        arguments: [
            (RemoteKMSError.Code.deadlineExceeded, 86_400), (.unavailable, 86_400), (.throttled, 86_400),
            (.malformedReply, 86_400), (.unauthenticated, 900), (.permissionDenied, 900),
            (.misconfigured, 900), (.keyNotFound, 900), (.invalidCiphertext, 0), (.keyDisabled, 0),
        ])
    func bounds(_ code: RemoteKMSError.Code, _ seconds: Int) {
        var health = health()
        let finding = KeyHealth.Finding(proof: error(code))
        if seconds > 0 {
            health.observed(finding, at: .seconds(100))
            health.observed(finding, at: .seconds(100 + seconds - 1))
            #expect(health.stopped == nil)
            #expect(health.writesStopIn == .seconds(1))
            #expect(health.trouble == error(code))
        }
        health.observed(finding, at: .seconds(100 + seconds))
        #expect(health.stopped == error(code))
        #expect(health.writesStopIn == .zero)
        health.observed(.init(), at: .seconds(200 + seconds))
        #expect(health.stopped == nil && health.trouble == nil && health.writesStopIn == nil)
    }

    @Test(
        "a look that fails stops nothing while the unwrap is proven, but for a disabled key and a wrong set-up",
        arguments: RemoteKMSError.Code.allCases)
    func look(_ code: RemoteKMSError.Code) {
        var health = health()
        var stoppedAt: Int?
        for minute in 1...3_000 {
            health.observed(.init(look: error(code)), at: Self.minute * minute)
            if health.stopped != nil, stoppedAt == nil { stoppedAt = minute }
            #expect(health.trouble == error(code))
        }
        switch code {
        case .keyDisabled: #expect(stoppedAt == 1)
        // Counted from the first sight of it, at minute 1.
        case .misconfigured: #expect(stoppedAt == 16)
        default: #expect(stoppedAt == nil)
        }
    }

    @Test("a rotation or renewal that fails stops nothing while the unwrap is proven")
    func rotation() {
        var health = health()
        for minute in 1...3_000 {
            health.observed(.init(rotation: error(.misconfigured)), at: Self.minute * minute)
        }
        #expect(health.stopped == nil && health.writesStopIn == nil)
        #expect(health.trouble == error(.misconfigured))
    }

    @Test("a refusal has its own time from when it began, though an outage came before it")
    func refusalAfterOutage() {
        var health = health()
        for minute in 2...60 { health.observed(.init(proof: error(.unavailable)), at: Self.minute * minute) }
        health.observed(.init(proof: error(.permissionDenied)), at: Self.minute * 61)
        #expect(health.stopped == nil)
        #expect(health.writesStopIn == .seconds(900))
        health.observed(.init(proof: error(.unavailable)), at: Self.minute * 70)
        health.observed(.init(proof: error(.permissionDenied)), at: Self.minute * 76)
        #expect(health.stopped?.code == .permissionDenied, "an outage in between does not give it more")
    }

    @Test("every proof starts the time anew")
    func proofs() {
        var health = health()
        for minute in 1...3_000 {
            let isBad = !minute.isMultiple(of: 15)
            health.observed(
                isBad ? .init(proof: error(.permissionDenied)) : .init(), at: Self.minute * minute)
            #expect(health.stopped == nil, "minute \(minute)")
        }
    }

    @Test("what has stopped goes on after a proof only, not when the trouble turns into a milder one")
    func latch() {
        var health = health()
        health.observed(.init(look: error(.keyDisabled), proof: error(.keyDisabled)), at: .seconds(130))
        health.observed(.init(look: error(.unavailable), proof: error(.unavailable)), at: .seconds(160))
        #expect(health.stopped == error(.keyDisabled))
        health.observed(.init(look: error(.unavailable)), at: .seconds(190))
        #expect(health.stopped == nil)
        #expect(health.trouble == error(.unavailable))
    }

    @Test(
        "what was unwrapped is forgotten after a day without a proof, or after the longer time that writing may go on",
        arguments: [(0, 86_400), (3_600, 86_400), (7 * 86_400, 7 * 86_400)])
    func forgets(_ rideThrough: Int, _ seconds: Int) {
        var health = KeyHealth(.init(rideThrough: .seconds(rideThrough), authGrace: .seconds(900)))
        health.activated(at: .seconds(100))
        #expect(!health.mustForget, "a proof just now")
        health.observed(.init(), at: .seconds(130))
        #expect(!health.mustForget && health.stopped == nil)
        health.observed(.init(proof: error(.unavailable)), at: .seconds(130 + seconds - 1))
        #expect(!health.mustForget)
        health.observed(.init(proof: error(.unavailable)), at: .seconds(130 + seconds))
        #expect(health.mustForget)
        health.observed(.init(), at: .seconds(160 + seconds))
        #expect(!health.mustForget)
    }

    @Test(
        "a denial is confirmed half a minute later, whatever trouble comes in between, and lifted by a proof only"
    )
    func denial() {
        var health = health()
        let denied = KeyHealth.Finding(look: error(.keyDisabled), proof: error(.keyDisabled))
        health.observed(denied, at: .seconds(130))
        #expect(!health.mustForget && health.stopped?.code == .keyDisabled)
        health.observed(.init(look: error(.deadlineExceeded), proof: error(.unavailable)), at: .seconds(145))
        #expect(!health.mustForget, "not said by the service this time")
        health.observed(denied, at: .seconds(160))
        #expect(health.mustForget)
        health.observed(.init(), at: .seconds(190))
        #expect(!health.mustForget && health.stopped == nil)
        health.observed(denied, at: .seconds(220))
        #expect(!health.mustForget, "the first time anew")
    }

    @Test(
        "what was unwrapped is kept when the grace is over, or wiped if so configured and the service itself forbids us",
        arguments: RemoteKMSError.Code.allCases)
    func forbidden(_ code: RemoteKMSError.Code) {
        for forgets in [false, true] {
            var health = KeyHealth(
                .init(
                    rideThrough: .seconds(86_400), authGrace: .seconds(900), forgetsWhenForbidden: forgets))
            health.activated(at: .seconds(100))
            let refused = KeyHealth.Finding(proof: error(code))
            health.observed(refused, at: .seconds(110))
            health.observed(refused, at: .seconds(999))
            #expect(health.mustForget == (code == .keyDisabled), "within the grace")
            health.observed(refused, at: .seconds(1_010))
            let isForbidden = [.unauthenticated, .permissionDenied, .keyNotFound].contains(code)
            #expect(health.mustForget == (code == .keyDisabled || forgets && isForbidden))
            guard isForbidden else { continue }
            var written = KeyHealth(
                .init(
                    rideThrough: .seconds(86_400), authGrace: .seconds(900), forgetsWhenForbidden: forgets))
            written.activated(at: .seconds(100))
            for now in [110, 1_010, 1_040] {
                written.observed(.init(encryption: error(code)), at: .seconds(now))
            }
            #expect(
                written.stopped?.code == code && !written.mustForget, "what still unwraps is not worth wiping"
            )
            health.observed(.init(proof: error(.unavailable)), at: .seconds(1_020))
            #expect(!health.mustForget, "an outage is no refusal, though writing stays stopped")
            #expect(health.stopped?.code == code)
            health.observed(.init(), at: .seconds(1_030))
            #expect(!health.mustForget && health.stopped == nil)
        }
    }

    @Test(
        "longer limits let go on what ran out of time, not what the service calls disabled or unreadable",
        arguments: RemoteKMSError.Code.allCases)
    func longerLimits(_ code: RemoteKMSError.Code) {
        var health = health()
        health.observed(.init(proof: error(code)), at: .seconds(100))
        health.observed(.init(proof: error(code)), at: .seconds(100 + 86_400))
        #expect(health.stopped == error(code))
        health.setLimits(.init(rideThrough: .seconds(2 * 86_400), authGrace: .seconds(2 * 86_400)))
        let isForGood = code == .keyDisabled || code == .invalidCiphertext
        #expect(health.stopped == (isForGood ? error(code) : nil))
        #expect(health.writesStopIn == (isForGood ? .zero : .seconds(86_400)))

        // What is met later, and by itself only takes time, hides it not.
        health.observed(.init(proof: error(.unavailable)), at: .seconds(100 + 3 * 86_400))
        health.setLimits(.init(rideThrough: .seconds(9 * 86_400), authGrace: .seconds(900)))
        #expect((health.stopped != nil) == isForGood)
        health.observed(.init(), at: .seconds(130 + 3 * 86_400))
        #expect(health.stopped == nil)
    }

    @Test("limits that are not long enough for the last finding let nothing go on")
    func stillTooShort() {
        var health = health()
        health.observed(.init(proof: error(.permissionDenied)), at: .seconds(100))
        health.observed(.init(proof: error(.permissionDenied)), at: .seconds(1_000))
        health.setLimits(.init(rideThrough: .seconds(2 * 86_400), authGrace: .seconds(900)))
        #expect(health.stopped == error(.permissionDenied))
    }
}
