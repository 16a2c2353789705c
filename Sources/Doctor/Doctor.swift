private import Events
public import GRPCEngine
internal import KMSWire
internal import SecureMemory

/// One line of a doctor's report.
public struct Finding: Sendable, Equatable {
    /// How bad it is.
    public enum Severity: String, Sendable, Comparable {
        /// As it should be.
        case ok
        /// Works, but an operator should know.
        case warning
        /// The API server will not be able to work with this.
        case problem

        private var rank: Int {
            switch self {
            case .ok: 0
            case .warning: 1
            case .problem: 2
            }
        }

        /// Less bad.
        public static func < (a: Severity, b: Severity) -> Bool { a.rank < b.rank }
    }

    /// How bad it is.
    public let severity: Severity
    /// What was looked at: `v2 Status`.
    public let subject: String
    /// What was seen, in plain words.
    public let detail: String
    /// What to do; empty where there is nothing to do.
    public let remedy: String

    /// A finding.
    public init(_ severity: Severity, _ subject: String, _ detail: String, remedy: String = "") {
        self.severity = severity
        self.subject = subject
        self.detail = detail
        self.remedy = remedy
    }
}

/// Acts as the API server does towards a KMS plugin, and says in plain words what it finds.
public struct Doctor: Sendable {
    /// Where the plugin listens.
    public enum Socket: Sendable, Equatable {
        /// A path in the file system.
        case path(String)
        /// An abstract name, without the `@`.
        case abstract(String)

        /// The same for a client of the engine's.
        public var target: Client.Target {
            switch self {
            case .path(let path): .unix(path: path)
            case .abstract(let name): .abstract(name: name)
            }
        }

        /// Why nobody who speaks HTTP/2 can be reached there, and what to do, in one line; nil if somebody can.
        public func obstacle(within patience: Duration) -> String? {
            do throws(SocketProbe.Problem) {
                _ = try probe(patience)
                return nil
            } catch { return error.remedy.isEmpty ? error.detail : "\(error.detail): \(error.remedy)" }
        }

        func probe(_ patience: Duration) throws(SocketProbe.Problem) -> SocketProbe.Owner {
            switch self {
            case .path(let path): try SocketProbe.connect(to: path, isAbstract: false, patience: patience)
            case .abstract(let name): try SocketProbe.connect(to: name, isAbstract: true, patience: patience)
            }
        }
    }

    private let socket: Socket
    private let timeout: Duration
    private let rounds: Int

    /// A doctor for the plugin at `socket`.
    ///
    /// Each call gets `timeout`, as `timeout` of the EncryptionConfiguration would give it; latencies are the medians
    /// of `rounds` calls.
    public init(socket: Socket, timeout: Duration = .seconds(3), rounds: Int = 50) {
        self.socket = socket
        self.timeout = timeout
        self.rounds = rounds
    }

    /// Looks at everything, hands each finding to `report` as it comes, and returns the worst severity.
    ///
    /// Makes a few dozen calls and no change: what it encrypts is thrown away. `engine` must turn, and is the caller's
    /// to stop.
    public func examine(
        on engine: EngineThread, report: @escaping @Sendable (Finding) -> Void
    ) async -> Finding.Severity {
        var visit = Visit(report: report)
        guard connects(&visit) else { return visit.worst }
        let client = Client(engine: engine, target: socket.target)
        let plugin = KMSClient(client: client, timeout: timeout)
        let speaksV1 = await examineV1(plugin, &visit)
        let speaksV2 = await examineV2(plugin, &visit)
        if !speaksV1 && !speaksV2 && visit.worst != .problem {
            visit.add(
                .problem, "KMS API", "the server speaks neither v1beta1 nor v2",
                "give the socket of a KMS plugin; another gRPC server listens here")
        }
        await client.close()
        return visit.worst
    }

    /// The findings so far.
    private struct Visit {
        let report: @Sendable (Finding) -> Void
        var worst = Finding.Severity.ok

        mutating func add(
            _ severity: Finding.Severity, _ subject: String, _ detail: String, _ remedy: String = ""
        ) {
            worst = max(worst, severity)
            report(Finding(severity, subject, detail, remedy: remedy))
        }

        mutating func add(_ subject: String, _ error: KMSCallError, timeout: Duration) {
            switch error {
            case .unusable(let wire):
                add(
                    .problem, subject, "the reply breaks the contract: \(wire)",
                    "the API server throws such a reply away; this is a defect of the plugin")
            case .failed(let failure):
                let said = failure.message.isEmpty ? "" : ": \(failure.message)"
                add(
                    .problem, subject, "\(failure.code.name)\(said)",
                    failure.code == .deadlineExceeded
                        ? "no answer within \(Doctor.text(timeout)): look at the plugin's log and at its backend's latency"
                        : Event.byStatus[failure.code.name] == nil
                            ? "" : "kmsward explain \(failure.code.name)")
            }
        }
    }

    // MARK: Socket

    private func connects(_ visit: inout Visit) -> Bool {
        do throws(SocketProbe.Problem) {
            let owner = try socket.probe(timeout)
            switch socket {
            case .path(let path):
                let permissions = SocketProbe.permissions(of: path).map { "; \($0)" } ?? ""
                visit.add(
                    .ok, "socket",
                    "connected to \(path); pid \(owner.pid) listens, uid \(owner.uid)\(permissions)")
            case .abstract(let name):
                visit.add(.ok, "socket", "connected to @\(name); pid \(owner.pid) listens, uid \(owner.uid)")
            }
            return true
        } catch {
            visit.add(.problem, "socket", error.detail, error.remedy)
            return false
        }
    }

    // MARK: v1beta1

    private func examineV1(_ plugin: KMSClient, _ visit: inout Visit) async -> Bool {
        do throws(KMSCallError) {
            let reply = try await plugin.version()
            if reply.version == "v1beta1" {
                visit.add(.ok, "v1beta1 Version", "\(reply.runtimeName) \(reply.runtimeVersion)")
            } else {
                visit.add(
                    .problem, "v1beta1 Version",
                    "version is \"\(reply.version)\"; the API server takes only \"v1beta1\"",
                    "this is a defect of the plugin")
            }
        } catch {
            if case .failed(let failure) = error, failure.code == .unimplemented {
                visit.add(
                    .warning, "v1beta1", "not offered", "use apiVersion: v2 in the EncryptionConfiguration")
                return false
            }
            visit.add("v1beta1 Version", error, timeout: timeout)
            return true
        }
        // What the API server's health check sends, then a key.
        let ping = SecretBytes(count: 4) { span in
            for (offset, byte) in "ping".utf8.enumerated() {
                span.storeBytes(of: byte, toByteOffset: offset, as: UInt8.self)
            }
        }
        _ = await roundTrip("v1beta1 health check", ping, .v1beta1, plugin, &visit)
        let key = SecretBytes(randomCount: 32)
        if let sealed = await roundTrip("v1beta1 Encrypt, Decrypt", key, .v1beta1, plugin, &visit) {
            await refusesDamage(sealed, .v1beta1, plugin, &visit)
            await measure(key, sealed, .v1beta1, plugin, &visit)
        }
        return true
    }

    // MARK: v2

    private func examineV2(_ plugin: KMSClient, _ visit: inout Visit) async -> Bool {
        let status: StatusReply
        do throws(KMSCallError) { status = try await plugin.status() } catch {
            if case .failed(let failure) = error, failure.code == .unimplemented {
                visit.add(.warning, "v2", "not offered", "use apiVersion: v1, or a plugin that speaks v2")
                return false
            }
            visit.add("v2 Status", error, timeout: timeout)
            return true
        }
        judge(status, &visit)
        let key = SecretBytes(randomCount: 32)
        guard let sealed = await roundTrip("v2 Encrypt, Decrypt", key, .v2, plugin, &visit) else {
            return true
        }
        if sealed.keyID == status.keyID {
            visit.add(.ok, "v2 key_id", "Encrypt uses the key_id that Status announces, \(sealed.keyID)")
        } else {
            visit.add(
                .problem, "v2 key_id", "Status announces \(status.keyID), Encrypt used \(sealed.keyID)",
                "a rotation may be under way: run the doctor again; if it stays, writes will fail after 3 minutes"
            )
        }
        if sealed.keyID.hasPrefix("kw1."), !sealed.ciphertext.starts(with: Self.envelopeMagic) {
            visit.add(
                .ok, "v2 format",
                "compatible: each write and each first read needs the key-management service; write_format envelope "
                    + "would go on through an outage")
        }
        await refusesDamage(sealed, .v2, plugin, &visit)
        var foreign = sealed
        foreign.keyID = "not-a-key-of-this-plugin"
        await refuses("v2 foreign key_id", foreign, .v2, plugin, &visit)
        await measure(key, sealed, .v2, plugin, &visit)
        return true
    }

    /// How an envelope of ours begins (`docs/ciphertext-format.md`).
    private static let envelopeMagic = [0xF5] + Array("kmsward".utf8)

    private func judge(_ status: StatusReply, _ visit: inout Visit) {
        switch status.version {
        case "v2beta1": visit.add(.ok, "v2 Status", "version v2beta1: taken by Kubernetes 1.27 and later")
        case "v2":
            visit.add(
                .ok, "v2 Status", "version v2: taken by Kubernetes 1.29 and later, not by 1.27 and 1.28")
        default:
            visit.add(
                .problem, "v2 Status", "version is \"\(status.version)\"; the API server takes v2 or v2beta1",
                "this is a defect of the plugin, or it serves the old v2alpha1")
        }
        if status.healthz != "ok" {
            visit.add(
                .problem, "v2 Status",
                "healthz is \"\(status.healthz)\", so the API server calls itself unready",
                "look at the plugin's log")
        }
    }

    // MARK: Both APIs

    private func roundTrip(
        _ subject: String, _ plaintext: borrowing SecretBytes, _ api: KMSAPI, _ plugin: KMSClient,
        _ visit: inout Visit
    ) async -> EncryptReply? {
        do throws(KMSCallError) {
            let sealed = try await plugin.encrypt(plaintext, api)
            let opened = try await plugin.decrypt(sealed, api)
            guard opened.isEqual(to: plaintext) else {
                visit.add(
                    .problem, subject, "Decrypt returned other bytes than Encrypt was given",
                    "stop using this plugin: the API server would cache the wrong key")
                return nil
            }
            let limit = api == .v2 ? 1024 : 65_535
            visit.add(
                .ok, subject,
                "\(plaintext.count) bytes sealed into \(sealed.ciphertext.count) (limit \(limit)) and opened again"
            )
            return sealed
        } catch {
            visit.add(subject, error, timeout: timeout)
            return nil
        }
    }

    private func refusesDamage(
        _ sealed: EncryptReply, _ api: KMSAPI, _ plugin: KMSClient, _ visit: inout Visit
    ) async {
        var damaged = sealed
        damaged.ciphertext[damaged.ciphertext.count - 1] ^= 1
        await refuses(
            api == .v2 ? "v2 damaged ciphertext" : "v1beta1 damaged ciphertext", damaged, api, plugin, &visit)
    }

    private func refuses(
        _ subject: String, _ sealed: EncryptReply, _ api: KMSAPI, _ plugin: KMSClient, _ visit: inout Visit
    ) async {
        do throws(KMSCallError) {
            _ = try await plugin.decrypt(sealed, api)
            visit.add(
                .problem, subject, "Decrypt accepted it",
                "whoever can write to etcd can hand the API server keys of their choice")
        } catch {
            guard case .failed(let failure) = error else {
                visit.add(subject, error, timeout: timeout)
                return
            }
            visit.add(.ok, subject, "refused with \(failure.code.name), and told in the plugin's log")
        }
    }

    /// Latencies as the API server's documentation asks for them: Encrypt under 100 ms, Decrypt under 10 ms.
    private func measure(
        _ key: borrowing SecretBytes, _ sealed: EncryptReply, _ api: KMSAPI, _ plugin: KMSClient,
        _ visit: inout Visit
    ) async {
        var encrypts: [Duration] = []
        var decrypts: [Duration] = []
        do throws(KMSCallError) {
            for _ in 0..<rounds {
                let start = ContinuousClock.now
                _ = try await plugin.encrypt(key, api)
                let middle = ContinuousClock.now
                _ = try await plugin.decrypt(sealed, api)
                encrypts.append(start.duration(to: middle))
                decrypts.append(middle.duration(to: ContinuousClock.now))
            }
        } catch {
            visit.add("\(api == .v2 ? "v2" : "v1beta1") under load", error, timeout: timeout)
            return
        }
        let prefix = api == .v2 ? "v2" : "v1beta1"
        judge("\(prefix) Encrypt latency", encrypts, target: .milliseconds(100), &visit)
        judge("\(prefix) Decrypt latency", decrypts, target: .milliseconds(10), &visit)
    }

    private func judge(_ subject: String, _ times: [Duration], target: Duration, _ visit: inout Visit) {
        let sorted = times.sorted()
        guard let worst = sorted.last else { return }
        let median = sorted[sorted.count / 2]
        let detail = "median \(Self.text(median)), worst \(Self.text(worst)) of \(sorted.count)"
        if median > target {
            visit.add(
                .warning, subject, "\(detail); Kubernetes asks for less than \(Self.text(target))",
                "start-up and LISTs will be slow: look at the backend's latency")
        } else {
            visit.add(.ok, subject, detail)
        }
    }

    /// `850 us`, `300 ms`, `3 s`: in the largest unit that serves a reader.
    static func text(_ duration: Duration) -> String {
        let (seconds, attoseconds) = duration.components
        if seconds > 0, attoseconds == 0 { return "\(seconds) s" }
        let microseconds = seconds * 1_000_000 + attoseconds / 1_000_000_000_000
        return microseconds < 10_000 ? "\(microseconds) us" : "\(microseconds / 1000) ms"
    }
}
