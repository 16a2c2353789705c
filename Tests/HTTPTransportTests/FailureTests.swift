import Glibc
import SecureMemory
import Testing

@testable import HTTPTransport

extension HTTPTransportTests {
    @Suite struct FailureTests {
        struct Row: Sendable, CustomTestStringConvertible {
            var server: String
            var target = "/echo"
            var scheme = "https"
            var code: HTTPFailure.Code
            var phase: HTTPFailure.Phase
            var testDescription: String { "\(scheme) \(server)\(target)" }
        }

        @Test(
            "each way of failing has its code, its phase, and a line with host and port but no path or query",
            arguments: [
                Row(server: "refused", code: .connect, phase: .connect),
                Row(server: "https", target: "/nothing", code: .reset, phase: .waiting),
                Row(server: "https", target: "/reset", code: .reset, phase: .reading),
                Row(server: "https", target: "/truncated", code: .reset, phase: .reading),
                Row(server: "h2", target: "/reset", code: .reset, phase: .waiting),
                Row(server: "h2", target: "/go-away", code: .reset, phase: .waiting),
                Row(server: "http", target: "/nothing", scheme: "http", code: .reset, phase: .waiting),
                Row(server: "http", target: "/reset", scheme: "http", code: .reset, phase: .reading),
                Row(server: "http", target: "/truncated", scheme: "http", code: .reset, phase: .reading),
                Row(server: "https", target: "/huge", code: .tooLarge, phase: .reading),
                Row(server: "https", target: "/huge-chunked", code: .tooLarge, phase: .reading),
                Row(server: "https", target: "/huge-headers", code: .tooLarge, phase: .reading),
                Row(server: "https", target: "/interim-forever", code: .tooLarge, phase: .reading),
                Row(server: "https", target: "/garbage", code: .malformedAnswer, phase: .waiting),
                Row(server: "https", target: "/folded", code: .malformedAnswer, phase: .reading),
                Row(server: "hang-up", code: .reset, phase: .tls),
            ])
        func codes(_ row: Row) async throws {
            try await withTransport { transport, servers in
                let result = try await transport.get(
                    row.server, servers, row.target + "?secret", scheme: row.scheme)
                let failure = try #require(result.failure)
                #expect(failure.code == row.code && failure.phase == row.phase, "\(failure)")
                try #expect(failure.summary.contains("kms.test:\(servers.port(row.server))"))
                #expect(!failure.summary.contains("secret") && !failure.summary.contains("\n"))
                // Whatever went wrong, the next request is served.
                try await #expect(transport.get("https", servers).get().status == 200)
            }
        }

        @Test(
            "a deadline ends the transfer and names the phase it was in",
            arguments: [
                Row(server: "full", code: .timeout, phase: .connect),
                Row(server: "mute", code: .timeout, phase: .tls),
                Row(server: "https", target: "/silent", code: .timeout, phase: .waiting),
                Row(server: "https", target: "/drip", code: .timeout, phase: .reading),
                Row(server: "h2", target: "/silent", code: .timeout, phase: .waiting),
                Row(server: "http", target: "/silent", scheme: "http", code: .timeout, phase: .waiting),
            ])
        func deadlines(_ row: Row) async throws {
            try await withTransport { transport, servers in
                let result = try await transport.get(
                    row.server, servers, row.target, scheme: row.scheme, deadline: .now + .milliseconds(400))
                let failure = try #require(result.failure)
                #expect(failure.code == row.code && failure.phase == row.phase, "\(failure)")
                if row.server != "full" {
                    // The server sees it too: nothing is left open.
                    let stats = try await transport.stats("open/\(row.server)", servers)
                    #expect(stats.hasSuffix(" 0"))
                }
                try await #expect(transport.get("https", servers).get().status == 200)
            }
        }

        @Test(
            "connecting has a bound of its own, which the request may change",
            arguments: [
                Row(server: "full", code: .timeout, phase: .connect),
                Row(server: "mute", code: .timeout, phase: .tls),
            ])
        func connectTimeout(_ row: Row) async throws {
            try await withTransport { transport, servers in
                let result = try await transport.get(row.server, servers) {
                    $0.connectTimeout = .milliseconds(300)
                }
                #expect(result.failure?.code == row.code && result.failure?.phase == row.phase)
            }
            #expect(HTTPTransport.Settings().connectTimeout <= .milliseconds(800))
        }

        @Test("the bound of connecting does not cut short a slow answer")
        func slowAnswer() async throws {
            try await withTransport { transport, servers in
                let result = try await transport.get(
                    "https", servers, "/silent", deadline: .now + .milliseconds(1500)
                ) { $0.connectTimeout = .milliseconds(1000) }
                #expect(result.failure?.code == .timeout && result.failure?.phase == .waiting)
            }
        }

        @Test("a deadline that has passed sends nothing")
        func pastDeadline() async throws {
            try await withTransport { transport, servers in
                let before = try await transport.stats("count/https", servers)
                let result = try await transport.get("https", servers, deadline: .now - .seconds(1))
                #expect(result.failure?.code == .timeout && result.failure?.phase == .queued)
                try await #expect(transport.stats("count/https", servers) == before)
            }
        }

        @Test(
            "the bound of an answer's size can be set per request, to the byte",
            arguments: [("/pieces", 3000)])
        func sizes(target: String, count: Int) async throws {
            try await withTransport { transport, servers in
                let enough = try await transport.get("https", servers, target) { $0.responseLimit = count }
                #expect(enough.failure == nil)
                let tooLittle = try await transport.get("https", servers, target) {
                    $0.responseLimit = count - 1
                }
                #expect(tooLittle.failure?.code == .tooLarge)
            }
        }

        @Test(
            "when a kept connection turns out to be closed, the same bytes go out again only if they may",
            arguments: [true, false])
        func resending(mayBeResent: Bool) async throws {
            try await withTransport { transport, servers in
                try await #expect(transport.get("https", servers, "/stale").get().text == "first")
                let result = try await transport.get("https", servers) { $0.mayBeResent = mayBeResent }
                if mayBeResent {
                    try #expect(result.get().status == 200)
                    try #expect(result.get().isReused == false)
                } else {
                    let failure = try #require(result.failure)
                    #expect(failure.code == .reset && failure.phase == .waiting)
                }
            }
        }

        @Test(
            "cancelling ends a request wherever it is", arguments: ["/silent", "/drip"],
            ["http", "https", "h2"])
        func cancelled(target: String, server: String) async throws {
            try await withTransport { transport, servers in
                let task = Task {
                    try await transport.get(
                        server, servers, server == "h2" ? "/silent" : target,
                        scheme: server == "http" ? "http" : "https")
                }
                if server != "h2" { _ = try await transport.stats("silent/1", servers) }
                task.cancel()
                #expect(try await task.value.failure?.code == .cancelled)
                let stats = try await transport.stats("open/\(server)", servers)
                #expect(stats.hasSuffix(" 0"))
            }
        }
    }

    @Suite struct TLSTests {
        @Test(
            "a server that cannot be trusted is not spoken to, and the reason is in words",
            arguments: [
                ("expired", .expired, "expired"), ("not-yet", .notYetValid, "not valid yet"),
                ("self-signed", .selfSigned, "self-signed"), ("unknown", .unknownIssuer, "not trusted"),
                ("wrong-host", .wrongHost, "another name"), ("old-tls", .protocolVersion, "TLS 1.2"),
                ("greeting", .notTLS, "does not speak TLS"),
                ("mutual", .clientCertificateRefused, "client certificate"),
            ] as [(String, HTTPFailure.TLSProblem, String)])
        func refused(server: String, problem: HTTPFailure.TLSProblem, words: String) async throws {
            try await withTransport { transport, servers in
                let failure = try #require(try await transport.get(server, servers).failure)
                #expect(failure.code == .tls && failure.tlsProblem == problem, "\(failure)")
                #expect(failure.summary.contains(words), "\(failure)")
                try #expect(failure.summary.contains("kms.test:\(servers.port(server))"))
            }
        }

        @Test(
            "names and addresses are compared with the certificate's", arguments: ["kms.test", "127.0.0.1"])
        func names(host: String) async throws {
            try await withTransport { transport, servers in
                try await #expect(transport.get("https", servers, host: host).get().status == 200)
                let other = try await transport.get("https", servers, host: "other.test")
                #expect(other.failure?.tlsProblem == .wrongHost)
            }
        }

        @Test("with the system's authorities, ours is unknown")
        func systemAuthorities() async throws {
            try await withTransport({ $0.authoritiesFile = nil }) { transport, servers in
                let failure = try await transport.get("https", servers).failure
                #expect(failure?.tlsProblem == .unknownIssuer)
            }
        }

        @Test(
            "a client certificate opens the door, and a bad one is said to be bad",
            arguments: [
                ("client.pem", "client.key", nil), ("stranger.pem", "client.key", .clientCertificateRefused),
                ("client.pem", "encrypted.key", .clientCertificate),
                ("client.pem", "absent", .clientCertificate),
                ("absent", "client.key", .clientCertificate), ("ca.pem", "client.key", .clientCertificate),
            ] as [(String, String, HTTPFailure.TLSProblem?)])
        func clientCertificate(file: String, key: String, problem: HTTPFailure.TLSProblem?) async throws {
            let servers = try Servers.shared.get()
            try await withTransport({
                $0.identity = .init(certificateFile: servers.file(file), keyFile: servers.file(key))
            }) { transport, servers in
                let result = try await transport.get("mutual", servers)
                #expect(result.failure?.tlsProblem == problem, "\(result)")
                if problem == nil { try #expect(result.get().status == 200) }
            }
        }

        @Test("without its file of authorities nothing is trusted", arguments: ["absent", "client.key"])
        func trustFile(file: String) async throws {
            let servers = try Servers.shared.get()
            try await withTransport({ $0.authoritiesFile = servers.file(file) }) { transport, servers in
                let failure = try await transport.get("https", servers).failure
                #expect(
                    failure?.code == .tls && failure?.tlsProblem == .trustFile,
                    "\(String(describing: failure))")
            }
        }
    }

    @Suite struct ProxyTests {
        private func proxy(
            _ servers: Servers, _ name: String, scheme: String = "http", user: String = ""
        )
            throws -> HTTPTransport.Settings.Proxy
        {
            .url("\(scheme)://\(user)kms.test:\(try servers.port(name))", noProxy: ["direct.test"])
        }

        /// No name but the proxy's is to be looked up here.
        private static let onlyTheProxy: Lookup.Function = {
            $0 == "kms.test" ? .thisHost : .noSuchName("not ours")
        }

        @Test(
            "https goes through a tunnel, and the server's name is the proxy's to look up",
            arguments: [
                ("proxy", "http", ""), ("tls-proxy", "https", ""),
                ("strict-proxy", "http", "user:p%40ss%20word@"),
            ],
            ["https", "h2"])
        func tunnel(_ row: (proxy: String, scheme: String, user: String), server: String) async throws {
            let servers = try Servers.shared.get()
            let proxy = try proxy(servers, row.proxy, scheme: row.scheme, user: row.user)
            try await withTransport({ $0.proxy = proxy }, lookup: Self.onlyTheProxy) { transport, servers in
                // The tunnel leads to this host whatever the name; the certificate is compared with the name.
                let wrong = try await transport.get(server, servers, host: "elsewhere.example")
                #expect(wrong.failure?.tlsProblem == .wrongHost)
                let request = try await transport.get(server, servers) {
                    $0.headers.append("Authorization", "for the server only")
                }
                let answer = try request.get()
                #expect(answer.text.contains("for the server only"))
                #expect(answer.headers["x-proxy"] == nil)
                let again = try await transport.get(server, servers).get()
                #expect(again.isReused)
            }
        }

        @Test("plain http goes to the proxy whole")
        func forwarded() async throws {
            let servers = try Servers.shared.get()
            let proxy = try proxy(servers, "proxy")
            try await withTransport({ $0.proxy = proxy }, lookup: Self.onlyTheProxy) { transport, _ in
                let origin = try HTTPOrigin(parsing: "http://elsewhere.example:81")
                let answer = try await transport.answer(HTTPRequest("GET", origin, "/a?b")).get()
                #expect(
                    answer.text.hasPrefix(
                        "proxied GET http://elsewhere.example:81/a?b HTTP/1.1\r\nHost: elsewhere"))
            }
        }

        @Test("exceptions and this host go direct")
        func direct() async throws {
            let servers = try Servers.shared.get()
            let proxy = try proxy(servers, "closed-proxy")
            try await withTransport({ $0.proxy = proxy }) { transport, servers in
                let there = try await transport.get("http", servers, scheme: "http", host: "direct.test")
                try #expect(there.get().status == 200)
                let here = try await transport.get("https", servers, host: "127.0.0.1")
                try #expect(here.get().status == 200)
            }
        }

        @Test(
            "what the proxy does wrong is told as the proxy's doing",
            arguments: [
                ("strict-proxy", "http", .proxy, "407"), ("closed-proxy", "http", .proxy, "403"),
                ("refused", "http", .proxy, "refused"), ("hang-up", "http", .proxy, "closed"),
                ("greeting", "https", .tls, "does not speak TLS"),
                ("mute", "http", .timeout, "proxy does not answer"),
            ] as [(String, String, HTTPFailure.Code, String)])
        func failures(name: String, scheme: String, code: HTTPFailure.Code, words: String) async throws {
            let servers = try Servers.shared.get()
            let proxy = try proxy(servers, name, scheme: scheme, user: "user:secret@")
            try await withTransport({ $0.proxy = proxy }, lookup: Self.onlyTheProxy) { transport, servers in
                let result = try await transport.get("https", servers, host: "elsewhere.example") {
                    $0.connectTimeout = .milliseconds(name == "mute" ? 300 : 20_000)
                }
                let failure = try #require(result.failure)
                #expect(failure.code == code && ![.waiting, .reading].contains(failure.phase), "\(failure)")
                #expect(failure.summary.contains(words) && !failure.summary.contains("secret"), "\(failure)")
                try #expect(failure.summary.contains("kms.test:\(servers.port(name))"), "\(failure)")
            }
        }
    }
}
