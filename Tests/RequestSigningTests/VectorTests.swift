import SecureMemory
import Testing

@testable import RequestSigning

/// A signed request with all that is known of its way to a signature.
struct Vector: CustomTestStringConvertible {
    var name: String
    var scheme = SigningScheme.jdcloud2
    var accessKey = "TESTAK0123456789"
    var secretKey = "TESTSKabcdefghijklmnop"
    var region = "jdcloud-api"
    var service = "kms"
    var method = "POST"
    var path: String
    var query: [(name: String, value: String)] = []
    var headers: [(name: String, value: String)]
    var body = ""
    var canonical: String?
    var canonicalDigest: String?
    var signingKey: String?
    var signature: String

    var testDescription: String { name }

    /// Date and nonce of J1 to J7, which sign them with content type and host.
    static func headers(
        _ host: String, _ more: (name: String, value: String)...
    ) -> [(name: String, value: String)] {
        [
            ("X-Jdcloud-Nonce", "ed558a3b-9808-4edb-8597-187bda63a4f2"),
            ("x-jdcloud-date", "20260115T083045Z"),
            ("Host", host), ("Content-Type", "application/json"),
        ] + more
    }

    static let key = "/v1/key/srh6mt4lj49tnzvs"
    static let dek =
        #"{"keyId": "srh6mt4lj49tnzvs", "plaintext": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}"#
    static let blob =
        #"{"keyId": "srh6mt4lj49tnzvs", "ciphertextBlob": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}"#
    static let pages = [(name: "pageSize", value: "100"), (name: "pageNumber", value: "1")]

    /// J1 to J4: the four kinds of requests to a KMS, as version 2 signs them.
    static let version2 = [
        Vector(
            name: "J1 encrypt", path: key + ":Encrypt",
            headers: headers("kms.internal.cn-north-1.jdcloud-api.com"), body: dek,
            canonical: """
                POST
                /v1/key/srh6mt4lj49tnzvs%3AEncrypt

                content-type:application/json
                host:kms.internal.cn-north-1.jdcloud-api.com
                x-jdcloud-date:20260115T083045Z
                x-jdcloud-nonce:ed558a3b-9808-4edb-8597-187bda63a4f2

                content-type;host;x-jdcloud-date;x-jdcloud-nonce
                763716d2647653bb7777ce73d8ee269061712a25ab423ad455de1e1b657dc235
                """,
            canonicalDigest: "55f2c9296899ffaae2268fd319a766c1ddfda53ba8f8e6c2e11c8c8c79545759",
            signingKey: "d464302a30fb04fec5abbd3b47e80ded99e57862cc90f28233756f570fb7e8b0",
            signature: "3138d1b3116d59792975c8d37f1bfa45b1f81b3d889a3281481c138d1b586482"),
        Vector(
            name: "J2 describeKeyDetail with a session token", method: "GET",
            path: key + ":describeKeyDetail", query: pages,
            headers: headers(
                "kms.cn-north-1.jdcloud-api.com", ("x-jdcloud-security-token", "ZXhhbXBsZS1zZXNzaW9uLXRva2Vu")
            ),
            canonical: """
                GET
                /v1/key/srh6mt4lj49tnzvs%3AdescribeKeyDetail
                pageNumber=1&pageSize=100
                content-type:application/json
                host:kms.cn-north-1.jdcloud-api.com
                x-jdcloud-date:20260115T083045Z
                x-jdcloud-nonce:ed558a3b-9808-4edb-8597-187bda63a4f2
                x-jdcloud-security-token:ZXhhbXBsZS1zZXNzaW9uLXRva2Vu

                content-type;host;x-jdcloud-date;x-jdcloud-nonce;x-jdcloud-security-token
                e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
                """,
            canonicalDigest: "2daed55f013e18c44fe72a30103c1d795ec11b5061a79077bfbb440d6eba2d16",
            signature: "2f21d9b36f6b129e3dbfec628b8f9ff741c1d309d0095772f22d8e4a67c1416e"),
        Vector(
            name: "J3 decrypt at a port", path: key + ":Decrypt", headers: headers("127.0.0.1:18080"),
            body: blob,
            canonicalDigest: "c1fa024596827226eb3d352ece240f211275a72eb8f524a205af5ded904f5692",
            signature: "7917a6c41b13a6b2ddcb1375ea7895f6ff1b3761ec4a324d1b60010e7de0efe9"),
        Vector(
            name: "J4 rotate", method: "PATCH", path: key + ":rotate",
            headers: headers("kms.jdcloud-api.com"),
            body: #"{"keyId": "srh6mt4lj49tnzvs"}"#,
            canonicalDigest: "8030f2fe52233d8894b6d30104b3e6b3065a9368465dd0223a4b3e1508166ad5",
            signature: "2d554b4f5df1e00b03926b1d7b297ff67c0b1faf026ccb53ab6b151ad7e5a63d"),
    ]

    /// J5: the same under version 3, whose canonical requests are those of version 2.
    static let version3 = zip(
        version2,
        [
            "23b43ff35271213acc9e981951d8afe614499f43d00cd116a1b5294332eca689",
            "7ae19a9cde4d2cc94453830121d12fef6b3925b6fc18c569f55f0bf1b2a2e733",
            "0cdbbe753ba31a161619ad07808569a1af51f249a32821dcc27f571caa1e051e",
            "5279d8f0702f0b1be137230148b7f8308c72abc61a3e7b7e6dbddaf2ed198ec3",
        ]
    ).map { vector, signature in
        var vector = vector
        vector.name = "J5, \(vector.name)"
        vector.scheme = .jdcloud3
        vector.signingKey =
            vector.signingKey.map { _ in "9ecf8f501a0195233a81e15fa3a04f4d4d2918dbbd501746cca2598805636700" }
        vector.signature = signature
        return vector
    }

    /// J6 and J7: other sets of signed headers.
    static let otherHeaders = [
        Vector(
            name: "J6 algorithm signed as well", scheme: .jdcloud3, path: key + ":Encrypt",
            headers: headers(
                "kms.internal.cn-north-1.jdcloud-api.com", ("x-jdcloud-algorithm", "JDCLOUD3-HMAC-SHA256")),
            body: dek, canonicalDigest: "fe02f45990ceffe78f69cc1f00cb4d958c11768a108339e0c1159c09d612e3f3",
            signature: "8b067c859299460ddafa561ec5fcfc05269cc879f4961b1b493405b863f8b404"),
        Vector(
            name: "J7 as the vendor's Python client", scheme: .jdcloud3, path: key + ":Encrypt",
            headers: [
                ("host", "kms.internal.cn-north-1.jdcloud-api.com"), ("content-type", "application/json"),
            ],
            body: dek, canonicalDigest: "d73a3191c2a7b3de830022bfd2e09936be98cd1b1319427f23eb010d8bbeaf6a",
            signature: "d5135d673af80562ba33500a226bdef7375e6779ce101773980cfab4d32ccd7a"),
    ]

    /// What the vendor's documentation, Rust and C++ signers publish.
    static let published = [
        Vector(
            name: "documentation", accessKey: "TESTAK", secretKey: "TESTSK", region: "cn-north-1",
            service: "test",
            path: "/v1/resource:action", query: [("p1", "p1"), ("p0", "p0"), ("o", "%"), ("u", "u")],
            headers: [
                ("x-jdcloud-date", "20190214T104514Z"), ("x-jdcloud-nonce", "testnonce"),
                ("x-my-header", "test"),
                ("x-my-header_blank", " blank"),
            ],
            body: "body data",
            canonicalDigest: "fb2e317056269590681d091f8eb22272967c0b922b2deda887312215ea4eed4c",
            signingKey: "a4e50bcb6001be0008696b173c30172b5ce22a77db00d21c6a9d69de2ba33b7d",
            signature: "2a98f83c074e7bee260bfc8ef64f009c07595bd93f7f0c3f4e156bf6479ed9bf"),
        Vector(
            name: "Rust", accessKey: "ak", secretKey: "sk", region: "cn-north-1", service: "service_name",
            method: "GET",
            path: "/v1/regions/cn-north-1/instances", query: [("pageNumber", "2"), ("pageSize", "10")],
            headers: [
                ("x-jdcloud-date", "20180405T010203Z"), ("content-type", "application/json"),
                ("x-jdcloud-nonce", "55f3919e-3a7d-4174-b117-f150ff25e274"),
            ],
            signingKey: "b302aa05734bcaf60be65a4be7c971669ac55444769681c19113d80460e31a33",
            signature: "cea138630c57ba3de51933926e3b1657c34b4d1b6f86d360511bf40a09f63729"),
        Vector(
            name: "C++", accessKey: "ak", secretKey: "sk", region: "cn-north-1", service: "vm", method: "GET",
            path: "/",
            headers: [
                ("host", "vm.cn-north-1.jdcloud.net"), ("x-jdcloud-date", "20090213T233130Z"),
                ("x-jdcloud-nonce", "uuid"),
            ],
            signature: "43a76892222031f847c00c56cac8d4d2dc179a4e75a37868d09a5300435f4054"),
    ]

    /// The self-tests of the vendor's Python signer: how version 3 reads paths.
    static let paths = [
        ("", "44c5ec30b6185516986ae171d8276552bc0f37f6a536a44e4f578958fc1c12be"),
        ("v1", "92cd3ed582c13af58b4c81ddad150c350e656c6cc9e78ec154d7385e499b91b6"),
        ("//v1", "92cd3ed582c13af58b4c81ddad150c350e656c6cc9e78ec154d7385e499b91b6"),
        ("v1/", "035689ae2ce6a3603928ac3d60a6d2fbfb550d33c5da983342a6356419ccd914"),
        ("/v1//", "035689ae2ce6a3603928ac3d60a6d2fbfb550d33c5da983342a6356419ccd914"),
        (
            "/v1/regions/cn-north-1/instances/中文:GET",
            "936ed2dcb6fb4271ad640e0f46f1fe61763a0bad8bb4f4eb1224261f969612fa"
        ),
    ].map { path, signature in
        Vector(
            name: "Python, path \"\(path)\"", scheme: .jdcloud3, accessKey: "ak", secretKey: "sk",
            region: "cn-north-1",
            service: "apigatewaytestproductline", method: "GET", path: path,
            headers: [
                ("host", "apigw-internal-dev.cn-north-1.jcloudcs.com:8000"),
                ("content-type", "application/json"),
                ("x-jdcloud-date", "20190917T064708Z"), ("x-jdcloud-nonce", "X-Jdcloud-Nonce"),
            ],
            signature: signature)
    }

    static let all = version2 + version3 + otherHeaders + published + paths
}

@Suite("Request signing")
struct VectorTests {
    @Test("a request is signed as the vendor signs it", arguments: Vector.all)
    func vectors(_ vector: Vector) throws {
        let request = try RequestToSign(
            method: vector.method, path: vector.path, query: vector.query, headers: vector.headers,
            body: secret(vector.body))
        let date = vector.headers.first { $0.name == "x-jdcloud-date" }?.value ?? "20260115T083045Z"
        let scope = SigningScheme.Scope(
            time: try moment(date), region: vector.region, service: vector.service)

        if let canonical = vector.canonical {
            #expect(request.canonical(collapsingSlashes: vector.scheme.collapsesSlashes) == canonical)
        }
        if let digest = vector.canonicalDigest {
            #expect(try vector.scheme.canonicalDigest(of: request) == digest)
        }
        if let expected = vector.signingKey {
            let key = try vector.scheme.signingKey(in: scope, secretKey: secret(vector.secretKey))
            #expect(hex(key) == expected)
        }
        let authorization = try vector.scheme.authorization(
            for: request, in: scope, accessKey: vector.accessKey, secretKey: secret(vector.secretKey))
        let names = vector.headers.map { $0.name.lowercased() }.sorted().joined(separator: ";")
        let version = vector.scheme == .jdcloud2 ? 2 : 3
        #expect(
            authorization
                == "JDCLOUD\(version)-HMAC-SHA256 Credential=\(vector.accessKey)/\(date.prefix(8))/\(vector.region)/"
                + "\(vector.service)/jdcloud\(version)_request, SignedHeaders=\(names), Signature=\(vector.signature)"
        )
    }

    @Test("what goes into the request line is what is signed, but for slashes that version 3 leaves out")
    func target() throws {
        let request = try RequestToSign(
            method: "GET", path: "/v1/key/a:b", query: [("b", "/ +"), ("a", ""), ("b", "%")], headers: [],
            body: secret(""))
        #expect(request.target == "/v1/key/a%3Ab?a=&b=%25&b=%2F%20%2B")
        #expect(request.canonical(collapsingSlashes: true).contains("/v1/key/a%3Ab\na=&b=%25&b=%2F%20%2B\n"))
    }
}

@Suite("Dates and nonces of requests")
struct SigningTimeTests {
    @Test(
        "the Date field of an answer is read",
        arguments: [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0), ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Tue, 29 Feb 2000 23:59:59 GMT", 951_868_799), ("Thu, 15 Jan 2026 08:30:45 GMT", 1_768_465_845),
            ("Mon, 01 Mar 2100 00:00:00 GMT", 4_107_542_400),
        ] as [(String, Int64)])
    func httpDate(_ text: String, _ seconds: Int64) {
        #expect(SigningTime(httpDate: text)?.unixSeconds == seconds)
    }

    @Test(
        "what is no Date field of an answer is not read",
        arguments: [
            "", "Thu, 01 Jan 1970 00:00:00", "Thu, 01 Jan 1970 00:00:00 UTC", "Thu, 1 Jan 1970 00:00:00 GMT",
            "Thu, 01 Foo 1970 00:00:00 GMT", "Thu, 32 Jan 1970 00:00:00 GMT", "Thu, 01 Jan 1970 24:00:00 GMT",
            "Thu, 01 Jan 1970 -1:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT ",
            "Thursday, 01-Jan-70 00:00:00 GMT",
        ])
    func notHTTPDate(_ text: String) { #expect(SigningTime(httpDate: text) == nil) }

    @Test(
        "a date is written as it was read",
        arguments: ["2026-01-15T08:30:45Z", "1999-12-31T00:00:09Z", "2024-02-29T12:00:00Z"])
    func roundTrip(_ text: String) throws {
        let time = try #require(SigningTime(iso8601: text))
        #expect(time.basic == String(text.filter { $0 != "-" && $0 != ":" }))
    }

    @Test(
        "what is no ISO date is not read",
        arguments: [
            "", "2026-01-15 08:30:45", "2026-01-15T08:30:45", "2026-13-15T08:30:45Z", "2026-1-15T008:30:45Z",
            "2026-01-15T+8:30:45Z",
        ])
    func notISO8601(_ text: String) { #expect(SigningTime(iso8601: text) == nil) }

    @Test("nonces are random UUIDs in lower case, each another one")
    func nonces() {
        let nonces = (0..<100).map { _ in Nonce.uuid() }
        #expect(Set(nonces).count == 100)
        for nonce in nonces {
            #expect(
                nonce.wholeMatch(of: #/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}/#)
                    != nil)
        }
    }
}

private func secret(_ text: String) -> SecretBytes {
    unsafe SecretBytes(copying: Array(text.utf8).span.bytes)
}

private func hex(_ bytes: borrowing SecretBytes) -> String {
    bytes.withBytes { span in
        span.byteOffsets.map { unsafe span.unsafeLoad(fromByteOffset: $0, as: UInt8.self) }.lowerHex
    }
}

/// Reads `20260115T083045Z`.
private func moment(_ basic: String) throws -> SigningTime {
    let digits = Array(basic)
    func part(_ range: Range<Int>) -> String { String(digits[range]) }
    return try #require(
        SigningTime(
            iso8601:
                "\(part(0..<4))-\(part(4..<6))-\(part(6..<8))T\(part(9..<11)):\(part(11..<13)):\(part(13..<15))Z"
        ))
}
