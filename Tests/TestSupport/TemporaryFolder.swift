private import Glibc

/// A folder for one test, gone with this object and all that is in it; what cannot be done fails loudly.
///
/// Made in TMPDIR, or in /tmp; the name is short, as a socket's path may be.
public final class TemporaryFolder: Sendable {
    /// Where it is.
    public let path: String

    /// Makes a folder.
    public init(mode: UInt32 = 0o700) {
        let parent = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
        var template = Array("\(parent)/kmsward-XXXXXX".utf8CString)
        precondition(unsafe mkdtemp(&template) != nil, "no folder can be made in \(parent)")
        path = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
        precondition(unsafe chmod(path, mode) == 0)
    }

    deinit { Self.remove(path) }

    /// The path of what has that name in it.
    public func callAsFunction(_ name: String) -> String { "\(path)/\(name)" }

    /// The names of all that is in it, in order.
    public var names: [String] { Self.names(in: path) ?? [] }

    /// Writes a file that its owner alone may read.
    public func write(_ bytes: [UInt8], to name: String) {
        let file = unsafe open(self(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        precondition(
            unsafe Glibc.write(file, bytes, bytes.count) == bytes.count, "\(self(name)) takes no bytes")
        close(file)
    }

    /// Writes a file that its owner alone may read.
    public func write(_ text: String, to name: String) { write(Array(text.utf8), to: name) }

    /// Reads a file.
    public func bytes(of name: String) -> [UInt8] {
        let file = unsafe open(self(name), O_RDONLY | O_CLOEXEC)
        precondition(file >= 0, "\(self(name)) cannot be opened")
        defer { close(file) }
        var (bytes, chunk) = ([UInt8](), [UInt8](repeating: 0, count: 1 << 16))
        while case let count = unsafe read(file, &chunk, chunk.count), count > 0 { bytes += chunk[..<count] }
        return bytes
    }

    /// Reads a file as text.
    public func text(of name: String) -> String { String(decoding: bytes(of: name), as: UTF8.self) }

    /// Makes a folder in it.
    public func makeDirectory(_ name: String) { precondition(unsafe mkdir(self(name), 0o700) == 0) }

    private static func names(in path: String) -> [String]? {
        guard let directory = unsafe opendir(path) else { return nil }
        defer { unsafe closedir(directory) }
        var names: [String] = []
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafePointer(to: &entry.pointee.d_name.0) { unsafe String(cString: $0) }
            if name != "." && name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    /// Removes a folder with what is in it, or anything else; links are not followed.
    private static func remove(_ path: String) {
        guard unsafe unlink(path) != 0 else { return }
        for name in names(in: path) ?? [] { remove("\(path)/\(name)") }
        unsafe rmdir(path)
    }
}
