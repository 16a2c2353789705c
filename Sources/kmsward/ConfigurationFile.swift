internal import Configuration
private import EnvelopeCrypto
private import Glibc
private import KeyService
internal import Lifecycle
internal import Observability
private import SocketAcceptance

/// The configuration file of a running daemon: what of it runs, and how another content comes to run.
actor ConfigurationFile: LiveConfiguration {
    private let path: String
    private let units: UnitSockets
    private let backends: Backends
    private let log: LogOutput
    private var running: Settings
    private(set) var judged: Mark

    /// `running`, read from the bytes with the mark `judged`, is what runs.
    init(
        _ path: String, running: Settings, judged: Mark, units: UnitSockets, backends: Backends,
        log: LogOutput
    ) {
        self.path = path
        self.running = running
        self.judged = judged
        self.units = units
        self.backends = backends
        self.log = log
    }

    /// What tells this content of the file from others.
    static func mark(of bytes: [UInt8]) -> Mark {
        // Without SHA-256 no key would serve, and no reload would help.
        (try? DigestAlgorithm.sha256.hash(bytes.span)) ?? []
    }

    private static func mark(of error: ConfigurationError) -> Mark { Array("\(error)".utf8) }

    func look() -> Mark {
        do throws(ConfigurationError) {
            var bytes = try Settings.read(path)
            defer { bytes.wipe() }
            return Self.mark(of: bytes)
        } catch { return Self.mark(of: error) }
    }

    func reload(_ daemon: RunningDaemon) async -> ReloadReport {
        do throws(ConfigurationError) {
            var bytes: [UInt8]
            do throws(ConfigurationError) { bytes = try Settings.read(path) } catch {
                judged = Self.mark(of: error)
                throw error
            }
            defer { bytes.wipe() }
            judged = Self.mark(of: bytes)
            let (settings, warnings) = try Settings.load(bytes: bytes, path: path)
            let problems = settings.problems()
            guard problems.isEmpty else { throw ConfigurationError(warnings + problems) }
            return try await take(
                running.changing(to: settings.withUnitsDirectory()), daemon,
                warnings: (warnings.filter(units.leaves) + units.remarks(on: settings)).map(\.description))
        } catch {
            return ReloadReport(
                .refused,
                reasons: error.diagnostics.filter { $0.severity == .error }.map(\.description),
                warnings: error.diagnostics.filter { $0.severity != .error }.map(\.description))
        }
    }

    func tidy() async { await backends.tidy() }

    private func take(
        _ change: SettingsChange, _ daemon: RunningDaemon, warnings: [String]
    ) async throws(ConfigurationError) -> ReloadReport {
        let settings = change.settings
        let (accounts, diagnostics) = settings.accounts()
        guard let accounts else { throw ConfigurationError(diagnostics) }
        let keys = try await backends.keys(of: settings)
        var effects = change.taken.filter { $0 != "keys" }
        do throws(KeyRefusal) {
            if change.taken.contains("keys") {
                effects += [try await daemon.ring.apply(keys).summary ?? "order of keys"].map {
                    "keys: \($0)"
                }
            }
        } catch {
            let index = settings.keys.firstIndex { $0.name == error.key } ?? 0
            throw ConfigurationError([settings.diagnostic(.error, about: "keys[\(index)]", "\(error)")])
        }
        // From here on nothing can fail.
        await backends.run(keys, of: settings)
        await daemon.ring.resizeCache(to: settings.cache.entries)
        await daemon.acceptor.admit(by: accounts.policy)
        log.level = settings.log.outputLevel
        running = settings
        return ReloadReport(
            effects.isEmpty ? .unchanged : .applied, changes: effects.joined(separator: "; "),
            waiting: change.waiting.filter { !units.decide($0) }, warnings: warnings)
    }
}

extension [UInt8] {
    /// Overwrites what may hold a secret.
    fileprivate mutating func wipe() {
        unsafe withUnsafeMutableBytes { buffer in
            if let start = buffer.baseAddress { unsafe explicit_bzero(start, buffer.count) }
        }
    }
}
