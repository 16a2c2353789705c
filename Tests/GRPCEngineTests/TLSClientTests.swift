import GRPCEngine
import Glibc
import Testing

/// A Python that has grpcio; nil where the tests' environment was not made.
private let python: String? = {
    if let path = unsafe getenv("KMSWARD_PYTHON") { return unsafe String(cString: path) }
    let package = #filePath.split(separator: "/").dropLast(3).map { "/" + $0 }.joined()
    let made = package + "/.build/venv/bin/python"
    return unsafe access(made, X_OK) == 0 ? made : nil
}()

@Suite(.enabled(if: python != nil, "needs KMSWARD_PYTHON, a Python with grpcio and cryptography"))
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

/// The echo server of `Python/tls_echo.py`, which ends with its standard input.
private struct PythonServer {
    struct Failure: Error {}

    private let folder: String
    private let input: Int32
    private let pid: pid_t
    let port: UInt16

    init(mutual: Bool) throws {
        var template = Array("/tmp/kmsward-tls.XXXXXX".utf8CString)
        folder = unsafe String(cString: mkdtemp(&template))
        let script =
            #filePath.split(separator: "/").dropLast().map { "/" + $0 }.joined() + "/Python/tls_echo.py"
        var (toChild, fromChild): ([Int32], [Int32]) = ([0, 0], [0, 0])
        guard unsafe pipe(&toChild) == 0, unsafe pipe(&fromChild) == 0 else {
            throw Failure()
        }
        for end in toChild + fromChild { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        var actions = unsafe posix_spawn_file_actions_t()
        unsafe posix_spawn_file_actions_init(&actions)
        defer { unsafe posix_spawn_file_actions_destroy(&actions) }
        unsafe posix_spawn_file_actions_adddup2(&actions, toChild[0], STDIN_FILENO)
        unsafe posix_spawn_file_actions_adddup2(&actions, fromChild[1], STDOUT_FILENO)
        let path = try #require(python)
        let texts = [path, script, folder] + (mutual ? ["mutual"] : [])
        let words: [UnsafeMutablePointer<CChar>?] = unsafe texts.map { unsafe strdup($0) }
        defer { unsafe words.forEach { unsafe free($0) } }
        var child: pid_t = 0
        guard unsafe posix_spawn(&child, path, &actions, nil, words + [nil], environ) == 0 else {
            throw Failure()
        }
        close(toChild[0])
        close(fromChild[1])
        input = toChild[1]
        pid = child
        var said = [UInt8](repeating: 0, count: 16)
        let count = unsafe read(fromChild[0], &said, said.count)
        close(fromChild[0])
        let digits = String(decoding: said.prefix(max(count, 0)), as: UTF8.self)
        port = try #require(UInt16(digits.trimmingPrefix(" ").prefix { $0.isNumber }))
    }

    func file(_ name: String) -> String {
        guard let file = unsafe fopen("\(folder)/\(name)", "r") else { return "" }
        defer { unsafe fclose(file) }
        var text = [UInt8](repeating: 0, count: 1 << 14)
        let count = unsafe fread(&text, 1, text.count, file)
        return String(decoding: text.prefix(count), as: UTF8.self)
    }

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

    func stop() {
        close(input)
        var status: Int32 = 0
        while unsafe waitpid(pid, &status, 0) < 0 && errno == EINTR {}
        for name in ["ca.pem", "client.pem", "client.key"] { unsafe unlink("\(folder)/\(name)") }
        unsafe rmdir(folder)
    }
}
