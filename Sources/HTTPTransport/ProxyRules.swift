/// An HTTP proxy.
struct Proxy: Sendable, Equatable {
    let origin: HTTPOrigin
    /// User name and password for Basic authentication.
    let user: String
    let password: String

    var url: String { "\(origin.scheme.rawValue)://\(origin.description)" }

    /// Reads `http://[user[:password]@]host[:port]`, or https; without a scheme it is http.
    ///
    /// The usual port of a proxy, 1080, goes without saying.
    init(parsing text: String) throws(HTTPFailure) {
        guard let parsed = Self(unchecked: text) else {
            // The text may carry credentials, so it is not repeated.
            throw HTTPFailure(
                .badRequest, "the proxy is not of the form http://host:port or https://host:port")
        }
        self = parsed
    }

    private init?(unchecked text: String) {
        var scheme = "http://"
        var rest = text[...]
        if let range = text.firstRange(of: "://") {
            scheme = text[..<range.upperBound].lowercased()
            rest = text[range.upperBound...]
        }
        if rest.last == "/" { rest = rest.dropLast() }
        var credentials = ("", "")
        if let at = rest.lastIndex(of: "@") {
            let parts = rest[..<at].split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            guard let user = Self.decoded(parts[0]),
                let password = Self.decoded(parts.count > 1 ? parts[1] : "")
            else { return nil }
            credentials = (user, password)
            rest = rest[rest.index(after: at)...]
        }
        guard let (_, port) = HTTPOrigin.splitPort(rest) else { return nil }
        let withPort = port == nil ? "\(rest):1080" : String(rest)
        guard let origin = try? HTTPOrigin(parsing: scheme + withPort) else { return nil }
        self.origin = origin
        (user, password) = credentials
    }

    /// Undoes percent escapes; nil where they are none, or hide a control byte.
    private static func decoded(_ text: Substring) -> String? {
        var bytes: [UInt8] = []
        var rest = text.utf8[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "%") else {
                bytes.append(byte)
                continue
            }
            guard rest.count >= 2, let value = UInt8(String(rest.prefix(2)) ?? "", radix: 16) else {
                return nil
            }
            bytes.append(value)
            rest = rest.dropFirst(2)
        }
        guard bytes.allSatisfy({ $0 >= 0x20 && $0 != 0x7F }) else { return nil }
        return String(validating: bytes, as: UTF8.self)
    }
}

/// Which proxy a request goes through, if any; decided here and not by curl.
struct ProxyRules: Sendable, Equatable {
    private enum Exception: Equatable {
        case everything
        case name(String, port: UInt16?)
        case network(IPAddress, bits: Int, port: UInt16?)

        /// Reads an entry as curl and Go do: `*`, a name (with all below it), an address, a network; a port behind it.
        init?(_ entry: String) {
            if entry == "*" {
                self = .everything
            } else if let slash = entry.firstIndex(of: "/") {
                guard let address = IPAddress(String(entry[..<slash])),
                    let bits = Int(entry[entry.index(after: slash)...]),
                    (0...address.bytes.count * 8).contains(bits)
                else { return nil }
                self = .network(address, bits: bits, port: nil)
            } else if let address = IPAddress(entry) {
                self = .network(address, bits: address.bytes.count * 8, port: nil)
            } else {
                guard let (host, port) = HTTPOrigin.splitPort(entry[...]) else { return nil }
                if let address = IPAddress(host) {
                    self = .network(address, bits: address.bytes.count * 8, port: port)
                    return
                }
                let name = ProxyRules.bare(host.hasPrefix("*.") ? String(host.dropFirst(2)) : host)
                guard !name.isEmpty, name.allSatisfy({ $0.isLetter || $0.isNumber || "-_.".contains($0) })
                else { return nil }
                self = .name(name, port: port)
            }
        }
    }

    private let https: Proxy?
    private let http: Proxy?
    private let exceptions: [Exception]

    init(_ setting: HTTPTransport.Settings.Proxy, environment: (String) -> String?) throws(HTTPFailure) {
        func variable(_ names: String...) -> String? {
            names.lazy.compactMap(environment).first { !$0.isEmpty }
        }
        func proxy(_ text: String?) throws(HTTPFailure) -> Proxy? {
            guard let text else { return nil }
            return try Proxy(parsing: text)
        }
        switch setting {
        case .none:
            https = nil
            http = nil
            exceptions = []
        case .environment:
            https = try proxy(variable("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"))
            // HTTP_PROXY in capitals is what a CGI gets from a header of its client.
            http = try proxy(variable("http_proxy", "all_proxy", "ALL_PROXY"))
            // What cannot be read is passed over, as curl and Go do: the variable is written for other programs too.
            exceptions = (variable("no_proxy", "NO_PROXY") ?? "")
                .split { $0 == "," || $0.isWhitespace }.compactMap { Exception(String($0)) }
        case .url(let text, let noProxy):
            https = try Proxy(parsing: text)
            http = https
            var exceptions: [Exception] = []
            for entry in noProxy {
                guard let exception = Exception(entry) else {
                    throw HTTPFailure(
                        .badRequest, "no-proxy entry \(entry): neither a name, an address, a network nor *")
                }
                exceptions.append(exception)
            }
            self.exceptions = exceptions
        }
    }

    /// The proxy for `origin`; nil where the way is direct, as it always is to this host and to metadata services.
    func proxy(for origin: HTTPOrigin) -> Proxy? {
        guard let proxy = origin.scheme == .https ? https : http, !origin.isMetadata,
            origin.address?.isLoopback != true
        else { return nil }
        let name = Self.bare(origin.host)
        guard name != "localhost", !name.hasSuffix(".localhost") else { return nil }
        let isExcepted = exceptions.contains { exception in
            switch exception {
            case .everything: true
            case .name(let suffix, let port):
                (port ?? origin.port) == origin.port && (name == suffix || name.hasSuffix("." + suffix))
            case .network(let network, let bits, let port):
                (port ?? origin.port) == origin.port && origin.address?.hasPrefix(bits, of: network) == true
            }
        }
        return isExcepted ? nil : proxy
    }

    /// Lower case, no dot at either end.
    fileprivate static func bare(_ name: String) -> String {
        var name = name.lowercased()[...]
        if name.first == "." { name = name.dropFirst() }
        if name.last == "." { name = name.dropLast() }
        return String(name)
    }
}
