private import Synchronization

/// Which identities the configured keys have, as far as they are known by now: a key says who it is when it is first
/// looked at.
final class ConfiguredKeys: Sendable {
    private let keyParts: Mutex<Set<String>>

    /// With the identities that the configuration itself names, or that are known otherwise.
    init(accepted: [String]) { keyParts = Mutex(Set(accepted)) }

    func learn(_ keyPart: String) { keyParts.withLock { _ = $0.insert(keyPart) } }

    func knows(_ keyPart: String) -> Bool { keyParts.withLock { $0.contains(keyPart) } }
}
