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
    /// The keys; says on standard error which cannot be reached as they are configured, and exits 78.
    func keyRing(_ transports: inout Transports) throws -> KeyRingSettings {
        // Keys of one credential at one endpoint share what the service lets through.
        var limiters: [String: ThrottleLimiter] = [:]
        for case let owner? in keys.map(\.rateOwner) { limiters[owner] = ThrottleLimiter() }
        var providers: [any Provider] = []
        for (index, key) in keys.enumerated() {
            do throws(RemoteKMSError) { providers.append(try backend(of: key, &transports)) } catch {
                printError("\(diagnostic(.error, about: "keys[\(index)]", "\(error)"))")
                throw ExitCode.brokenConfiguration
            }
        }
        return KeyRingSettings(
            keys: zip(keys, providers).map { key, provider in
                KeySettings(
                    name: key.name, provider: provider, suite: key.cryptoSuite,
                    writeFormat: key.writeFormat.ofCiphertexts,
                    acceptFormats: Set((key.acceptFormats + [key.writeFormat]).map(\.ofCiphertexts)),
                    epoch: UInt32(key.epoch),
                    acceptIdentities: key.acceptIdentities, adoptKeyIDs: key.adoptKeyIDs,
                    localKEKMaximumAge: key.localKEK.maxAge, localKEKMaximumUses: key.localKEK.maxUses,
                    rideThrough: key.rideThrough, authGrace: key.authGrace,
                    limiter: key.rateOwner.flatMap { limiters[$0] })
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
private func backend(
    of key: Settings.Key, _ transports: inout Transports
) throws(RemoteKMSError) -> any Provider {
    switch key.provider {
    case .local(let local): LocalProvider(path: local.file)
    case .jdcloud(let jdcloud): try jdcloud.provider(&transports)
    }
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
    /// Names whom the service counts the calls of this key for; nil where nobody counts.
    fileprivate var rateOwner: String? {
        guard case .jdcloud(let jdcloud) = provider else { return nil }
        let credentials = jdcloud.credentials
        let names = [credentials.accessKey, credentials.accessKeyFile, credentials.role.jrn].map { $0 ?? "" }
        return ([jdcloud.endpoint, credentials.source.rawValue] + names).joined(separator: " ")
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
