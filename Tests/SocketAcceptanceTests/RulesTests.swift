import Testing

@testable import SocketAcceptance

struct AdmissionTests {
    private func admission(connections: Int = 2, pending: Int = 2) -> Admission {
        Admission(maxConnections: connections, maxPending: pending, handshakeTimeout: .seconds(10))
    }

    @Test("silent connections take no served place, and the oldest of too many goes")
    func pendingIsApart() {
        var rules = admission()
        for id in 1...100 as ClosedRange<UInt64> {
            #expect(rules.arrived(id, at: .zero) == (id > 2 ? id - 2 : nil))
        }
        #expect(rules.pendingCount == 2)
        #expect(rules.prefaceComplete(100) == .handOver)
        #expect(rules.prefaceComplete(99) == .handOver)
        #expect(rules.servedCount == 2 && rules.pendingCount == 0)
    }

    @Test("the limit counts served connections, and an ended one gives its place back")
    func limit() {
        var rules = admission()
        for id in 1...3 as ClosedRange<UInt64> {
            #expect(rules.arrived(id, at: .zero) == nil)
            #expect(rules.prefaceComplete(id) == (id < 3 ? .handOver : .refuse))
        }
        #expect(rules.ended(1) == .wasServed)
        #expect(rules.ended(1) == .unknown)
        #expect(rules.arrived(4, at: .zero) == nil)
        #expect(rules.prefaceComplete(4) == .handOver)
        #expect(rules.prefaceComplete(4) == .refuse)
        #expect(rules.servedCount == 2)
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
        for count in 0..<24 { #expect(Preface(judging: Preface.bytes.prefix(count)) == .partial) }
        #expect(Preface(judging: Preface.bytes) == .complete)
        for index in 0..<24 {
            var bytes = Preface.bytes
            bytes[index] ^= 0x20
            #expect(Preface(judging: bytes) == .foreign)
            #expect(Preface(judging: bytes.prefix(index + 1)) == .foreign)
        }
        #expect(Preface(judging: Array("GET / HTTP/1.1\r\n".utf8)) == .foreign)
        #expect(Preface(judging: [0x16, 0x03, 0x01]) == .foreign)
    }
}

struct StallGuardTests {
    struct Scenario: Sendable, CustomTestStringConvertible {
        let testDescription: String
        /// Answered probes and milliseconds since the tick before, for each tick.
        let ticks: [(answered: UInt64, elapsed: Int)]
        let actions: [StallGuard.Action]
    }

    @Test(
        "only an engine that misses ticks in a row costs a connection",
        arguments: [
            Scenario(
                testDescription: "an engine that turns is asked again and again",
                ticks: [(0, 100), (1, 100), (2, 100), (3, 100)],
                actions: [.postProbe, .postProbe, .postProbe, .postProbe]),
            Scenario(
                testDescription: "three ticks without an answer, then one cut per tick until it turns",
                ticks: [(7, 100), (7, 100), (7, 100), (7, 100), (7, 100), (8, 100), (8, 100)],
                actions: [.postProbe, .none, .none, .cutLargest, .cutLargest, .postProbe, .none]),
            Scenario(
                testDescription: "an answer in between starts the count anew",
                ticks: [(0, 100), (0, 100), (0, 100), (1, 100), (1, 100), (1, 100), (1, 100)],
                actions: [.postProbe, .none, .none, .postProbe, .none, .none, .cutLargest]),
            Scenario(
                testDescription: "time in which the machine stood still counts for nobody",
                ticks: [(0, 100), (0, 100), (0, 100), (0, 60_000), (0, 100)],
                actions: [.postProbe, .none, .none, .none, .cutLargest]),
        ])
    func table(_ scenario: Scenario) {
        var guardian = StallGuard(interval: .milliseconds(100))
        let actions = scenario.ticks.map {
            guardian.tick(answered: $0.answered, elapsed: .milliseconds($0.elapsed))
        }
        #expect(actions == scenario.actions)
    }

    @Test("after a rest the first tick asks first")
    func rest() {
        var guardian = StallGuard(interval: .milliseconds(100))
        for _ in 0..<4 { _ = guardian.tick(answered: 0, elapsed: .milliseconds(100)) }
        #expect(guardian.isStalled)
        guardian.rest()
        #expect(!guardian.isStalled)
        #expect(guardian.tick(answered: 0, elapsed: .milliseconds(100)) == .postProbe)
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

    @Test("refusals of many users are remembered up to a bound")
    func bounded() {
        var log = RefusalLog(capacity: 3)
        #expect(log.refused(.uid, uid: 1) == .log)
        #expect(log.refused(.uid, uid: 1) == .countOnly)
        #expect(log.refused(.notHTTP2, uid: 1) == .log)
        #expect(log.refused(.uid, uid: 2) == .logAsLast)
        #expect(log.refused(.uid, uid: 3) == .countOnly)
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
