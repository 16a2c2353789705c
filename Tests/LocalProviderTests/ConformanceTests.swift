import EnvelopeCrypto
import LocalProvider
import ProviderConformance
import TestSupport
import Testing

@Suite("Provider local and the contract of every provider")
struct ConformanceTests {
    private let folder = TemporaryFolder()

    @Test("keeps the contract of every provider")
    func conformance() async throws {
        let (path, other) = (folder("local.keys"), folder("other.keys"))
        try LocalKeyFile.create(at: path, suite: .aes256GCM)
        try LocalKeyFile.create(at: other, suite: .aes256GCM)
        let key = keyDigits(folder.text(of: "local.keys"))
        try await ProviderConformance.verify(
            Candidate(
                provider: LocalProvider(path: path), stranger: LocalProvider(path: other),
                rotate: {
                    let added = try LocalKeyFile.add(at: path)
                    _ = try LocalKeyFile.activate(at: path, version: added.id)
                },
                secrets: [key]))
    }
}
