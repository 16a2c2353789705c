// Doctor: the API server's side of the contract, played against a socket, so that an operator sees in plain words what
// kube-apiserver would see. `kmsward doctor` and the demonstration are made of it.

internal import GRPCEngine
internal import KMSWire
internal import SecureMemory

/// Why a call of the doctor's did not give a usable reply.
enum KMSCallError: Error {
    /// The plugin, or the way to it, failed the call.
    case failed(CallFailure)
    /// The plugin answered something that the API server throws away.
    case unusable(WireError)
}

/// The six methods as the API server calls them: one deadline for each call, wait for ready.
struct KMSClient {
    let client: Client
    let timeout: Duration

    /// Makes one call; the reply is checked by the API server's rules.
    func call(_ request: borrowing KMSRequest) async throws(KMSCallError) -> KMSReply {
        let method = request.method
        let body = ReplyBytes(count: request.encodedCount) { request.encode(into: &$0) }
        let message: MessageBytes
        do throws(CallFailure) {
            message = try await client.unary(method.path, body, deadline: ContinuousClock.now + timeout)
        } catch { throw .failed(error) }
        do throws(WireError) {
            return try message.withBytes { bytes throws(WireError) in try KMSReply(parsing: bytes, to: method)
            }
        } catch { throw .unusable(error) }
    }

    func version() async throws(KMSCallError) -> VersionReply {
        guard case .version(let reply) = try await call(.version) else {
            preconditionFailure("codec mixed up")
        }
        return reply
    }

    func status() async throws(KMSCallError) -> StatusReply {
        guard case .status(let reply) = try await call(.status) else { preconditionFailure("codec mixed up") }
        return reply
    }

    func encrypt(_ plaintext: borrowing SecretBytes, _ api: KMSAPI) async throws(KMSCallError) -> EncryptReply
    {
        let copy = plaintext.withBytes { SecretBytes(copying: $0) }
        let request = EncryptRequest(api: api, plaintext: copy, uid: api == .v2 ? Self.uid : "")
        guard case .encrypted(_, let reply) = try await call(.encrypt(request)) else {
            preconditionFailure("codec mixed up")
        }
        return reply
    }

    func decrypt(_ sealed: EncryptReply, _ api: KMSAPI) async throws(KMSCallError) -> SecretBytes {
        let request = DecryptRequest(
            api: api, ciphertext: sealed.ciphertext, uid: api == .v2 ? Self.uid : "", keyID: sealed.keyID,
            annotations: sealed.annotations)
        switch try await call(.decrypt(request)) {
        case .decrypted(_, let plaintext): return plaintext
        default: preconditionFailure("codec mixed up")
        }
    }

    /// The id under which the plugin's log shows the doctor's calls.
    static let uid = "kmsward-doctor"
}
