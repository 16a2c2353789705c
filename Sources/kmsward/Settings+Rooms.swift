internal import ArgumentParser
internal import Configuration
internal import KeyService
internal import Lifecycle
private import LocalProvider
internal import Logging
internal import Observability
internal import RemoteKMS
internal import SocketAcceptance

// The settings of the file as each room wants them.

extension Settings {
    /// The keys.
    var keyRing: KeyRingSettings {
        KeyRingSettings(
            keys: keys.map { key in
                KeySettings(
                    name: key.name, provider: backend(of: key), suite: key.cryptoSuite,
                    epoch: UInt32(key.epoch),
                    acceptIdentities: key.acceptIdentities, adoptKeyIDs: key.adoptKeyIDs,
                    localKEKMaximumAge: key.localKEK.maxAge, localKEKMaximumUses: key.localKEK.maxUses,
                    rideThrough: key.rideThrough, authGrace: key.authGrace)
            },
            clusterContext: clusterContext, stateDirectory: stateDirectory,
            observeEvery: rotation.observeEvery,
            settle: rotation.settle)
    }

    /// The daemon's life; says on standard error what cannot be found on this host, and exits 78.
    func plan(activated: [ActivatedDescriptor]) throws -> Daemon.Plan {
        let (accounts, diagnostics) = accounts()
        for diagnostic in diagnostics { printError("\(diagnostic)") }
        guard let accounts else { throw ExitCode.brokenConfiguration }
        guard activated.count <= 1 else {
            printError(
                "kmsward: systemd passed \(activated.count) sockets; the socket unit may have one ListenStream="
            )
            throw ExitCode.brokenConfiguration
        }
        let source: Daemon.Plan.Source
        if let descriptor = activated.first {
            source = .activated(descriptor)
        } else {
            do throws(SocketFailure) {
                source = .bound(
                    try SocketAddress(parsing: socket.path),
                    try SocketPermissions(
                        mode: socket.mode, owner: accounts.socketOwner, group: accounts.socketGroup))
            } catch {
                printError("kmsward: \(error)")
                throw ExitCode.brokenConfiguration
            }
        }
        return Daemon.Plan(
            source: source,
            policy: PeerPolicy(uids: accounts.allowedUsers, gids: accounts.allowedGroups),
            acceptance: SocketAcceptor.Settings(
                maxConnections: socket.maxConnections, handshakeTimeout: socket.handshakeTimeout),
            callsInFlight: limits.callsInFlight, drain: limits.drain, endpoint: metrics.listen.map(\.text))
    }
}

/// Where the key lives; outside of the extensions, in which the provider's settings have the provider's name.
private func backend(of key: Settings.Key) -> any Provider {
    switch key.provider {
    case .local(let local): LocalProvider(path: local.file)
    }
}

extension Settings.ListenAddress {
    /// `127.0.0.1:9464`, `[::1]:9464`.
    fileprivate var text: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
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
