internal import Glibc

/// An IP address in its one spelling: `192.0.2.1`, `2001:db8::1`.
struct IPAddress: Hashable, Sendable {
    /// 4 or 16 bytes, in network order.
    let bytes: [UInt8]

    /// Reads a literal; names, zones and abbreviated IPv4 are none.
    init?(_ text: String) {
        var bytes = [UInt8](repeating: 0, count: 16)
        if unsafe inet_pton(AF_INET, text, &bytes) == 1 {
            self.bytes = Array(bytes.prefix(4))
        } else if unsafe inet_pton(AF_INET6, text, &bytes) == 1 {
            self.bytes = bytes
        } else {
            return nil
        }
    }

    /// The address in a socket address; nil for other families.
    init?(_ address: UnsafePointer<sockaddr>) {
        switch Int32(unsafe address.pointee.sa_family) {
        case AF_INET:
            bytes = unsafe address.withMemoryRebound(to: sockaddr_in.self, capacity: 1) { address in
                unsafe withUnsafeBytes(of: address.pointee.sin_addr) { unsafe Array($0) }
            }
        case AF_INET6:
            bytes = unsafe address.withMemoryRebound(to: sockaddr_in6.self, capacity: 1) { address in
                unsafe withUnsafeBytes(of: address.pointee.sin6_addr) { unsafe Array($0) }
            }
        default: return nil
        }
    }

    var isIPv6: Bool { bytes.count == 16 }

    var text: String {
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        _ = unsafe inet_ntop(isIPv6 ? AF_INET6 : AF_INET, bytes, &text, socklen_t(text.count))
        return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    /// As in a URL, with brackets around IPv6.
    var urlText: String { isIPv6 ? "[\(text)]" : text }

    /// The IPv4 address inside `::ffff:0:0/96`; otherwise the address itself.
    private var unmapped: [UInt8] {
        let isMapped = isIPv6 && bytes.prefix(10).allSatisfy { $0 == 0 } && bytes[10...11] == [255, 255]
        return isMapped ? Array(bytes.suffix(4)) : bytes
    }

    /// 169.254.0.0/16 and fe80::/10: never further than this link, so never through a proxy.
    var isLinkLocal: Bool {
        let bytes = unmapped
        return bytes.count == 4
            ? bytes[0] == 169 && bytes[1] == 254 : bytes[0] == 0xFE && bytes[1] & 0xC0 == 0x80
    }

    /// 127.0.0.0/8 and ::1.
    var isLoopback: Bool {
        let bytes = unmapped
        return bytes.count == 4
            ? bytes[0] == 127 : bytes.dropLast().allSatisfy { $0 == 0 } && bytes.last == 1
    }

    /// Whether the first `count` bits are those of `other`.
    func hasPrefix(_ count: Int, of other: IPAddress) -> Bool {
        let (mine, theirs) = (unmapped, other.unmapped)
        guard mine.count == theirs.count, count <= mine.count * 8 else { return false }
        let whole = count / 8
        guard mine.prefix(whole) == theirs.prefix(whole) else { return false }
        let rest = count % 8
        return rest == 0 || mine[whole] >> (8 - rest) == theirs[whole] >> (8 - rest)
    }
}
