internal import Configuration
private import Glibc
private import HTTPTransport
internal import KeyService
private import LocalProvider
internal import RemoteKMS

/// The ways to the keys' services: made once for all keys that share them, kept for as long as the configuration names them.
actor Backends {
    /// A transport, and those who make calls by it.
    private struct Way {
        let settings: HTTPTransport.Settings
        let transport: HTTPTransport
        var users: [User] = []

        var isUnused: Bool { users.allSatisfy { $0.provider == nil } }
    }

    private struct User { weak let provider: (any Provider)? }

    private var ways: [Way] = []
    /// Keys of one credential at one endpoint share what the service lets through.
    private var limiters: [String: ThrottleLimiter] = [:]
    private var running: [(configured: Settings.Key, key: KeySettings)] = []

    /// The keys of these settings, by what is there where the settings are the same; throws what is wrong with the first that
    /// cannot be reached as it is configured.
    func keys(of settings: Settings) throws(ConfigurationError) -> [KeySettings] {
        var keys: [KeySettings] = []
        for (index, key) in settings.keys.enumerated() {
            if let same = running.first(where: { $0.configured == key }) {
                keys.append(same.key)
                continue
            }
            do throws(RemoteKMSError) {
                keys.append(key.settings(try provider(of: key), limiter(of: key)))
            } catch {
                throw ConfigurationError([settings.diagnostic(.error, about: "keys[\(index)]", "\(error)")])
            }
        }
        return keys
    }

    /// These keys of these settings run now.
    func run(_ keys: [KeySettings], of settings: Settings) { running = Array(zip(settings.keys, keys)) }

    /// Closes the transports that nobody makes calls by any more.
    func tidy() async {
        let unused = ways.filter(\.isUnused)
        ways.removeAll(where: \.isUnused)
        for way in unused { await way.transport.close() }
    }

    /// Ends what is under way.
    func close() async {
        let all = ways
        ways = []
        for way in all { await way.transport.close() }
    }

    private func provider(of key: Settings.Key) throws(RemoteKMSError) -> any Provider {
        if let same = running.first(where: { $0.configured.provider == key.provider }) {
            return same.key.provider
        }
        switch key.provider {
        case .local(let local): return LocalProvider(path: local.file)
        case .jdcloud(let jdcloud):
            let index = try wayIndex(jdcloud.transportSettings)
            let provider = try jdcloud.provider(ways[index].transport)
            ways[index].users.append(User(provider: provider))
            return provider
        }
    }

    /// Whether sockets of the Internet can be made here; a unit's sandbox may forbid that.
    private static var mayUseNetwork: Bool {
        [AF_INET, AF_INET6].contains { family in
            let descriptor = Glibc.socket(family, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
            if descriptor >= 0 { Glibc.close(descriptor) }
            return descriptor >= 0 || errno != EAFNOSUPPORT
        }
    }

    private func wayIndex(_ settings: HTTPTransport.Settings) throws(RemoteKMSError) -> Int {
        if let known = ways.firstIndex(where: { $0.settings == settings }) { return known }
        guard Self.mayUseNetwork else {
            throw RemoteKMSError(
                .misconfigured,
                "this process may not open network sockets, which the key's service needs (RestrictAddressFamilies= of its unit)",
                remedy:
                    "install -D -m 644 -t /etc/systemd/system/kmsward.service.d /usr/share/kmsward/remote-keys.conf "
                    + "(an instance's: kmsward@NAME.service.d), then systemctl daemon-reload and systemctl restart"
            )
        }
        do throws(HTTPFailure) {
            ways.append(Way(settings: settings, transport: try HTTPTransport(settings)))
        } catch {
            throw RemoteKMSError(.misconfigured, error.summary, remedy: "correct the key's proxy")
        }
        return ways.count - 1
    }

    private func limiter(of key: Settings.Key) -> ThrottleLimiter? {
        guard let owner = key.rateOwner else { return nil }
        if let limiter = limiters[owner] { return limiter }
        let limiter = ThrottleLimiter()
        limiters[owner] = limiter
        return limiter
    }
}
