/// Why a key file could not be used or changed: the reason, and one line for the operator.
public struct LocalKeyFileError: Error, Sendable, Equatable {
    /// What is wrong.
    public enum Reason: String, Sendable, CaseIterable {
        /// There is no such file.
        case missing
        /// There is a file already; it is never overwritten.
        case exists
        /// A directory, device, socket or pipe.
        case notAFile
        /// Others than the owner may read or write it.
        case exposed
        /// It belongs to somebody who is neither root nor this process.
        case wrongOwner
        /// Not a byte in it.
        case empty
        /// Not a key file.
        case foreign
        /// A key file of a format that this program does not know.
        case unknownFormat
        /// Its end is missing.
        case truncated
        /// Its bytes were changed.
        case damaged
        /// More than `LocalKeyFile.maximumBytes`.
        case tooLarge
        /// The operating system would not let us read it.
        case unreadable
        /// The operating system would not let us write it: full disk, read-only directory.
        case unwritable
        /// Somebody else is changing it now.
        case busy
        /// It has no such key version.
        case unknownVersion
        /// That version may not become active (again).
        case notActivatable
        /// The loaded OpenSSL cannot do this suite, or gave no random bytes.
        case cryptography
        /// It holds another key than before.
        case replaced
        /// It lacks a version that it had, or has a retired one active again: an older copy.
        case lostVersion
    }

    /// What is wrong.
    public let reason: Reason
    /// The file.
    public let path: String
    /// One line without secrets: why.
    public let summary: String
    /// One line: what to do.
    public let remedy: String

    init(_ reason: Reason, _ path: String, _ summary: String, remedy: String) {
        self.reason = reason
        self.path = path
        self.summary = summary
        self.remedy = remedy
    }
}

extension LocalKeyFileError: CustomStringConvertible {
    /// `key file PATH summary: remedy`, on one line.
    public var description: String { "key file \(path) \(summary): \(remedy)" }
}
