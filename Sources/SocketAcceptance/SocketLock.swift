private import CShims
private import Glibc

/// Right to the name of a socket: `flock` on `<path>.lock`, held until this value goes away, or its process.
///
/// The file stays: deleting it would let two processes hold locks on two files of one name.
struct SocketLock: ~Copyable, Sendable {
    enum Failure: Error, Equatable {
        /// Somebody else holds it; the process number it left in the file, if any.
        case held(by: Int32?)
        case notAFile
        case system(Int32)
    }

    private let descriptor: OwnedDescriptor

    // Closing would not do: a child between fork and exec still holds a copy, and with it the lock.
    deinit { flock(descriptor.number, LOCK_UN) }

    /// Takes the lock without waiting.
    init(named name: String, in directory: Int32) throws(Failure) {
        while true {
            guard let file = OwnedDescriptor(adopting: unsafe ksw_open_lock(directory, name, 0o600)) else {
                throw errno == ELOOP ? .notAFile : .system(errno)
            }
            guard let facts = FileFacts(of: file.number), facts.kind == .regular else { throw .notAFile }
            guard flock(file.number, LOCK_EX | LOCK_NB) == 0 else {
                if errno == EINTR { continue }
                throw errno == EWOULDBLOCK ? .held(by: Self.holder(file.number)) : .system(errno)
            }
            // Somebody may have removed the name between opening and locking: then the lock guards nothing.
            guard let named = FileFacts(named: name, in: directory), named.isSameFile(as: facts) else {
                continue
            }
            Self.leaveOurNumber(file.number)
            descriptor = file
            return
        }
    }

    private static func leaveOurNumber(_ file: Int32) {
        // Only for the other side's error message: a full disk does not keep us from serving.
        let text = Array("\(getpid())\n".utf8)
        guard ftruncate(file, 0) == 0 else { return }
        _ = unsafe text.withUnsafeBytes { unsafe pwrite(file, $0.baseAddress, $0.count, 0) }
    }

    private static func holder(_ file: Int32) -> Int32? {
        var text = [UInt8](repeating: 0, count: 16)
        let count = unsafe text.withUnsafeMutableBytes { unsafe pread(file, $0.baseAddress, $0.count, 0) }
        guard count > 0 else { return nil }
        let digits = text.prefix(count).prefix { (0x30...0x39).contains($0) }
        return Int32(String(decoding: digits, as: UTF8.self))
    }
}
