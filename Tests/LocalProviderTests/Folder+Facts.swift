import Glibc
import SecureMemory
import TestSupport

@testable import LocalProvider

extension TemporaryFolder {
    func remove(_ name: String) { precondition(unsafe unlink(self(name)) == 0) }
    func move(_ name: String, to other: String) { precondition(unsafe rename(self(name), self(other)) == 0) }
    func link(_ name: String, to target: String) { precondition(unsafe symlink(target, self(name)) == 0) }
    func makePipe(_ name: String) { precondition(unsafe mkfifo(self(name), 0o600) == 0) }
    func setMode(_ mode: Int, of name: String) { precondition(unsafe chmod(self(name), mode_t(mode)) == 0) }
    func setOwner(_ user: UInt32, _ group: UInt32, of name: String) {
        precondition(unsafe chown(self(name), user, group) == 0)
    }

    func facts(of name: String) -> (mode: Int, isLink: Bool, user: UInt32, group: UInt32) {
        var facts = stat()
        precondition(unsafe lstat(self(name), &facts) == 0)
        return (Int(facts.st_mode) & 0o7777, facts.st_mode & S_IFMT == S_IFLNK, facts.st_uid, facts.st_gid)
    }
}

/// The 64 hex digits of the last key in a key file of a test.
func keyDigits(_ text: String) -> String {
    let line = text.split(separator: "\n").last { $0.hasPrefix("key ") } ?? ""
    return line.split(separator: " ").dropFirst(4).first.map(String.init) ?? ""
}

extension LocalKeys {
    /// The file's bytes, for tests that put them into a file of their own.
    func textForTests() throws -> [UInt8] {
        try text().withBytes { span in
            (0..<span.byteCount).map { unsafe span.unsafeLoad(fromByteOffset: $0, as: UInt8.self) }
        }
    }
}
