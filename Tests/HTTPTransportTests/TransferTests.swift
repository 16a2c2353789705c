import SecureMemory
import Testing

@testable import HTTPTransport

extension HTTPTransportTests {
    @Suite struct TransferTests {
        @Test(
            "a request goes out exactly as it is written, with nothing but the transport's own headers added")
        func exactBytes() async throws {
            try await withTransport { transport, servers in
                let origin = try HTTPOrigin(parsing: "http://kms.test:\(servers.port("http"))")
                let headers: HTTPHeaders = [
                    "X-Date": "20261122T000000Z", "x-empty": "", "Authorization": "V2 a/b=c",
                ]
                let request = HTTPRequest(
                    "POST", origin, "/echo/%2f/../a?b=%7E&c=~'", headers: headers,
                    body: SecretBytes([1, 2, 65]))
                let answer = try await transport.answer(request).get()
                #expect(answer.status == 200)
                #expect(
                    answer.text == """
                        POST /echo/%2f/../a?b=%7E&c=~' HTTP/1.1\r
                        Host: kms.test:\(try servers.port("http"))\r
                        User-Agent: kmsward\r
                        X-Date: 20261122T000000Z\r
                        x-empty:\r
                        Authorization: V2 a/b=c\r
                        Content-Length: 3\r
                        \r
                        \u{1}\u{2}A
                        """)
            }
        }

        @Test(
            "methods go out with the body they have",
            arguments: [
                ("GET", 0, false), ("GET", 2, true), ("DELETE", 0, false), ("DELETE", 2, true),
                ("POST", 0, true),
                ("PUT", 0, true), ("PUT", 2, true), ("PATCH", 3, true), ("POST", 100_000, true),
                ("POST", 2_000_000, true),
            ], ["http", "https", "h2"])
        func methods(_ method: (name: String, body: Int, hasLength: Bool), server: String) async throws {
            try await withTransport({ $0.responseLimit = 1 << 22 }) { transport, servers in
                let scheme = server == "http" ? "http" : "https"
                let origin = try HTTPOrigin(parsing: "\(scheme)://kms.test:\(servers.port(server))")
                let body = [UInt8](repeating: 120, count: method.body)
                let request = HTTPRequest(method.name, origin, "/echo", body: SecretBytes(body))
                let answer = try await transport.answer(request).get()
                #expect(
                    answer.text.contains(
                        server == "h2" ? ":method: \(method.name)\n" : "\(method.name) /echo "))
                #expect(
                    answer.text.lowercased().contains("content-length: \(method.body)") == method.hasLength)
                #expect(!answer.text.lowercased().contains("expect:"))
                #expect(answer.text.hasSuffix(String(decoding: body, as: UTF8.self)))
                #expect(answer.version == (server == "h2" ? .http2 : .http1))
            }
        }

        @Test(
            "answers are read whole, however they are framed",
            arguments: [
                ("/status/404", 404, "said so"), ("/status/204", 204, ""), ("/interim", 200, "final"),
                ("/chunked", 200, "abcdefg"), ("/until-close", 200, "all there is"),
                ("/redirect", 302, "elsewhere"), ("/status/500", 500, "said so"),
            ], ["http", "https"])
        func framing(_ row: (target: String, status: Int, text: String), server: String) async throws {
            try await withTransport { transport, servers in
                let scheme = server == "http" ? "http" : "https"
                let result = try await transport.get(server, servers, row.target, scheme: scheme)
                if row.status == 204 {
                    // The body that the server sends nevertheless is none.
                    try #expect(result.get().text.isEmpty)
                } else {
                    try #expect(result.get().status == row.status)
                    try #expect(result.get().text == row.text)
                    try #expect(result.get().headers["x-late"] == nil)
                }
            }
        }

        @Test("a body in thousands of pieces comes back in order")
        func pieces() async throws {
            try await withTransport { transport, servers in
                let origin = try HTTPOrigin(parsing: "https://kms.test:\(servers.port("https"))")
                let response = try await transport.send(HTTPRequest("GET", origin, "/pieces"), deadline: soon)
                #expect(response.body.copied() == (0..<3000).map { UInt8($0 % 251) })
            }
        }

        @Test("header fields may repeat, in any case")
        func repeatedHeaders() async throws {
            try await withTransport { transport, servers in
                let answer = try await transport.get("http", servers, "/repeated", scheme: "http").get()
                #expect(answer.headers.all("SET-THING") == ["a", "b"])
                #expect(answer.headers["set-thing"] == "a")
                #expect(answer.headers["empty"] == "")
                #expect(answer.headers["absent"] == nil)
            }
        }

        @Test(
            "a connection is used again, unless a request wants one of its own", arguments: ["https", "h2"])
        func reuse(server: String) async throws {
            try await withTransport { transport, servers in
                let first = try await transport.get(server, servers).get()
                let second = try await transport.get(server, servers).get()
                let third = try await transport.get(server, servers) { $0.wantsFreshConnection = true }.get()
                #expect(!first.isReused && second.isReused && !third.isReused)
                #expect(first.headers["x-connection"] == second.headers["x-connection"])
                #expect(first.headers["x-connection"] != third.headers["x-connection"])
            }
        }

        @Test("HTTP/2 is spoken where the server has it, and not where it is turned off")
        func versions() async throws {
            try await withTransport { transport, servers in
                try await #expect(transport.get("h2", servers).get().version == .http2)
                try await #expect(transport.get("https", servers).get().version == .http1)
            }
            // It is not offered unless asked for: the connection leaves plain text behind.
            #expect(!HTTPTransport.Settings().offersHTTP2)
        }

        @Test("the phases' times add up to no more than the whole")
        func timings() async throws {
            try await withTransport { transport, servers in
                let origin = try HTTPOrigin(parsing: "https://kms.test:\(servers.port("https"))")
                let times = try await transport.send(HTTPRequest("GET", origin, "/echo"), deadline: soon)
                    .timings
                #expect(times.connect > .zero && times.tls > .zero && times.firstByte > .zero)
                #expect(times.resolve + times.connect + times.tls + times.firstByte <= times.total)
                let again = try await transport.send(HTTPRequest("GET", origin, "/echo"), deadline: soon)
                    .timings
                #expect(again.tls == .zero && again.firstByte > .zero && again.isReused)
            }
        }

        @Test(
            "200 requests at once are all answered, each with its own answer",
            arguments: ["http", "https", "h2"])
        func concurrent(server: String) async throws {
            try await withTransport { transport, servers in
                let scheme = server == "http" ? "http" : "https"
                let wrong = try await withThrowingTaskGroup(of: Bool.self) { group in
                    for index in 0..<200 {
                        group.addTask {
                            let answer = try await transport.get(
                                server, servers, "/echo?\(index).", scheme: scheme
                            ).get()
                            return !answer.text.contains("/echo?\(index).")
                        }
                    }
                    return try await group.reduce(0) { $0 + ($1 ? 1 : 0) }
                }
                #expect(wrong == 0)
            }
        }

        @Test("no more connections are made to a host than allowed; the others wait")
        func connectionLimit() async throws {
            try await withTransport({ $0.connectionsPerHost = 3 }) { transport, servers in
                let before = try await transport.stats("count/https", servers)
                try await withThrowingTaskGroup(of: Void.self) { group in
                    for _ in 0..<40 {
                        group.addTask { _ = try await transport.get("https", servers).get() }
                    }
                    try await group.waitForAll()
                }
                let after = try await transport.stats("count/https", servers)
                func accepted(_ text: String) throws -> Int { try #require(Int(text.prefix { $0 != " " })) }
                try #expect(accepted(after) - accepted(before) <= 3)
            }
        }

        @Test(
            "a request that cannot be sent as it is, or is not allowed, is refused before anything is done",
            arguments: [
                ("GET", "/a b", "X", "y"), ("GET", "a", "X", "y"), ("GET", "/#a", "X", "y"),
                ("G T", "/", "X", "y"),
                ("GET", "/\r\nX: y", "X", "y"), ("GET", "/", "X y", "y"), ("GET", "/", "X", "y\r\nZ: 1"),
                ("GET", "/", "Host", "y"), ("GET", "/", "content-length", "1"), ("GET", "/", "", "y"),
                ("GET", "/\u{00E9}", "X", "y"), ("GET", "/", "Transfer-Encoding", "chunked"),
            ])
        func badRequests(method: String, target: String, header: String, value: String) async throws {
            try await withTransport { transport, servers in
                let origin = try HTTPOrigin(parsing: "https://kms.test:\(servers.port("https"))")
                let request = HTTPRequest(method, origin, target, headers: [header: value])
                await #expect(transport.answer(request).failure?.code == .badRequest)
            }
        }

        @Test("plain http is spoken only where it is allowed, or to metadata services")
        func plainHTTP() async throws {
            try await withTransport({ $0.allowsPlainHTTP = false }) { transport, servers in
                try await #expect(transport.get("http", servers, scheme: "http").failure?.code == .badRequest)
                let metadata = try HTTPOrigin(parsing: "http://169.254.169.254")
                let late = await transport.answer(HTTPRequest("GET", metadata, "/"), deadline: .now)
                #expect(late.failure?.code == .timeout)
            }
        }

        @Test("beyond the bound of requests under way the next is refused at once")
        func overload() async throws {
            try await withTransport({ $0.maximumRequests = 2 }) { transport, servers in
                try await withThrowingTaskGroup(of: Result<Answer, HTTPFailure>.self) { group in
                    for _ in 0..<3 {
                        group.addTask { try await transport.get("http", servers, "/silent", scheme: "http") }
                    }
                    try await #expect(group.next()?.failure?.code == .overloaded)
                    group.cancelAll()
                    while let result = try await group.next() { #expect(result.failure?.code == .cancelled) }
                }
                try await #expect(transport.get("http", servers, scheme: "http").get().status == 200)
            }
        }

        @Test("closing ends what is under way and refuses what comes later")
        func close() async throws {
            try await withTransport { transport, servers in
                try await withThrowingTaskGroup(of: Result<Answer, HTTPFailure>.self) { group in
                    for target in ["/silent", "/drip"] {
                        group.addTask { try await transport.get("https", servers, target) }
                    }
                    try await withTransport { other, _ in _ = try await other.stats("silent/2", servers) }
                    await transport.close()
                    while let result = try await group.next() { #expect(result.failure?.code == .closed) }
                }
                try await #expect(transport.get("https", servers).failure?.code == .closed)
                await transport.close()
            }
        }
    }
}
