import Testing

@testable import SocketAcceptance

struct SocketAddressTests {
    struct Accepted: Sendable {
        let text: String
        let name: SocketAddress.Name
        let endpoint: String
    }

    @Test(
        "an address is read as kube-apiserver reads its endpoint",
        arguments: [
            Accepted(
                text: "/run/p/kms.sock", name: .path("/run/p/kms.sock"), endpoint: "unix:///run/p/kms.sock"),
            Accepted(
                text: "unix:///run/p/kms.sock", name: .path("/run/p/kms.sock"),
                endpoint: "unix:///run/p/kms.sock"),
            Accepted(
                text: "UNIX:///run/kms.sock", name: .path("/run/kms.sock"), endpoint: "unix:///run/kms.sock"),
            Accepted(
                text: "unix:/run/kms.sock", name: .path("/run/kms.sock"), endpoint: "unix:///run/kms.sock"),
            Accepted(
                text: "unix:////run/kms.sock", name: .path("//run/kms.sock"),
                endpoint: "unix:////run/kms.sock"),
            Accepted(text: "@kms", name: .abstract("kms"), endpoint: "unix:///@kms"),
            Accepted(text: "unix:///@kms", name: .abstract("kms"), endpoint: "unix:///@kms"),
            Accepted(text: "unix:///@a/b", name: .abstract("a/b"), endpoint: "unix:///@a/b"),
            Accepted(text: "/run/a:b/@kms", name: .path("/run/a:b/@kms"), endpoint: "unix:///run/a:b/@kms"),
            Accepted(text: "/run/../run/k", name: .path("/run/../run/k"), endpoint: "unix:///run/../run/k"),
        ])
    func accepted(_ sample: Accepted) throws {
        let address = try SocketAddress(parsing: sample.text)
        #expect(address.name == sample.name)
        #expect(address.endpoint == sample.endpoint)
        #expect(try SocketAddress(parsing: #require(address.endpoint)) == address)
    }

    struct Refused: Sendable {
        let text: String
        /// What the one line must tell: the reason, or the right spelling.
        let hint: String
    }

    @Test(
        "an address that kube-apiserver would read as another one is refused, with the right spelling",
        arguments: [
            Refused(text: "", hint: "write one such as /run/kmsward/kms.sock"),
            Refused(text: "unix:", hint: "empty path"),
            Refused(text: "unix://", hint: "no path"),
            Refused(text: "unix:///", hint: "names a directory"),
            Refused(text: "unix://run/kms.sock", hint: "drops it: write unix:///run/kms.sock"),
            Refused(text: "unix://localhost/kms.sock", hint: "takes 'localhost' for a host name"),
            Refused(text: "unix://@kms", hint: "write unix:///@kms"),
            Refused(text: "unix:@kms", hint: "write unix:///@kms"),
            Refused(text: "unix:run/kms.sock", hint: "write unix:///run/kms.sock"),
            Refused(text: "unix-abstract:kms", hint: "write unix:///@kms"),
            Refused(text: "tcp://127.0.0.1:80", hint: "UNIX sockets only, not tcp"),
            Refused(text: "http://x/y", hint: "UNIX sockets only, not http"),
            Refused(text: "unix:///run/a%2Fb", hint: "decodes '%'"),
            Refused(text: "/run/a%b", hint: "decodes '%'"),
            Refused(text: "unix:///run/k.sock?mode=1", hint: "write unix:///run/k.sock"),
            Refused(text: "unix:///run/k.sock#1", hint: "write unix:///run/k.sock"),
            Refused(text: "/run/k?x", hint: "drops '?'"),
            Refused(text: "/@kms", hint: "write @kms"),
            Refused(text: "@", hint: "abstract name is empty"),
            Refused(text: "unix:///@", hint: "abstract name is empty"),
            Refused(text: "/", hint: "names a directory"),
            Refused(text: "/run/kmsward/", hint: "names a directory"),
            Refused(text: "/run/..", hint: "names a directory"),
            Refused(text: "run/kms.sock", hint: "working directory"),
            Refused(text: "./kms.sock", hint: "working directory"),
            Refused(text: "~/kms.sock", hint: "working directory"),
            Refused(text: " /run/kms.sock", hint: "space"),
            Refused(text: "/run/kms\n.sock", hint: "control character"),
            Refused(text: "/run/\0", hint: "control character"),
        ])
    func refused(_ sample: Refused) throws {
        let error = try failure { _ = try SocketAddress(parsing: sample.text) }
        #expect(error.code == .badAddress)
        #expect(error.message.contains(sample.hint), "\(error.message)")
        #expect(!error.message.contains("\n"))
    }

    @Test("a relative path is for development only, and has no endpoint")
    func relative() throws {
        let address = try SocketAddress(parsing: ".run/kms.sock", relativePaths: .allowed)
        #expect(address.name == .path(".run/kms.sock"))
        #expect(address.endpoint == nil)
    }

    @Test(
        "107 bytes are the limit of a name, 108 are refused with both numbers",
        arguments: ["/", "@", "unix:///@"])
    func length(prefix: String) throws {
        let counted = prefix == "/" ? 1 : 0
        let fits = prefix + String(repeating: "k", count: 107 - counted)
        _ = try SocketAddress(parsing: fits)
        let error = try failure { _ = try SocketAddress(parsing: fits + "k") }
        #expect(error.message.contains("108 bytes") && error.message.contains("107"), "\(error.message)")
        let wide = try failure { _ = try SocketAddress(parsing: prefix + String(repeating: "é", count: 54)) }
        #expect(wide.code == .badAddress)
    }
}
