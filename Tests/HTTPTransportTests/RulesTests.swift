import Testing

@testable import HTTPTransport

@Suite struct OriginTests {
    @Test(
        "an endpoint is read as scheme, host and port",
        arguments: [
            ("https://KMS.example.com", "kms.example.com", 443, "kms.example.com"),
            ("HTTPS://kms.example.com:8443/", "kms.example.com", 8443, "kms.example.com:8443"),
            ("http://10.0.0.1", "10.0.0.1", 80, "10.0.0.1"),
            ("https://[2001:DB8::1]:9", "2001:db8::1", 9, "[2001:db8::1]:9"),
            ("https://kms.example.com.", "kms.example.com.", 443, "kms.example.com."),
        ])
    func read(text: String, host: String, port: UInt16, authority: String) throws {
        let origin = try HTTPOrigin(parsing: text)
        #expect(origin.host == host && origin.port == port && origin.authority == authority)
    }

    @Test(
        "an endpoint that others may read otherwise is refused, and not repeated",
        arguments: [
            "kms.example.com", "ftp://kms.example.com", "https://", "https://a b",
            "https://user:secret@kms.test",
            "https://kms.test/path", "https://kms.test?x=secret", "https://kms.test:0",
            "https://kms.test:65536",
            "https://kms.test:", "https://127.1", "https://2852039166", "https://0x7f.0.0.1", "https://0x7f",
            "https://1.2.3.4.5", "https://[1.2.3.4]", "https://[::1", "https://[fe80::1%eth0]",
            "https://-kms.test",
            "https://kms..test", "https://kms.test#x", "https://k\u{00E9}.test", "https://kms.test\r\nX: y",
        ])
    func refused(text: String) {
        let failure = #expect(throws: HTTPFailure.self) { try HTTPOrigin(parsing: text) }
        #expect(failure?.code == .badRequest)
        #expect(failure?.summary.contains("secret") == false)
    }

    @Test(
        "metadata services are known by address and by name",
        arguments: [
            ("169.254.169.254", true), ("169.254.170.2", true), ("100.100.100.200", true),
            ("[fe80::1]", true),
            ("[fd00:ec2::254]", true), ("[::ffff:169.254.169.254]", true), ("metadata.tencentyun.com", true),
            ("Metadata.Google.Internal.", true), ("169.253.169.254", false), ("100.100.100.201", false),
            ("metadata.google.internal.example.com", false), ("kms.example.com", false),
        ])
    func metadata(host: String, isMetadata: Bool) throws {
        #expect(try HTTPOrigin(parsing: "http://\(host)").isMetadata == isMetadata)
    }
}

@Suite struct ProxyRulesTests {
    private static let environment = [
        "https_proxy": "http://lower.test:3128", "HTTPS_PROXY": "http://upper.test:3128",
        "HTTP_PROXY": "http://cgi.test:1", "all_proxy": "all.test",
        "no_proxy":
            "Example.com, .inner.test,10.0.0.0/8 192.0.2.7 [2001:db8::]/x kms.test:8443,[2001:db8::1]",
    ]

    @Test(
        "the environment names the proxy, but for exceptions, this host and metadata services",
        arguments: [
            ("https://kms.test", "http://lower.test:3128"), ("http://kms.test", "http://all.test:1080"),
            ("https://example.com", nil), ("https://kms.EXAMPLE.com", nil),
            ("https://notexample.com", "http://lower.test:3128"),
            ("https://a.inner.test", nil), ("https://inner.test", nil), ("https://10.200.0.1", nil),
            ("https://11.0.0.1", "http://lower.test:3128"), ("https://192.0.2.7", nil),
            ("https://192.0.2.8", "http://lower.test:3128"), ("https://kms.test:8443", nil),
            ("https://[2001:db8::1]", nil), ("https://[2001:db8::2]", "http://lower.test:3128"),
            ("https://[::ffff:10.0.0.1]", nil), ("http://169.254.169.254", nil),
            ("http://100.100.100.200", nil),
            ("http://metadata.google.internal", nil), ("https://localhost:8200", nil),
            ("https://127.0.0.1", nil),
            ("https://[::1]", nil), ("https://bao.localhost", nil),
        ] as [(String, String?)])
    func environment(origin: String, proxy: String?) throws {
        let rules = try ProxyRules(.environment) { Self.environment[$0] }
        #expect(rules.proxy(for: try HTTPOrigin(parsing: origin))?.url == proxy)
    }

    @Test("a configured proxy takes the place of the environment's, and metadata services still go direct")
    func configured() throws {
        let setting = HTTPTransport.Settings.Proxy.url("https://u%40:p%3a@p.test:1", noProxy: ["*.kms.test"])
        let rules = try ProxyRules(setting) { Self.environment[$0] }
        let proxy = try #require(rules.proxy(for: try HTTPOrigin(parsing: "https://example.com")))
        #expect(proxy.url == "https://p.test:1" && proxy.user == "u@" && proxy.password == "p:")
        for direct in ["https://a.kms.test", "http://169.254.170.2", "http://metadata.tencentyun.com"] {
            #expect(try rules.proxy(for: HTTPOrigin(parsing: direct)) == nil)
        }
    }

    @Test("with no proxy wanted the environment is not read")
    func none() throws {
        let rules = try ProxyRules(.none) { Self.environment[$0] }
        #expect(try rules.proxy(for: HTTPOrigin(parsing: "https://kms.test")) == nil)
    }

    @Test(
        "a proxy or an exception that cannot be understood is refused, without its credentials",
        arguments: [
            ("socks5://secret@p.test:1", "a.test"), ("http://secret%zz@p.test", "a.test"),
            ("http://u:secret%0a@p.test", "a.test"), ("http://u:secret@p.test/path", "a.test"),
            ("http://p.test", "10.0.0.0/33"), ("http://p.test", "a b"), ("http://p.test", ""),
        ])
    func refused(proxy: String, exception: String) {
        let failure = #expect(throws: HTTPFailure.self) {
            try ProxyRules(.url(proxy, noProxy: [exception])) { _ in nil }
        }
        #expect(failure?.code == .badRequest && failure?.summary.contains("secret") == false)
    }
}

@Suite struct NameCacheTests {
    private let start = ContinuousClock.now
    private let first = ["192.0.2.1"].compactMap { IPAddress($0) }
    private let second = ["192.0.2.2"].compactMap { IPAddress($0) }

    private func answered(_ cache: inout NameCache, at now: ContinuousClock.Instant) {
        #expect(cache.ask("kms.test", now: now) == .wait(orUseOldAt: nil))
        #expect(cache.nextLookup() == "kms.test")
        #expect(cache.answer("kms.test", .addresses(first), now: now) == .addresses(first))
    }

    @Test("one lookup serves all who ask meanwhile, and its answer those who ask within a minute")
    func oneLookup() {
        var cache = NameCache()
        for _ in 0..<5 { #expect(cache.ask("kms.test", now: start) == .wait(orUseOldAt: nil)) }
        #expect(cache.nextLookup() == "kms.test")
        #expect(cache.nextLookup() == nil)
        #expect(cache.answer("kms.test", .addresses(first), now: start) == .addresses(first))
        #expect(cache.ask("kms.test", now: start + .seconds(59)) == .use(first))
        #expect(cache.nextLookup() == nil)
    }

    @Test("after a minute a new answer is waited for, but not long, and only once")
    func stale() {
        var cache = NameCache()
        answered(&cache, at: start)
        let later = start + .seconds(60)
        #expect(cache.ask("kms.test", now: later) == .wait(orUseOldAt: later + NameCache.patience))
        #expect(cache.nextLookup() == "kms.test")
        #expect(cache.old("kms.test") == first)
        #expect(cache.ask("kms.test", now: later + NameCache.patience) == .use(first))
        #expect(cache.nextLookup() == nil)
        #expect(cache.answer("kms.test", .addresses(second), now: later) == .addresses(second))
        #expect(cache.ask("kms.test", now: later) == .use(second))
    }

    @Test("a silent name service leaves the old addresses for a day, and is left alone for a moment")
    func outage() {
        var cache = NameCache()
        answered(&cache, at: start)
        let later = start + .seconds(3600)
        _ = cache.ask("kms.test", now: later)
        #expect(cache.nextLookup() == "kms.test")
        #expect(cache.answer("kms.test", .unknown("try again"), now: later) == .addresses(first))
        #expect(cache.ask("kms.test", now: later + .seconds(4)) == .use(first))
        #expect(cache.nextLookup() == nil)
        _ = cache.ask("kms.test", now: later + .seconds(5))
        #expect(cache.nextLookup() == "kms.test")
        let tooLate = start + NameCache.usable
        #expect(cache.answer("kms.test", .unknown("try again"), now: tooLate) == .unknown("try again"))
        #expect(cache.ask("kms.test", now: tooLate) == .wait(orUseOldAt: nil))
    }

    @Test("what the name service denies is forgotten, and asked again by the next request")
    func denied() {
        var cache = NameCache()
        answered(&cache, at: start)
        _ = cache.ask("kms.test", now: start + .seconds(61))
        #expect(cache.nextLookup() == "kms.test")
        #expect(cache.answer("kms.test", .noSuchName("gone"), now: start) == .noSuchName("gone"))
        #expect(cache.ask("kms.test", now: start) == .wait(orUseOldAt: nil))
        #expect(cache.nextLookup() == "kms.test")
    }

    @Test("lookups that hang hold a bounded number of threads, and others begin when one ends")
    func bounded() {
        var cache = NameCache()
        for index in 0...NameCache.maximumLookups { _ = cache.ask("\(index).test", now: start) }
        for index in 0..<NameCache.maximumLookups { #expect(cache.nextLookup() == "\(index).test") }
        #expect(cache.nextLookup() == nil)
        _ = cache.answer("3.test", .unknown("gone"), now: start)
        #expect(cache.nextLookup() == "\(NameCache.maximumLookups).test")
    }
}
