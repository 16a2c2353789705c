private import Glibc

/// Who may connect to a socket file: mode, owner and group of its inode.
///
/// Connecting takes write permission.
public struct SocketPermissions: Sendable, Equatable {
    /// Permission bits, never world-writable.
    public let mode: UInt32
    /// Owner; nil leaves the daemon's own.
    public let owner: UInt32?
    /// Group, admitted by the peer check without being listed; nil leaves what the kernel gives.
    public let group: UInt32?

    /// Mode 0600, the daemon's own user.
    public static let ownerOnly = SocketPermissions(checkedMode: 0o600, owner: nil, group: nil)

    /// Refuses a mode that lets everybody connect, and bits that are no permission bits.
    public init(mode: UInt32 = 0o600, owner: UInt32? = nil, group: UInt32? = nil) throws(SocketFailure) {
        let octal = String(mode, radix: 8)
        guard mode & ~0o777 == 0 else {
            throw SocketFailure(
                .badPermissions,
                "socket mode 0\(octal) is refused: only permission bits, such as 0600 or 0660")
        }
        guard mode & 0o002 == 0 else {
            throw SocketFailure(
                .badPermissions,
                "socket mode 0\(octal) is refused: everybody could connect; use 0660 with socket.group set")
        }
        self.init(checkedMode: mode, owner: owner, group: group)
    }

    /// Those that the socket at a path has; nil if there is none.
    public init?(ofSocketAt path: String) {
        guard let facts = FileFacts(named: path, in: AT_FDCWD), facts.kind == .socket else { return nil }
        self.init(checkedMode: facts.mode & 0o777, owner: facts.owner, group: facts.group)
    }

    private init(checkedMode: UInt32, owner: UInt32?, group: UInt32?) {
        mode = checkedMode
        self.owner = owner
        self.group = group
    }
}
