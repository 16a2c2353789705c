internal import ArgumentParser
internal import Configuration
internal import HTTPTransport
internal import JDCloudProvider
internal import RemoteKMS

// Keys of JD Cloud KMS as their room wants them.

/// The transports of a daemon: one for all keys that are reached in the same way; closed when no call is under way.
struct Transports: ~Copyable {
    private var transports: [(settings: HTTPTransport.Settings, transport: HTTPTransport)] = []

    /// The transport with these settings, made at the first demand.
    mutating func transport(_ settings: HTTPTransport.Settings) throws(HTTPFailure) -> HTTPTransport {
        if let known = transports.first(where: { $0.settings == settings }) { return known.transport }
        let transport = try HTTPTransport(settings)
        transports.append((settings, transport))
        return transport
    }

    /// Ends what is under way.
    consuming func close() async { for (_, transport) in transports { await transport.close() } }
}

extension Settings.JDCloudProvider {
    /// The provider; throws what is wrong with endpoint, proxy or credentials.
    func provider(_ transports: inout Transports) throws(RemoteKMSError) -> any Provider {
        let settings = JDCloudSettings(
            keyID: keyID, realm: realm, endpoint: url, region: region,
            signature: signature == .v2 ? .v2 : .v3,
            sendsRawTokens: tokenEncoding == .raw, credentials: credentials.source(sts: stsURL))
        let transport: HTTPTransport
        do throws(HTTPFailure) { transport = try transports.transport(transportSettings) } catch {
            throw RemoteKMSError(.misconfigured, error.summary, remedy: "correct the key's proxy")
        }
        return try JDCloudProvider(settings, transport: transport)
    }

    /// Where it connects to, with the options that say so.
    var urls: [(option: String, url: String)] {
        var urls = [("endpoint", url)]
        if credentials.role.jrn != nil { urls.append(("credentials.role.endpoint", stsURL)) }
        if credentials.source == .instanceRole { urls.append(("credentials.metadata", credentials.metadata)) }
        return urls
    }

    private var stsURL: String { "\(scheme.rawValue)://\(credentials.role.endpoint)" }

    private var transportSettings: HTTPTransport.Settings {
        var settings = HTTPTransport.Settings()
        settings.authoritiesFile = caFile
        settings.allowsPlainHTTP = allowPlainHTTP
        settings.userAgent = "kmsward/\(Version.current)"
        switch proxy {
        case "environment": settings.proxy = .environment
        case "none": settings.proxy = .none
        default: settings.proxy = .url(proxy, noProxy: noProxy)
        }
        return settings
    }
}

extension Settings.JDCloudCredentials {
    fileprivate func source(sts: String) -> CredentialSettings {
        let own = ownSource
        guard let jrn = role.jrn else { return own }
        return .role(
            AssumedRole(
                jrn: jrn, sessionName: role.sessionName, duration: role.duration,
                endpoint: sts), with: own)
    }

    private var ownSource: CredentialSettings {
        let files = CredentialFiles(
            accessKey: accessKeyFile ?? "jdcloud-access-key",
            secretKey: secretKeyFile ?? "jdcloud-secret-key",
            sessionToken: sessionTokenFile)
        switch source {
        case .config:
            // The checks of the file let no source through without its values.
            guard let accessKey, let secretKey else { return .files(files) }
            return .given(accessKey: accessKey, secretKey: secretKey.value)
        case .files: return .files(files)
        case .systemd: return .systemd(files)
        case .environment: return .environment
        case .instanceRole: return .instanceRole(metadata: metadata)
        }
    }
}
