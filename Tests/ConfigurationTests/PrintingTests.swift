import Testing

@testable import Configuration

@Suite struct PrintingTests {
    @Test("what is printed reads back as equal settings")
    func roundTrip() throws {
        var odd = try settings(everything)
        odd.clusterContext = "- \"\\: {a} # é \u{E000} true"
        odd.keys[0].adoptKeyIDs = ["true", "null", "1e3", "no", "a b", "@x", "*a", "&b", "key: v", "🔑"]
        odd.metrics.listen = nil
        for original in [odd, try settings(everything), .development(runDirectory: "/tmp/x y")] {
            #expect(try settings(original.yaml()) == original)
        }
    }

    @Test("defaults are marked, options without a value stand in a comment")
    func layout() {
        var settings = Settings()
        settings.log.level = .debug
        settings.allow.uids = [.number(7), .name("kube")]
        settings.keys = [Settings.Key(name: "a", provider: .local(Settings.LocalProvider(file: "/k")))]
        #expect(
            settings.yaml() == """
                socket:
                  path: /run/kmsward/kms.sock # default
                  mode: "0600" # default
                  # owner: not set
                  # group: not set
                  max_connections: 128 # default
                  handshake_timeout: 10s # default
                allow:
                  uids: [7, kube]
                  gids: [] # default
                api:
                  v2_version: v2beta1 # default
                cluster_context: "" # default
                state_directory: /var/lib/kmsward # default
                keys:
                  - name: a
                    suite: aes-256-gcm # default
                    epoch: 0 # default
                    accept_identities: [] # default
                    adopt_key_ids: [] # default
                    ride_through: 1d # default
                    auth_grace: 15m # default
                    on_forbidden: keep # default
                    write_format: envelope # default
                    accept_formats: [] # default
                    local_kek:
                      max_age: 30d # default
                      max_uses: 4294967296 # default
                    price_per_million_calls: 0 # default
                    local:
                      file: /k
                rotation:
                  observe_every: 30s # default
                  settle: 90s # default
                limits:
                  calls_in_flight: 1024 # default
                  drain: 10s # default
                cache:
                  entries: 10000 # default
                metrics:
                  listen: "127.0.0.1:9464" # default
                log:
                  level: debug
                  format: auto # default
                memory:
                  dumpable: false # default

                """)
    }
}

/// A table of another daemon, for what this schema has no instance of: secrets, and a choice between blocks.
private struct Toy: Sendable {
    var token = ""
    var tokens: [String] = []
    var sea = ""
    var land = ""
    var isAtSea = false

    static let table = Table(
        blank: Toy(),
        alternatives: Alternatives(
            noun: "place",
            blocks: [
                Alternatives.Block(name: "sea") { $0.isAtSea },
                Alternatives.Block(name: "land") { !$0.isAtSea },
            ]),
        [
            Option("token", \.token, .text("a token of 4 bytes", bytes: 4...4), secret: true, "A token."),
            Option(
                "tokens", \.tokens, .list("tokens", of: .text("a token of 4 bytes", bytes: 4...4), atMost: 9),
                secret: true, "Tokens."),
            Option("sea.depth", \.sea, .path, "A depth."),
            Option("land.height", \.land, .path, required: true, "A height."),
        ])

    static func decode(_ yaml: String) throws -> (Toy, [String]) {
        var pass = DecodingPass()
        let root = try #require(YAMLReader.read(Array(yaml.utf8)).root)
        let toy = table.decode(root, path: "", owner: .start, &pass)
        return (toy, pass.problems.map(\.message))
    }
}

@Suite struct SchemaMechanismTests {
    @Test("no message repeats a secret")
    func secretInMessage() throws {
        let (_, problems) = try Toy.decode("{ token: hunter2, tokens: [swordfish, [x]], sea: {} }")
        let hidden = "expected a token of 4 bytes, found a value that is not shown because it is secret"
        #expect(
            problems == [
                "token: \(hidden); it has 7 bytes", "tokens[0]: \(hidden); it has 9 bytes",
                "tokens[1]: \(hidden)",
            ])
    }

    @Test("no secret is printed")
    func secretInPrint() throws {
        let (toy, problems) = try Toy.decode("{ token: fish, tokens: [bird], sea: {} }")
        #expect(problems.isEmpty)
        #expect((toy.token, toy.tokens) == ("fish", ["bird"]))
        let printed = Toy.table.render(toy).compactMap { $0.value?.inline }
        #expect(printed == ["\"<redacted>\"", "\"<redacted>\"", "\"\""])
    }

    @Test(
        "of the alternative blocks exactly one is taken",
        arguments: [
            ("{ sea: {} }", []),
            ("{ token: fish }", ["no place block; give exactly one of sea, land"]),
            (
                "{ sea: {}, land: { height: /h } }",
                ["land: a second place block beside sea; keep exactly one"]
            ),
            ("{ sky: { depth: 1 } }", ["sky: unknown place block; this version has sea, land"]),
            ("{ land: {} }", ["land.height: missing; expected a path of 1 to 4095 bytes"]),
        ])
    func alternatives(_ yaml: String, _ problems: [String]) throws {
        #expect(try Toy.decode(yaml).1 == problems)
    }
}
