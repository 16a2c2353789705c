/// What an entry is found by: a digest of all that says which key it is.
///
/// Public data.
public struct KeyDigest: Sendable, Hashable {
    private let words: (UInt64, UInt64, UInt64, UInt64)

    /// Length in bytes.
    public static let byteCount = 32

    /// Takes a digest of exactly 32 bytes; traps on any other length.
    public init(_ bytes: Span<UInt8>) {
        precondition(bytes.count == Self.byteCount, "a key digest has 32 bytes")
        func word(_ index: Int) -> UInt64 {
            (0..<8).reduce(0) { $0 << 8 | UInt64(bytes[index * 8 + $1]) }
        }
        words = (word(0), word(1), word(2), word(3))
    }

    /// Whether both are the same.
    public static func == (a: KeyDigest, b: KeyDigest) -> Bool { a.words == b.words }

    /// Feeds the digest to a hasher.
    ///
    /// An adversary can search for digests that share some bits, so this is no place for short cuts: hash tables
    /// seed their hashers.
    public func hash(into hasher: inout Hasher) {
        hasher.combine(words.0)
        hasher.combine(words.1)
        hasher.combine(words.2)
        hasher.combine(words.3)
    }
}
