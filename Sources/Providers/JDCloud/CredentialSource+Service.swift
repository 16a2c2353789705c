internal import HTTPTransport
internal import RemoteKMS
internal import RequestSigning
internal import SecureMemory

/// Temporary credentials of a role, for which others are exchanged at the security token service.
struct AssumedRoleCredentials: CredentialSource {
    let role: AssumedRole
    let gateway: Gateway
    let own: CredentialKeeper

    func fetch(by deadline: Deadline) async throws(RemoteKMSError) -> FetchedCredentials {
        let numbered = try await own.credentials(by: deadline)
        do throws(Gateway.Failure) {
            let fetched = try await assume(signedWith: numbered.credentials, by: deadline)
            if !numbered.taken.contains(.assumeRole) {
                await own.accepted(numbered.generation, for: .assumeRole)
            }
            return fetched
        } catch {
            guard case .refused(let refusal) = error else { throw Self.described(error, gateway) }
            // Once, as a call of the key would be.
            switch refusal.meaning {
            case .clock(let serverTime?):
                gateway.clock.set(gateway.clock.offset(toReach: serverTime))
            case .credentials:
                try await renew(after: numbered, Self.described(error, gateway), by: deadline)
            // Others that served before may be allowed what these are not.
            case .permission where numbered.isOnTrial:
                try await renew(after: numbered, Self.described(error, gateway), by: deadline)
            case .clock, .permission, .absent, .rate, .trouble, .between, .request:
                throw Self.described(error, gateway)
            }
        }
        let renewed = try await own.credentials(by: deadline)
        do throws(Gateway.Failure) {
            return try await assume(signedWith: renewed.credentials, by: deadline)
        } catch {
            throw Self.described(error, gateway)
        }
    }

    private func renew(
        after numbered: CredentialKeeper.Numbered, _ error: RemoteKMSError, by deadline: Deadline
    ) async throws(RemoteKMSError) {
        guard await own.renew(after: numbered.generation, error, by: deadline) else { throw error }
    }

    private func assume(
        signedWith credentials: Credentials, by deadline: Deadline
    ) async throws(Gateway.Failure) -> FetchedCredentials {
        // The reply's date has no time zone, so the time asked for counts.
        let lifetime = role.duration
        let body = """
            {"assumeRoleInfo":{"roleJrn":\(jsonQuoted(role.jrn)),"roleSessionName":\(jsonQuoted(role.sessionName)),\
            "durationSeconds":\(lifetime.components.seconds)}}
            """
        // Bytes of UInt8 have no padding.
        let call = Gateway.Call(
            what: "\(Operation.assumeRole.rawValue) of \(role.jrn)", method: "POST",
            path: "/v1/sessionToken:assumeRole",
            body: unsafe SecretBytes(copying: Array(body.utf8).span.bytes))
        let credentials = try await gateway.perform(
            call, signedWith: credentials, attempt: Attempt(deadline: deadline)
        ) { result, bytes in
            result["credentials"].flatMap { Credentials($0, in: bytes) }
        }
        return FetchedCredentials(credentials: credentials, lifetime: lifetime)
    }

    private static func described(_ failure: Gateway.Failure, _ gateway: Gateway) -> RemoteKMSError {
        switch failure {
        case .failed(let error): error
        case .refused(let refusal):
            RemoteKMSError(ofSource: RemoteKMSError(refusal, host: gateway.origin.description))
        }
    }
}

/// Temporary credentials of the role of this machine, from its metadata service.
struct InstanceRoleCredentials: CredentialSource {
    let origin: HTTPOrigin
    let transport: HTTPTransport
    /// Seconds since 1970 by this machine's clock.
    let now: @Sendable () -> Int64

    /// The second is the older name of the first.
    private static let paths = ["metadata", "jcs-metadata"].map {
        "/\($0)/latest/iam/instance-role-security-credentials"
    }
    /// What is taken where the answer names no end.
    private static let usualLifetime = Duration.seconds(900)

    func fetch(by deadline: Deadline) async throws(RemoteKMSError) -> FetchedCredentials {
        var last = RemoteKMSError(.misconfigured, "nothing was asked")
        for path in Self.paths {
            let what = "instance role of this machine: \(origin)"
            var request = HTTPRequest("GET", origin, path)
            request.responseLimit = 64 << 10
            request.mayBeResent = true
            let response: HTTPResponse
            do throws(HTTPFailure) {
                response = try await transport.send(request, deadline: deadline.instant)
            } catch {
                throw RemoteKMSError(error, what: "instance role of this machine")
            }
            guard response.status == 200 else {
                last = RemoteKMSError(
                    (500...599).contains(response.status) ? .unavailable : .misconfigured,
                    "\(what) answered HTTP \(response.status)", remedy: "bind a role to the machine")
                if response.status == 404 { continue }
                throw last
            }
            return try response.body.withBytes { (bytes) throws(RemoteKMSError) in try read(bytes, what: what)
            }
        }
        throw last
    }

    private func read(_ bytes: RawSpan, what: String) throws(RemoteKMSError) -> FetchedCredentials {
        guard let document = try? JSON(parsing: bytes) else {
            throw RemoteKMSError(
                .malformedReply, "\(what) answered what is no JSON",
                remedy: "see what answers at that address")
        }
        let code = document["Code"]?.text(in: bytes)?.lowercased()
        guard code == nil || code == "success", let credentials = Credentials(document, in: bytes) else {
            throw RemoteKMSError(
                .misconfigured, "\(what) has no credentials",
                remedy: "bind a role that may use the key to the machine")
        }
        return FetchedCredentials(credentials: credentials, lifetime: lifetime(document, bytes))
    }

    private func lifetime(_ document: JSON, _ bytes: RawSpan) -> Duration {
        if let seconds = document["remainingSeconds"]?.integer { return .seconds(max(0, seconds)) }
        let text = (document["expiration"] ?? document["expireTime"])?.text(in: bytes) ?? ""
        guard let end = SigningTime(iso8601: text) else { return Self.usualLifetime }
        return .seconds(max(0, end.unixSeconds - now()))
    }
}

extension Credentials {
    /// The members `accessKey`, `secretKey` and `sessionToken` of an answer, if they are there and not empty.
    fileprivate init?(_ value: JSON, in bytes: RawSpan) {
        guard let accessKey = value["accessKey"]?.text(in: bytes), accessKey.isAccessKey,
            let secretKey = value["secretKey"]?.secret(in: bytes), secretKey.isOneWord,
            let token = value["sessionToken"]?.secret(in: bytes), token.isOneWord
        else { return nil }
        self.init(
            accessKey: accessKey, secretKey: SharedSecret(secretKey), sessionToken: SharedSecret(token))
    }
}

extension RemoteKMSError {
    /// What went wrong where credentials come from, as it stands for the key: the key itself was not asked.
    fileprivate init(ofSource error: RemoteKMSError) {
        let code: Code =
            switch error.code {
            case .keyNotFound, .keyDisabled, .invalidCiphertext: .misconfigured
            default: error.code
            }
        self.init(
            code, error.summary, remedy: error.remedy, reference: error.reference,
            retryAfter: error.retryAfter)
    }
}

extension CredentialSettings {
    /// The source itself.
    func source(
        _ makeGateway: (HTTPOrigin, _ service: String) -> Gateway, transport: HTTPTransport,
        clock: any DeadlineClock,
        systemTime: @escaping @Sendable () -> Int64
    ) throws(RemoteKMSError) -> any CredentialSource {
        switch self {
        case .given(let accessKey, let secretKey):
            return GivenCredentials(credentials: Credentials(accessKey: accessKey, secretKey: secretKey))
        case .files(let files): return FileCredentials(files)
        case .systemd(let files): return try FileCredentials(files.inCredentialsDirectory())
        case .environment: return EnvironmentCredentials()
        case .instanceRole(let metadata):
            return InstanceRoleCredentials(
                origin: try HTTPOrigin(configured: metadata), transport: transport, now: systemTime)
        case .role(let role, let settings):
            let own = try settings.source(
                makeGateway, transport: transport, clock: clock, systemTime: systemTime)
            return AssumedRoleCredentials(
                role: role, gateway: makeGateway(try HTTPOrigin(configured: role.endpoint), "sts"),
                own: CredentialKeeper(own, clock: clock))
        }
    }
}

extension HTTPOrigin {
    init(configured text: String) throws(RemoteKMSError) {
        do throws(HTTPFailure) { try self.init(parsing: text) } catch {
            throw RemoteKMSError(
                .misconfigured, error.summary, remedy: "correct the endpoint in the configuration")
        }
    }
}
