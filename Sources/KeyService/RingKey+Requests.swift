internal import DEKCache
private import EnvelopeCrypto
private import FoundationEssentials
internal import KMSWire
internal import RemoteKMS
internal import SecureMemory
private import Synchronization

// What requests have a key do: from memory, else by its backend.

extension RingKey {
    /// The local KEK that an envelope was sealed with: from memory, else unwrapped by the backend.
    func localKEK(
        of envelope: Envelope, deadline: Deadline, clock: any Clock<Duration>
    ) async throws(KMSFailure) -> LocalKEK {
        let digest: KeyDigest
        do throws(EnvelopeError) {
            digest = try envelope.wrappedKeyDigest(clusterContext: clusterContext).cacheKey
        } catch { throw KMSFailure(error, key: name) }
        let key: UnwrappedKey
        if let hit = await cache.hit(digest) {
            key = hit
        } else {
            key = try await loaded(digest, by: deadline, clock) { budget throws(RemoteKMSError) in
                try await self.unwrapped(envelope, by: .after(budget))
            }
        }
        guard case .localKEK(let kek) = key.content else { throw .damaged(key: name) }
        return kek
    }

    /// Has the backend wrap a plaintext key, as `compatible` writes it.
    func wrapped(
        _ plaintext: borrowing SecretBytes, api: KMSAPI, deadline: Deadline
    ) async throws(KMSFailure) -> [UInt8] {
        let shared = SharedSecret(plaintext.withBytes { SecretBytes(copying: $0) })
        guard CiphertextFormat.compatiblePlaintexts.contains(shared.bytes.count) else {
            throw KMSFailure(
                .invalidArgument,
                "key \(name): a plaintext of \(shared.bytes.count) bytes is no key of Kubernetes, and write_format "
                    + "compatible takes no other", key: name)
        }
        let wrapped: [UInt8]
        do throws(RemoteKMSError) {
            wrapped = try await client.wrap(
                shared, context: Self.compatibleContext, for: .request, by: deadline)
        } catch {
            if Task.isCancelled { throw KMSFailure(.cancelled, "key \(name): the caller gave up", key: name) }
            throw KMSFailure(refusing: error, key: name)
        }
        monitor.proved(.encryption)
        guard 1...EnvelopeWriter.ciphertextLimit(api) ~= wrapped.count else {
            throw KMSFailure(
                .failedPrecondition,
                "key \(name): the backend wraps a key into \(wrapped.count) bytes, which fits no ciphertext",
                key: name)
        }
        return wrapped
    }

    /// The plaintext key that the backend wrapped into `ciphertext`, from memory or unwrapped now.
    func plaintext(
        of ciphertext: [UInt8], deadline: Deadline, clock: any Clock<Duration>
    ) async throws(KMSFailure) -> SecretBytes {
        let digest: KeyDigest
        do throws(EnvelopeError) {
            digest =
                try WrappedKeyDigest(
                    keyPart: state.withLock { $0.acceptance }.keyPart, wrappedKey: ciphertext.span,
                    clusterContext: clusterContext, format: .compatible
                ).cacheKey
        } catch { throw KMSFailure(error, key: name) }
        let key: UnwrappedKey
        if let hit = await cache.hit(digest) {
            key = hit
        } else {
            key = try await loaded(digest, by: deadline, clock) { budget throws(RemoteKMSError) in
                let secret = try await self.client.unwrap(
                    ciphertext, context: Self.compatibleContext, for: .cacheable, by: .after(budget))
                if !Task.isCancelled { self.monitor.proved(.decryption) }
                guard CiphertextFormat.compatiblePlaintexts.contains(secret.bytes.count) else {
                    throw RemoteKMSError(.invalidCiphertext, "what was unwrapped is no key of Kubernetes")
                }
                return UnwrappedKey(.plaintext(secret))
            }
        }
        guard case .plaintext(let secret) = key.content else { throw .damaged(key: name) }
        return secret.bytes.withBytes { SecretBytes(copying: $0) }
    }

    /// The peers' formats name no key_id to the backend.
    static let compatibleContext = WrapContext(purpose: "dek", keyID: "")

    /// Has the backend unwrap the local KEK of an envelope, and remembers it for the next start.
    private func unwrapped(
        _ envelope: Envelope, by deadline: Deadline
    ) async throws(RemoteKMSError) -> UnwrappedKey {
        let wrapped = envelope.wrappedKey
        let kek = try await unwrap(
            wrapped, keyID: envelope.keyID, suite: envelope.suite, for: .cacheable, deadline: deadline)
        // Wiped meanwhile, or nobody waits: then it proves nothing and is not remembered.
        guard !Task.isCancelled else { return UnwrappedKey(.localKEK(kek)) }
        monitor.proved(.decryption)
        history.met(
            RememberedKEK(
                keyID: envelope.keyID.description, suite: envelope.suite.rawValue, wrapped: Data(wrapped),
                madeAt: nil))
        return UnwrappedKey(.localKEK(kek))
    }

    /// What is not in memory yet, once for all who ask for it meanwhile; waits no longer than `deadline` allows.
    private func loaded(
        _ digest: KeyDigest, by deadline: Deadline, _ clock: any Clock<Duration>,
        _ load: @escaping UnwrappedKeys.Load
    ) async throws(KMSFailure) -> UnwrappedKey {
        let (cache, scope) = (cache, scope)
        let allowed = deadline.remaining
        defer { record.loaded(in: allowed - deadline.remaining) }
        let result = await withTaskGroup(of: Result<UnwrappedKey, CacheFailure>?.self) { group in
            group.addTask {
                do throws(CacheFailure) {
                    return .success(try await cache.value(for: digest, in: scope, orLoad: load))
                } catch { return .failure(error) }
            }
            group.addTask {
                // Cancelled when the value came first; then there is nothing to report.
                try? await clock.sleep(for: deadline.remaining)
                return nil
            }
            defer { group.cancelAll() }
            return await group.next() ?? nil
        }
        switch result {
        case .success(let key): return key
        case .failure(.load(let error)), .failure(.remembered(let error)):
            throw error.code == .invalidCiphertext
                ? .damaged(key: name) : KMSFailure(error, key: name)
        case .failure(.revoked):
            throw failure
                ?? KMSFailure(.unavailable, "key \(name): it was wiped meanwhile; try again", key: name)
        case .failure(.shutDown):
            throw KMSFailure(.unavailable, "key \(name): the daemon ends; another takes over", key: name)
        case .failure(.cancelled), nil:
            if Task.isCancelled { throw KMSFailure(.cancelled, "key \(name): the caller gave up", key: name) }
            throw KMSFailure(
                .deadlineExceeded,
                "key \(name): the backend has not unwrapped it in the time of this call; what it was asked by then it may still "
                    + "answer, for the next", key: name)
        }
    }
}
