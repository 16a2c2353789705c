internal import EnvelopeCrypto
internal import SecureMemory

/// The contents of a key file in memory.
struct LocalKeys: Sendable {
    /// One version with its key.
    struct Entry: Sendable {
        let version: LocalKeyFile.Version
        let key: SharedSecret

        func `in`(_ state: LocalKeyFile.VersionState) -> Entry {
            Entry(version: .init(id: version.id, createdAt: version.createdAt, state: state), key: key)
        }
    }

    let id: KeyUUID
    let suite: Suite
    let entries: [Entry]
    let activeIndex: Int

    static let keyBytes = 32

    var active: Entry { entries[activeIndex] }

    func key(of version: KeyUUID) -> SharedSecret? { entries.first { $0.version.id == version }?.key }

    var facts: LocalKeyFile.Facts {
        .init(id: id, suite: suite, versions: entries.map(\.version), activeIndex: activeIndex)
    }
}
