import CShims
import Glibc
import Logging
import TestSupport
import Testing

@testable import SocketAcceptance

@Suite(.timeLimit(.minutes(2)))
struct SocketAcceptorTests {
    private func listening(
        _ directory: TemporaryFolder, settings: SocketAcceptor.Settings = .init(),
        policy: PeerPolicy = PeerPolicy()
    ) async throws -> Harness {
        let harness = try Harness(settings: settings, policy: policy)
        try await harness.acceptor.accept(from: socketAt(directory("kms.sock")))
        return harness
    }

    // MARK: Handing over

    @Test("a client that sends its preface reaches the engine at once, preface unread, peer known")
    func handsOver() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let harness = try await listening(directory)
        let client = try Client(directory("kms.sock"))
        client.sendPreface()
        let connection = try await harness.nextConnection()
        #expect(connection.peer == PeerCredentials(pid: getpid(), uid: geteuid(), gid: getegid()))
        #expect(connection.firstBytes(100) == Client.greeting)
        #expect(await harness.acceptor.counts.connections == 1)
        connection.end()
        #expect(client.seesEnd())
        #expect(await harness.recorder.sees(.connections(0)))
        await harness.acceptor.close()
    }

    @Test("a preface that comes byte by byte is waited for")
    func slowPreface() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let harness = try await listening(directory)
        let client = try Client(directory("kms.sock"))
        for byte in Client.greeting.dropLast() {
            client.send([byte])
            #expect(await harness.acceptor.counts.accepted == 0)
        }
        client.send(Client.greeting.suffix(1))
        let connection = try await harness.nextConnection()
        #expect(connection.firstBytes(100) == Client.greeting)
        connection.end()
        await harness.acceptor.close()
    }

    @Test("connections made before accepting began are served")
    func backlog() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let socket = try socketAt(directory("kms.sock"))
        let clients = try (0..<20).map { _ in try Client(directory("kms.sock")) }
        for client in clients { client.sendPreface() }
        let harness = try Harness()
        try await harness.acceptor.accept(from: socket)
        for _ in clients { try await harness.nextConnection().end() }
        await harness.acceptor.close()
    }

    @Test("a client's half-close does not end the connection for us; the engine's close does")
    func halfClose() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let harness = try await listening(directory)
        let client = try Client(directory("kms.sock"))
        client.sendPreface()
        client.shutdownWriting()
        let connection = try await harness.nextConnection()
        #expect(await harness.acceptor.counts.connections == 1)
        connection.end()
        #expect(await harness.recorder.sees(.connections(0)))
        await harness.acceptor.close()
    }

    @Test("a connection that nobody takes is closed")
    func notTaken() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let recorder = Recorder()
        let acceptor = try SocketAcceptor(
            policy: PeerPolicy(), engine: FakeEngine(), observer: recorder,
            logger: .init(label: "test") { _ in LogRecorder(lines: .init()) }, handOver: { _ in })
        try await acceptor.accept(from: socketAt(directory("kms.sock")))
        let client = try Client(directory("kms.sock"))
        client.sendPreface()
        #expect(client.seesEnd())
        #expect(await recorder.sees(.connections(0)))
        await acceptor.close()
    }

    // MARK: Limits

    @Test(
        "what does not speak HTTP/2 is closed at once",
        arguments: [
            "GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/1", "\u{16}\u{3}",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\0",
        ])
    func notHTTP2(_ text: String) async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let harness = try await listening(directory)
        let client = try Client(directory("kms.sock"))
        client.send(text.utf8)
        #expect(client.seesEnd())
        #expect(await harness.recorder.sees(.refused(.notHTTP2)))
        #expect(await harness.acceptor.counts.refused == [.notHTTP2: 1])
        await harness.acceptor.close()
    }

    @Test("the fixed 24 bytes alone are no preface: without SETTINGS the handshake times out")
    func prefaceWithoutSettings() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let harness = try await listening(directory)
        let half = try Client(directory("kms.sock"))
        half.send(Preface.bytes)
        while await harness.acceptor.counts.pending == 0 {}
        await harness.advance(by: .seconds(10))
        #expect(half.seesEnd())
        #expect(await harness.acceptor.counts.refused == [.handshakeTimeout: 1])
        #expect(await harness.acceptor.counts.accepted == 0)
        await harness.acceptor.close()
    }

    @Test("a silent connection ends when the handshake timeout is over, not before")
    func handshakeTimeout() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let harness = try await listening(directory)
        let silent = try Client(directory("kms.sock"))
        let half = try Client(directory("kms.sock"))
        half.send(Preface.bytes.prefix(10))
        // A third one, served, proves that the two before it have been accepted.
        let good = try Client(directory("kms.sock"))
        good.sendPreface()
        let connection = try await harness.nextConnection()
        await harness.advance(by: .seconds(10) - .nanoseconds(1))
        #expect(await harness.acceptor.counts.pending == 2)
        await harness.advance(by: .nanoseconds(1))
        #expect(silent.seesEnd() && half.seesEnd())
        #expect(await harness.acceptor.counts.refused == [.handshakeTimeout: 2])
        #expect(harness.log.all.filter { $0.contains("in time") }.count == 1)
        #expect(good.isOpen)
        connection.end()
        await harness.acceptor.close()
    }

    @Test("neither silent nor dead connections fill the limit, and the silent are bounded")
    func nothingFills() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let harness = try await listening(directory, settings: .init(maxConnections: 2, maxPending: 4))
        let silent = try (0..<10).map { _ in try Client(directory("kms.sock")) }
        for _ in 0..<20 {  // each dies before the next comes
            let client = try Client(directory("kms.sock"))
            client.sendPreface()
            close(try await harness.nextConnection().descriptor)
        }
        let counts = await harness.acceptor.counts
        #expect(counts.accepted == 20)
        #expect(counts.pending <= 4)
        #expect(silent[0].seesEnd())
        await harness.acceptor.close()
    }

    @Test("one connection too many is refused if all speak; a place that becomes free is given again")
    func limit() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let harness = try await listening(directory, settings: .init(maxConnections: 2))
        let path = directory("kms.sock")
        let first = try Client(path)
        let second = try Client(path)
        first.sendPreface()
        let connection = try await harness.nextConnection(speaking: first)
        second.sendPreface()
        let other = try await harness.nextConnection(speaking: second)
        for _ in 0..<3 {
            let third = try Client(path)
            third.sendPreface()
            #expect(third.seesEnd())
        }
        #expect(first.isOpen && second.isOpen)
        #expect(await harness.acceptor.counts.refused == [.limit: 3])
        #expect(harness.log.all.filter { $0.contains("socket.max_connections or") }.count == 1)
        connection.end()
        let fourth = try Client(path)
        fourth.sendPreface()
        try await harness.nextConnection().end()
        other.end()
        await harness.acceptor.close()
    }

    @Test(
        "connections that greet and then say nothing fill no place: the oldest goes, the one that speaks stays"
    )
    func muteFillNothing() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let harness = try await listening(directory, settings: .init(maxConnections: 3))
        let path = directory("kms.sock")
        let good = try Client(path)
        good.sendPreface()
        let connection = try await harness.nextConnection(speaking: good)
        var mute: [(client: Client, taken: HandedOver)] = []
        for _ in 0..<10 {
            let client = try Client(path)
            client.sendPreface()
            mute.append((client, try await harness.nextConnection()))
        }
        let late = try Client(path)
        late.sendPreface()
        let served = try await harness.nextConnection()
        for gone in mute.dropLast() { #expect(gone.client.seesEnd()) }
        #expect(good.isOpen && late.isOpen && mute.last?.client.isOpen == true)
        let counts = await harness.acceptor.counts
        #expect(counts.refused == [.limit: 9] && counts.accepted == 12 && counts.connections == 3)
        #expect(harness.log.all.filter { $0.contains("more than half") }.count == 1)
        for connection in mute.map(\.taken) + [connection, served] { connection.end() }
        #expect(await harness.recorder.sees(.connections(0)))
        await harness.acceptor.close()
    }

    @Test("a connection that spoke gives its place up only after a long silence, the most silent one first")
    func idleGivesWay() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let harness = try await listening(directory, settings: .init(maxConnections: 2))
        let path = directory("kms.sock")
        let first = try Client(path)
        first.sendPreface()
        let connection = try await harness.nextConnection(speaking: first)
        await harness.advance(by: .seconds(1))
        let second = try Client(path)
        second.sendPreface()
        let other = try await harness.nextConnection(speaking: second)
        await harness.advance(by: Admission.idleGrace - .seconds(1) - .milliseconds(1))
        let early = try Client(path)
        early.sendPreface()
        #expect(early.seesEnd())
        #expect(first.isOpen && second.isOpen)
        await harness.advance(by: .milliseconds(1))
        let late = try Client(path)
        late.sendPreface()
        let served = try await harness.nextConnection()
        #expect(first.seesEnd())
        #expect(second.isOpen && late.isOpen)
        for connection in [connection, other, served] { connection.end() }
        await harness.acceptor.close()
    }

    @Test("a peer that leaves before its preface is complete is no refusal", arguments: [0, 5])
    func abandoned(count: Int) async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let harness = try await listening(directory)
        do {
            let client = try Client(directory("kms.sock"))
            client.send(Preface.bytes.prefix(count))
        }
        #expect(await harness.recorder.sees(.abandoned))
        #expect(
            await harness.acceptor.counts
                == {
                    var counts = AcceptanceCounts()
                    counts.abandoned = 1
                    return counts
                }())
        await harness.acceptor.close()
    }

    @Test("without descriptors accepting pauses instead of spinning, says so once, and goes on")
    func descriptorsRunOut() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        await #expect(processExitsWith: .success) { [path = directory("kms.sock") as String] in
            let harness = try Harness()
            try await harness.acceptor.accept(from: socketAt(path))
            let client = try Client(path)
            while await harness.acceptor.counts.pending == 0 {}  // it has its number
            var limit = rlimit()
            let kind = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
            try #require(unsafe getrlimit(kind, &limit) == 0)
            let before = limit.rlim_cur
            func takeAll() -> [Int32] {
                var taken: [Int32] = []
                while case let number = dup(0), number >= 0 { taken.append(number) }
                return taken
            }
            limit.rlim_cur = 64
            try #require(unsafe setrlimit(kind, &limit) == 0)
            var taken = takeAll()
            try #require(taken.popLast().map { close($0) } == 0)
            let second = try Client(path)
            taken += takeAll()
            client.sendPreface()
            second.sendPreface()
            #expect(await harness.recorder.sees(.paused(true)))
            let pauses = await harness.acceptor.counts.pauses
            for _ in 0..<20 { #expect(await harness.acceptor.counts.pauses == pauses) }
            #expect(harness.log.all.filter { $0.contains("LimitNOFILE") }.count == 1)
            limit.rlim_cur = before
            try #require(unsafe setrlimit(kind, &limit) == 0)
            await harness.advance(by: .seconds(1))
            #expect(await harness.recorder.sees(.paused(false)))
            for _ in 0..<2 { #expect(try await harness.nextConnection().firstBytes(100) == Client.greeting) }
            #expect(await harness.acceptor.counts.refused.isEmpty)
            await harness.acceptor.close()
        }
    }

    @Test("a thousand connections leave no descriptor behind")
    func noLeak() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        await #expect(processExitsWith: .success) { [path = directory("kms.sock") as String] in
            let harness = try Harness()
            try await harness.acceptor.accept(from: socketAt(path))
            func openSockets() -> Int {
                (0..<256).filter { FileFacts(of: $0)?.kind == .socket }.count
            }
            func round() async throws {
                let client = try Client(path)
                client.sendPreface()
                let connection = try await harness.nextConnection()
                connection.end()
                #expect(await harness.recorder.sees(.connections(0)))
                let stranger = try Client(path)
                stranger.send("x".utf8)
                #expect(stranger.seesEnd())
            }
            try await round()
            let before = openSockets()
            for _ in 0..<500 { try await round() }
            #expect(openSockets() == before)
            await harness.acceptor.close()
        }
    }

    // MARK: Peers

    /// Becomes another user, connects and tells whether it was refused.
    ///
    /// For exit tests.
    static func isRefused(_ path: String, uid: uid_t, gid: gid_t, groups: [gid_t]) throws -> Bool {
        try #require(unsafe setgroups(groups.count, groups) == 0 && setgid(gid) == 0 && setuid(uid) == 0)
        let client = try Client(path)
        client.sendPreface()
        return client.seesEnd()
    }

    @Test(
        "another user is refused before the engine sees it, and the log shows the line to add",
        .enabled(if: geteuid() == 0))
    func strangerRefused() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let path = directory("kms.sock")
        let harness = try Harness()
        let permissions = try SocketPermissions(mode: 0o600, owner: 1234)
        try await harness.acceptor.accept(
            from: ListeningSocket(binding: SocketAddress(parsing: path), permissions: permissions))
        for _ in 0..<2 {
            await #expect(processExitsWith: .success) { [path = path as String] in
                let isRefused = try Self.isRefused(path, uid: 1234, gid: 1234, groups: [])
                #expect(isRefused)
            }
        }
        #expect(await harness.acceptor.counts.refused == [.uid: 2])
        let lines = harness.log.all.filter { $0.contains("not allowed") }
        #expect(lines.count == 1)
        #expect(lines.first?.hasPrefix("warning") == true)
        #expect(lines.first?.contains("remedy=allow: { uids: [1234] }") == true)
        await harness.acceptor.close()
    }

    @Test(
        "a listed group admits by effective and by supplementary group; so does the socket's own",
        .enabled(if: geteuid() == 0))
    func groupAdmits() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let path = directory("kms.sock")
        let acceptor = try SocketAcceptor(
            policy: PeerPolicy(gids: [5555]), engine: FakeEngine(),
            logger: .init(label: "test") { _ in LogRecorder(lines: .init()) }
        ) { connection in
            // An answer tells the client that it was admitted. Not from a task: the pool may be busy with children.
            #expect(connection.peer.uid == 1234)
            var byte: UInt8 = 1
            let descriptor = connection.takeDescriptor()
            #expect(unsafe send(descriptor, &byte, 1, Int32(MSG_NOSIGNAL)) == 1)
            HandedOver(descriptor: descriptor, peer: .init(pid: 0, uid: 0, gid: 0)).end()
        }
        let permissions = try SocketPermissions(mode: 0o660, owner: 1234, group: 4321)
        try await acceptor.accept(
            from: ListeningSocket(binding: SocketAddress(parsing: path), permissions: permissions))
        await #expect(processExitsWith: .success) { [path = path as String] in
            let isRefused = try Self.isRefused(path, uid: 1234, gid: 5555, groups: [])
            #expect(!isRefused)
        }
        await #expect(processExitsWith: .success) { [path = path as String] in
            let isRefused = try Self.isRefused(path, uid: 1234, gid: 1, groups: [2, 3, 5555])
            #expect(!isRefused)
        }
        await #expect(processExitsWith: .success) { [path = path as String] in
            let isRefused = try Self.isRefused(path, uid: 1234, gid: 1, groups: (1...200).map { $0 } + [4321])
            #expect(!isRefused)
        }
        #expect(await acceptor.counts.refused.isEmpty)
        #expect(await acceptor.counts.accepted == 3)
        await acceptor.close()
    }

    @Test(
        "another policy goes for connections that are there too: who is not admitted any more is cut, others stay",
        .enabled(if: geteuid() == 0))
    func otherPolicy() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let path = directory("kms.sock")
        let harness = try Harness(policy: PeerPolicy(uids: [1234]))
        let permissions = try SocketPermissions(mode: 0o600, owner: 1234)
        try await harness.acceptor.accept(
            from: ListeningSocket(binding: SocketAddress(parsing: path), permissions: permissions))
        let own = try Client(path)
        own.sendPreface()
        let stays = try await harness.nextConnection()
        async let stranger: Void = Self.expectRefusal(at: path)
        let cut = try await harness.nextConnection()
        #expect(cut.peer.uid == 1234)
        await harness.acceptor.admit(by: PeerPolicy(uids: [1234]))
        #expect(await harness.acceptor.counts.refused.isEmpty)
        await harness.acceptor.admit(by: PeerPolicy())
        await stranger
        #expect(own.isOpen)
        await Self.expectRefusal(at: path)
        #expect(await harness.acceptor.counts.refused == [.uid: 2])
        for connection in [stays, cut] { connection.end() }
        await harness.acceptor.close()
    }

    private static func expectRefusal(at path: String) async {
        await #expect(processExitsWith: .success) { [path = path as String] in
            let isRefused = try Self.isRefused(path, uid: 1234, gid: 1, groups: [])
            #expect(isRefused)
        }
    }

    @Test("an abstract socket needs an allow-list")
    func abstract() async throws {
        let name = "@ksw-test-\(getpid())-acceptor"
        let bare = try Harness()
        await #expect {
            try await bare.acceptor.accept(from: ListeningSocket(binding: SocketAddress(parsing: name)))
        } throws: { error in
            (error as? SocketFailure)?.code == .allowListRequired
        }
        await bare.acceptor.close()
        let listed = try Harness(policy: PeerPolicy(uids: [geteuid()]))
        try await listed.acceptor.accept(from: ListeningSocket(binding: SocketAddress(parsing: name)))
        let client = try Client(name)
        client.sendPreface()
        try await listed.nextConnection().end()
        await listed.acceptor.close()
    }

    // MARK: Drain

    @Test("the drain frees the name at once: a successor binds it, and our close leaves it alone")
    func drain() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let path = directory("kms.sock")
        let harness = try await listening(directory)
        let served = try Client(path)
        served.sendPreface()
        let connection = try await harness.nextConnection()
        let silent = try Client(path)
        await harness.acceptor.stopAccepting()
        #expect(silent.seesEnd())
        #expect(served.isOpen)
        #expect(!exists(path))
        let successor = try await listening(directory)
        let client = try Client(path)
        client.sendPreface()
        let taken = try await successor.nextConnection()
        connection.end()
        #expect(await harness.recorder.sees(.connections(0)))
        await harness.acceptor.close()
        #expect(canConnect(path))
        await #expect(throws: SocketFailure.self) {
            try await harness.acceptor.accept(from: socketAt(directory("other.sock")))
        }
        taken.end()
        await successor.acceptor.close()
        #expect(!exists(path))
    }

    @Test("an adopted socket keeps collecting connections for the successor")
    func adoptedDrain() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let path = directory("kms.sock")
        let keeper = try required(OwnedDescriptor(adopting: ksw_unix_socket()))
        try #require(unsafe ksw_unix_bind(keeper.number, path, path.utf8.count, 0) == 0)
        try #require(listen(keeper.number, 16) == 0)
        for _ in 0..<3 {
            let harness = try Harness()
            let waiting = try Client(path)
            waiting.sendPreface()
            let passed = ActivatedDescriptor(number: dup(keeper.number), name: "kms")
            try await harness.acceptor.accept(from: ListeningSocket(adopting: passed))
            try await harness.nextConnection().end()
            await harness.acceptor.stopAccepting()
            let late = try Client(path)
            #expect(late.isOpen)
            await harness.acceptor.close()
            #expect(late.isOpen)
            let next = ksw_accept(keeper.number)
            #expect(next >= 0)
            close(next)
        }
    }

    @Test("calls after the close neither hang nor trap, however many come at a time")
    func late() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let harness = try await listening(directory)
        let acceptor = harness.acceptor
        await withTaskGroup { group in  // the thread ends while jobs are coming in
            for index in 0..<200 {
                group.addTask {
                    if index == 100 { await acceptor.close() }
                    _ = await acceptor.counts
                }
            }
        }
        let answers = await withTaskGroup(of: AcceptanceCounts.self, returning: Int.self) { group in
            for _ in 0..<200 {
                group.addTask {
                    await acceptor.stopAccepting()
                    return await acceptor.counts
                }
            }
            var count = 0
            for await counts in group where counts == AcceptanceCounts() { count += 1 }
            return count
        }
        #expect(answers == 200)
        await acceptor.close()
    }

    // MARK: Stall guard

    @Test("the connection that stalls the engine is cut, the others stay")
    func stalled() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let harness = try await listening(directory)
        let path = directory("kms.sock")
        let good = try Client(path)
        good.sendPreface()
        let goodConnection = try await harness.nextConnection()
        let flood = try Client(path)
        flood.sendPreface()
        let flooded = try await harness.nextConnection()
        flood.send(Array(repeating: 0, count: 40_000))
        for _ in 0..<10 { await harness.advance(by: .milliseconds(50)) }
        #expect(flood.isOpen && good.isOpen)
        #expect(harness.engine.postedProbes >= 10)

        harness.engine.turn(false)
        await harness.advance(by: .milliseconds(50))
        #expect(flood.isOpen)
        await harness.advance(by: .milliseconds(50))
        #expect(flood.seesEnd())
        #expect(await harness.recorder.sees(.refused(.stalled)))
        #expect(await harness.acceptor.counts.isEngineStalled)
        for _ in 0..<10 { await harness.advance(by: .milliseconds(50)) }
        #expect(good.isOpen)
        #expect(await harness.acceptor.counts.refused == [.stalled: 1])
        #expect(
            harness.log.all.contains {
                $0.contains("cut a connection") && $0.contains("peer_pid=\(getpid())")
            })
        flooded.end()
        #expect(await harness.recorder.sees(.connections(1)))
        goodConnection.end()
        await harness.acceptor.close()
    }

    /// Connects, floods an engine that does not turn until that is cut, and lets the engine turn again.
    private func floodOnce(_ harness: Harness, _ path: String) async throws {
        let flood = try Client(path)
        flood.sendPreface()
        let connection = try await harness.nextConnection()
        flood.send(Array(repeating: 0, count: 40_000))
        harness.engine.turn(false)
        while await !harness.acceptor.counts.isEngineStalled { await harness.advance(by: .milliseconds(50)) }
        #expect(flood.seesEnd())
        connection.end()
        harness.engine.turn(true)
        harness.engine.postProbe()
        await harness.advance(by: .milliseconds(50))
    }

    @Test("a process that floods again at once is kept out for a while, and told so once in the log")
    func barred() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let harness = try await listening(directory)
        let path = directory("kms.sock")
        let keeper = try Client(path)  // keeps the guard awake in between
        keeper.sendPreface()
        let kept = try await harness.nextConnection()
        try await floodOnce(harness, path)
        await harness.advance(by: BarredProcesses.breath)
        let between = try Client(path)
        between.sendPreface()
        try await harness.nextConnection().end()
        #expect(await harness.acceptor.counts.refused == [.stalled: 1])
        try await floodOnce(harness, path)
        for _ in 0..<3 {
            let late = try Client(path)
            #expect(late.seesEnd())
        }
        #expect(keeper.isOpen, "what it had open stays")
        #expect(await harness.acceptor.counts.refused == [.stalled: 2, .barred: 3])
        let lines = harness.log.all.filter { $0.contains("may not connect for 10 s") }
        #expect(lines.count == 1)
        #expect(lines.first?.contains("peer_pid=\(getpid()) peer_uid=\(geteuid())") == true)
        #expect(lines.first?.contains("remedy=") == true)
        await harness.advance(by: BarredProcesses.shortest)
        let after = try Client(path)
        after.sendPreface()
        try await harness.nextConnection().end()
        kept.end()
        await harness.acceptor.close()
    }

    @Test("a peer that does not read its replies is cut once memory grows, one that reads late stays")
    func neverReads() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let harness = try await listening(directory)
        let path = directory("kms.sock")
        let slow = try Client(path)
        slow.sendPreface()
        let slowConnection = try await harness.nextConnection()
        let deaf = try Client(path)
        deaf.sendPreface()
        let deafConnection = try await harness.nextConnection()
        for connection in [slowConnection, deafConnection] { connection.write(100_000) }
        for _ in 0..<4 { await harness.advance(by: .milliseconds(50)) }
        #expect(deaf.isOpen && slow.isOpen)
        slow.receive(100_000)
        for _ in 0..<2 { await harness.advance(by: .milliseconds(50)) }
        for _ in 0..<20 { await harness.advance(by: .milliseconds(50)) }
        #expect(deaf.isOpen, "a backlog that costs nothing is no harm")
        harness.size.grow(by: StallGuard.harmfulGrowth + 1)
        await harness.advance(by: .milliseconds(50))
        #expect(await harness.recorder.sees(.refused(.stalled)))
        #expect(!deaf.isOpen && slow.isOpen)
        #expect(await harness.acceptor.counts.refused == [.stalled: 1])
        let lines = harness.log.all.filter { $0.contains("does not read") }
        #expect(lines.count == 1)
        #expect(lines.first?.contains("peer_pid=\(getpid())") == true)
        #expect(lines.first?.contains("unsent_bytes=1") == true)
        deafConnection.end()
        slowConnection.end()
        await harness.acceptor.close()
    }

    @Test("without connections, and without a suspicious one, the engine is asked nothing")
    func restsWhenIdle() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let harness = try await listening(directory)
        for _ in 0..<5 { await harness.advance(by: .milliseconds(100)) }
        #expect(harness.engine.postedProbes == 0)
        let client = try Client(directory("kms.sock"))
        client.sendPreface()
        let connection = try await harness.nextConnection()
        await harness.advance(by: .milliseconds(50))
        #expect(harness.engine.postedProbes == 0)
        client.send(Array(repeating: 0, count: 40_000))
        await harness.advance(by: .milliseconds(50))
        #expect(harness.engine.postedProbes == 1)
        connection.end()
        #expect(await harness.recorder.sees(.connections(0)))
        await harness.advance(by: .milliseconds(50))
        #expect(harness.engine.postedProbes == 1)
        await harness.acceptor.close()
    }

    @Test("the acceptor's own thread acts when time is up, unasked")
    func realTime() async throws {
        let directory = TemporaryFolder(mode: 0o711)
        let recorder = Recorder()
        let acceptor = try SocketAcceptor(
            settings: .init(handshakeTimeout: .milliseconds(20)), policy: PeerPolicy(), engine: FakeEngine(),
            observer: recorder, logger: .init(label: "test") { _ in LogRecorder(lines: .init()) },
            handOver: { _ in })
        try await acceptor.accept(from: socketAt(directory("kms.sock")))
        let silent = try Client(directory("kms.sock"))
        #expect(silent.seesEnd())
        #expect(await recorder.sees(.refused(.handshakeTimeout)))
        await acceptor.close()
    }
}
