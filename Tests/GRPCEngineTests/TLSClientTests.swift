import GRPCEngine
import Glibc
import TestSupport
import Testing

@Suite(.enabled(if: Python.path != nil, "needs KMSWARD_PYTHON, a Python with grpcio and cryptography"))
struct TLSClientTests {
    @Test(
        "a server of another make is called over TLS, with its name and authority checked",
        arguments: [false, true])
    func echo(mutual: Bool) async throws {
        let server = try PythonServer(mutual: mutual)
        defer { server.stop() }
        let identity =
            mutual
            ? Client.TLS.Identity(chain: server.file("client.pem"), privateKey: server.file("client.key"))
            : nil
        let tls = Client.TLS(authorities: server.file("ca.pem"), identity: identity, serverName: "kms.test")
        let answer = await server.echo(tls)
        #expect(answer == .success([1, 2, 3]))
    }

    @Test(
        "a server that is not the expected one is not spoken to",
        arguments: [("another name", "other.test", true), ("another authority", "kms.test", false)])
    func refused(why: String, serverName: String, trusted: Bool) async throws {
        let server = try PythonServer(mutual: false)
        defer { server.stop() }
        let tls = Client.TLS(
            authorities: server.file(trusted ? "ca.pem" : "client.pem"), serverName: serverName)
        guard case .failure(let failure) = await server.echo(tls, within: .seconds(1)) else {
            Issue.record("\(why) was accepted")
            return
        }
        #expect(failure.code == .deadlineExceeded || failure.code == .unavailable)
    }
}

/// The echo server of `Python/tls_echo.py`.
private struct PythonServer {
    private let folder = TemporaryFolder()
    private let process: ChildProcess
    let port: UInt16

    init(mutual: Bool) throws {
        let script = Repository.root + "/Tests/GRPCEngineTests/Python/tls_echo.py"
        process = try ChildProcess(
            [#require(Python.path), script, folder.path] + (mutual ? ["mutual"] : []))
        port = try #require(process.line().flatMap { UInt16($0) })
    }

    func file(_ name: String) -> String { folder.text(of: name) }

    func echo(
        _ tls: Client.TLS, within timeout: Duration = .seconds(20)
    ) async -> Result<[UInt8], CallFailure> {
        let engine = EngineThread(name: "tls-client")
        let client = Client(engine: engine, target: .tls(host: "127.0.0.1", port: port, tls))
        let result: Result<[UInt8], CallFailure>
        do throws(CallFailure) {
            let body = ReplyBytes(count: 3) { span in
                for offset in 0..<3 {
                    span.storeBytes(of: UInt8(offset + 1), toByteOffset: offset, as: UInt8.self)
                }
            }
            let reply = try await client.unary("/t.T/Echo", body, deadline: ContinuousClock.now + timeout)
            result = .success(
                reply.withBytes { span in
                    span.byteOffsets.map { unsafe span.unsafeLoad(fromByteOffset: $0, as: UInt8.self) }
                })
        } catch { result = .failure(error) }
        await client.close()
        engine.stop()
        return result
    }

    func stop() { process.end() }
}
