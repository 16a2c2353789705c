// Tests of Observability: what they need of the outside, none of it waiting on a clock.

import Glibc
import Threads

@testable import Observability

/// Runs blocking code on a thread of its own, so the pool that runs the tests never blocks.
func onThread<R: Sendable>(_ body: @escaping @Sendable () -> R) async -> R {
    await withCheckedContinuation { continuation in
        let thread = OwnedThread(name: "test") { continuation.resume(returning: body()) }
        if let thread { thread.abandon() } else { fatalError("no thread") }
    }
}

/// Reads to the end, or to an error.
func readAll(_ fd: Int32) -> [UInt8] {
    var content: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65536)
    while true {
        let count = unsafe read(fd, &buffer, buffer.count)
        if count < 0, errno == EINTR { continue }
        guard count > 0 else { return content }
        content += buffer[..<count]
    }
}

/// Reads to the end on a thread of its own, begun at once: a child task would wait for a turn in the pool.
struct Reader {
    private let result: AsyncStream<[UInt8]>

    init(_ fd: Int32) {
        let (result, sink) = AsyncStream<[UInt8]>.makeStream()
        self.result = result
        let thread = OwnedThread(name: "reader") {
            sink.yield(readAll(fd))
            sink.finish()
        }
        if let thread { thread.abandon() } else { fatalError("no thread") }
    }

    /// All that came; to be asked for once.
    var content: [UInt8] {
        get async {
            for await content in result { return content }
            return []
        }
    }
}

/// Writes everything, if the other side takes it.
@discardableResult
func writeAll(_ fd: Int32, _ bytes: [UInt8]) -> Bool {
    var rest = bytes[...]
    while !rest.isEmpty {
        let count = unsafe rest.withUnsafeBytes { unsafe write(fd, $0.baseAddress, $0.count) }
        guard count > 0 else { return false }
        rest = rest.dropFirst(count)
    }
    return true
}

/// A pipe.
struct Pipe {
    let reader: Int32
    let writer: Int32

    init() {
        var ends: [Int32] = [0, 0]
        unsafe pipe(&ends)
        reader = ends[0]
        writer = ends[1]
    }

    /// Fills it, so that the next write would wait; returns how many bytes are in it.
    func fill() -> Int {
        let flags = fcntl(writer, F_GETFL)
        _ = fcntl(writer, F_SETFL, flags | O_NONBLOCK)
        var total = 0
        for size in [4096, 1] {
            let filler = [UInt8](repeating: UInt8(ascii: "."), count: size)
            while true {
                let count = unsafe write(writer, filler, size)
                guard count > 0 else { break }
                total += count
            }
        }
        _ = fcntl(writer, F_SETFL, flags)
        return total
    }
}

/// A blocking client of the endpoint.
struct Client: Sendable {
    let fd: Int32

    /// Connects to `127.0.0.1:port` or `[::1]:port`; nil if refused.
    init?(_ address: String) {
        guard let address = try? ListenAddress(parsing: address) else { return nil }
        switch address.host {
        case .v4(let host):
            fd = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            var name = sockaddr_in()
            name.sin_family = sa_family_t(AF_INET)
            name.sin_port = address.port.bigEndian
            unsafe inet_pton(AF_INET, host, &name.sin_addr)
            guard unsafe Self.connect(fd, &name) else { return nil }
        case .v6(let host):
            fd = socket(AF_INET6, Int32(SOCK_STREAM.rawValue), 0)
            var name = sockaddr_in6()
            name.sin6_family = sa_family_t(AF_INET6)
            name.sin6_port = address.port.bigEndian
            unsafe inet_pton(AF_INET6, host, &name.sin6_addr)
            guard unsafe Self.connect(fd, &name) else { return nil }
        }
        // A guard against a hung test, not a measurement.
        var limit = timeval(tv_sec: 60, tv_usec: 0)
        unsafe setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    private static func connect<Name>(_ fd: Int32, _ name: UnsafePointer<Name>) -> Bool {
        let isConnected = unsafe name.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            unsafe Glibc.connect(fd, $0, socklen_t(MemoryLayout<Name>.size)) == 0
        }
        if !isConnected { close(fd) }
        return isConnected
    }

    /// False if the other side has closed.
    @discardableResult
    func send(_ text: String) -> Bool {
        let bytes = Array(text.utf8)
        return unsafe Glibc.send(fd, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count
    }

    /// What comes until the other side closes; then closes too.
    func finish() -> String {
        defer { close(fd) }
        return String(decoding: readAll(fd), as: UTF8.self)
    }

    /// Sends one request and returns the whole answer; empty if refused.
    static func ask(_ address: String, _ request: String) async -> String {
        await onThread {
            guard let client = Client(address) else { return "" }
            client.send(request)
            return client.finish()
        }
    }
}
