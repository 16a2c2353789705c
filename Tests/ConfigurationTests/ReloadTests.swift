import Testing

@testable import Configuration

@Suite struct ReloadTests {
    @Test("the same settings change nothing, wherever they stand in the file")
    func same() throws {
        let running = try settings(everything)
        let change = running.changing(to: try settings("\n\n" + everything))
        #expect(change == SettingsChange(settings: running))
    }

    @Test(
        "what is taken while the daemon runs is what the reference page lists; the rest waits and stays as it is"
    )
    func everyOption() throws {
        var running = Settings()
        running.keys = [Settings.Key(name: "k", provider: .local(Settings.LocalProvider(file: "/k")))]
        let change = running.changing(to: try settings(everything))
        let taken = ["allow.gids", "allow.uids", "cache.entries", "keys", "log.level"]
        #expect(change.taken.sorted() == taken)
        let rest = Schema.file.options.map(\.summary.path).filter { !taken.contains($0) }
        #expect(change.waiting == rest)

        var expected = running
        let new = try settings(everything)
        (expected.allow, expected.keys, expected.log.level) = (new.allow, new.keys, new.log.level)
        expected.cache = new.cache
        #expect(change.settings == expected)

        let page = ConfigurationReference.markdown()
        for option in taken { #expect(page.contains("`\(option)`")) }
        // What waits goes on waiting.
        #expect(change.settings.changing(to: new).waiting == rest)
        #expect(change.settings.changing(to: new).taken == [])
    }

    @Test(
        "any option of a key is a change of `keys`",
        arguments: [
            { @Sendable in $0.keys[0].epoch = 3 }, { @Sendable in $0.keys.swapAt(0, 1) },
            { @Sendable in $0.keys.removeLast() }, { @Sendable in $0.keys[1].local.file = "/m" },
        ] as [@Sendable (inout Settings) -> Void])
    func keys(_ change: @Sendable (inout Settings) -> Void) throws {
        let running = try settings(everything)
        var new = running
        change(&new)
        #expect(running.changing(to: new) == SettingsChange(settings: new, taken: ["keys"]))
    }

    @Test("new credentials in the file are a change of `keys`")
    func secrets() throws {
        func file(_ secret: String) throws -> Settings {
            try settings(
                """
                keys:
                  - name: k
                    jdcloud:
                      key_id: x
                      endpoint: kms.cn-north-1.jdcloud-api.com
                      credentials: { source: config, access_key: AK, secret_key: \(secret) }
                """)
        }
        #expect(try file("one").changing(to: file("one")).taken == [])
        #expect(try file("one").changing(to: file("two")).taken == ["keys"])
    }
}
