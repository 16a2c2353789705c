internal import ArgumentParser
internal import Configuration
internal import HTTPTransport
internal import JDCloudProvider
internal import RemoteKMS

// Keys of JD Cloud KMS as their room wants them.

extension Settings.JDCloudProvider {
    /// The provider, on a transport with `transportSettings`; throws what is wrong with endpoint or credentials.
    func provider(_ transport: HTTPTransport) throws(RemoteKMSError) -> any Provider {
        try JDCloudProvider(
            JDCloudSettings(
                keyID: keyID, realm: realm, endpoint: url, region: region,
                signature: signature == .v2 ? .v2 : .v3,
                sendsRawTokens: tokenEncoding == .raw, observesVersion: version == .observed,
                credentials: credentials.source(sts: stsURL)),
            transport: transport)
    }

    /// Where it connects to, with the options that say so.
    var urls: [(option: String, url: String)] {
        var urls = [("endpoint", url)]
        if credentials.role.jrn != nil { urls.append(("credentials.role.endpoint", stsURL)) }
        if credentials.source == .instanceRole { urls.append(("credentials.metadata", credentials.metadata)) }
        return urls
    }

    private var stsURL: String { "\(scheme.rawValue)://\(credentials.role.endpoint)" }

    var transportSettings: HTTPTransport.Settings {
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
