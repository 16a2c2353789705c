private import CShims
private import Glibc

/// A file descriptor with one owner, closed with it.
struct OwnedDescriptor: ~Copyable, Sendable {
    let number: Int32

    /// Takes what a system call returned; nil if that was a failure, `errno` then tells why.
    init?(adopting number: Int32) {
        guard number >= 0 else { return nil }
        self.number = number
    }

    deinit { close(number) }
}

/// What `stat` tells about a name, as far as it matters here.
struct FileFacts: Equatable {
    enum Kind { case socket, directory, regular, symbolicLink, other }

    let kind: Kind
    let device: UInt64
    let inode: UInt64
    let mode: UInt32
    let owner: UInt32
    let group: UInt32

    private init(_ status: stat) {
        kind =
            switch status.st_mode & S_IFMT {
            case S_IFSOCK: .socket
            case S_IFDIR: .directory
            case S_IFREG: .regular
            case S_IFLNK: .symbolicLink
            default: .other
            }
        device = UInt64(status.st_dev)
        inode = UInt64(status.st_ino)
        mode = status.st_mode & 0o7777
        owner = status.st_uid
        group = status.st_gid
    }

    /// Facts of an open descriptor; nil on failure.
    init?(of descriptor: Int32) {
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else { return nil }
        self.init(status)
    }

    /// Facts of a name, links not followed; nil on failure.
    init?(named name: String, in directory: Int32) {
        var status = stat()
        guard unsafe fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) == 0 else { return nil }
        self.init(status)
    }

    func isSameFile(as other: FileFacts) -> Bool { device == other.device && inode == other.inode }
}
