import Testing

@testable import Configuration

/// One broken file and exactly the lines it must earn; `FILE:` is left out of each line.
struct Mistake: Sendable, CustomTestStringConvertible {
    var title: String
    var yaml: String
    var lines: [String]

    init(_ title: String, _ yaml: String, _ lines: String...) {
        self.title = title
        self.yaml = yaml
        self.lines = lines
    }

    var testDescription: String { title }
}

/// A correct key, for files whose mistake is elsewhere; it takes one line.
private let key = "keys: [{ name: primary, local: { file: /k } }]\n"

@Suite struct MistakeTests {
    @Test("every kind of mistake is reported with its place, the reason and the remedy", arguments: mistakes)
    func mistake(_ mistake: Mistake) {
        let (settings, diagnostics) = Settings.parse(bytes: Array(mistake.yaml.utf8), name: "f")
        #expect(diagnostics.map(\.description) == mistake.lines.map { "f:\($0)" })
        #expect((settings == nil) == mistake.lines.contains { $0.contains(": error: ") })
    }

    static let mistakes =
        unknown + types + values + missing + crossed + syntax + refused + warnings + together

    static let unknown: [Mistake] = [
        Mistake(
            "a misspelt option", key + "socket:\n  pth: /run/x\n",
            "3:3: error: socket.pth: unknown option; did you mean path?"),
        Mistake(
            "a misspelt block", key + "sockets: {}\n",
            "2:1: error: sockets: unknown option; did you mean socket?"),
        Mistake(
            "camel case and hyphens", key + "socket:\n  maxConnections: 1\n  handshake-timeout: 1s\n",
            "3:3: error: socket.maxConnections: unknown option; did you mean max_connections?",
            "4:3: error: socket.\"handshake-timeout\": unknown option; did you mean handshake_timeout?"),
        Mistake(
            "an option in the wrong block", key + "max_connections: 5\n",
            "2:1: error: max_connections: unknown option here; it belongs into socket"),
        Mistake(
            "a top-level option inside a block", key + "log:\n  cluster_context: x\n",
            "3:3: error: log.cluster_context: unknown option here; it belongs into the file's top level"),
        Mistake(
            "an option like no other", key + "log:\n  sprinkles: 7\n",
            "3:3: error: log.sprinkles: unknown option; log takes level, format"),
        Mistake(
            "a top-level option like no other", key + "zzzzzz: 7\n",
            "2:1: error: zzzzzz: unknown option; the top level takes socket, allow, api, cluster_context, "
                + "state_directory, keys, rotation, limits, cache, metrics, log, memory"),
        Mistake(
            "an unknown provider", "keys:\n  - name: a\n    vault:\n      mount: transit\n",
            "3:5: error: keys[0].vault: unknown provider block; this version has local, jdcloud"),
        Mistake(
            "a misspelt provider", "keys:\n  - name: a\n    locl: { file: /k }\n",
            "3:5: error: keys[0].locl: unknown option; did you mean local?"),
        Mistake(
            "an option of a provider", "keys:\n  - name: a\n    local: { file: /k, pin: 1 }\n",
            "3:24: error: keys[0].local.pin: unknown option; keys[0].local takes file"),
        Mistake(
            "a name with a line break and quotes", key + "\"a\\n\\\"b\": 1\n",
            #"2:1: error: "a\u{a}\"b": unknown option; the top level takes socket, allow, api, cluster_context, "#
                + "state_directory, keys, rotation, limits, cache, metrics, log, memory"),
    ]

    static let types: [Mistake] = [
        Mistake(
            "text for a number", key + "limits:\n  calls_in_flight: many\n",
            "3:20: error: limits.calls_in_flight: expected an integer from 1 to 65536, found \"many\""),
        Mistake(
            "a quoted number", key + "limits:\n  calls_in_flight: \"7\"\n",
            "3:20: error: limits.calls_in_flight: expected an integer from 1 to 65536, found \"7\"; "
                + "write it without quotes"),
        Mistake(
            "a fraction", key + "limits: { calls_in_flight: 1.5 }\n",
            "2:28: error: limits.calls_in_flight: expected an integer from 1 to 65536, found 1.5"),
        Mistake(
            "leading zeros", key + "limits: { calls_in_flight: 010 }\n",
            "2:28: error: limits.calls_in_flight: expected an integer from 1 to 65536, found 010; "
                + "write it without leading zeros"),
        Mistake(
            "a number for text", key + "cluster_context: 0123\n",
            "2:18: error: cluster_context: expected text of 0 to 255 bytes, found 0123; "
                + "put it in quotes if it is meant as text"),
        Mistake(
            "nothing for text", key + "cluster_context:\nstate_directory:\n",
            "2:17: error: cluster_context: expected text of 0 to 255 bytes, found nothing; write \"\" for an empty text",
            "3:17: error: state_directory: expected a path of 1 to 4095 bytes, found nothing"),
        Mistake(
            "a word for a truth value", key + "memory:\n  dumpable: no\n",
            "3:13: error: memory.dumpable: expected true or false, found \"no\"; write false"),
        Mistake(
            "a misspelt truth value", key + "memory:\n  dumpable: flase\n",
            "3:13: error: memory.dumpable: expected true or false, found \"flase\"; write false"),
        Mistake(
            "a list for a value", key + "log:\n  level: [info]\n",
            "3:10: error: log.level: expected one of trace, debug, info, notice, warning, error, critical, found a list"
        ),
        Mistake(
            "a block for a value", key + "cluster_context:\n  name: x\n",
            "3:3: error: cluster_context: expected text of 0 to 255 bytes, found a block of options"),
        Mistake(
            "a value for a block", key + "socket: /run/kms.sock\n",
            "2:9: error: socket: expected NAME: VALUE lines, found a single value; this block takes path, mode, "
                + "owner, group, max_connections, handshake_timeout"),
        Mistake(
            "a value for a list", key + "allow:\n  uids: 1000\n",
            "3:9: error: allow.uids: expected a list of at most 256 users, found 1000; "
                + "put it in brackets, as in [VALUE]"),
        Mistake(
            "nothing for a list", key + "allow:\n  uids:\n",
            "3:8: error: allow.uids: expected a list of at most 256 users, found nothing; write [] for an empty list"
        ),
        Mistake(
            "a block for the list of keys", "keys:\n  name: a\n",
            "2:3: error: keys: expected a list of 1 to 64 blocks, found a block of options; begin each block with \"- \""
        ),
        Mistake(
            "text for a key", "keys: [primary]\n",
            "1:8: error: keys[0]: expected NAME: VALUE lines, found a single value; this block takes name, suite, epoch, "
                + "accept_identities, adopt_key_ids, ride_through, auth_grace, on_forbidden, write_format, accept_formats, local_kek, "
                + "price_per_million_calls, local, "
                + "jdcloud",
        ),
        Mistake(
            "text for the whole file", "hello\n",
            "1:1: error: expected NAME: VALUE lines, found a single value; the file takes socket, allow, api, "
                + "cluster_context, state_directory, keys, rotation, limits, cache, metrics, log, memory"),
    ]

    static let values: [Mistake] = [
        Mistake(
            "bounds beyond what is safe",
            "keys: [{ name: a, ride_through: 8d, auth_grace: 25h, local: { file: /k } }]\n",
            "1:33: error: keys[0].ride_through: expected a duration from 0s to 7d, found \"8d\"",
            "1:49: error: keys[0].auth_grace: expected a duration from 0s to 1d, found \"25h\""),
        Mistake(
            "a number out of range", key + "socket: { max_connections: 0 }\n",
            "2:28: error: socket.max_connections: expected an integer from 1 to 65536, found 0"),
        Mistake(
            "a number beyond 64 bits", key + "socket: { max_connections: 99999999999999999999 }\n",
            "2:28: error: socket.max_connections: expected an integer from 1 to 65536, found 99999999999999999999"
        ),
        Mistake(
            "a negative epoch", "keys: [{ name: a, epoch: -1, local: { file: /k } }]\n",
            "1:26: error: keys[0].epoch: expected an integer from 0 to 4294967295, found -1"),
        Mistake(
            "a word that is not allowed", key + "log:\n  level: warn\n",
            "3:10: error: log.level: expected one of trace, debug, info, notice, warning, error, critical, "
                + "found \"warn\"; did you mean warning?"),
        Mistake(
            "a word like none that is allowed", key + "log: { format: xml }\n",
            "2:16: error: log.format: expected one of auto, text, json, journal, found \"xml\""),
        Mistake(
            "an unknown API version", key + "api: { v2_version: v2beta2 }\n",
            "2:20: error: api.v2_version: expected v2 or v2beta1, found \"v2beta2\"; did you mean v2beta1?"),
        Mistake(
            "an unknown suite", "keys: [{ name: a, suite: AES256-GCM, local: { file: /k } }]\n",
            "1:26: error: keys[0].suite: expected one of aes-256-gcm, sm4-ctr-hmac-sm3, sm4-gcm, found \"AES256-GCM\"; "
                + "did you mean aes-256-gcm?"),
        Mistake(
            "a duration without a unit", key + "rotation: { settle: 90 }\n",
            "2:21: error: rotation.settle: expected a duration from 0s to 1d, found 90; "
                + "add a unit (d, h, m, s, ms), as in 90s"),
        Mistake(
            "a duration with a fraction", key + "rotation: { settle: 1.5m }\n",
            "2:21: error: rotation.settle: expected a duration from 0s to 1d, found \"1.5m\"; "
                + "write whole numbers with units (d, h, m, s, ms), largest first, as in 90s or 1h30m"),
        Mistake(
            "a handshake timeout of nothing", key + "socket: { handshake_timeout: 0s }\n",
            "2:30: error: socket.handshake_timeout: expected a duration from 1ms to 10m, found \"0s\""),
        Mistake(
            "a world-writable socket", key + "socket: { mode: \"0666\" }\n",
            "2:17: error: socket.mode: expected an octal mode such as \"0600\" or \"0660\", never world-writable, "
                + "found \"0666\"; any user of this machine could use the keys; set socket.group or allow.uids instead"
        ),
        Mistake(
            "a mode without a leading zero", key + "socket: { mode: 600 }\n",
            "2:17: error: socket.mode: expected an octal mode such as \"0600\" or \"0660\", never world-writable, "
                + "found 600; begin it with 0, as in \"0600\""),
        Mistake(
            "a mode with other digits and with other bits", key + "socket: { mode: 0690 }\n",
            "2:17: error: socket.mode: expected an octal mode such as \"0600\" or \"0660\", never world-writable, "
                + "found 0690; octal digits are 0 to 7"),
        Mistake(
            "a mode with set-uid", key + "socket: { mode: \"04600\" }\n",
            "2:17: error: socket.mode: expected an octal mode such as \"0600\" or \"0660\", never world-writable, "
                + "found \"04600\"; only permission bits can be set"),
        Mistake(
            "a mode in letters", key + "socket: { mode: rw------- }\n",
            "2:17: error: socket.mode: expected an octal mode such as \"0600\" or \"0660\", never world-writable, "
                + "found \"rw-------\""),
        Mistake(
            "a host in a socket address", key + "socket: { path: unix://host/run/p }\n",
            "2:17: error: socket.path: expected a path, unix:///PATH or \"@NAME\", of 1 to 107 bytes, "
                + "found \"unix://host/run/p\"; unix:// is followed by a host, and a UNIX socket has none; "
                + "write unix:///host/run/p"),
        Mistake(
            "no socket path", key + "socket: { path: \"\" }\n",
            "2:17: error: socket.path: expected a path, unix:///PATH or \"@NAME\", of 1 to 107 bytes, found \"\"; "
                + "it has 0 bytes"),
        Mistake(
            "a socket path too long", key + "socket: { path: /\(String(repeating: "p", count: 107)) }\n",
            "2:17: error: socket.path: expected a path, unix:///PATH or \"@NAME\", of 1 to 107 bytes, "
                + "found \"/\(String(repeating: "p", count: 59))…\"; it has 108 bytes"),
        Mistake(
            "impossible users", key + "allow:\n  uids: [-1, 4294967295, \"a b\", 1x, true, kube]\n",
            "3:10: error: allow.uids[0]: expected a user name, or a number from 0 to 4294967294, found -1",
            "3:14: error: allow.uids[1]: expected a user name, or a number from 0 to 4294967294, found 4294967295",
            "3:26: error: allow.uids[2]: expected a user name, or a number from 0 to 4294967294, found \"a b\"",
            "3:33: error: allow.uids[3]: expected a user name, or a number from 0 to 4294967294, found \"1x\"",
            "3:37: error: allow.uids[4]: expected a user name, or a number from 0 to 4294967294, found true"),
        Mistake(
            "a key file of nobody knows which directory", "keys: [{ name: a, local: { file: k } }]\n",
            "1:34: error: keys[0].local.file: \"k\" is relative; write an absolute path"),
        Mistake(
            "a key name with capitals", "keys: [{ name: Primary, local: { file: /k } }]\n",
            "1:16: error: keys[0].name: expected 1 to 63 of a-z, 0-9 and -, found \"Primary\""),
        Mistake(
            "identities of the wrong shape",
            "keys:\n  - name: a\n    local: { file: /k }\n    accept_identities:\n"
                + "      - AAAA\n      - AAAAAAAAAAAAAAAAAAAAA+\n      - AAAAAAAAAAAAAAAAAAAAAB\n"
                + "      - kw1.AAAAAAAAAAAAAAAAAAAAAA.0.x\n",
            "5:9: error: keys[0].accept_identities[0]: expected 22 base64url characters, found \"AAAA\"; it has 4 bytes",
            "6:9: error: keys[0].accept_identities[1]: expected 22 base64url characters, "
                + "found \"AAAAAAAAAAAAAAAAAAAAA+\"",
            "7:9: error: keys[0].accept_identities[2]: expected 22 base64url characters, "
                + "found \"AAAAAAAAAAAAAAAAAAAAAB\"; an identity ends in A, Q, g or w",
            "8:9: error: keys[0].accept_identities[3]: expected 22 base64url characters, "
                + "found \"kw1.AAAAAAAAAAAAAAAAAAAAAA.0.x\"; give only the part between the first two dots; "
                + "whole key ids belong into adopt_key_ids"),
        Mistake(
            "a context too long, counted in bytes",
            key + "cluster_context: \"\(String(repeating: "é", count: 128))\"\n",
            "2:18: error: cluster_context: expected text of 0 to 255 bytes, "
                + "found \"\(String(repeating: "é", count: 60))…\"; it has 256 bytes"),
        Mistake(
            "a control character", key + "cluster_context: \"a\\0b\"\n",
            "2:18: error: cluster_context: expected text of 0 to 255 bytes, found \"a\\u{0}b\"; "
                + "control characters are not allowed"),
        Mistake(
            "metrics by name", key + "metrics: { listen: \"localhost:9464\" }\n",
            listen(20, "\"localhost:9464\"")
                + "; names are not looked up; write \"127.0.0.1:9464\""),
        Mistake(
            "metrics by port", key + "metrics: { listen: \":9464\" }\n",
            listen(20, "\":9464\"")
                + "; write \"0.0.0.0:9464\" for every IPv4 address"),
        Mistake(
            "metrics without brackets", key + "metrics: { listen: \"::1:9464\" }\n",
            listen(20, "\"::1:9464\"")
                + "; write \"[::1]:9464\""),
        Mistake(
            "metrics without a port", key + "metrics: { listen: 127.0.0.1 }\n", listen(20, "\"127.0.0.1\"")),
        Mistake(
            "metrics with an impossible port", key + "metrics: { listen: \"127.0.0.1:65536\" }\n",
            listen(20, "\"127.0.0.1:65536\"") + "; the port is a number from 0 to 65535"),
        Mistake(
            "metrics with an impossible address", key + "metrics: { listen: \"127.0.0.256:1\" }\n",
            listen(20, "\"127.0.0.256:1\"") + "; names are not looked up"),
        Mistake(
            "metrics false", key + "metrics: { listen: false }\n",
            listen(20, "false") + "; write \"off\" with the quotes"),
    ]

    private static func listen(_ column: Int, _ found: String) -> String {
        "2:\(column): error: metrics.listen: expected a literal IP address with a port, as in \"127.0.0.1:9464\" or "
            + "\"[::1]:9464\", or \"off\", found \(found)"
    }

    static let missing: [Mistake] = [
        Mistake(
            "a misspelt option that is required", "kesy: []\n",
            "1:1: error: kesy: unknown option; did you mean keys?"),
        Mistake("an empty file", "", "1:1: error: keys: missing; expected a list of 1 to 64 blocks"),
        Mistake(
            "a file of comments", "# nothing\n",
            "1:1: error: keys: missing; expected a list of 1 to 64 blocks"),
        Mistake("no keys", "keys: []\n", "1:7: error: keys: expected a list of 1 to 64 blocks, found 0"),
        Mistake(
            "a key without a name and a provider", "keys:\n  - suite: aes-256-gcm\n",
            "2:5: error: keys[0].name: missing; expected 1 to 63 of a-z, 0-9 and -",
            "2:5: error: keys[0]: no provider block; give exactly one of local, jdcloud"),
        Mistake(
            "a provider without its file", "keys:\n  - name: a\n    local:\n",
            "3:5: error: keys[0].local.file: missing; expected a path of 1 to 4095 bytes"),
    ]

    static let crossed: [Mistake] = [
        Mistake(
            "two keys of one name",
            "keys:\n  - { name: a, local: { file: /k } }\n  - { name: a, local: { file: /l } }\n",
            "3:13: error: keys[1].name: \"a\" is already keys[0].name; give each key a name of its own"),
        Mistake(
            "two keys with one file",
            "keys:\n  - { name: a, local: { file: /k } }\n  - { name: b, local: { file: /k } }\n",
            "3:31: error: keys[1].local.file: \"/k\" is already keys[0].local.file; two keys cannot be one key file"
        ),
        Mistake(
            "two keys that adopt one id",
            "keys:\n  - { name: a, local: { file: /k }, adopt_key_ids: [x] }\n"
                + "  - { name: b, local: { file: /l }, adopt_key_ids: [y, x] }\n",
            "3:56: error: keys[1].adopt_key_ids[1]: \"x\" is already keys[0].adopt_key_ids[0]; "
                + "only one key can open its ciphertexts"),
        Mistake(
            "an abstract socket that anybody could use", key + "socket: { path: \"@kms\" }\n",
            "2:17: error: socket.path: an abstract socket has no file permissions; "
                + "list who may connect in allow.uids or allow.gids"),
        Mistake(
            "an abstract socket written as an endpoint", key + "socket: { path: \"unix:///@kms\" }\n",
            "2:17: error: socket.path: an abstract socket has no file permissions; "
                + "list who may connect in allow.uids or allow.gids"),
        Mistake(
            "an abstract socket that is owned",
            key + "socket: { path: \"@kms\", group: kube }\nallow: { uids: [7] }\n",
            "2:32: error: socket.group: an abstract socket has no file to own; remove this option"),
        Mistake(
            "a broken allow list is not also an empty one",
            key + "socket: { path: \"@kms\" }\nallow: { uids: [a b] }\n",
            "3:17: error: allow.uids[0]: expected a user name, or a number from 0 to 4294967294, found \"a b\""
        ),
    ]

    static let syntax: [Mistake] = [
        Mistake(
            "a quote that is not closed", key + "cluster_context: \"abc\n",
            "2:18: error: a quote that is opened here is not closed"),
        Mistake(
            "a bracket that is not closed", key + "allow: { uids: [1, 2 }\n",
            "2:22: error: expected \",\" or \"]\" here; the \"[\" at 2:16 is not closed"),
        Mistake(
            "a brace that is not closed", "keys: [{ name: a, local: { file: /k }\n",
            "2:1: error: expected \",\" or \"}\" here; the \"{\" at 1:8 is not closed"),
        Mistake("a tab", "#é\nkeys:\n\t- name: a\n", "3:1: error: a tab; indent with spaces"),
        Mistake(
            "a value that begins with @", key + "socket:\n  path: @kms\n",
            "3:9: error: a value cannot start with this character; put the value in quotes"),
        Mistake(
            "a colon in a value", key + "cluster_context: a: b\n",
            "2:19: error: \":\" cannot stand here; check the indentation, "
                + "or put a value that contains \": \" in quotes"),
        Mistake(
            "a line without a colon", "log:\n  level info\n" + key,
            "2:3: error: log: expected NAME: VALUE lines, found a single value; this block takes level, format"
        ),
        Mistake(
            "a last line without a colon", key + "log\n",
            "2:1: error: expected NAME: VALUE, but there is no \":\" in this line"),
        Mistake(
            "a wrong indentation", "log:\n  level: info\n format: text\n",
            "3:2: error: expected NAME: VALUE here; the indentation does not match the lines above"),
        Mistake(
            "a wrong escape", key + "state_directory: \"C:\\kms\"\n",
            "2:21: error: an unknown escape in double quotes; write \\\\ for a backslash"),
        Mistake(
            "a control character outside quotes", key + "log: \u{1}\n",
            "2:6: error: a control character; remove it, or write it as an escape in double quotes"),
    ]

    static let refused: [Mistake] = [
        Mistake(
            "an option given twice", key + "log: { level: info }\nlog: { level: debug }\n",
            "3:1: error: \"log\" is given twice, first in line 2; keep one"),
        Mistake(
            "an anchor and its alias", key + "cluster_context: &a x\nstate_directory: *a\n",
            "2:18: error: anchors (&name) are not supported; write the value where it is needed",
            "3:18: error: aliases (*name) are not supported; write the value out"),
        Mistake(
            "a tag", key + "cluster_context: !!str 7\n",
            "2:18: error: tags (!name) are not supported; remove it, and quote the value if it is text",
            "2:18: error: cluster_context: expected text of 0 to 255 bytes, found 7; "
                + "put it in quotes if it is meant as text"),
        Mistake(
            "a tag directive", "%TAG !e! tag:example.com,2000:\n---\n" + key,
            "1:1: error: %TAG is not supported; remove the line"),
        Mistake(
            "a second document", key + "---\n" + key,
            "2:1: error: a second document; a configuration is one document"),
        Mistake(
            "a name that is a list", key + "? [a]\n: b\n",
            "2:3: error: the name of an option must be text, found a list"),
    ]

    static let warnings: [Mistake] = [
        Mistake(
            "metrics for everybody", key + "metrics: { listen: \"[::]:0\" }\n",
            "2:20: warning: metrics.listen: :: is reachable from other machines, "
                + "and metrics are served without authentication",
            "2:20: warning: metrics.listen: port 0 is another port after every start"),
        Mistake(
            "a group that the mode keeps out", key + "socket: { group: kube, mode: \"0640\" }\n",
            "2:18: warning: socket.group: members cannot connect while socket.mode lets only the owner write; "
                + "write mode: \"0660\""),
        Mistake(
            "a bound that is looked at too seldom",
            "keys: [{ name: a, auth_grace: 10s, local: { file: /k } }]\n",
            "1:31: warning: keys[0].auth_grace: 10s is less than rotation.observe_every (30s), "
                + "so writes stop at the first or second failed observation"),
        Mistake(
            "an observation less often than the default bound", key + "rotation: { observe_every: 20m }\n",
            "2:28: warning: keys[0].auth_grace: 15m is less than rotation.observe_every (20m), "
                + "so writes stop at the first or second failed observation"),
        Mistake(
            "dumpable memory", key + "memory: { dumpable: true }\n",
            "2:21: warning: memory.dumpable: core dumps and debuggers can see the keys"),
        Mistake(
            "a user given twice", key + "socket: { mode: \"0660\" }\nallow: { uids: [7, 8, \"7\"] }\n",
            "3:23: warning: allow.uids[2]: given twice; once is enough"),
        Mistake(
            "users who are allowed but cannot connect", key + "allow: { uids: [7] }\n",
            "2:16: warning: allow.uids: they cannot connect while socket.mode lets only the owner write; "
                + "write mode: \"0660\" and a group, as the packaged socket unit has them"),
    ]

    static let together: [Mistake] = [
        Mistake(
            "all mistakes of a file at once, in its order",
            """
            metrics: { listen: "0.0.0.0:1" }
            log:
              level: verbose
              level: info
            socket:
              mode: "0777"
              colour: red
            keys:
              - name: A
                suite: rot13
              - local: { file: "" }

            """,
            "1:20: warning: metrics.listen: 0.0.0.0 is reachable from other machines, "
                + "and metrics are served without authentication",
            "3:10: error: log.level: expected one of trace, debug, info, notice, warning, error, critical, "
                + "found \"verbose\"",
            "4:3: error: \"level\" is given twice, first in line 3; keep one",
            "6:9: error: socket.mode: expected an octal mode such as \"0600\" or \"0660\", never world-writable, "
                + "found \"0777\"; any user of this machine could use the keys; set socket.group or allow.uids instead",
            "7:3: error: socket.colour: unknown option; socket takes path, mode, owner, group, max_connections, "
                + "handshake_timeout",
            "9:5: error: keys[0]: no provider block; give exactly one of local, jdcloud",
            "9:11: error: keys[0].name: expected 1 to 63 of a-z, 0-9 and -, found \"A\"",
            "10:12: error: keys[0].suite: expected one of aes-256-gcm, sm4-ctr-hmac-sm3, sm4-gcm, found \"rot13\"",
            "11:5: error: keys[1].name: missing; expected 1 to 63 of a-z, 0-9 and -",
            "11:20: error: keys[1].local.file: expected a path of 1 to 4095 bytes, found \"\"; it has 0 bytes"
        )
    ]
}
