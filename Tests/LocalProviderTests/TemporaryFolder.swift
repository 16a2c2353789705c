import Glibc
import SecureMemory

@testable import LocalProvider

/// A folder for one test, gone with it; what it does not say fails loudly.
final class TemporaryFolder: Sendable {
    private let root: String

    init() {
        var template = Array("/tmp/kmsward-test-XXXXXX".utf8CString)
        root = unsafe template.withUnsafeMutableBufferPointer { buffer in
            unsafe buffer.baseAddress.flatMap { unsafe mkdtemp($0) }.map { unsafe String(cString: $0) }
                ?? "/nonexistent"
        }
    }

    deinit {
        for name in names() where unsafe unlink(path(name)) != 0 { unsafe rmdir(path(name)) }
        unsafe rmdir(root)
    }

    func path(_ name: String) -> String { "\(root)/\(name)" }

    func names() -> [String] {
        guard let directory = unsafe opendir(root) else { return [] }
        defer { unsafe closedir(directory) }
        var names: [String] = []
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name.0) { unsafe String(cString: $0) }
            if name != "." && name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    func write(_ text: String, to name: String) { write(Array(text.utf8), to: name) }

    func write(_ bytes: [UInt8], to name: String) {
        let file = unsafe open(path(name), O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        precondition(unsafe Glibc.write(file, bytes, bytes.count) == bytes.count)
        close(file)
    }

    func text(of name: String) -> String {
        let file = unsafe open(path(name), O_RDONLY)
        precondition(file >= 0)
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: 1 << 20)
        let count = unsafe read(file, &bytes, bytes.count)
        return String(decoding: bytes[..<max(count, 0)], as: UTF8.self)
    }

    func remove(_ name: String) { precondition(unsafe unlink(path(name)) == 0) }
    func move(_ name: String, to other: String) { precondition(unsafe rename(path(name), path(other)) == 0) }
    func link(_ name: String, to target: String) { precondition(unsafe symlink(target, path(name)) == 0) }
    func makeDirectory(_ name: String) { precondition(unsafe mkdir(path(name), 0o700) == 0) }
    func makePipe(_ name: String) { precondition(unsafe mkfifo(path(name), 0o600) == 0) }
    func setMode(_ mode: Int, of name: String) { precondition(unsafe chmod(path(name), mode_t(mode)) == 0) }
    func setOwner(_ user: UInt32, _ group: UInt32, of name: String) {
        precondition(unsafe chown(path(name), user, group) == 0)
    }

    func facts(of name: String) -> (mode: Int, isLink: Bool, user: UInt32, group: UInt32) {
        var facts = stat()
        precondition(unsafe lstat(path(name), &facts) == 0)
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
