internal import KMSWire
internal import SecureMemory
internal import Synchronization

/// What Status announces and what Encrypt seals with, in one piece that is swapped as a whole: so no reply can name a
/// key_id that another part of the plugin has left already.
final class Active: Sendable {
    /// When the local KEK was made, seconds since 1970.
    let madeAt: Int64

    private let writer: EnvelopeWriter
    private let useCount = Atomic<UInt64>(0)

    init(writer: EnvelopeWriter, madeAt: Int64) {
        self.writer = writer
        self.madeAt = madeAt
    }

    var keyID: KeyID { writer.localKEK.keyID }
    var localKEK: LocalKEK { writer.localKEK }
    var wrappedKey: [UInt8] { writer.wrappedKey }
    var uses: UInt64 { useCount.load(ordering: .relaxed) }

    func age(at epochSeconds: Int64) -> Duration { .seconds(max(0, epochSeconds - madeAt)) }

    func seal(_ plaintext: borrowing SecretBytes, api: KMSAPI) throws(EnvelopeError) -> EncryptReply {
        let reply = try writer.seal(plaintext, api: api)
        useCount.add(1, ordering: .relaxed)
        return reply
    }

    func open(_ request: DecryptRequest) throws(EnvelopeError) -> SecretBytes? { try writer.open(request) }
}
