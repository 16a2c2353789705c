import InMemoryLogging
import KMSWire
import KeyService
import Logging
import Testing

@testable import RequestDecoding

@Suite("what a call leaves behind")
struct CallRecordTests {
    @Test(
        "at debug, one line with uid, method, key_id, code and duration",
        arguments: [KMSMethod.v2Encrypt, .v2Decrypt])
    func debugLine(_ method: KMSMethod) async throws {
        let bench = Bench(level: .debug)
        bench.clock.tick(.microseconds(1_500))
        _ = try await bench.call(
            method, method == .v2Encrypt ? goodEncrypt(uid: "u-1") : goodDecrypt(uid: "u-1"))
        #expect(bench.log.entries.count == 1)
        let entry = try #require(bench.log.entries.first)
        #expect(entry.level == .debug)
        #expect(
            entry.metadata == [
                "api": "v2", "method": "\(method.name)", "code": "OK", "duration_ms": "1.5",
                "uid": "u-1",
                "key_id": "id",
            ])
    }

    @Test(
        "at debug, v1beta1 calls name the key_id too, though their messages do not",
        arguments: [KMSMethod.v1Encrypt, .v1Decrypt])
    func debugLineV1(_ method: KMSMethod) async throws {
        let bench = Bench(level: .debug)
        _ = try await bench.call(
            method, method == .v1Encrypt ? goodEncrypt(.v1beta1) : goodDecrypt(.v1beta1))
        #expect(bench.log.entries.count == 1)
        #expect(bench.log.entries.first?.metadata["api"] == "v1beta1")
        #expect(bench.log.entries.first?.metadata["key_id"] == "id")
    }

    @Test("above debug, nothing as long as all is well")
    func quiet() async throws {
        let bench = Bench(level: .info)
        for _ in 0..<10 { _ = try await bench.call(.v2Encrypt, goodEncrypt()) }
        #expect(bench.log.entries.isEmpty)
    }

    @Test("a failure is a warning with its cause, uid and key_id")
    func failure() async throws {
        let bench = Bench(
            .failing(
                KMSFailure(
                    .permissionDenied, "key primary: 403: grant kms:Decrypt", key: "primary",
                    trouble: "permissionDenied")))
        bench.clock.tick(.milliseconds(2))
        _ = await bench.failure(.v2Decrypt, goodDecrypt(uid: "u-9"))
        let entry = try #require(bench.log.entries.first)
        #expect(bench.log.entries.count == 1)
        #expect(entry.level == .warning)
        #expect(
            entry.metadata == [
                "api": "v2", "method": "decrypt", "code": "PERMISSION_DENIED", "duration_ms": "2.0",
                "uid": "u-9", "key": "primary", "key_id": "id", "event": "KW-CALL-DENIED",
                "cause": "key primary: 403: grant kms:Decrypt",
            ])
    }

    @Test("a flood of one failure is told at once and then ever more seldom, with the number left out")
    func flood() async throws {
        let bench = Bench(.failing(KMSFailure(.unavailable, "down")))
        for _ in 0..<300 { _ = await bench.failure(.v2Decrypt, goodDecrypt()) }
        #expect(bench.log.entries.count == 1)
        #expect(bench.log.entries.first?.metadata["count"] == nil)
        _ = await bench.failure(.v2Encrypt, goodEncrypt())
        #expect(bench.log.entries.count == 2, "another method is warned of by itself")
        bench.service.become(.failing(KMSFailure(.resourceExhausted, "full")))
        _ = await bench.failure(.v2Decrypt, goodDecrypt())
        #expect(bench.log.entries.count == 3, "another code is warned of by itself")
        bench.service.become(.failing(KMSFailure(.unavailable, "down")))
        bench.clock.advance(by: .seconds(59))
        _ = await bench.failure(.v2Decrypt, goodDecrypt())
        #expect(bench.log.entries.count == 3)
        bench.clock.advance(by: .seconds(1))
        _ = await bench.failure(.v2Decrypt, goodDecrypt())
        #expect(bench.log.entries.count == 4)
        #expect(bench.log.entries.last?.metadata["count"] == "300")
        let other = KMSFailure(.unavailable, "down", key: "second", trouble: "throttled")
        bench.service.become(.failing(other))
        _ = await bench.failure(.v2Decrypt, goodDecrypt())
        #expect(bench.log.entries.last?.metadata["key"] == "second", "another key is warned of by itself")
        #expect(bench.log.entries.last?.metadata["count"] == nil)
    }

    @Test(
        "refused requests are notices while they are few, as a doctor makes them, and warnings when they go on"
    )
    func refusals() async {
        let bench = Bench(.failing(KMSFailure(.invalidArgument, "damaged")))
        func refused(_ method: KMSMethod = .v2Decrypt) async -> Logger.Level? {
            bench.clock.advance(by: .seconds(1))
            _ = await bench.failure(method, method == .v2Encrypt ? goodEncrypt() : goodDecrypt())
            return bench.log.entries.last?.level
        }
        for _ in 0..<10 { #expect(await refused() == .notice) }
        #expect(bench.log.entries.count == 1, "they are seen")
        #expect(bench.log.entries.last?.metadata["cause"] == "damaged")
        #expect(bench.log.entries.last?.metadata["event"] == "KW-CALL-INVALID")
        #expect(await refused() == .warning)
        #expect(await refused() == .warning)
        #expect(bench.log.entries.count == 2)
        #expect(await refused(.v2Encrypt) == .notice, "another method is another matter")
        bench.clock.advance(by: .seconds(600))
        #expect(await refused() == .notice)
    }

    @Test("warnings left out are still there at debug")
    func floodAtDebug() async {
        let bench = Bench(.failing(KMSFailure(.unavailable, "down")), level: .debug)
        for _ in 0..<3 { _ = await bench.failure(.v2Decrypt, goodDecrypt()) }
        #expect(bench.log.entries.map(\.level) == [.warning, .debug, .debug])
    }

    @Test("no log line, metric or error holds a plaintext, whatever happens to the call")
    func noPlaintext() async throws {
        let moods: [TurningService.Mood] = [
            .working, .failing(KMSFailure(.internal, "defect")), .confused, .excessive,
        ]
        let hex = marker.utf8.map { String($0, radix: 16) }.joined()
        for mood in moods {
            let bench = Bench(mood, level: .trace)
            var said: [String] = []
            let damaged = goodEncrypt() + [0x0e]
            let early = goodEncrypt(uid: "a\nb")
            for message in [goodEncrypt(), damaged, early, Array(goodEncrypt().dropLast())] {
                said.append("\(String(describing: await bench.failure(.v2Encrypt, message)))")
            }
            said.append("\(String(describing: await bench.failure(.v2Decrypt, goodDecrypt())))")
            said += bench.log.entries.map { "\($0)" }
            said.append(bench.page)
            for text in said {
                #expect(!text.contains(marker))
                #expect(!text.contains(hex))
                #expect(!text.contains(String(marker.reversed())))
            }
        }
    }

    @Test("each call is counted by its status and timed")
    func metrics() async throws {
        let bench = Bench()
        bench.clock.tick(.milliseconds(4))
        for _ in 0..<3 { _ = try await bench.call(.v2Encrypt, goodEncrypt()) }
        _ = await bench.failure(.v2Decrypt, goodDecrypt(keyID: "other"))
        #expect(bench.metric("kmsward_requests_total{api=\"v2\",method=\"encrypt\",code=\"OK\"}") == "3")
        #expect(
            bench.metric("kmsward_requests_total{api=\"v2\",method=\"decrypt\",code=\"INVALID_ARGUMENT\"}")
                == "1")
        #expect(bench.metric("kmsward_request_duration_seconds_count{api=\"v2\",method=\"encrypt\"}") == "3")
        let sum = try #require(
            bench.metric("kmsward_request_duration_seconds_sum{api=\"v2\",method=\"encrypt\"}"))
        #expect(Double(sum) == 0.012)
    }

    @Test("every series of every method is there from the start, so that a first failure is a change")
    func zeroes() {
        let bench = Bench()
        let lines = bench.page.split(separator: "\n").filter { $0.hasPrefix("kmsward_requests_total{") }
        #expect(lines.count == KMSMethod.allCases.count * 17)
        #expect(lines.allSatisfy { $0.hasSuffix(" 0") })
        #expect(!bench.page.contains("\"other\""))
    }
}
