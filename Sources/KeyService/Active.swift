internal import KMSWire
internal import SecureMemory
internal import Synchronization

/// What Status announces and what Encrypt goes by, in one piece that is swapped as a whole: so no reply can name a
/// key_id that another part of the plugin has left already.
final class Active: Sendable {
    enum Form: Sendable {
        /// Sealed here, under a local KEK that the backend wrapped.
        case envelope(EnvelopeWriter)
        /// Wrapped by the backend itself, message for message.
        case compatible
    }

    let keyID: KeyID
    let form: Form
    /// When it was made, seconds since 1970.
    let madeAt: Int64

    private let useCount = Atomic<UInt64>(0)

    init(_ writer: EnvelopeWriter, madeAt: Int64) {
        keyID = writer.localKEK.keyID
        form = .envelope(writer)
        self.madeAt = madeAt
    }

    init(compatible keyID: KeyID, madeAt: Int64) {
        self.keyID = keyID
        form = .compatible
        self.madeAt = madeAt
    }

    /// The local KEK, if there is one.
    var writer: EnvelopeWriter? {
        switch form {
        case .envelope(let writer): writer
        case .compatible: nil
        }
    }

    var uses: UInt64 { useCount.load(ordering: .relaxed) }

    func age(at epochSeconds: Int64) -> Duration { .seconds(max(0, epochSeconds - madeAt)) }

    /// Something was encrypted with it.
    func countUse() { useCount.add(1, ordering: .relaxed) }

    /// What was sealed under this very local KEK; nil for all else.
    func open(_ request: DecryptRequest) throws(EnvelopeError) -> SecretBytes? { try writer?.open(request) }
}
