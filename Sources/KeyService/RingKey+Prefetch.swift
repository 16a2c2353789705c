private import DEKCache
private import EnvelopeCrypto
private import FoundationEssentials
internal import RemoteKMS
private import Synchronization

// The remembered local KEKs of a key, opened ahead of the requests that need them.

extension RingKey {
    /// Opens the remembered local KEKs, newest first, so that after a restart a LIST of everything does not wait for
    /// them one by one; ends when all were tried, or when cancelled.
    ///
    /// Eight at a time, and 50 a second after the first 64: the backend has others to serve.
    func prefetch<C: Clock>(clock: C, retryEvery: Duration) async where C.Duration == Duration {
        var rest = history.history.localKEKs
        guard !rest.isEmpty else { return }
        await firstVerdict.wait()
        // Opened for nothing.
        if await cache.isOff { return }
        // Cancelled sleeps return at once, and the loops end.
        while !mayPrefetch, !Task.isCancelled { try? await clock.sleep(for: retryEvery) }
        var unopened: [RememberedKEK] = []
        for kek in rest where accepts(kek.keyID) {
            if await !isOpened(kek) { unopened.append(kek) }
        }
        rest = unopened
        var opened = 0
        while !rest.isEmpty, !Task.isCancelled {
            let batch = rest.suffix(Self.prefetchBatch)
            let isAnswered = await withTaskGroup(of: Bool.self) { group in
                for kek in batch { group.addTask { await self.open(kek) } }
                return await group.reduce(true) { $0 && $1 }
            }
            guard isAnswered else {
                try? await clock.sleep(for: retryEvery)
                continue
            }
            rest.removeLast(batch.count)
            opened += batch.count
            // An API server that starts with us asks at once.
            if opened >= Self.prefetchBurst { try? await clock.sleep(for: Self.prefetchPause) }
        }
    }

    private static let prefetchBatch = 8
    private static let prefetchBurst = 64
    private static let prefetchPause = Duration.milliseconds(160)

    /// Whether the backend has answered well enough for this key's work to be done, which comes first.
    private var mayPrefetch: Bool {
        state.withLock { $0.observedID != nil && (!$0.encrypts || $0.active != nil) }
    }

    private func digest(of kek: RememberedKEK) -> WrappedKeyDigest? {
        guard let keyID = try? KeyID(parsing: kek.keyID) else { return nil }
        return try? WrappedKeyDigest(
            keyPart: keyID.keyPart, wrappedKey: [UInt8](kek.wrapped), clusterContext: clusterContext)
    }

    private func isOpened(_ kek: RememberedKEK) async -> Bool {
        guard let digest = digest(of: kek) else { return true }
        return await cache.hit(digest.cacheKey) != nil
    }

    /// Opens one remembered local KEK, together with the requests that ask for it; false if the backend does not serve
    /// us now.
    private func open(_ kek: RememberedKEK) async -> Bool {
        guard let keyID = try? KeyID(parsing: kek.keyID), let suite = Suite(rawValue: kek.suite),
            let digest = digest(of: kek)
        else { return true }
        let wrapped = [UInt8](kek.wrapped)
        do throws(CacheFailure) {
            try await cache.prefetch(digest.cacheKey, in: scope) { budget throws(RemoteKMSError) in
                UnwrappedKey(
                    .localKEK(
                        try await self.unwrap(
                            wrapped, keyID: keyID, suite: suite, for: .cacheable, deadline: .after(budget))))
            }
            return true
        } catch {
            switch error {
            case .load(let error), .remembered(let error):
                switch error.code {
                case .deadlineExceeded, .unavailable, .throttled, .malformedReply, .unauthenticated,
                    .permissionDenied:
                    return false
                // Of these bytes or this version: the others may open.
                case .keyNotFound, .keyDisabled, .invalidCiphertext, .misconfigured: return true
                }
            case .revoked, .shutDown, .cancelled: return false
            }
        }
    }
}
