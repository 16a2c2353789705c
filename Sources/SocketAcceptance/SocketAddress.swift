/// Name of a UNIX stream socket, read the way kube-apiserver reads the endpoint in its EncryptionConfiguration.
///
/// What kube-apiserver would silently turn into another name (a dropped host, a decoded escape, a dropped query) is
/// refused here, with the right spelling where there is one.
public struct SocketAddress: Sendable, Hashable, CustomStringConvertible {
    /// The two name spaces of the kernel.
    public enum Name: Sendable, Hashable {
        /// A name in the file system, 1 to 107 bytes.
        case path(String)
        /// A name in the abstract name space, without its '@', 1 to 107 bytes.
        case abstract(String)
    }

    /// Whether a path may depend on the working directory.
    public enum RelativePaths: Sendable {
        /// For configuration files: a daemon's working directory is nobody's choice.
        case refused
        /// For development on a command line.
        case allowed
    }

    /// Bytes that fit in `sun_path` with its closing zero.
    public static let longestName = 107

    /// The name in the kernel's terms.
    public let name: Name

    /// Reads a plain path, `unix:///path`, `@name` or `unix:///@name`.
    public init(parsing text: String, relativePaths: RelativePaths = .refused) throws(SocketFailure) {
        guard !text.isEmpty else {
            throw SocketFailure(
                .badAddress, "the socket path is empty: write one such as /run/kmsward/kms.sock")
        }
        if text.unicodeScalars.contains(where: { $0.value < 0x20 || $0.value == 0x7F }) {
            throw Self.refusal(text, "it contains a control character")
        }
        if text.first == " " || text.last == " " {
            throw Self.refusal(text, "it begins or ends with a space")
        }
        if let scheme = Self.scheme(of: text) {
            name = try Self.name(inEndpoint: text, scheme: scheme)
        } else {
            name = try Self.name(inPlain: text, relativePaths: relativePaths)
        }
        try Self.checkLength(name, text)
    }

    /// The path, or the abstract name behind an '@'.
    public var description: String {
        switch name {
        case .path(let path): path
        case .abstract(let name): "@" + name
        }
    }

    /// What to write as `endpoint` in an EncryptionConfiguration; nil for a relative path, which has no such form.
    public var endpoint: String? {
        switch name {
        case .path(let path): path.hasPrefix("/") ? "unix://" + path : nil
        case .abstract(let name): "unix:///@" + name
        }
    }

    /// Whether the name is abstract: such a socket has no permissions.
    public var isAbstract: Bool {
        switch name {
        case .path: false
        case .abstract: true
        }
    }

    private static func name(inEndpoint text: String, scheme: String) throws(SocketFailure) -> Name {
        let rest = text.dropFirst(scheme.count + 1)
        guard scheme.lowercased() == "unix" else {
            let right = scheme.lowercased() == "unix-abstract" ? "unix:///@\(rest)" : nil
            throw refusal(text, "kube-apiserver dials UNIX sockets only, not \(scheme)", write: right)
        }
        try checkSpecials(text)
        guard rest.hasPrefix("/") else {
            throw refusal(
                text, "kube-apiserver reads an empty path from it",
                write: rest.isEmpty ? nil : "unix:///\(rest)")
        }
        var path = rest
        if rest.hasPrefix("//") {
            path = rest.dropFirst(2)
            if !path.hasPrefix("/") {
                guard let host = path.split(separator: "/", omittingEmptySubsequences: false).first,
                    !host.isEmpty
                else { throw refusal(text, "it has no path") }
                throw refusal(
                    text, "kube-apiserver takes '\(host)' for a host name and drops it",
                    write: "unix:///\(path)")
            }
        }
        if path.hasPrefix("/@") { return .abstract(String(path.dropFirst(2))) }
        try checkIsFile(path, text)
        return .path(String(path))
    }

    private static func name(inPlain text: String, relativePaths: RelativePaths) throws(SocketFailure) -> Name
    {
        try checkSpecials(text)
        if text.hasPrefix("@") { return .abstract(String(text.dropFirst())) }
        if text.hasPrefix("/@") {
            throw refusal(
                text,
                "kube-apiserver reads unix://\(text) as an abstract name, so no file of this name can be dialled",
                write: String(text.dropFirst()))
        }
        if !text.hasPrefix("/"), relativePaths == .refused {
            throw refusal(text, "it depends on the working directory", write: "an absolute path")
        }
        try checkIsFile(text[...], text)
        return .path(text)
    }

    /// The scheme that a URL parser would see: letters, digits, '+', '-', '.' before the first colon.
    private static func scheme(of text: String) -> String? {
        guard let colon = text.firstIndex(of: ":") else { return nil }
        let scheme = text[..<colon]
        guard let first = scheme.first, first.isASCII, first.isLetter else { return nil }
        let isScheme = scheme.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || "+-.".contains($0)) }
        return isScheme ? String(scheme) : nil
    }

    private static func checkSpecials(_ text: String) throws(SocketFailure) {
        guard let special = text.firstIndex(where: { "%?#".contains($0) }) else { return }
        switch text[special] {
        case "%":
            throw refusal(text, "kube-apiserver decodes '%' in an endpoint", write: "a path without '%'")
        default:
            let before = text[..<special]
            throw refusal(
                text, "kube-apiserver drops '\(text[special])' and what follows it from an endpoint",
                write: before.isEmpty ? nil : String(before))
        }
    }

    private static func checkIsFile(_ path: Substring, _ text: String) throws(SocketFailure) {
        guard let last = path.split(separator: "/", omittingEmptySubsequences: false).last, !last.isEmpty,
            last != ".", last != ".."
        else { throw refusal(text, "it names a directory: add a file name such as kms.sock") }
    }

    private static func checkLength(_ name: Name, _ text: String) throws(SocketFailure) {
        let bytes =
            switch name {
            case .path(let path): path.utf8.count
            case .abstract(let name): name.utf8.count
            }
        guard bytes > 0 else {
            throw refusal(text, "the abstract name is empty", write: "@kmsward")
        }
        guard bytes <= longestName else {
            throw refusal(
                text,
                "it is \(bytes) bytes long and the kernel's limit is \(longestName): choose a shorter one")
        }
    }

    private static func refusal(_ text: String, _ why: String, write right: String? = nil) -> SocketFailure {
        let shown = text.count > 200 ? String(text.prefix(200)) + "..." : text
        let remedy = right.map { ": write \($0)" } ?? ""
        return SocketFailure(
            .badAddress, "socket address \(shown.debugDescription) is refused: \(why)\(remedy)")
    }
}
