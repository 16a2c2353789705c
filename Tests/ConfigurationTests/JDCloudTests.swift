import Glibc
import TestSupport
import Testing

@testable import Configuration

private let block = """
    keys:
      - name: jd
        jdcloud:
          key_id: srh6mt4lj49tnzvs
          endpoint: kms.cn-north-1.jdcloud-api.com
          credentials: { source: files, access_key_file: /k/ak, secret_key_file: /k/sk }

    """

private func problems(_ text: String) -> [String] {
    Settings.parse(bytes: Array(text.utf8), name: "f").diagnostics.map { "\($0)" }
}

@Suite("Provider jdcloud in the file")
struct JDCloudTests {
    @Test("a block with the least that works")
    func least() throws {
        let key = try #require(try settings(block).keys.first)
        #expect(key.jdcloud.url == "https://kms.cn-north-1.jdcloud-api.com")
        #expect(key.jdcloud.credentials.secretKeyFile == "/k/sk")
        #expect(key.writeFormat == .envelope && key.acceptFormats.isEmpty)
        #expect(problems(block).isEmpty)
    }

    @Test(
        "mistakes have their place and their remedy",
        arguments: [
            (
                "scheme: http",
                "f:6:15: error: keys[0].jdcloud.scheme: keys would travel in clear text; "
                    + "use https, or set allow_plain_http: true if that is meant"
            ),
            (
                "no_proxy: [a]", "f:6:17: error: keys[0].jdcloud.no_proxy: it goes with a proxy that is a URL"
            ),
            (
                "proxy: http://u:p@h:1",
                "f:6:14: error: keys[0].jdcloud.proxy: expected environment, none, or http://HOST:PORT, found "
                    + "\"http://u:p@h:1\"; give a proxy with a password in the environment"
            ),
            (
                "version: latest",
                "f:6:16: error: keys[0].jdcloud.version: expected observed or static, found \"latest\""
            ),
            ("realms: x", "f:6:7: error: keys[0].jdcloud.realms: unknown option; did you mean realm?"),
        ])
    func mistakes(_ line: String, _ expected: String) {
        #expect(
            problems(block.replacing("      credentials", with: "      \(line)\n      credentials")) == [
                expected
            ])
    }

    @Test(
        "credentials come whole from the source that is named",
        arguments: [
            ("source: config, access_key: AK, secret_key: SK", [String]()), ("source: environment", []),
            ("source: instance-role", []), ("source: systemd", []),
            ("source: systemd, secret_key_file: name", []),
            ("source: systemd, secret_key_file: /a/b", ["secret_key_file"]),
            ("source: config", ["access_key", "secret_key"]),
            ("source: files, access_key_file: /a", ["secret_key_file"]),
            ("source: files, access_key_file: a, secret_key_file: /b", ["access_key_file"]),
            ("source: environment, secret_key: SK", ["secret_key"]),
            ("source: config, access_key: AK, secret_key: \"two words\"", ["secret_key"]), ("{}", ["source"]),
        ])
    func credentials(_ text: String, _ faulty: [String]) {
        let inside = text == "{}" ? "" : text
        let file = block.replacing(
            "{ source: files, access_key_file: /k/ak, secret_key_file: /k/sk }", with: "{ \(inside) }")
        let found = problems(file)
        #expect(found.count == faulty.count, "\(found)")
        for (line, option) in zip(found, faulty) {
            #expect(line.contains("credentials.\(option): "), "\(line)")
        }
        #expect(!found.joined().contains("two words"))
    }

    @Test("the version is read unless the file says that it may not be")
    func version() throws {
        #expect(try settings(block).keys[0].jdcloud.version == .observed)
        let fixed = block.replacing("      credentials", with: "      version: static\n      credentials")
        #expect(try settings(fixed).keys[0].jdcloud.version == .static)
    }

    @Test("one key cannot be two, unless a realm tells them apart")
    func twice() {
        let second = block.replacing("keys:\n", with: "").replacing("name: jd", with: "name: other")
        #expect(problems(block + second).count == 1)
        #expect(problems(block + second.replacing("endpoint", with: "realm: gov\n      endpoint")).isEmpty)
    }

    @Test("a secret is not printed")
    func printing() throws {
        let file = block.replacing(
            "{ source: files, access_key_file: /k/ak, secret_key_file: /k/sk }",
            with: "{ source: config, access_key: AK, secret_key: hush-hush }")
        let parsed = try settings(file)
        #expect(parsed.yaml().contains("secret_key: \"<redacted>\""))
        #expect(!parsed.yaml().contains("hush-hush"))
        #expect(!"\(parsed)".contains("hush-hush"))
    }

    @Test("a key that cannot write in an outage says so soon, unless the file has its own bound")
    func rideThrough() throws {
        let compatible = block.replacing("    jdcloud:", with: "    write_format: compatible\n    jdcloud:")
        #expect(try settings(block).keys[0].rideThrough == .seconds(86_400))
        #expect(try settings(compatible).keys[0].rideThrough == .seconds(120))
        let own = compatible.replacing("    jdcloud:", with: "    ride_through: 1h\n    jdcloud:")
        #expect(try settings(own).keys[0].rideThrough == .seconds(3600))
    }

    @Test("provider local has no format of another plugin")
    func localIsNotCompatible() {
        #expect(
            problems("keys: [{ name: a, local: { file: /k }, write_format: compatible }]")
                == [
                    "f:1:54: error: keys[0].write_format: provider local has no other plugin to be compatible with"
                ])
    }
}

@Suite("The JSON file of JD Cloud's plugin")
struct SeedFileTests {
    private static let file = """
        {
          "AccessKey": "TESTAK0123456789",
          "SecretKey": "TESTSKabcdefghijklmnop",
          "KmsEndpoint": "kms.internal.cn-north-1.jdcloud-api.com",
          "KmsKeyId": "srh6mt4lj49tnzvs",
          "KmsSchema": "https",
          "GRPCSocketPath": "/var/run/kmsplugin/grpc.sock",
          "DebugMode": true
        }
        """

    @Test("it is taken as it is, in its plugin's format")
    func accepted() throws {
        let settings = try settings(Self.file)
        #expect(problems(Self.file).isEmpty)
        let key = try #require(settings.keys.first)
        #expect(settings.socket.path == "/var/run/kmsplugin/grpc.sock" && settings.log.level == .debug)
        #expect(key.jdcloud.url == "https://kms.internal.cn-north-1.jdcloud-api.com")
        #expect(
            key.jdcloud.keyID == "srh6mt4lj49tnzvs" && key.jdcloud.credentials.accessKey == "TESTAK0123456789"
        )
        #expect(key.jdcloud.credentials.secretKey == Settings.Secret("TESTSKabcdefghijklmnop"))
        #expect(key.writeFormat == .compatible && key.acceptFormats == [.compatible, .envelope])
        #expect(settings.position(of: "keys[0].jdcloud.endpoint").map { "\($0)" }?.hasSuffix(":4:18") == true)
    }

    @Test("http is meant where it stands, and earns a warning")
    func plainHTTP() throws {
        let text = Self.file.replacing("\"https\"", with: "\"http\"")
        #expect(try settings(text).keys[0].jdcloud.allowPlainHTTP)
        #expect(problems(text).map { $0.prefix(30) } == ["f:6:16: warning: KmsSchema: ht"])
    }

    @Test("names in other letters count, as for its plugin; names of nobody's are passed over")
    func names() throws {
        let text = Self.file.replacing("AccessKey", with: "accesskey").replacing(
            "\"DebugMode\": true", with: "\"Comment\": 7")
        #expect(try settings(text).keys[0].jdcloud.credentials.accessKey == "TESTAK0123456789")
        #expect(problems(text) == ["f:8:3: warning: \"Comment\" means nothing here and is passed over"])
    }

    @Test("no slip of the keyboard brings the secret key into a message", arguments: [false, true])
    func slips(isCompact: Bool) {
        let secret = "TESTSKabcdefghijklmnop"
        let text = isCompact ? Self.file.filter { !$0.isWhitespace } : Self.file
        let reordered = text.replacing("\"AccessKey\": \"TESTAK0123456789\",", with: "")
        for text in [text, reordered] {
            let place = text.firstRange(of: secret)
            for index in text.indices where place?.contains(index) != true {
                for slip in ["", "\"", "}", ",", ":", "\n"] {
                    let after = text.index(after: index)
                    for rest in [text[index...], text[after...]] {
                        let found = problems(text[..<index] + slip + rest)
                        #expect(
                            !found.contains { $0.contains(secret) }, "\(slip.debugDescription) at \(index)")
                    }
                }
            }
        }
        for block in [
            "credentials: \(secret)", "credentials: { source: files, secret_key_file: \(secret) }",
            "credentials: { source: config, \(secret): x }", secret,
        ] {
            let found = problems("keys: [{ name: a, jdcloud: { key_id: k, endpoint: e, \(block) } }]")
            #expect(!found.isEmpty && !found.contains { $0.contains(secret) }, "\(found)")
        }
    }

    @Test("null is as good as nothing where the plugin needs no value, and only there")
    func nulls() throws {
        let text = Self.file.replacing("\"https\"", with: "null").replacing("true", with: "null")
        let parsed = try settings(text)
        #expect(parsed.keys[0].jdcloud.scheme == .https && parsed.log.level == .info)
        #expect(problems(text).isEmpty)
        #expect(problems(Self.file.replacing("\"srh6mt4lj49tnzvs\"", with: "null")).count == 1)
    }

    @Test(
        "a name that is given twice in different letters earns a warning; the last one counts, as for its plugin"
    )
    func twice() throws {
        let text = Self.file.replacing(
            "\"DebugMode\": true", with: "\"DebugMode\": true, \"debugmode\": false")
        #expect(try settings(text).log.level == .info)
        #expect(
            problems(text) == [
                "f:8:22: warning: \"debugmode\" is given before as \"DebugMode\"; the last one counts, keep one"
            ])
    }

    @Test("the warning of clear text names no endpoint that is none")
    func plainHTTPToNowhere() {
        let text = Self.file.replacing("\"https\"", with: "\"http\"").replacing(
            "\"kms.internal", with: "\"https://kms.internal")
        #expect(problems(text).contains { $0.contains("clear text between here and the endpoint; ") })
    }

    @Test(
        "mistakes have line and column",
        arguments: [
            ("\"srh6mt4lj49tnzvs\"", "7", "f:5:15: error: KmsKeyId: "),
            ("  \"KmsKeyId\"", "  \"KeyId\"", "f:1:1: error: KmsKeyId: missing"),
            ("\"https\"", "\"ftp\"", "f:6:16: error: KmsSchema: expected https or http"),
            ("true", "\"yes\"", "f:8:16: error: DebugMode: expected true or false"),
            (
                "\"TESTSKabcdefghijklmnop\",", "\"x\"",
                "f:4:3: error: expected \",\" or \"}\" here; the \"{\" at 1:1 is"
            ),
            (
                "true\n}", "true\n",
                "f:9:1: error: expected \",\" or \"}\" here; the \"{\" at 1:1 is not closed"
            ),
            ("\"TESTSKabcdefghijklmnop\"", "[1]", "f:3:16: error: SecretKey: expected one word"),
        ])
    func mistakes(_ old: String, _ new: String, _ expected: String) {
        let found = problems(Self.file.replacing(old, with: new))
        #expect(found.contains { $0.hasPrefix(expected) }, "\(found)")
    }

    @Test("its YAML form says the same, with the secrets in files of their own")
    func convert() throws {
        let (converted, files) = try settings(Self.file).withSecretsInFiles(below: "/etc/kmsward")
        let yaml = converted.yaml()
        #expect(
            files == [
                .init(path: "/etc/kmsward/jdcloud-access-key", name: "AccessKey"),
                .init(path: "/etc/kmsward/jdcloud-secret-key", name: "SecretKey"),
            ])
        let spelt = try settings(Self.file.replacing("AccessKey", with: "accesskey"))
        #expect(spelt.withSecretsInFiles(below: "/s").files.map(\.name) == ["accesskey", "SecretKey"])
        // What has a secret and is no file of the plugin's is not to be asked by the plugin's names.
        let own = block.replacing(
            "{ source: files, access_key_file: /k/ak, secret_key_file: /k/sk }",
            with: "{ source: config, access_key: AK, secret_key: SK }")
        #expect(try settings(own).withSecretsInFiles(below: "/s").files.map(\.name) == [nil, nil])
        #expect(!yaml.contains("TESTSK") && !yaml.contains("redacted"))
        #expect(try settings(yaml) == converted)
    }

    @Test(
        "others that can read its secret earn a warning",
        arguments: [(0o600, 0), (0o640, 1), (0o644, 1)] as [(mode_t, Int)])
    func mode(_ mode: mode_t, _ warnings: Int) throws {
        let folder = TemporaryFolder()
        folder.write(Self.file, to: "plugin.json")
        try #require(unsafe chmod(folder("plugin.json"), mode) == 0)
        let loaded = try Settings.load(path: folder("plugin.json"))
        #expect(loaded.warnings.count == warnings)
        #expect(!loaded.warnings.map { "\($0)" }.joined().contains("TESTSK"))
    }
}
