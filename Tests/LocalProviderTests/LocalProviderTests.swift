import EnvelopeCrypto
import RemoteKMS
import SecureMemory
import TestSupport
import Testing

@testable import LocalProvider

private let attempt = Attempt.within(.seconds(60))
private let context = WrapContext(
    purpose: "local-kek", keyID: "kw1.AAAAAAAAAAAAAAAAAAAAAA.0.BBBBBBBBBBBBBBBBBBBBBB")

private func secret(_ count: Int) -> SecretBytes {
    SecretBytes(count: count) { span in
        for index in 0..<count {
            span.storeBytes(of: UInt8(truncatingIfNeeded: index), toByteOffset: index, as: UInt8.self)
        }
    }
}

@Suite("Provider local")
struct LocalProviderTests {
    private let folder = TemporaryFolder()
    private var path: String { folder("local.keys") }

    @Test("what is wrapped unwraps", arguments: Suite.allCases.filter(\.isAvailable), [1, 32, 72])
    func roundTrip(_ suite: EnvelopeCrypto.Suite, _ count: Int) async throws {
        try LocalKeyFile.create(at: path, suite: suite)
        let provider = LocalProvider(path: path)
        let wrapped = try await provider.wrap(secret(count), context: context, attempt: attempt)
        let back = try await provider.unwrap(wrapped, context: context, attempt: attempt)
        let isSame = back.isEqual(to: secret(count))
        #expect(isSame)
        #expect(wrapped.count == 24 + suite.overhead + count)
    }

    @Test("describe names the file and its active version, not its path")
    func describe() async throws {
        let facts = try LocalKeyFile.create(at: path, suite: .aes256GCM)
        let description = try await LocalProvider(path: path).describe(attempt)
        #expect(
            description
                == KeyDescription(
                    identity: facts.id.description, version: facts.active.id.description,
                    versionCreatedAt: facts.active.createdAt))
    }

    @Test(
        "any changed byte, another purpose or another key_id is an invalid ciphertext, or an unknown version")
    func tampered() async throws {
        try LocalKeyFile.create(at: path, suite: .aes256GCM)
        let provider = LocalProvider(path: path)
        let wrapped = try await provider.wrap(secret(72), context: context, attempt: attempt)
        for index in wrapped.indices {
            var changed = wrapped
            changed[index] ^= 1
            let code = await failure { () throws(RemoteKMSError) in
                _ = try await provider.unwrap(changed, context: context, attempt: attempt)
            }
            #expect(code == ((8..<24).contains(index) ? .keyNotFound : .invalidCiphertext), "byte \(index)")
        }
        for other in [
            WrapContext(purpose: "other", keyID: context.keyID),
            WrapContext(purpose: "local-kek", keyID: "x"),
        ] {
            let code = await failure { () throws(RemoteKMSError) in
                _ = try await provider.unwrap(wrapped, context: other, attempt: attempt)
            }
            #expect(code == .invalidCiphertext)
        }
    }

    @Test("a wrapped key cut off anywhere, or with more behind it, is an invalid ciphertext")
    func torn() async throws {
        try LocalKeyFile.create(at: path, suite: .aes256GCM)
        let provider = LocalProvider(path: path)
        let wrapped = try await provider.wrap(secret(32), context: context, attempt: attempt)
        for torn in wrapped.indices.map({ Array(wrapped[..<$0]) }) + [wrapped + [0]] {
            let code = await failure { () throws(RemoteKMSError) in
                _ = try await provider.unwrap(torn, context: context, attempt: attempt)
            }
            #expect(code == .invalidCiphertext, "\(torn.count) bytes")
        }
    }

    @Test("an activated version is observed while running, and former wrapped keys still open")
    func rotationWhileRunning() async throws {
        let first = try LocalKeyFile.create(at: path, suite: .aes256GCM)
        let provider = LocalProvider(path: path)
        let before = try await provider.wrap(secret(32), context: context, attempt: attempt)
        let added = try LocalKeyFile.add(at: path)
        #expect(try await provider.describe(attempt).version == first.active.id.description)
        try LocalKeyFile.activate(at: path, version: added.id)
        #expect(try await provider.describe(attempt).version == added.id.description)
        let after = try await provider.wrap(secret(32), context: context, attempt: attempt)
        #expect(Array(after[8..<24]) == added.id.bytes)
        _ = try await provider.unwrap(before, context: context, attempt: attempt)
        _ = try await provider.unwrap(after, context: context, attempt: attempt)
    }

    @Test("a replica with the added version reads what a replica writes that has activated it")
    func replicas() async throws {
        try LocalKeyFile.create(at: path, suite: .aes256GCM)
        let added = try LocalKeyFile.add(at: path)
        folder.write(folder.text(of: "local.keys"), to: "copy.keys")
        let one = LocalProvider(path: path)
        let two = LocalProvider(path: folder("copy.keys"))
        try LocalKeyFile.activate(at: path, version: added.id)
        let wrapped = try await one.wrap(secret(32), context: context, attempt: attempt)
        _ = try await two.unwrap(wrapped, context: context, attempt: attempt)
        let back = try await two.wrap(secret(32), context: context, attempt: attempt)
        _ = try await one.unwrap(back, context: context, attempt: attempt)
    }

    @Test(
        "a version that came with a copied file is found without a restart; before, the remedy says to copy it"
    )
    func versionFromCopy() async throws {
        try LocalKeyFile.create(at: path, suite: .aes256GCM)
        folder.write(folder.text(of: "local.keys"), to: "copy.keys")
        let two = LocalProvider(path: folder("copy.keys"))
        _ = try await two.describe(attempt)
        let added = try LocalKeyFile.add(at: path)
        try LocalKeyFile.activate(at: path, version: added.id)
        let wrapped = try await LocalProvider(path: path).wrap(
            secret(32), context: context, attempt: attempt)
        let error = await #expect(throws: RemoteKMSError.self) {
            _ = try await two.unwrap(wrapped, context: context, attempt: attempt)
        }
        #expect(error?.code == .keyNotFound)
        #expect(error?.remedy.contains("copy the key file") == true)
        folder.write(folder.text(of: "local.keys"), to: "copy.keys")
        _ = try await two.unwrap(wrapped, context: context, attempt: attempt)
    }

    @Test(
        "a file that breaks while running is reported, and the keys in memory go on",
        arguments: ["removed", "damaged", "truncated", "another key"])
    func brokenWhileRunning(_ how: String) async throws {
        try LocalKeyFile.create(at: path, suite: .aes256GCM)
        let good = folder.text(of: "local.keys")
        let provider = LocalProvider(path: path)
        let described = try await provider.describe(attempt)
        let wrapped = try await provider.wrap(secret(32), context: context, attempt: attempt)
        switch how {
        case "removed": folder.remove("local.keys")
        case "damaged": folder.write(good.replacing("active", with: "aktive"), to: "local.keys")
        case "truncated": folder.write(String(good.prefix(good.count / 2)), to: "local.keys")
        default:
            folder.remove("local.keys")
            try LocalKeyFile.create(at: path, suite: .aes256GCM)
        }
        let error = await #expect(throws: RemoteKMSError.self) {
            try await provider.describe(attempt)
        }
        #expect(error?.code == .misconfigured)
        #expect(error?.summary.contains(path) == true && error?.remedy.isEmpty == false)
        _ = try await provider.unwrap(wrapped, context: context, attempt: attempt)
        _ = try await provider.wrap(secret(32), context: context, attempt: attempt)
        folder.write("", to: "local.keys")
        folder.remove("local.keys")
        folder.write(good, to: "local.keys")
        #expect(try await provider.describe(attempt) == described)
    }

    @Test(
        "an older copy of the file does not replace the keys in memory, and the remedy is the newer file",
        arguments: ["lacks a version", "has a retired version active"])
    func olderCopy(_ how: String) async throws {
        try LocalKeyFile.create(at: path, suite: .aes256GCM)
        let first = try LocalKeyFile.list(at: path).active.id
        var older = folder.text(of: "local.keys")
        let added = try LocalKeyFile.add(at: path)
        if how != "lacks a version" { older = folder.text(of: "local.keys") }
        try LocalKeyFile.activate(at: path, version: added.id)
        let newer = folder.text(of: "local.keys")
        let provider = LocalProvider(path: path)
        let described = try await provider.describe(attempt)
        let wrapped = try await provider.wrap(secret(32), context: context, attempt: attempt)

        folder.write(older, to: "local.keys")
        for _ in 0..<2 {
            let error = await #expect(throws: RemoteKMSError.self) {
                try await provider.describe(attempt)
            }
            #expect(error?.code == .misconfigured)
            #expect(
                error?.summary.contains("\(how == "lacks a version" ? added.id : first)") == true,
                "\(error?.summary ?? "")")
            #expect(error?.remedy.hasPrefix("put the newer file back") == true)
            _ = try await provider.unwrap(wrapped, context: context, attempt: attempt)
        }
        folder.remove("local.keys")
        _ = try await provider.unwrap(wrapped, context: context, attempt: attempt)
        folder.write(newer, to: "local.keys")
        #expect(try await provider.describe(attempt) == described)
    }

    @Test("a file that is missing at start is a misconfiguration whose remedy makes one")
    func missing() async {
        let error = await #expect(throws: RemoteKMSError.self) {
            try await LocalProvider(path: path).describe(attempt)
        }
        #expect(error?.code == .misconfigured)
        #expect(error?.remedy.contains("kmsward key init --file \(path)") == true)
    }

    private func failure(_ body: () async throws(RemoteKMSError) -> Void) async -> RemoteKMSError.Code? {
        do throws(RemoteKMSError) { try await body() } catch { return error.code }
        return nil
    }
}
