internal import EnvelopeCrypto
public import KMSWire
public import RemoteKMS
internal import SecureMemory

/// Answers the KMS API from a key ring.
///
/// Sizes: Encrypt takes every plaintext from 1 byte to what fits the ciphertext of v2 (1,024 bytes), or 32,768 in v1, and
/// refuses others; kube-apiserver sends 32 bytes. The 4 bytes `ping` of the v1 health check are answered by the
/// state of the write key and never reach a backend. Status is `ok` with a key_id, or a gRPC error with cause and
/// remedy: an API server takes healthz text as a reason to go on writing (contract of Kubernetes, Status).
public struct KeyService: KMSServing {
    /// What Status says it speaks; API servers pin the first one they see.
    public enum V2Version: String, Sendable, CaseIterable {
        /// Kubernetes 1.29 and later.
        case v2
        /// Kubernetes 1.27 and later.
        case v2beta1
    }

    private let ring: KeyRing
    private let v2Version: V2Version
    private let runtimeVersion: String
    private let clock: any Clock<Duration>
    private let ping: PingSeal
    private let times: CryptoTimes

    /// The longest that Status waits for the first verdict.
    private static let statusWait = Duration.seconds(2)

    /// A service over `ring`, whose `run` must be running; `runtimeVersion` is the daemon's semantic version.
    public init(
        ring: KeyRing, v2Version: V2Version = .v2beta1, runtimeVersion: String,
        clock: any Clock<Duration> = ContinuousClock(),
        now: @escaping @Sendable () -> ContinuousClock.Instant = { ContinuousClock.now }
    ) {
        self.ring = ring
        self.v2Version = v2Version
        self.runtimeVersion = runtimeVersion
        self.clock = clock
        ping = PingSeal(suite: ring.keys[0].settings.suite)
        times = CryptoTimes(ring.factory, now: now)
    }

    /// Answers one request; see `KMSServing`.
    ///
    /// The caller of this has taken off what the answer needs to reach the API server: all of `deadline` is spent here.
    public func perform(
        _ request: consuming KMSRequest, deadline: Deadline, keyID: inout String
    ) async throws(KMSFailure) -> KMSReply {
        // One look at the keys: they may be exchanged while this request goes on.
        let keys = ring.keys
        switch consume request {
        case .version:
            return .version(
                VersionReply(version: "v1beta1", runtimeName: "kmsward", runtimeVersion: runtimeVersion))
        case .status:
            let active = try await active(of: keys[0], within: Self.statusWait, deadline)
            return .status(
                StatusReply(version: v2Version.rawValue, healthz: "ok", keyID: active.keyID.description))
        case .encrypt(let request):
            return .encrypted(
                request.api, try await encrypt(request, keys[0], deadline: deadline, keyID: &keyID))
        case .decrypt(let request):
            return .decrypted(
                request.api, try await decrypt(request, keys, deadline: deadline, keyID: &keyID))
        }
    }

    private func encrypt(
        _ request: borrowing EncryptRequest, _ key: RingKey, deadline: Deadline, keyID: inout String
    ) async throws(KMSFailure) -> EncryptReply {
        let active = try await active(of: key, within: nil, deadline)
        let name = key.name
        keyID = active.keyID.description
        if request.api == .v1beta1, PingSeal.isPing(request.plaintext) {
            do throws(CryptoFailure) {
                return EncryptReply(
                    ciphertext: try ping.seal(request.plaintext), keyID: active.keyID.description)
            } catch { throw KMSFailure(.crypto(error), key: name) }
        }
        let reply: EncryptReply
        switch active.form {
        case .envelope(let writer):
            let start = times.start
            do throws(EnvelopeError) { reply = try writer.seal(request.plaintext, api: request.api) } catch {
                throw KMSFailure(error, key: name)
            }
            times.sealed(since: start)
        case .compatible:
            reply = EncryptReply(
                ciphertext: try await key.wrapped(
                    request.plaintext, api: request.api, deadline: deadline),
                keyID: keyID)
        }
        active.countUse()
        return reply
    }

    private func decrypt(
        _ request: DecryptRequest, _ keys: [RingKey], deadline: Deadline, keyID: inout String
    ) async throws(KMSFailure) -> SecretBytes {
        if request.api == .v1beta1, PingSeal.hasHeader(request.ciphertext) {
            return try await openPing(request, keys[0], deadline: deadline)
        }
        if let plaintext = try openActive(request, keys[0], keyID: &keyID) { return plaintext }
        switch request.api {
        case .v2:
            // The key_id first: what it does not name is not even parsed.
            guard !request.keyID.isEmpty else {
                throw KMSFailure(.invalidArgument, "the request has no key_id: the stored object was altered")
            }
            let key = try await KeyRing.key(
                of: keys, accepting: request.keyID, waitingAtMost: deadline.remaining, clock: clock)
            if key.reads(.compatible), !Envelope.hasMagic(request.ciphertext) {
                guard request.annotations.isEmpty else {
                    throw KMSFailure(.requestMismatch, key: key.name)
                }
                keyID = request.keyID
                let plaintext = try await key.plaintext(
                    of: request.ciphertext, deadline: deadline, clock: clock)
                count(keyID, key, keys)
                return plaintext
            }
            let envelope = try parse(request, key: key)
            keyID = envelope.keyID.description
            let plaintext = try await open(envelope, key, deadline: deadline)
            count(keyID, key, keys)
            return plaintext
        case .v1beta1:
            // It names no key, so one key answers for all that is no envelope.
            if !Envelope.hasMagic(request.ciphertext),
                let key = keys.first(where: { $0.reads(.compatible) })
            {
                let plaintext = try await key.plaintext(
                    of: request.ciphertext, deadline: deadline, clock: clock)
                count(nil, key, keys)
                return plaintext
            }
            let envelope = try parse(request, key: keys[0])
            let key = try await KeyRing.key(
                of: keys, accepting: envelope.keyID.description, waitingAtMost: deadline.remaining,
                clock: clock)
            guard key.reads(.envelope) else { throw KMSFailure(.formatNotAccepted, key: key.name) }
            keyID = envelope.keyID.description
            let plaintext = try await open(envelope, key, deadline: deadline)
            count(keyID, key, keys)
            return plaintext
        }
    }

    /// Counts what was written under another key_id than the one that encrypts now; nil where it is not known which.
    private func count(_ keyID: String?, _ key: RingKey, _ keys: [RingKey]) {
        if key === keys[0] {
            guard let keyID, let active = key.active, keyID != active.keyID.description else { return }
        }
        key.record.openedFormer()
    }

    private func open(
        _ envelope: Envelope, _ key: RingKey, deadline: Deadline
    ) async throws(KMSFailure) -> SecretBytes {
        let kek = try await key.localKEK(of: envelope, deadline: deadline, clock: clock)
        let plaintext: SecretBytes
        let start = times.start
        do throws(EnvelopeError) { plaintext = try envelope.open(under: kek) } catch {
            throw KMSFailure(error, key: key.name)
        }
        times.opened(since: start)
        return plaintext
    }

    /// What was sealed under the very local KEK that seals now, as most is: nothing of it need be looked up.
    private func openActive(
        _ request: DecryptRequest, _ key: RingKey, keyID: inout String
    ) throws(KMSFailure) -> SecretBytes? {
        guard let active = key.active else { return nil }
        let start = times.start
        do throws(EnvelopeError) {
            guard let plaintext = try active.open(request) else { return nil }
            times.opened(since: start)
            keyID = active.keyID.description
            return plaintext
        } catch {
            keyID = active.keyID.description
            throw KMSFailure(error, key: key.name)
        }
    }

    private func parse(_ request: DecryptRequest, key: RingKey) throws(KMSFailure) -> Envelope {
        do throws(EnvelopeError) {
            let envelope = try Envelope(parsing: request)
            guard request.api == .v1beta1 || key.reads(.envelope) else { throw .formatNotAccepted }
            return envelope
        } catch {
            throw KMSFailure(error, key: key.name)
        }
    }

    /// Half of the health check of v1beta1, so it is answered by the state of the write key as the other half is.
    private func openPing(
        _ request: DecryptRequest, _ key: RingKey, deadline: Deadline
    ) async throws(KMSFailure) -> SecretBytes {
        _ = try await active(of: key, within: nil, deadline)
        do throws(CryptoFailure) { return try ping.open(request.ciphertext) } catch .notAuthentic {
            throw KMSFailure(
                .invalidArgument,
                "this `ping` was sealed by another process: health checks do not outlive a restart")
        } catch { throw KMSFailure(.crypto(error), key: key.name) }
    }

    /// What Status and Encrypt use; waits for the first verdict, no longer than `limit` or `deadline` allow.
    private func active(
        of key: RingKey, within limit: Duration?, _ deadline: Deadline
    ) async throws(KMSFailure) -> Active {
        if case .starting = key.verdict {
            let limit = min(limit ?? deadline.remaining, deadline.remaining)
            let isGiven = await key.firstVerdict.wait(atMost: limit, on: clock)
            if !isGiven && Task.isCancelled { throw KMSFailure(.cancelled, "the caller gave up") }
        }
        switch key.verdict {
        case .ready(let active): return active
        case .failed(let failure): throw failure
        case .starting: throw KeyRing.starting(key)
        }
    }
}
