internal import Glibc

/// An IP address and a port, as in `127.0.0.1:9464` or `[::1]:9464`.
struct ListenAddress: Equatable {
    enum Host: Equatable {
        case v4(String)
        case v6(String)
    }

    let host: Host
    let port: UInt16

    init(host: Host, port: UInt16) {
        self.host = host
        self.port = port
    }

    /// Reads a literal; names are not looked up, except that `localhost` is 127.0.0.1.
    init(parsing text: String) throws(EndpointError) {
        func refused(_ why: String) -> EndpointError {
            EndpointError(
                .badAddress,
                "cannot listen on \"\(text)\": \(why); write an IP address and a port, 127.0.0.1:9464 or [::1]:9464"
            )
        }
        guard let colon = text.lastIndex(of: ":") else { throw refused("there is no port") }
        let portText = text[text.index(after: colon)...]
        guard !portText.isEmpty, portText.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
            let port = UInt16(portText)
        else { throw refused("the port is not a number from 0 to 65535") }
        var hostText = String(text[..<colon])
        if hostText == "localhost" { hostText = "127.0.0.1" }
        if hostText.hasPrefix("["), hostText.hasSuffix("]") {
            let literal = String(hostText.dropFirst().dropLast())
            var address = in6_addr()
            guard unsafe inet_pton(AF_INET6, literal, &address) == 1 else {
                throw refused("not an IPv6 address")
            }
            self.init(host: .v6(literal), port: port)
        } else {
            guard !hostText.contains(":") else { throw refused("an IPv6 address needs brackets") }
            var address = in_addr()
            guard unsafe inet_pton(AF_INET, hostText, &address) == 1 else {
                throw refused("not an IPv4 address")
            }
            self.init(host: .v4(hostText), port: port)
        }
    }

    /// Where a descriptor from elsewhere listens.
    init(listening fd: Int32) throws(EndpointError) {
        func refused(_ why: String) -> EndpointError {
            EndpointError(
                .badAddress,
                "the socket that systemd passed on for metrics \(why): its unit needs ListenStream=127.0.0.1:9464 or the like"
            )
        }
        var isListening: Int32 = 0
        var size = socklen_t(MemoryLayout<Int32>.size)
        guard unsafe getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &isListening, &size) == 0, isListening == 1
        else {
            throw refused("does not listen")
        }
        var storage = sockaddr_storage()
        size = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let isNamed = unsafe withUnsafeMutablePointer(to: &storage) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe getsockname(fd, $0, &size) == 0
            }
        }
        guard isNamed else { throw refused("has no address: \(reason(of: errno))") }
        let (family, place) =
            switch Int32(storage.ss_family) {
            case AF_INET: (AF_INET, MemoryLayout<sockaddr_in>.offset(of: \.sin_addr))
            case AF_INET6: (AF_INET6, MemoryLayout<sockaddr_in6>.offset(of: \.sin6_addr))
            default: throw refused("has no IP address")
            }
        var literal = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        let isShown = unsafe withUnsafeBytes(of: &storage) { bytes in
            unsafe inet_ntop(
                family, bytes.baseAddress?.advanced(by: place ?? 0), &literal, socklen_t(literal.count))
                != nil
        }
        guard isShown else { throw refused("has no address: \(reason(of: errno))") }
        let text = String(decoding: literal.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        self.init(host: family == AF_INET ? .v4(text) : .v6(text), port: Self.port(of: &storage))
    }

    /// The port has the same place in both families.
    private static func port(of storage: inout sockaddr_storage) -> UInt16 {
        let port = unsafe withUnsafeBytes(of: &storage) {
            unsafe $0.loadUnaligned(fromByteOffset: 2, as: UInt16.self)
        }
        return UInt16(bigEndian: port)
    }

    var text: String {
        switch host {
        case .v4(let literal): "\(literal):\(port)"
        case .v6(let literal): "[\(literal)]:\(port)"
        }
    }

    /// A listening socket, not blocking, closed on exec, and the address it got (a port, if 0 was asked for).
    func listen() throws(EndpointError) -> (fd: Int32, address: ListenAddress) {
        let family = if case .v4 = host { AF_INET } else { AF_INET6 }
        let type = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
        let fd = socket(family, type, 0)
        guard fd >= 0 else { throw refusal(errno) }
        do throws(EndpointError) { return (fd, try bound(fd)) } catch {
            close(fd)
            throw error
        }
    }

    private func bound(_ fd: Int32) throws(EndpointError) -> ListenAddress {
        var on: Int32 = 1
        unsafe setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<Int32>.size))
        var storage = sockaddr_storage()
        var size: socklen_t
        switch host {
        case .v4(let literal):
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = port.bigEndian
            unsafe inet_pton(AF_INET, literal, &address.sin_addr)
            size = socklen_t(MemoryLayout<sockaddr_in>.size)
            unsafe withUnsafeMutableBytes(of: &storage) {
                unsafe $0.storeBytes(of: address, as: sockaddr_in.self)
            }
        case .v6(let literal):
            unsafe setsockopt(fd, Int32(IPPROTO_IPV6), IPV6_V6ONLY, &on, socklen_t(MemoryLayout<Int32>.size))
            var address = sockaddr_in6()
            address.sin6_family = sa_family_t(AF_INET6)
            address.sin6_port = port.bigEndian
            unsafe inet_pton(AF_INET6, literal, &address.sin6_addr)
            size = socklen_t(MemoryLayout<sockaddr_in6>.size)
            unsafe withUnsafeMutableBytes(of: &storage) {
                unsafe $0.storeBytes(of: address, as: sockaddr_in6.self)
            }
        }
        let isBound = unsafe withUnsafePointer(to: &storage) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe bind(fd, $0, size) == 0
            }
        }
        guard isBound, Glibc.listen(fd, 64) == 0 else { throw refusal(errno) }
        size = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let isNamed = unsafe withUnsafeMutablePointer(to: &storage) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe getsockname(fd, $0, &size) == 0
            }
        }
        guard isNamed else { throw refusal(errno) }
        return ListenAddress(host: host, port: Self.port(of: &storage))
    }

    private func refusal(_ error: Int32) -> EndpointError {
        let start = "cannot listen on \(text) for metrics and health: "
        return switch error {
        case EADDRINUSE:
            EndpointError(
                .addressInUse,
                start
                    + "the port is in use; `ss -ltnp 'sport = :\(port)'` names the process that has it: stop that, or "
                    + "set metrics.listen to another port or to \"off\"")
        case EACCES, EPERM:
            EndpointError(
                .permissionDenied,
                start
                    + "permission denied; ports below 1024 need CAP_NET_BIND_SERVICE: set metrics.listen to a "
                    + "higher port")
        case EAFNOSUPPORT:
            EndpointError(
                .permissionDenied,
                start
                    + "this process may not open network sockets (RestrictAddressFamilies= of its unit), and no socket was "
                    + "passed on: see systemctl status kmsward-metrics.socket, or set metrics.listen to \"off\""
            )
        case EADDRNOTAVAIL:
            EndpointError(
                .badAddress,
                start
                    + "this machine does not have that address; set metrics.listen to one that `ip address` shows"
            )
        default: EndpointError(.system, start + reason(of: error))
        }
    }
}
