import Events
import Testing

@testable import SocketAcceptance

extension Admission {
    /// A connection that came and was handed over, or what happened instead.
    @discardableResult
    fileprivate mutating func connect(
        _ id: ID, pid: Int32 = 7, at now: Duration = .zero, speaking: Bool = false
    ) -> OnPreface {
        _ = arrived(id, at: now)
        let decision = prefaceComplete(id, of: Holder(PeerCredentials(pid: pid, uid: 0, gid: 0)), at: now)
        if speaking { for _ in 0...Self.greetingArrivals { heard(id, at: now) } }
        return decision
    }
}

struct AdmissionTests {
    private func admission(connections: Int = 2, pending: Int = 2) -> Admission {
        Admission(maxConnections: connections, maxPending: pending, handshakeTimeout: .seconds(10))
    }

    private let holder = Admission.Holder(PeerCredentials(pid: 7, uid: 0, gid: 0))

    @Test("silent connections take no served place, and the oldest of too many goes")
    func pendingIsApart() {
        var rules = admission()
        for id in 1...100 as ClosedRange<UInt64> {
            #expect(rules.arrived(id, at: .zero) == (id > 2 ? id - 2 : nil))
        }
        #expect(rules.pendingCount == 2)
        #expect(rules.prefaceComplete(100, of: holder, at: .zero) == .handOver)
        #expect(rules.prefaceComplete(99, of: holder, at: .zero) == .handOver)
        #expect(rules.servedCount == 2 && rules.pendingCount == 0)
    }

    @Test("the limit counts served connections, and an ended one gives its place back")
    func limit() {
        var rules = admission()
        for id in 1...3 as ClosedRange<UInt64> {
            let decision = rules.connect(id, speaking: true)
            #expect(decision == (id < 3 ? .handOver : .refuse))
        }
        #expect(rules.ended(1) == .wasServed)
        #expect(rules.ended(1) == .unknown)
        #expect(rules.connect(4, speaking: true) == .handOver)
        #expect(rules.prefaceComplete(4, of: holder, at: .zero) == .refuse)
        #expect(rules.servedCount == 2)
    }

    @Test("who greets and acknowledges our SETTINGS has not spoken yet; one arrival more is speech")
    func greeting() {
        var rules = admission()
        rules.connect(1)
        for count in 1...3 {
            rules.heard(1, at: .zero)
            #expect(rules.hasSpoken(1) == (count == 3))
        }
        rules.heard(2, at: .zero)
        #expect(!rules.hasSpoken(2))
    }

    @Test("a place goes from the oldest mute connection of the process that holds most of them")
    func crowdPushesItselfOut() {
        var rules = admission(connections: 5)
        rules.connect(1, pid: 1)
        rules.connect(2, pid: 2, speaking: true)
        for id in 3...5 as ClosedRange<UInt64> { rules.connect(id, pid: 3) }
        #expect(rules.connect(6, pid: 4) == .handOverInsteadOf(3))
        #expect(rules.ended(3) == .unknown)
        #expect(rules.connect(7, pid: 3) == .handOverInsteadOf(4))
        #expect(rules.connect(8, pid: 4) == .handOverInsteadOf(5))
        #expect(rules.servedCount == 5)
        // Speech saves; now each process has one mute connection or two.
        for id in [6, 7, 8] as [UInt64] { for _ in 0..<3 { rules.heard(id, at: .zero) } }
        #expect(rules.connect(9, pid: 9) == .handOverInsteadOf(1))
    }

    @Test("among those that spoke the longest silent one goes, and only after the grace")
    func idle() {
        var rules = admission()
        rules.connect(1, speaking: true)
        rules.connect(2, at: .seconds(1), speaking: true)
        rules.heard(1, at: .seconds(2))
        let due = Admission.idleGrace + .seconds(1)
        #expect(rules.connect(3, at: due - .nanoseconds(1)) == .refuse)
        #expect(rules.connect(4, at: due, speaking: true) == .handOverInsteadOf(2))
        #expect(rules.connect(5, at: due) == .refuse)
        #expect(rules.connect(6, at: due + .seconds(1)) == .handOverInsteadOf(1))
    }

    @Test("a process that holds more than half of the places is named once, until it holds none")
    func crowd() {
        var rules = admission(connections: 4, pending: 8)
        var named: [UInt64] = []
        for id in 1...4 as ClosedRange<UInt64> {
            rules.connect(id, speaking: true)
            if rules.isNewCrowd(holder) { named.append(id) }
        }
        #expect(named == [3])
        for id in 1...4 as ClosedRange<UInt64> { _ = rules.ended(id) }
        for id in 5...7 as ClosedRange<UInt64> {
            rules.connect(id, speaking: true)
            if rules.isNewCrowd(holder) { named.append(id) }
        }
        #expect(named == [3, 7])
        var single = admission(connections: 1)
        single.connect(1)
        let isCrowd = single.isNewCrowd(holder)
        #expect(!isCrowd)
    }

    @Test("a handshake ends at its own deadline, not before")
    func deadlines() {
        var rules = admission()
        _ = rules.arrived(1, at: .zero)
        _ = rules.arrived(2, at: .seconds(3))
        #expect(rules.nextDeadline == .seconds(10))
        #expect(rules.expire(at: .seconds(10) - .nanoseconds(1)) == [])
        #expect(rules.expire(at: .seconds(10)) == [1])
        #expect(rules.nextDeadline == .seconds(13))
        #expect(rules.ended(2) == .wasPending)
        #expect(rules.nextDeadline == nil)
    }

    @Test("every prefix of the preface waits for more, and nothing else does")
    func preface() {
        let whole = Client.greeting
        for count in 0..<33 { #expect(Preface(judging: whole.prefix(count)) == .partial) }
        #expect(Preface(judging: whole) == .complete)
        #expect(Preface(judging: whole + [1, 2, 3]) == .complete)
        for index in 0..<24 {
            var bytes = whole
            bytes[index] ^= 0x20
            #expect(Preface(judging: bytes) == .foreign)
            #expect(Preface(judging: bytes.prefix(index + 1)) == .foreign)
        }
        #expect(Preface(judging: Array("GET / HTTP/1.1\r\n".utf8)) == .foreign)
        #expect(Preface(judging: [0x16, 0x03, 0x01]) == .foreign)
    }

    struct Header: Sendable {
        let bytes: [UInt8]
        let preface: Preface

        init(_ bytes: [UInt8], _ preface: Preface) { (self.bytes, self.preface) = (bytes, preface) }
    }

    @Test(
        "the fixed bytes must be followed by the header of a SETTINGS frame",
        arguments: [
            Header([], .partial), Header([0, 0, 18], .partial), Header([0, 0, 18, 4, 0, 0, 0, 0], .partial),
            Header([0, 0, 18, 4, 0, 0, 0, 0, 0], .complete),
            Header([0, 0x3f, 0xfc, 4, 0, 0, 0, 0, 0], .complete),
            Header([0, 0, 0, 4, 0xfe, 0x80, 0, 0, 0], .complete),
            Header([0, 0x40, 0x02], .foreign), Header([1, 0, 2], .foreign), Header([0, 0, 5], .foreign),
            Header([0, 0, 0, 0], .foreign), Header([0, 0, 0, 8, 0, 0, 0, 0, 0], .foreign),
            Header([0, 0, 0, 4, 1], .foreign), Header([0, 0, 0, 4, 0, 1], .foreign),
            Header([0, 0, 0, 4, 0, 0, 0, 0, 1], .foreign),
        ])
    func settings(_ header: Header) {
        #expect(Preface(judging: Preface.bytes + header.bytes) == header.preface)
    }
}

struct StallGuardTests {
    struct Scenario: Sendable, CustomTestStringConvertible {
        let testDescription: String
        /// Answered probes, milliseconds that the engine has worked so far, and whether a connection has much unread.
        let ticks: [(answered: UInt64, busy: Int, isSuspicious: Bool)]
        let actions: [StallGuard.Action]
    }

    @Test(
        "only an engine that works on without an answer costs a connection",
        arguments: [
            Scenario(
                testDescription: "nobody is asked while nobody has much unread",
                ticks: [(0, 0, false), (0, 1000, false), (0, 9000, false)], actions: [.none, .none, .none]),
            Scenario(
                testDescription: "an engine that turns is asked again and again",
                ticks: [(0, 0, true), (1, 50, true), (2, 100, true), (3, 150, false), (3, 200, false)],
                actions: [.postProbe, .postProbe, .postProbe, .none, .none]),
            Scenario(
                testDescription: "work without an answer, then a cut, and the next one much later",
                ticks: [
                    (7, 0, true), (7, 29, true), (7, 30, true), (7, 80, true), (7, 329, true), (7, 330, true),
                    (7, 629, true), (7, 630, true), (8, 680, false), (8, 730, true), (8, 760, true),
                ],
                actions: [
                    .postProbe, .none, .cutWorst, .none, .none, .cutWorst, .none, .cutWorst, .none,
                    .postProbe,
                    .cutWorst,
                ]),
            Scenario(
                testDescription: "an answer in between starts the count anew",
                ticks: [(0, 0, true), (0, 20, true), (1, 40, true), (1, 60, true), (1, 70, true)],
                actions: [.postProbe, .none, .postProbe, .none, .cutWorst]),
            Scenario(
                testDescription: "an engine that is not let work is not stalled, however long it takes",
                ticks: Array(repeating: (5, 40, true), count: 8),
                actions: [.postProbe] + Array(repeating: .none, count: 7)),
        ])
    func table(_ scenario: Scenario) {
        var guardian = StallGuard(interval: .milliseconds(50))
        let actions = scenario.ticks.map {
            guardian.tick(
                answered: $0.answered, busy: .milliseconds($0.busy), isSuspicious: $0.isSuspicious)
        }
        #expect(actions == scenario.actions)
    }

    struct Backlog: Sendable, CustomTestStringConvertible {
        let testDescription: String
        /// KiB that connections 1 and 2 have left unread for two ticks each; nil for one that has ended.
        let ticks: [(first: Int?, second: Int?)]
        var late: Int? = nil
        /// Who is to be cut after each two ticks.
        let cut: [[Admission.ID]]
    }

    @Test(
        "only a peer that leaves much unread, tick after tick, is cut",
        arguments: [
            Backlog(
                testDescription: "64 KiB may wait for ever",
                ticks: Array(repeating: (64, 0), count: 6), cut: Array(repeating: [], count: 6)),
            Backlog(
                testDescription: "more than that for six ticks may not",
                ticks: [(65, 0), (200, 0), (65, 0), (65, 0)], cut: [[], [], [1], [1]]),
            Backlog(
                testDescription: "who reads in between starts anew",
                ticks: [(200, 0), (200, 0), (3, 0), (200, 0), (200, 0), (200, 0)],
                cut: [[], [], [], [], [], [1]]),
            Backlog(
                testDescription: "each is judged for itself, and an end ends it",
                ticks: [(200, 200), (200, 200), (nil, 200), (200, 200), (200, nil)],
                cut: [[], [], [2], [2], []]),
            Backlog(
                testDescription: "a tick that comes far too late counts for nobody",
                ticks: [(200, 0), (200, 0), (200, 0), (200, 0)], late: 2, cut: [[], [], [], [1]]),
        ])
    func backlog(_ scenario: Backlog) {
        var guardian = StallGuard(interval: .milliseconds(50))
        let cut = scenario.ticks.enumerated().map { index, tick in
            let known: [(Admission.ID, Int)] = [(1, tick.first), (2, tick.second)].compactMap { id, size in
                size.map { (id, $0 * 1024) }
            }
            var cut: [Admission.ID] = []
            for _ in 0..<2 {
                cut = guardian.neverRead(
                    unsent: Dictionary(uniqueKeysWithValues: known),
                    elapsed: index == scenario.late ? .seconds(60) : .milliseconds(50))
            }
            return cut
        }
        #expect(cut == scenario.cut)
    }

    @Test("after a rest the first tick asks first")
    func rest() {
        var guardian = StallGuard(interval: .milliseconds(50))
        for busy in 0..<2 {
            _ = guardian.tick(answered: 0, busy: .seconds(busy), isSuspicious: true)
        }
        #expect(guardian.isStalled)
        guardian.rest()
        #expect(!guardian.isStalled)
        #expect(guardian.tick(answered: 0, busy: .seconds(9), isSuspicious: true) == .postProbe)
    }
}

struct BarredProcessesTests {
    private let flooder = PeerProcess(uid: 0, pid: 7, start: 100)

    @Test("one cut costs a breath, and so do two that are far apart")
    func accidents() {
        var rules = BarredProcesses()
        #expect(rules.isEmpty)
        for hour in 0..<5 {
            let bar = rules.cut(flooder, at: .seconds(3600 * hour))
            #expect(bar == nil)
            #expect(rules.isBarred(flooder, at: .seconds(3600 * hour)) == true)
            #expect(rules.isBarred(flooder, at: .seconds(3600 * hour) + BarredProcesses.breath) == false)
        }
        var late = BarredProcesses()
        #expect(late.cut(flooder, at: .zero) == nil)
        #expect(late.cut(flooder, at: BarredProcesses.window + .nanoseconds(1)) == nil)
    }

    @Test("the second cut within the window bars for a short time, and that ends")
    func barred() {
        var rules = BarredProcesses()
        #expect(rules.cut(flooder, at: .zero) == nil)
        #expect(rules.cut(flooder, at: .seconds(10)) == .seconds(10))
        #expect(rules.isBarred(flooder, at: .seconds(20) - .nanoseconds(1)) == true)
        #expect(rules.isBarred(flooder, at: .seconds(20)) == false)
    }

    @Test("a record that counts for nothing any more is dropped by whoever connects next")
    func forgotten() {
        var rules = BarredProcesses()
        _ = rules.cut(flooder, at: .zero)
        let other = PeerProcess(uid: 0, pid: 8, start: 100)
        #expect(rules.isBarred(other, at: BarredProcesses.window) == false)
        #expect(!rules.isEmpty)
        #expect(rules.isBarred(other, at: BarredProcesses.window + .nanoseconds(1)) == false)
        #expect(rules.isEmpty)
    }

    @Test("who goes on after a bar is barred for twice as long at the next cut, up to a minute")
    func growing() {
        var (rules, now) = (BarredProcesses(), Duration.zero)
        _ = rules.cut(flooder, at: now)
        var bars: [Duration] = []
        for _ in 0..<5 {
            guard let bar = rules.cut(flooder, at: now) else { break }
            bars.append(bar)
            now += bar + .seconds(1)
        }
        #expect(bars == [10, 20, 40, 60, 60].map { .seconds($0) })
        #expect(rules.cut(flooder, at: now + BarredProcesses.longest) == nil, "a minute without harm clears")
    }

    @Test("connections that are cut while the bar lasts do not make it longer")
    func sameOffence() {
        var rules = BarredProcesses()
        _ = rules.cut(flooder, at: .zero)
        _ = rules.cut(flooder, at: .seconds(1))
        #expect(rules.cut(flooder, at: .seconds(4)) == .seconds(7))
        #expect(rules.isBarred(flooder, at: .seconds(11)) == false)
    }

    @Test(
        "another process is not concerned: not of the same user, not with the same number after a restart",
        arguments: [
            PeerProcess(uid: 0, pid: 8, start: 100), PeerProcess(uid: 1, pid: 7, start: 100),
            PeerProcess(uid: 0, pid: 7, start: 101), PeerProcess(uid: 0, pid: 7, start: nil),
        ])
    func others(_ other: PeerProcess) {
        var rules = BarredProcesses()
        for _ in 0..<2 { _ = rules.cut(flooder, at: .zero) }
        #expect(rules.isBarred(flooder, at: .seconds(1)) == true)
        #expect(rules.isBarred(other, at: .seconds(1)) == false)
        #expect(rules.cut(other, at: .seconds(1)) == nil)
    }

    @Test("only so many are remembered, and the one cut longest ago is forgotten first")
    func bounded() {
        var rules = BarredProcesses(capacity: 2)
        let (first, second) = (PeerProcess(uid: 1, pid: 1, start: 1), PeerProcess(uid: 2, pid: 2, start: 2))
        _ = rules.cut(first, at: .zero)
        _ = rules.cut(second, at: .seconds(1))
        _ = rules.cut(flooder, at: .seconds(2))
        #expect(rules.cut(second, at: .seconds(3)) == .seconds(10))
        #expect(rules.cut(first, at: .seconds(3)) == nil)
    }

    @Test("a process is told by its start; one that no number stands for is never barred")
    func identity() {
        func peer(_ pid: Int32) -> PeerCredentials { PeerCredentials(pid: pid, uid: 0, gid: 0) }
        #expect(PeerProcess(peer(0)) == nil)
        #expect(PeerProcess(peer(1)) != nil)
        #expect(PeerProcess(peer(1)) == PeerProcess(peer(1)))
        #expect(PeerProcess(peer(1)) != PeerProcess(uid: 0, pid: 1, start: nil), "/proc tells the start")
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 8812345 9 10"
        #expect(PeerProcess.start(in: stat) == 8_812_345)
        #expect(PeerProcess.start(in: "42 (a) S 1 2") == nil)
        #expect(PeerProcess.start(in: "") == nil)
    }
}

struct PeerPolicyTests {
    struct Sample: Sendable {
        let uid: UInt32
        let gid: UInt32
        let groups: [UInt32]
        let isAdmitted: Bool
    }

    private func admits(_ policy: PeerPolicy, _ sample: Sample) -> Bool {
        policy.admits(PeerCredentials(pid: 1, uid: sample.uid, gid: sample.gid)) { sample.groups }
    }

    @Test(
        "a peer is admitted by user 0, the daemon's user, a listed user, or a listed group of any kind",
        arguments: [
            Sample(uid: 0, gid: 9, groups: [], isAdmitted: true),
            Sample(uid: 500, gid: 9, groups: [], isAdmitted: true),
            Sample(uid: 1000, gid: 9, groups: [], isAdmitted: true),
            Sample(uid: 1001, gid: 20, groups: [], isAdmitted: true),
            Sample(uid: 1001, gid: 9, groups: [8, 20], isAdmitted: true),
            Sample(uid: 1001, gid: 30, groups: [], isAdmitted: true),
            Sample(uid: 1001, gid: 9, groups: [8], isAdmitted: false),
            Sample(uid: 1001, gid: 1000, groups: [500], isAdmitted: false),
            Sample(uid: 65534, gid: 65534, groups: [65534], isAdmitted: false),
        ])
    func table(_ sample: Sample) {
        let policy = PeerPolicy(
            uids: [1000], gids: [20], ownUID: 500, identities: IdentityMap(isIdentity: true)
        )
        .admitting(group: 30)
        #expect(admits(policy, sample) == sample.isAdmitted)
    }

    @Test("nobody is admitted under the overflow number of a user namespace, listed or not")
    func overflow() {
        let inside = IdentityMap(isIdentity: false)
        let policy = PeerPolicy(uids: [65534, 7], gids: [65534, 8], ownUID: 65534, identities: inside)
        #expect(!admits(policy, Sample(uid: 65534, gid: 65534, groups: [65534], isAdmitted: false)))
        #expect(admits(policy, Sample(uid: 7, gid: 65534, groups: [], isAdmitted: true)))
        #expect(admits(policy, Sample(uid: 65534, gid: 65534, groups: [8], isAdmitted: true)))
        #expect(policy.warning?.contains("65534") == true)
        let outside = PeerPolicy(uids: [65534], ownUID: 1, identities: IdentityMap(isIdentity: true))
        #expect(admits(outside, Sample(uid: 65534, gid: 1, groups: [], isAdmitted: true)))
        #expect(outside.warning == nil)
    }

    @Test("only the whole range mapped to itself is the identity")
    func identity() {
        #expect(IdentityMap.isIdentity("         0          0 4294967295\n"))
        #expect(!IdentityMap.isIdentity("         0       1000          1\n"))
        #expect(!IdentityMap.isIdentity("0 0 1\n1 1 4294967294\n"))
        #expect(!IdentityMap.isIdentity(""))
    }

    @Test("events of many users are told apart up to a bound, and of all of them now and then")
    func bounded() {
        var log = EventLog(capacity: 2)
        func admit(_ reason: RefusalReason?, uid: UInt32?, at seconds: Int) -> Int? {
            log.admit(.peerRefused, reason, uid: uid, at: .seconds(seconds))
        }
        #expect(admit(nil, uid: 1, at: 0) == 0)
        #expect(admit(nil, uid: 1, at: 0) == nil)
        #expect(admit(.notHTTP2, uid: 1, at: 0) == 0)
        #expect(admit(nil, uid: 2, at: 0) == 0)
        #expect(admit(nil, uid: 3, at: 0) == 0, "all further users share one place")
        for uid in UInt32(4)..<1_000 { #expect(admit(nil, uid: uid, at: 1) == nil) }
        #expect(admit(nil, uid: nil, at: 60) == 996)
        #expect(admit(nil, uid: 1, at: 60) == 1)
    }
}

struct AccountsTests {
    @Test("numbers and names become numbers, unknown names one line")
    func lookup() throws {
        #expect(try Accounts.userID("1000") == 1000)
        #expect(try Accounts.userID("root") == 0)
        #expect(try Accounts.groupID("root") == 0)
        for name in ["no-such-account", "", "4294967295", "99999999999"] {
            #expect(try failure { _ = try Accounts.userID(name) }.code == .unknownAccount)
            #expect(try failure { _ = try Accounts.groupID(name) }.code == .unknownAccount)
        }
    }
}

struct ActivationTests {
    @Test("descriptors meant for this process are numbered from 3 and named")
    func parsed() throws {
        let environment = ["LISTEN_PID": "42", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "kms:other"]
        #expect(
            try Activation.parse(environment, pid: 42) == [
                ActivatedDescriptor(number: 3, name: "kms"), ActivatedDescriptor(number: 4, name: "other"),
            ])
        #expect(try Activation.parse(environment, pid: 43).isEmpty)
        #expect(try Activation.parse([:], pid: 42).isEmpty)
        #expect(
            try Activation.parse(["LISTEN_PID": "42", "LISTEN_FDS": "1"], pid: 42)
                == [ActivatedDescriptor(number: 3, name: "unknown")])
    }

    @Test(
        "an environment that makes no sense is an error, not a guess",
        arguments: [
            ["LISTEN_PID": "x", "LISTEN_FDS": "1"], ["LISTEN_PID": "42", "LISTEN_FDS": "-1"],
            ["LISTEN_PID": "42", "LISTEN_FDS": "99999"], ["LISTEN_PID": "42", "LISTEN_FDS": ""],
            ["LISTEN_PID": "42", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "kms"],
        ])
    func nonsense(_ environment: [String: String]) throws {
        #expect(try failure { _ = try Activation.parse(environment, pid: 42) }.code == .badActivation)
    }
}
