public import RemoteKMS
import SecureMemory
import Synchronization
public import TestSupport
import Testing

@testable import JDCloudProvider

extension ManualClock: DeadlineClock {}

/// A source that says what the test tells it to, and counts.
private final class ScriptedSource: CredentialSource {
    private let state = Mutex((answers: [Result<FetchedCredentials, RemoteKMSError>](), fetches: 0))

    var fetches: Int { state.withLock { $0.fetches } }

    func next(_ name: String, lifetime: Duration? = nil) {
        let credentials = Credentials(accessKey: name, secretKey: SharedSecret(secret("sk")))
        state.withLock {
            $0.answers.append(.success(FetchedCredentials(credentials: credentials, lifetime: lifetime)))
        }
    }

    func nextFails() { state.withLock { $0.answers.append(.failure(RemoteKMSError(.unavailable, "down"))) } }

    func fetch(by deadline: Deadline) async throws(RemoteKMSError) -> FetchedCredentials {
        let answer = state.withLock { state in
            state.fetches += 1
            return state.answers.isEmpty
                ? .failure(RemoteKMSError(.unavailable, "no more")) : state.answers.removeFirst()
        }
        return try answer.get()
    }
}

@Suite("Credentials", .timeLimit(.minutes(1)))
struct CredentialTests {
    private let clock = ManualClock()
    private let source = ScriptedSource()
    private var deadline: Deadline { Deadline(clock.now + .seconds(3)) }

    private let refused = RemoteKMSError(.unauthenticated, "it says no", remedy: "look")

    private func keeper() -> CredentialKeeper { CredentialKeeper(source, clock: clock) }

    @Test("one fetch serves all who wait for it")
    func oneFlight() async throws {
        source.next("a")
        let (keeper, deadline) = (keeper(), deadline)
        try await withThrowingTaskGroup { group in
            for _ in 0..<50 {
                group.addTask { try await keeper.credentials(by: deadline).credentials.accessKey }
            }
            for try await name in group { #expect(name == "a") }
        }
        #expect(source.fetches == 1)
    }

    @Test("credentials that end soon are renewed while they still serve, and nobody waits")
    func aheadOfTheEnd() async throws {
        source.next("a", lifetime: .seconds(3600))
        source.next("b", lifetime: .seconds(3600))
        let keeper = keeper()
        #expect(try await keeper.credentials(by: deadline).credentials.accessKey == "a")
        clock.advance(by: .seconds(2999))
        #expect(try await keeper.credentials(by: deadline).credentials.accessKey == "a")
        #expect(source.fetches == 1)
        clock.advance(by: .seconds(2))
        #expect(try await keeper.credentials(by: deadline).credentials.accessKey == "a")
        while try await keeper.credentials(by: deadline).credentials.accessKey == "a" { await Task.yield() }
        #expect(source.fetches == 2)
        #expect(await keeper.timeLeft == .seconds(3600))
    }

    @Test("a renewal that fails leaves the old ones in use to their end, and is repeated")
    func failedRenewal() async throws {
        source.next("a", lifetime: .seconds(3600))
        let keeper = keeper()
        _ = try await keeper.credentials(by: deadline)
        clock.advance(by: .seconds(3100))
        #expect(try await keeper.credentials(by: deadline).credentials.accessKey == "a")
        while source.fetches < 2 { await Task.yield() }
        clock.advance(by: .seconds(3))
        #expect(try await keeper.credentials(by: deadline).credentials.accessKey == "a")
        while source.fetches < 3 { await Task.yield() }
        clock.advance(by: .seconds(3600))
        let late = await failure { () throws(RemoteKMSError) in _ = try await keeper.credentials(by: deadline)
        }
        #expect(late?.code == .unavailable)
    }

    @Test("a source that fails is not asked by each call")
    func pause() async throws {
        source.nextFails()
        source.next("a")
        let keeper = keeper()
        for _ in 0..<10 {
            let error = await failure { () throws(RemoteKMSError) in
                _ = try await keeper.credentials(by: deadline)
            }
            #expect(error?.code == .unavailable)
        }
        #expect(source.fetches == 1)
        clock.advance(by: .seconds(2))
        #expect(try await keeper.credentials(by: deadline).credentials.accessKey == "a")
    }

    @Test(
        "refused credentials are fetched once for all that they were refused to; the same ones are no others")
    func renew() async throws {
        for name in ["a", "b", "b"] { source.next(name) }
        let (keeper, deadline) = (keeper(), deadline)
        let first = try await keeper.credentials(by: deadline)
        await withTaskGroup { group in
            for _ in 0..<20 {
                group.addTask { await keeper.renew(after: first.generation, refused, by: deadline) }
            }
            for await isOther in group { #expect(isOther) }
        }
        #expect(source.fetches == 2)
        let second = try await keeper.credentials(by: deadline)
        #expect(second.credentials.accessKey == "b")
        #expect(await keeper.renew(after: second.generation, refused, by: deadline) == false)
    }

    @Test("a service that refuses whatever it is given does not have new ones fetched for each call")
    func refusedAgain() async throws {
        for name in ["a", "b", "c", "d", "e"] { source.next(name) }
        let keeper = keeper()
        var current = try await keeper.credentials(by: deadline)
        #expect(await keeper.renew(after: current.generation, refused, by: deadline), "b")
        for _ in 0..<40 {
            current = try await keeper.credentials(by: deadline)
            #expect(await keeper.renew(after: current.generation, refused, by: deadline) == false)
        }
        #expect(source.fetches == 2)
        clock.advance(by: .seconds(10))
        #expect(await keeper.renew(after: current.generation, refused, by: deadline), "c")
        // Some that served are another matter.
        current = try await keeper.credentials(by: deadline)
        await keeper.accepted(current.generation, for: .encrypt)
        #expect(await keeper.renew(after: current.generation, refused, by: deadline), "d")
        #expect(source.fetches == 4)
    }

    @Test("after a refusal, a source that fails is the news")
    func failsAfterRefusal() async throws {
        for name in ["a", "b"] { source.next(name, lifetime: .seconds(3600)) }
        source.nextFails()
        let keeper = keeper()
        let first = try await keeper.credentials(by: deadline)
        await keeper.accepted(first.generation, for: .encrypt)
        clock.advance(by: .seconds(3001))
        var second = try await keeper.credentials(by: deadline)
        while second.generation == first.generation {
            second = try await keeper.credentials(by: deadline)
            await Task.yield()
        }
        #expect(await keeper.renew(after: second.generation, refused, by: deadline))
        #expect(await keeper.reservation?.summary.hasPrefix("new credentials are refused") == true)
        // The former ones are at their end, too: others are asked for, and none come.
        while await keeper.reservation?.summary.hasPrefix("new credentials are refused") == true {
            _ = try await keeper.credentials(by: deadline)
            await Task.yield()
        }
        #expect(await keeper.reservation?.summary == "no new credentials, and the former ones go on: down")
    }

    @Test("new ones that are refused are given up for the former, as long as those serve, and that is said")
    func trial() async throws {
        for name in ["a", "b", "b", "c"] { source.next(name, lifetime: .seconds(3600)) }
        let (keeper, deadline) = (keeper(), deadline)
        let first = try await keeper.credentials(by: deadline)
        #expect(first.taken.isEmpty && !first.isOnTrial)
        await keeper.accepted(first.generation, for: .encrypt)
        #expect(try await keeper.credentials(by: deadline).taken == [.encrypt])

        // Renewed ahead of the end.
        clock.advance(by: .seconds(3001))
        _ = try await keeper.credentials(by: deadline)
        while source.fetches < 2 { await Task.yield() }
        var second = try await keeper.credentials(by: deadline)
        while second.generation == first.generation { second = try await keeper.credentials(by: deadline) }
        #expect(second.credentials.accessKey == "b" && second.isOnTrial)
        #expect(await keeper.reservation == nil)
        for _ in 0..<3 { #expect(await keeper.renew(after: second.generation, refused, by: deadline)) }
        let third = try await keeper.credentials(by: deadline)
        #expect(third.credentials.accessKey == "a" && third.taken == [.encrypt] && !third.isOnTrial)
        #expect(
            await keeper.reservation?.description
                == "new credentials are refused, and the former ones go on: it says no: give both halves of a pair that the service takes"
        )

        // The former ones are refused by now as well: nothing better than the new ones is to be had.
        #expect(await keeper.renew(after: third.generation, refused, by: deadline))
        let fourth = try await keeper.credentials(by: deadline)
        #expect(fourth.credentials.accessKey == "b")
        await keeper.accepted(fourth.generation, for: .describeKey)
        #expect(await keeper.reservation != nil)
        await keeper.accepted(fourth.generation, for: .encrypt)
        #expect(await keeper.reservation == nil)
        #expect(source.fetches == 3)
    }

    @Test("a source that fails while credentials serve is said, until it does not")
    func reservation() async throws {
        source.next("a", lifetime: .seconds(3600))
        source.nextFails()
        source.next("b", lifetime: .seconds(3600))
        let keeper = keeper()
        _ = try await keeper.credentials(by: deadline)
        clock.advance(by: .seconds(3001))
        _ = try await keeper.credentials(by: deadline)
        while await keeper.reservation == nil { await Task.yield() }
        #expect(await keeper.reservation?.summary == "no new credentials, and the former ones go on: down")
        clock.advance(by: .seconds(2))
        _ = try await keeper.credentials(by: deadline)
        while await keeper.reservation != nil { await Task.yield() }
        #expect(source.fetches == 3)
    }

    @Test("files are read again when they change; a bad file is said and leaves the old credentials in use")
    func files() async throws {
        let folder = TemporaryFolder()
        let files = CredentialFiles(accessKey: folder("ak"), secretKey: folder("sk"))
        let source = FileCredentials(files)
        let keeper = CredentialKeeper(source, clock: clock)

        let missing = await failure { () throws(RemoteKMSError) in
            _ = try await keeper.credentials(by: deadline)
        }
        #expect(missing?.code == .misconfigured)
        #expect(
            missing?.summary == "credential file \(folder("ak")) cannot be read: No such file or directory")

        folder.write(" AKONE \n", to: "ak")
        folder.write("first-secret\n", to: "sk")
        clock.advance(by: .seconds(2))
        let first = try await keeper.credentials(by: deadline)
        #expect(first.credentials.accessKey == "AKONE")
        let isSecret = first.credentials.secretKey.bytes.isEqual(to: secret("first-secret"))
        #expect(isSecret)

        folder.write("two words", to: "sk")
        #expect(try await keeper.credentials(by: deadline).generation == first.generation)
        let bad = await failure { () throws(RemoteKMSError) in _ = try await source.fetch(by: deadline) }
        #expect(bad?.description.contains("two words") == false && bad?.summary.contains("/sk") == true)

        folder.write("AKTWO", to: "ak")
        folder.write("second-secret-is-longer", to: "sk")
        let second = try await keeper.credentials(by: deadline)
        #expect(second.credentials.accessKey == "AKTWO" && second.generation > first.generation)
        #expect(source.hasChanged() == false)
    }

    @Test("the environment is read by the names that JD Cloud's tools use")
    func environment() async throws {
        for (variables, expected) in [
            (
                [
                    "JDCLOUD_ACCESS_KEY_ID": "A", "JDCLOUD_SECRET_ACCESS_KEY": "s",
                    "JDCLOUD_SESSION_TOKEN": "t",
                ], "A"
            ),
            (["JDCLOUD_AK": "B", "JDCLOUD_SK": "s"], "B"),
            (["JDC_ACCESS_KEY": "C", "JDC_SECRET_KEY": "s"], "C"),
            (["JDCLOUD_ACCESS_KEY_ID": "A", "JDCLOUD_SK": "s"], nil), ([:], nil),
            (["JDCLOUD_AK": "B B", "JDCLOUD_SK": "s"], nil),
        ] as [([String: String], String?)] {
            let source = EnvironmentCredentials { variables[$0] }
            let fetched = try? await source.fetch(by: deadline)
            #expect(fetched?.credentials.accessKey == expected)
            #expect((fetched?.credentials.sessionToken != nil) == (expected == "A"))
        }
    }

}
