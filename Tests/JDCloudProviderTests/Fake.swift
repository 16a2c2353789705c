import HTTPTransport
import RemoteKMS
import SecureMemory
import TestSupport
import Testing

@testable import JDCloudProvider

/// One at a time: they turn the switches of one service.
@Suite(
    .serialized, .enabled(if: Python.path != nil, "needs KMSWARD_PYTHON, made by make test-deps"),
    .timeLimit(.minutes(5)))
enum WithFake {}

/// `Tests/Fakes/jdcloud.py`, which ends with this process.
final class Fake: Sendable {
    struct Failure: Error { let what: String }

    /// Started by the first test that asks.
    static let shared = Result { try Fake() }

    private let process: ChildProcess
    let facts: Facts
    let transport: HTTPTransport

    struct Facts: Sendable {
        var http = ""
        var https = ""
        var metadata = ""
        var control = ""
        var authority = ""
    }

    private init() throws {
        guard let python = Python.path else { throw Failure(what: "no Python") }
        process = try ChildProcess([
            python, Repository.root + "/Tests/Fakes/jdcloud.py", "--until-stdin-ends",
        ])
        let line = Array((process.line() ?? "").utf8)
        let document = try unsafe JSON(parsing: line.span.bytes)
        func text(_ name: String) throws -> String {
            guard let text = unsafe document[name]?.text(in: line.span.bytes) else {
                throw Failure(what: name)
            }
            return text
        }
        facts = Facts(
            http: try text("http_url"), https: try text("https_url"), metadata: try text("metadata_url"),
            control: try text("control_url"), authority: try text("ca"))
        var settings = HTTPTransport.Settings()
        settings.proxy = .none
        settings.allowsPlainHTTP = true
        settings.authoritiesFile = facts.authority
        settings.connectTimeout = .seconds(20)
        transport = try HTTPTransport(settings)
    }

    /// The fake as at its start.
    static func fresh() async throws -> Fake {
        let fake = try shared.get()
        try await fake.control("POST", "/reset")
        return fake
    }

    /// Asks the control port, and gives `read` the answer.
    @discardableResult
    func control<R>(
        _ method: String, _ path: String, _ document: String = "",
        read: (JSON, RawSpan) throws -> R = { _, _ in }
    ) async throws -> R {
        let body = unsafe SecretBytes(copying: Array(document.utf8).span.bytes)
        let request = HTTPRequest(method, try HTTPOrigin(parsing: facts.control), path, body: body)
        let response = try await transport.send(request, deadline: .now + .seconds(30))
        guard response.status == 200 else { throw Failure(what: "\(method) \(path): \(response.status)") }
        return try response.body.withBytes { (bytes) throws -> R in try read(try JSON(parsing: bytes), bytes)
        }
    }

    /// Makes a key and gives its identifier.
    func newKey() async throws -> String {
        let name = try await control("POST", "/keys", "{}") { document, bytes in
            document["id"]?.text(in: bytes)
        }
        return try #require(name)
    }

    func fault(_ kind: String, _ options: String = "") async throws {
        try await control("POST", "/faults", #"{"kind":"\#(kind)"\#(options.isEmpty ? "" : ",")\#(options)}"#)
    }

    func set(_ settings: String) async throws { try await control("PATCH", "/settings", "{\(settings)}") }

    /// How many calls of an operation there were, whatever came of them.
    func calls(_ operation: String) async throws -> Int64 {
        try await control("GET", "/counters") { document, _ in
            guard case .object(let outcomes)? = document["calls"]?[operation] else { return 0 }
            return outcomes.reduce(0) { $0 + ($1.value.integer ?? 0) }
        }
    }

    /// Waits until so many calls are being served; asks again and again, as the fake cannot tell.
    func untilInFlight(_ count: Int64) async throws {
        while try await control(
            "GET", "/counters", read: { document, _ in document["in_flight"]?.integer ?? 0 }) < count
        {
            await Task.yield()
        }
    }

    /// The access key that may do everything.
    static let credentials = CredentialSettings.given(
        accessKey: "TESTAK0123456789", secretKey: SharedSecret(secret("TESTSKabcdefghijklmnop")))

    func provider(
        _ keyID: String, endpoint: String? = nil, region: String = "jdcloud-api",
        signature: JDCloudSettings.Signature = .v2, sendsRawTokens: Bool = false,
        observesVersion: Bool = true,
        credentials: CredentialSettings = Fake.credentials, clock: any DeadlineClock = ContinuousClock(),
        systemTime: @escaping @Sendable () -> Int64 = SkewedClock.system
    ) throws -> JDCloudProvider {
        let settings = JDCloudSettings(
            keyID: keyID, endpoint: endpoint ?? facts.http, region: region, signature: signature,
            sendsRawTokens: sendsRawTokens, observesVersion: observesVersion, credentials: credentials)
        return try JDCloudProvider(settings, transport: transport, clock: clock, systemTime: systemTime)
    }
}

func secret(_ text: String) -> SecretBytes { unsafe SecretBytes(copying: Array(text.utf8).span.bytes) }

func secret(_ bytes: [UInt8]) -> SecretBytes {
    SecretBytes(count: bytes.count) { $0.copy(bytes.span, toByteOffset: 0) }
}

let context = WrapContext(purpose: "local-kek", keyID: "kw1.AAAAAAAAAAAAAAAAAAAAAA.0.BBBBBBBBBBBBBBBBBBBBBB")

/// Generous: nothing waits for it but what is broken.
var patient: Attempt { .within(.seconds(30)) }

extension JDCloudProvider {
    func wrap(_ bytes: [UInt8]) async throws(RemoteKMSError) -> [UInt8] {
        try await wrap(secret(bytes), context: context, attempt: patient)
    }

    func opens(_ wrapped: [UInt8], _ bytes: [UInt8]) async throws(RemoteKMSError) -> Bool {
        try await unwrap(wrapped, context: context, attempt: patient).isEqual(to: secret(bytes))
    }
}

/// The error of `body`; nil if it has none.
func failure(
    _ body: () async throws(RemoteKMSError) -> Void
) async -> RemoteKMSError? {
    do throws(RemoteKMSError) {
        try await body()
        return nil
    } catch { return error }
}
