internal import ArgumentParser
internal import Configuration
private import DEKCache
private import Events
private import Glibc
internal import KeyService
internal import Lifecycle
internal import Logging
internal import Observability
internal import RemoteKMS
internal import SocketAcceptance

// The settings of the file as each room wants them.

extension Settings {
    /// The same, with the state directory of systemd's unit where the file names none: instances must not share one.
    func withUnitsDirectory() -> Settings {
        guard stateDirectory == Settings.usualStateDirectory, let list = unsafe getenv("STATE_DIRECTORY"),
            let first = unsafe String(cString: list).split(separator: ":").first, first.hasPrefix("/")
        else { return self }
        var settings = self
        settings.stateDirectory = String(first)
        return settings
    }

    /// The ring of these keys.
    func ring(of keys: [KeySettings]) -> KeyRingSettings {
        var limits = CacheLimits()
        limits.capacity = cache.entries
        return KeyRingSettings(
            keys: keys, clusterContext: clusterContext, stateDirectory: stateDirectory,
            observeEvery: rotation.observeEvery, settle: rotation.settle, cache: limits)
    }

    /// The daemon's life; says on standard error what cannot be found on this host, and exits 78.
    func plan(activated: [ActivatedDescriptor]) throws -> Daemon.Plan {
        let (accounts, diagnostics) = accounts()
        for diagnostic in diagnostics { complain("\(diagnostic)", .configurationBroken) }
        guard let accounts else { throw ExitCode.brokenConfiguration }
        let scraped = activated.filter { $0.name == UnitSockets.metricsName }
        let called = activated.filter { $0.name != UnitSockets.metricsName }
        guard scraped.count <= 1, called.count <= 1 else {
            complain(
                "kmsward: systemd passed \(activated.count) sockets: one ListenStream= for the API server and one with "
                    + "FileDescriptorName=\(UnitSockets.metricsName) are all it takes",
                .configurationBroken)
            throw ExitCode.brokenConfiguration
        }
        let source: Daemon.Plan.Source
        if let descriptor = called.first {
            source = .activated(descriptor)
        } else {
            do throws(SocketFailure) {
                source = .bound(
                    try SocketAddress(parsing: socket.path),
                    try SocketPermissions(
                        mode: socket.mode, owner: accounts.socketOwner, group: accounts.socketGroup))
            } catch {
                complain("kmsward: \(error)", .configurationBroken)
                throw ExitCode.brokenConfiguration
            }
        }
        return Daemon.Plan(
            source: source,
            policy: accounts.policy,
            acceptance: SocketAcceptor.Settings(
                maxConnections: socket.maxConnections, handshakeTimeout: socket.handshakeTimeout),
            callsInFlight: limits.callsInFlight, drain: limits.drain,
            endpoint: scraped.first.map { .adopted($0.number) } ?? metrics.listen.map { .address($0.text) })
    }
}

extension ResolvedAccounts {
    /// Who may connect.
    var policy: PeerPolicy { PeerPolicy(uids: allowedUsers, gids: allowedGroups) }
}

extension Settings.Key.Format {
    /// The format as the room of keys names it.
    fileprivate var ofCiphertexts: CiphertextFormat {
        switch self {
        case .envelope: .envelope
        case .compatible: .compatible
        }
    }
}

extension Settings.Key {
    /// The key as the room of keys wants it.
    func settings(_ provider: any RemoteKMS.Provider, _ limiter: ThrottleLimiter?) -> KeySettings {
        KeySettings(
            name: name, provider: provider, suite: cryptoSuite, writeFormat: writeFormat.ofCiphertexts,
            acceptFormats: Set((acceptFormats + [writeFormat]).map(\.ofCiphertexts)), epoch: UInt32(epoch),
            acceptIdentities: acceptIdentities, adoptKeyIDs: adoptKeyIDs,
            localKEKMaximumAge: localKEK.maxAge, localKEKMaximumUses: localKEK.maxUses,
            rideThrough: rideThrough, authGrace: authGrace,
            forgetsWhenForbidden: onForbidden == .wipe, limiter: limiter,
            callPrice: pricePerMillionCalls == 0 ? nil : Double(pricePerMillionCalls) / 1_000_000)
    }

    /// Names whom the service counts the calls of this key for; nil where nobody counts.
    var rateOwner: String? {
        guard case .jdcloud(let jdcloud) = provider else { return nil }
        let credentials = jdcloud.credentials
        let names = [credentials.accessKey, credentials.accessKeyFile, credentials.role.jrn].map { $0 ?? "" }
        return ([jdcloud.endpoint, credentials.source.rawValue] + names).joined(separator: " ")
    }
}

extension Settings.ListenAddress {
    /// `127.0.0.1:9464`, `[::1]:9464`.
    var text: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}

extension Settings.Log {
    var outputFormat: LogFormat {
        switch format {
        case .auto: .auto
        case .text: .text
        case .json: .json
        case .journal: .journal
        }
    }

    var outputLevel: Logger.Level {
        switch level {
        case .trace: .trace
        case .debug: .debug
        case .info: .info
        case .notice: .notice
        case .warning: .warning
        case .error: .error
        case .critical: .critical
        }
    }
}
