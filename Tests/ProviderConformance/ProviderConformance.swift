// ProviderConformance: what every provider keeps, as one test that each of them calls.

public import RemoteKMS
internal import SecureMemory
private import Synchronization
private import Testing

/// A provider with a backend that can be moved; made anew for each use.
public struct Candidate: Sendable {
    /// A key.
    public var provider: any Provider
    /// Another key of the same backend.
    public var stranger: any Provider
    /// Gives the key a new version.
    public var rotate: @Sendable () async throws -> Void
    /// Lets no further call be answered, and returns what waits until one has come; nil where nothing can be late.
    public var hang: (@Sendable () async throws -> @Sendable () async throws -> Void)?
    /// What the provider knows that nobody may see: secret keys, tokens.
    public var secrets: [String]

    /// A candidate.
    public init(
        provider: any Provider, stranger: any Provider, rotate: @escaping @Sendable () async throws -> Void,
        hang: (@Sendable () async throws -> @Sendable () async throws -> Void)? = nil, secrets: [String]
    ) {
        self.provider = provider
        self.stranger = stranger
        self.rotate = rotate
        self.hang = hang
        self.secrets = secrets
    }
}

/// The contract of `Provider`.
public struct ProviderConformance: Sendable {
    private let candidate: Candidate
    private let seen = Seen()
    private let context = WrapContext(
        purpose: "local-kek", keyID: "kw1.AAAAAAAAAAAAAAAAAAAAAA.0.BBBBBBBBBBBBBBBBBBBBBB")

    /// Generous: nothing waits for it but what is broken.
    private var patient: Attempt { .within(.seconds(60)) }

    private init(_ candidate: Candidate) { self.candidate = candidate }

    /// Holds a provider against the contract; what it breaks becomes an issue of the running test.
    public static func verify(_ candidate: Candidate) async throws {
        let suite = ProviderConformance(candidate)
        try await suite.roundTrip()
        try await suite.wrongKey()
        try await suite.tampered()
        try await suite.rotationOverlap()
        if let hang = candidate.hang { try await suite.lateAnswers(hang) }
        suite.noSecretShows()
    }

    private func roundTrip() async throws {
        for count in [1, 16, 32, 72, 4_000] {
            let plaintext = seen.secret(count)
            let wrapped = try await wrap(plaintext)
            #expect(try await opens(wrapped, plaintext), "\(count) bytes come back")
            #expect(try await wrap(plaintext) != wrapped, "\(count) bytes: no two wraps are the same")
        }
        let one = try await candidate.provider.describe(patient)
        let two = try await candidate.provider.describe(patient)
        #expect(one == two, "a key that nobody changed is described the same")
        if let configured = candidate.provider.configuredIdentity {
            #expect(configured == one.identity, "what the configuration tells is what the backend says")
        }
        #expect(!one.identity.isEmpty && !one.version.isEmpty)
    }

    private func wrongKey() async throws {
        let wrapped = try await wrap(seen.secret(32))
        let code = await failure(of: candidate.stranger, wrapped)
        #expect(
            code == .invalidCiphertext || code == .keyNotFound, "another key's: \(code?.rawValue ?? "opened")"
        )
    }

    private func tampered() async throws {
        let wrapped = try await wrap(seen.secret(32))
        var changes = stride(from: 0, to: wrapped.count, by: max(1, wrapped.count / 24)).map { index in
            var changed = wrapped
            changed[index] ^= 0x40
            return changed
        }
        changes += [
            [], [0], Array(wrapped.dropLast()), Array(wrapped.dropFirst()), wrapped + [0], wrapped + wrapped,
        ]
        for change in changes {
            let code = await failure(of: candidate.provider, change)
            #expect(
                code == .invalidCiphertext || code == .keyNotFound,
                "changed bytes (\(change.count)): \(code?.rawValue ?? "opened")")
        }
    }

    private func rotationOverlap() async throws {
        let (old, new) = (seen.secret(32), seen.secret(32))
        let before = try await candidate.provider.describe(patient)
        let wrappedBefore = try await wrap(old)
        try await candidate.rotate()
        let after = try await candidate.provider.describe(patient)
        #expect(before.identity == after.identity, "a rotation is no other key")
        #expect(before.version != after.version, "a rotation shows")
        let wrappedAfter = try await wrap(new)
        #expect(try await opens(wrappedBefore, old), "what was wrapped before a rotation opens after it")
        #expect(try await opens(wrappedAfter, new), "what is wrapped after a rotation opens")
    }

    private func lateAnswers(
        _ hang: @Sendable () async throws -> @Sendable () async throws -> Void
    ) async throws {
        let wrapped = try await wrap(seen.secret(32))
        let untilAsked = try await hang()
        let late = await failure(of: candidate.provider, wrapped, .within(.milliseconds(200)))
        #expect(late == .deadlineExceeded || late == .unavailable, "late: \(late?.rawValue ?? "answered")")
        let passed = await failure(of: candidate.provider, wrapped, .within(.seconds(-1)))
        #expect(
            passed == .deadlineExceeded || passed == .unavailable,
            "too late: \(passed?.rawValue ?? "answered")")

        // Without an end to its waiting this would go on for an hour.
        let call = Task { await failure(of: candidate.provider, wrapped, .within(.seconds(3600))) }
        try await untilAsked()
        call.cancel()
        #expect(await call.value != nil, "a cancelled call fails")
    }

    private func noSecretShows() {
        let secrets = candidate.secrets.map { Array($0.utf8) } + seen.secrets
        for text in seen.texts {
            #expect(!text.contains("\n"), "an error is one line: \(text)")
            for secret in secrets where secret.count > 4 {
                for form in forms(of: secret) {
                    #expect(!text.lowercased().contains(form.lowercased()), "an error shows a secret")
                }
            }
        }
        #expect(!seen.texts.isEmpty)
    }

    // MARK: Calls

    private func wrap(_ plaintext: [UInt8]) async throws -> [UInt8] {
        do throws(RemoteKMSError) {
            return try await candidate.provider.wrap(
                SecretBytes(bytes: plaintext), context: context, attempt: patient)
        } catch {
            seen.note(error)
            throw error
        }
    }

    private func opens(_ wrapped: [UInt8], _ plaintext: [UInt8]) async throws -> Bool {
        let opened = try await candidate.provider.unwrap(wrapped, context: context, attempt: patient)
        return opened.isEqual(to: SecretBytes(bytes: plaintext))
    }

    private func failure(
        of provider: any Provider, _ wrapped: [UInt8], _ attempt: Attempt? = nil
    ) async -> RemoteKMSError.Code? {
        do throws(RemoteKMSError) {
            _ = try await provider.unwrap(wrapped, context: context, attempt: attempt ?? patient)
            return nil
        } catch {
            seen.note(error)
            return error.code
        }
    }

    /// How bytes could show in a text.
    private func forms(of secret: [UInt8]) -> [String] {
        let hex = secret.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
        return [String(decoding: secret, as: UTF8.self), hex, base64(secret)]
    }

    /// Without what depends on the bytes behind.
    private func base64(_ bytes: [UInt8]) -> String {
        let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
        return stride(from: 0, to: bytes.count / 3 * 3, by: 3).map { index in
            let group = bytes[index..<index + 3].reduce(0) { $0 << 8 | Int($1) }
            return String([18, 12, 6, 0].map { alphabet[group >> $0 & 63] })
        }.joined()
    }
}

/// What was given and what was said; random secrets, so that none is found by chance.
private final class Seen: Sendable {
    private let state = Mutex((secrets: [[UInt8]](), texts: [String]()))

    var secrets: [[UInt8]] { state.withLock { $0.secrets } }
    var texts: [String] { state.withLock { $0.texts } }

    func secret(_ count: Int) -> [UInt8] {
        let bytes = (0..<count).map { _ in UInt8.random(in: .min ... .max) }
        state.withLock { $0.secrets.append(bytes) }
        return bytes
    }

    func note(_ error: RemoteKMSError) {
        let texts = ["\(error)", error.summary, error.remedy, String(reflecting: error)]
        state.withLock { $0.texts += texts }
    }
}

extension SecretBytes {
    fileprivate init(bytes: [UInt8]) {
        self.init(count: bytes.count) { cell in cell.copy(bytes.span, toByteOffset: 0) }
    }
}
