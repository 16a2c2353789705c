internal import SecureMemory

/// A body as it comes in: every piece in wiped memory, neighbours joined so that small pieces cost no more than large.
struct BodyChunks {
    private var chunks: [SharedSecret] = []
    private(set) var count = 0

    mutating func append(_ bytes: RawSpan) {
        chunks.append(SharedSecret(SecretBytes(copying: bytes)))
        count += bytes.byteCount
        // Each piece stays larger than all behind it, so a byte is moved a logarithmic number of times.
        while let last = chunks.last, let before = chunks.dropLast().last,
            before.bytes.count <= last.bytes.count
        {
            chunks.removeLast(2)
            chunks.append(SharedSecret(Self.joined([before, last])))
        }
    }

    /// All of it in one piece.
    func joined() -> SecretBytes { Self.joined(chunks) }

    private static func joined(_ chunks: [SharedSecret]) -> SecretBytes {
        SecretBytes(count: chunks.reduce(0) { $0 + $1.bytes.count }) { span in
            var offset = 0
            for chunk in chunks {
                chunk.bytes.withBytes { span.copy($0, toByteOffset: offset) }
                offset += chunk.bytes.count
            }
        }
    }
}
