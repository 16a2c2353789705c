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
    /// Eight at a time and 50 a second: the backend has others to serve.
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
        while !rest.isEmpty, !Task.isCancelled {
            let batch = rest.suffix(Self.prefetchBatch)
            let isAnswered = await withTaskGroup(of: Bool.self) { group in
                for kek in batch { group.addTask { await self.open(kek) } }
                return await group.reduce(true) { $0 && $1 }
            }
            if isAnswered { rest.removeLast(batch.count) }
            try? await clock.sleep(for: isAnswered ? Self.prefetchPause : retryEvery)
        }
    }

    private static let prefetchBatch = 8
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

    /// Opens one remembered local KEK; false if the backend does not serve us now.
    private func open(_ kek: RememberedKEK) async -> Bool {
        guard let keyID = try? KeyID(parsing: kek.keyID), let suite = Suite(rawValue: kek.suite),
            let digest = digest(of: kek)
        else { return true }
        let wipes = state.withLock { $0.wipes }
        do throws(RemoteKMSError) {
            let key = try await unwrap(
                [UInt8](kek.wrapped), keyID: keyID, suite: suite, deadline: .after(Self.callLimit))
            guard state.withLock({ $0.wipes }) == wipes else { return false }
            await keep(key, as: digest)
            return true
        } catch {
            switch error.code {
            case .deadlineExceeded, .unavailable, .throttled, .malformedReply, .unauthenticated,
                .permissionDenied:
                return false
            // Of these bytes or this version: the others may open.
            case .keyNotFound, .keyDisabled, .invalidCiphertext, .misconfigured: return true
            }
        }
    }
}
