import Glibc
import SecureMemory
import Synchronization
import TestSupport
import Testing

@testable import HTTPTransport

/// One at a time: they count threads, connections and descriptors.
@Suite(
    .serialized, .enabled(if: Python.path != nil, "needs KMSWARD_PYTHON, a Python with h2 and cryptography"))
enum HTTPTransportTests {}

/// The servers of `Python/servers.py`, which end with this process.
final class Servers: Sendable {
    struct Failure: Error { let what: String }

    /// Started by the first test that asks.
    static let shared = Result { try Servers() }

    private let folder = TemporaryFolder()
    private let process: ChildProcess
    private let ports: [String: UInt16]

    private init() throws {
        guard let python = Python.path else { throw Failure(what: "no Python") }
        let script = Repository.root + "/Tests/HTTPTransportTests/Python/servers.py"
        process = try ChildProcess([python, "-W", "ignore::DeprecationWarning", script, folder.path])
        var ports: [String: UInt16] = [:]
        while let line = process.line(), line != "ready" {
            let words = line.split(separator: " ")
            if words.count == 2 { ports[String(words[0])] = UInt16(words[1]) }
        }
        guard !ports.isEmpty else { throw Failure(what: "the servers did not start") }
        self.ports = ports
    }

    func port(_ name: String) throws -> UInt16 { try #require(ports[name], "no server \(name)") }

    func file(_ name: String) -> String { folder(name) }

    var allPorts: Set<UInt16> { Set(ports.values) }
}

/// A transport for one test, which trusts the servers' authority and knows `*.test` to be this host.
func withTransport<R>(
    _ change: (inout HTTPTransport.Settings) -> Void = { _ in },
    lookup: @escaping Lookup.Function = { $0.hasSuffix(".test") ? .thisHost : .noSuchName("no such name") },
    _ body: (HTTPTransport, Servers) async throws -> R
) async throws -> R {
    let servers = try Servers.shared.get()
    var settings = HTTPTransport.Settings()
    settings.proxy = .none
    settings.allowsPlainHTTP = true
    settings.offersHTTP2 = true
    settings.authoritiesFile = servers.file("ca.pem")
    settings.connectTimeout = .seconds(20)
    change(&settings)
    let transport = try HTTPTransport(settings, lookup: lookup)
    let result: Result<R, any Error>
    do { result = .success(try await body(transport, servers)) } catch { result = .failure(error) }
    await transport.close()
    return try result.get()
}

extension NameCache.Answer {
    static let thisHost = Self.addresses(["127.0.0.1"].compactMap { IPAddress($0) })
}

/// Generous: no test waits for it, but those that run into a defect.
var soon: ContinuousClock.Instant { .now + .seconds(30) }

/// An answer that can be compared and kept.
struct Answer: Equatable {
    var status: Int
    var version: HTTPResponse.Version
    var headers: HTTPHeaders
    var text: String
    var isReused: Bool

    init(_ response: consuming HTTPResponse) {
        status = response.status
        version = response.version
        headers = response.headers
        text = String(decoding: response.body.copied(), as: UTF8.self)
        isReused = response.timings.isReused
    }
}

extension SecretBytes {
    borrowing func copied() -> [UInt8] {
        withBytes { span in
            span.byteOffsets.map { unsafe span.unsafeLoad(fromByteOffset: $0, as: UInt8.self) }
        }
    }

    init(_ bytes: [UInt8]) { unsafe self.init(copying: bytes.span.bytes) }
}

extension HTTPTransport {
    /// Sends and returns what can be compared.
    func answer(
        _ request: consuming HTTPRequest, deadline: ContinuousClock.Instant = soon
    ) async -> Result<Answer, HTTPFailure> {
        do throws(HTTPFailure) {
            return .success(Answer(try await send(request, deadline: deadline)))
        } catch {
            return .failure(error)
        }
    }

    /// GET from the server of that name.
    func get(
        _ server: String, _ servers: Servers, _ target: String = "/echo", scheme: String = "https",
        host: String = "kms.test", deadline: ContinuousClock.Instant = soon,
        _ change: (inout HTTPRequest) -> Void = { _ in }
    ) async throws -> Result<Answer, HTTPFailure> {
        let origin = try HTTPOrigin(parsing: "\(scheme)://\(host):\(servers.port(server))")
        var request = HTTPRequest("GET", origin, target)
        change(&request)
        return await answer(request, deadline: deadline)
    }

    /// What `/stats` of the servers says, once it is so.
    func stats(_ what: String, _ servers: Servers) async throws -> String {
        let answer = try await get("stats", servers, "/" + what, scheme: "http", host: "127.0.0.1").get()
        #expect(answer.status == 200, "waited in vain for \(what): \(answer.text)")
        return answer.text
    }
}

extension Result where Failure == HTTPFailure {
    var failure: HTTPFailure? {
        guard case .failure(let failure) = self else { return nil }
        return failure
    }
}

/// Names of this process's threads that belong to transports.
func transportThreads() -> [String] {
    var names: [String] = []
    guard let folder = unsafe opendir("/proc/self/task") else { return names }
    defer { unsafe closedir(folder) }
    while let entry = unsafe readdir(folder) {
        let id = unsafe withUnsafeBytes(of: entry.pointee.d_name) {
            unsafe String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
        }
        guard let file = unsafe fopen("/proc/self/task/\(id)/comm", "r") else { continue }
        defer { unsafe fclose(file) }
        var name = [UInt8](repeating: 0, count: 32)
        let count = unsafe fread(&name, 1, name.count, file)
        let text = String(decoding: name.prefix(count).prefix { $0 != 10 }, as: UTF8.self)
        if text.hasPrefix("http-") { names.append(text) }
    }
    return names
}

/// Descriptors of this process that are connected to one of the servers.
func connectedDescriptors(to ports: Set<UInt16>) -> Int {
    (0..<Int32(4096)).count { descriptor in
        var address = sockaddr_in()
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let isConnected = unsafe withUnsafeMutablePointer(to: &address) { address in
            unsafe address.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe getpeername(descriptor, $0, &length) == 0
            }
        }
        return isConnected && address.sin_family == AF_INET
            && ports.contains(UInt16(bigEndian: address.sin_port))
    }
}

/// Descriptors of this process.
func openDescriptors() -> Int { (0..<Int32(4096)).count { fcntl($0, F_GETFD) >= 0 } }
