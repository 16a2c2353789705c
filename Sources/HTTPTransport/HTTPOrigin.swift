/// Where a request goes: scheme, host and port.
public struct HTTPOrigin: Sendable, Hashable {
    /// `https`, or `http` where that is allowed.
    public enum Scheme: String, Sendable {
        /// TLS.
        case https
        /// Plain text.
        case http

        /// The port that goes without saying.
        public var defaultPort: UInt16 { self == .https ? 443 : 80 }
    }

    /// The scheme.
    public let scheme: Scheme
    /// A name in lower case, or an IP address without brackets.
    public let host: String
    /// The port.
    public let port: UInt16

    let address: IPAddress?

    /// Reads `https://host`, `https://host:port` or the same with a `/` behind.
    ///
    /// IPv6 addresses stand in brackets. Fails on user names, paths, queries, and on hosts that other software might
    /// read as another address (`0x7f.1`).
    public init(parsing text: String) throws(HTTPFailure) {
        guard let parsed = Self(unchecked: text) else {
            // The text may carry credentials, so it is not repeated.
            throw HTTPFailure(
                .badRequest, "an endpoint is not of the form https://host or https://host:port")
        }
        self = parsed
    }

    private init?(unchecked text: String) {
        var rest = text[...]
        let lowered = text.prefix(8).lowercased()
        if lowered.hasPrefix("https://") {
            scheme = .https
            rest = rest.dropFirst(8)
        } else if lowered.hasPrefix("http://") {
            scheme = .http
            rest = rest.dropFirst(7)
        } else {
            return nil
        }
        if rest.last == "/" { rest = rest.dropLast() }
        guard let (host, port) = Self.splitPort(rest) else { return nil }
        self.port = port ?? scheme.defaultPort
        if let literal = IPAddress(host) {
            address = literal
            self.host = literal.text
        } else {
            guard Self.isName(host) else { return nil }
            address = nil
            self.host = host.lowercased()
        }
    }

    /// `host`, `host:port`, `[v6]` or `[v6]:port`.
    static func splitPort(_ text: Substring) -> (host: String, port: UInt16?)? {
        var host = text
        var port: Substring?
        if text.first == "[" {
            guard let end = text.firstIndex(of: "]") else { return nil }
            host = text[text.index(after: text.startIndex)..<end]
            let rest = text[text.index(after: end)...]
            guard host.contains(":"), rest.isEmpty || rest.first == ":" else { return nil }
            if !rest.isEmpty { port = rest.dropFirst() }
        } else if let colon = text.firstIndex(of: ":") {
            host = text[..<colon]
            port = text[text.index(after: colon)...]
        }
        guard let port else { return (String(host), nil) }
        guard port.allSatisfy(\.isASCIIDigit), let number = UInt16(port), number > 0 else { return nil }
        return (String(host), number)
    }

    private static func isName(_ host: String) -> Bool {
        let labels = host.split(separator: ".", omittingEmptySubsequences: false)
        // One dot at the end says that no search list applies.
        let named = labels.last == "" ? labels.dropLast() : labels[...]
        guard host.utf8.count <= 253, !named.isEmpty else { return false }
        for label in named {
            guard (1...63).contains(label.utf8.count), label.first != "-", label.last != "-",
                label.utf8.allSatisfy({
                    $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_")
                        || Character(UnicodeScalar($0)).isNameByte
                })
            else { return false }
        }
        // Names that end in a number are addresses to some resolvers.
        guard let last = named.last?.lowercased() else { return false }
        return !last.allSatisfy(\.isASCIIDigit) && !last.hasPrefix("0x")
    }

    /// `host:port`, for people.
    public var description: String { "\(address?.urlText ?? host):\(port)" }

    /// As in a URL and in the Host header: the port only where it does not go without saying.
    public var authority: String {
        let host = address?.urlText ?? host
        return port == scheme.defaultPort ? host : "\(host):\(port)"
    }

    /// Whether this is a cloud's metadata service, or anything else on this link: plain http, and never by a proxy.
    public var isMetadata: Bool {
        if let address { return address.isLinkLocal || Self.metadataAddresses.contains(address) }
        return Self.metadataNames.contains(host.last == "." ? String(host.dropLast()) : host)
    }

    private static let metadataAddresses = ["100.100.100.200", "fd00:ec2::254"].compactMap(IPAddress.init)
    private static let metadataNames = ["metadata.tencentyun.com", "metadata.google.internal"]
}

extension HTTPOrigin: CustomStringConvertible {}

extension Character {
    fileprivate var isNameByte: Bool { isASCII && (isLetter || isASCIIDigit) }
    fileprivate var isASCIIDigit: Bool { ("0"..."9").contains(self) }
}
