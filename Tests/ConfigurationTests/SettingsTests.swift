import Testing

@testable import Configuration

/// Parses a file that must be free of errors.
func settings(_ yaml: String) throws -> Settings {
    let (settings, diagnostics) = Settings.parse(bytes: Array(yaml.utf8), name: "f")
    return try #require(settings, "\(diagnostics)")
}

/// A file that gives every option a value which is not its default.
let everything = """
    socket:
      path: unix:///run/other.sock
      mode: 0660
      owner: root
      group: 42
      max_connections: 3
      handshake_timeout: 1s500ms
    allow: { uids: [1000, kube], gids: ["7"] }
    api: { v2_version: v2 }
    cluster_context: "Zürich \\"a\\""
    state_directory: /s
    keys:
      - name: primary
        suite: sm4-ctr-hmac-sm3
        epoch: 2
        accept_identities: [AAAAAAAAAAAAAAAAAAAAAA, "-_AAAAAAAAAAAAAAAAAAAw"]
        adopt_key_ids: ["1", 'arn:aws:kms:x']
        ride_through: 48h
        auth_grace: 0s
        on_forbidden: wipe
        local_kek: { max_age: 1h30m, max_uses: 5 }
        local: { file: /etc/k }
      - name: old-1
        local:
          file: /etc/l
    rotation: { observe_every: 1m, settle: 0s }
    limits: { calls_in_flight: 9, drain: 2m }
    cache: { entries: 0 }
    metrics: { listen: "[::1]:80" }
    log: { level: trace, format: json }
    memory: { dumpable: true }

    """

@Suite struct SettingsTests {
    @Test("every option reaches its setting")
    func everyOption() throws {
        var expected = Settings()
        expected.socket.path = "unix:///run/other.sock"
        expected.socket.mode = 0o660
        expected.socket.owner = .name("root")
        expected.socket.group = .number(42)
        expected.socket.maxConnections = 3
        expected.socket.handshakeTimeout = .milliseconds(1500)
        expected.allow.uids = [.number(1000), .name("kube")]
        expected.allow.gids = [.number(7)]
        expected.api.v2Version = .v2
        expected.clusterContext = "Zürich \"a\""
        expected.stateDirectory = "/s"
        var primary = Settings.Key(name: "primary", provider: .local(Settings.LocalProvider(file: "/etc/k")))
        primary.suite = .sm4CTRHMACSM3
        primary.epoch = 2
        primary.acceptIdentities = ["AAAAAAAAAAAAAAAAAAAAAA", "-_AAAAAAAAAAAAAAAAAAAw"]
        primary.adoptKeyIDs = ["1", "arn:aws:kms:x"]
        primary.rideThrough = .seconds(172_800)
        primary.authGrace = .zero
        primary.onForbidden = .wipe
        primary.localKEK.maxAge = .seconds(5400)
        primary.localKEK.maxUses = 5
        expected.keys = [
            primary, Settings.Key(name: "old-1", provider: .local(Settings.LocalProvider(file: "/etc/l"))),
        ]
        expected.rotation.observeEvery = .seconds(60)
        expected.rotation.settle = .zero
        expected.limits.callsInFlight = 9
        expected.limits.drain = .seconds(120)
        expected.cache.entries = 0
        expected.metrics.listen = Settings.ListenAddress(host: "::1", port: 80)
        expected.log.level = .trace
        expected.log.format = .json
        expected.memory.dumpable = true
        #expect(try settings(everything) == expected)
    }

    @Test("the least file is the defaults with its key")
    func leastFile() throws {
        var expected = Settings()
        expected.keys = [Settings.Key(name: "a", provider: .local(Settings.LocalProvider(file: "/k")))]
        #expect(try settings("keys: [{ name: a, local: { file: /k } }]") == expected)
    }

    @Test(
        "JSON, byte order marks, CRLF, a document marker and blocks with nothing in them are accepted",
        arguments: [
            #"{"keys": [{"name": "a", "local": {"file": "\/k"}}]}"#,
            "{\n\t\"keys\": [\n\t\t{\"name\": \"a\", \"local\": {\"file\": \"/k\"}}\n\t]\n}\n",
            "\u{FEFF}keys: [{ name: a, local: { file: /k } }]\n",
            "%YAML 1.1\n---\nkeys:\r\n- name: a\r\n  local:\r\n    file: /k\r\n...\n",
            "socket:\n#  path: /x\nlog:\nkeys: [{ name: a, local: { file: /k }, local_kek: }]\n",
        ])
    func accepted(_ yaml: String) throws {
        #expect(try settings(yaml) == settings("keys: [{ name: a, local: { file: /k } }]"))
    }

    @Test("the metrics endpoint can be off, quoted or not", arguments: ["off", "\"off\""])
    func metricsOff(_ word: String) throws {
        let settings = try settings("keys: [{ name: a, local: { file: /k } }]\nmetrics: { listen: \(word) }")
        #expect(settings.metrics.listen == nil)
    }

    @Test(
        "modes are octal however they are spelt",
        arguments: ["\"0640\"", "0640", "0o640", "\"0o640\"", "00640"])
    func modes(_ mode: String) throws {
        let settings = try settings("keys: [{ name: a, local: { file: /k } }]\nsocket: { mode: \(mode) }")
        #expect(settings.socket.mode == 0o640)
    }

    @Test("an abstract socket with an allow list is accepted")
    func abstractSocket() throws {
        let settings = try settings(
            "keys: [{ name: a, local: { file: /k } }]\nsocket: { path: \"@kms\" }\nallow: { gids: [kube] }")
        #expect(settings.socket.isAbstract)
    }

    @Test("later stages can name the line of an option, and of none that is a default")
    func positions() throws {
        let settings = try settings(everything)
        #expect(settings.position(of: "keys[1].local.file")?.description == "f:25:13")
        #expect(settings.position(of: "allow.uids[1]")?.description == "f:8:23")
        #expect(Settings().position(of: "log.level") == nil)
    }

    @Test("development settings stay below their directory")
    func development() {
        let settings = Settings.development(runDirectory: ".run/")
        #expect(settings.socket.path == ".run/kms.sock")
        #expect(settings.stateDirectory == ".run/state")
        #expect(settings.keys.map(\.provider) == [.local(Settings.LocalProvider(file: ".run/dev.keys"))])
        #expect(settings.metrics.listen == Settings.ListenAddress(host: "127.0.0.1", port: 9464))
    }
}

@Suite struct DurationTextTests {
    @Test(
        "durations are read",
        arguments: [
            ("90s", Duration.seconds(90)), ("10m", .seconds(600)), ("30d", .seconds(2_592_000)),
            ("1h30m", .seconds(5400)), ("1d1h1m1s1ms", .milliseconds(90_061_001)), ("0s", .zero),
            ("007s", .seconds(7)),
        ])
    func reads(_ text: String, _ duration: Duration) {
        #expect(DurationText.parse(text) == duration)
    }

    @Test(
        "what is no duration is refused",
        arguments: [
            "", "s", "90", "30m1h", "1m1m", "-1s", "+1s", "1 s", "1.5h", "1S", "9223372036854775807d", "1w",
            "１s", "1s ",
            "9223372036854775807ms1",
        ])
    func refuses(_ text: String) {
        #expect(DurationText.parse(text) == nil)
    }

    @Test(
        "durations are written in the largest unit that fits, and read back",
        arguments: [
            (Duration.seconds(90), "90s"), (.seconds(5400), "90m"), (.seconds(2_592_000), "30d"),
            (.zero, "0s"),
            (.milliseconds(1500), "1500ms"),
        ])
    func writes(_ duration: Duration, _ text: String) {
        #expect(DurationText.render(duration) == text)
        #expect(DurationText.parse(text) == duration)
    }
}

@Suite struct SpellingTests {
    @Test(
        "slips of the hand find their word",
        arguments: [
            ("pth", "path"), ("PATH", "path"), ("ptah", "path"), ("max-connections", "max_connections"),
            ("warn", "warning"),
        ])
    func near(_ word: String, _ right: String) {
        #expect(Spelling.nearest(to: word, among: ["mode", "max_connections", "warning", "path"]) == right)
    }

    @Test(
        "what resembles nothing is not corrected",
        arguments: ["", "zebra", String(repeating: "path", count: 20)])
    func far(_ word: String) {
        #expect(Spelling.nearest(to: word, among: ["mode", "path"]) == nil)
    }

    @Test(
        "distances count insertions, deletions, replacements and swaps",
        arguments: [
            ("", "", 0), ("abc", "", 3), ("", "abc", 3), ("abc", "abd", 1), ("abc", "acb", 1),
            ("kitten", "sitting", 3),
        ])
    func distances(_ one: String, _ other: String, _ distance: Int) {
        #expect(Spelling.distance(Array(one.utf8), Array(other.utf8)) == distance)
    }
}
