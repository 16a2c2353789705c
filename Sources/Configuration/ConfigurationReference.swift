/// The reference page of the configuration file, made from the schema.
public enum ConfigurationReference {
    /// The page as it is committed in `docs/configuration.md` and printed by `kmsward config reference`.
    public static func markdown() -> String {
        let sections = Schema.sections.map { section in
            let heading = section.path.isEmpty ? "Top level" : "`\(section.path)`"
            let rows = options.filter { $0.section == section.path }.map { row($0) }
            return """
                ### \(heading)

                \(section.text)

                | Option | Type and allowed values | Default | Since | Meaning |
                |---|---|---|---|---|
                \(rows.joined(separator: "\n"))

                """
        }
        return introduction + "\n" + reloading + "\n## Options\n\n" + sections.joined(separator: "\n") + "\n"
            + epilogue
    }

    /// Every option with its whole path, blocks of a list flattened: `keys[].name`.
    static var options: [OptionSummary] {
        Schema.file.options.map(\.summary).flatMap { option in
            let inner = option.entryOptions.map { inner in
                var inner = inner
                inner.path = "\(option.path)[].\(inner.path)"
                return inner
            }
            return [option] + inner
        }
    }

    private static func row(_ option: OptionSummary) -> String {
        let value = option.isRequired ? "**required**" : option.defaultText.map { "`\($0)`" } ?? "not set"
        let secret = option.isSecret ? " Secret: shown by no message and not by `config print`." : ""
        let cells = ["`\(option.path)`", option.expected, value, option.since, option.text + secret]
        return "| \(cells.map { escaped($0) }.joined(separator: " | ")) |"
    }

    private static func escaped(_ cell: String) -> String {
        cell.split(separator: "|", omittingEmptySubsequences: false).joined(separator: "\\|")
    }

    private static let introduction = """
        # Configuration

        <!-- Made by `kmsward config reference` from the schema in Sources/Configuration; do not edit by hand. -->

        Kmsward reads one YAML file: `kmsward serve --config FILE`. JSON is a subset of YAML and works as well. A
        commented file with every option is `ops/kmsward.yaml`. The least that works:

        ```yaml
        keys:
          - name: primary
            local: { file: /etc/kmsward/local.keys }
        ```

        ## Where a value comes from

        Later beats earlier:

        1. the built-in default, as listed below;
        2. the file;
        3. a command-line flag, where there is one. `--dev` takes the place of a file: it uses the defaults with the
           socket, one key file and the state directory below `--run-dir`.

        Environment variables are read only where an option says so: for a proxy, and for JD Cloud credentials. `kmsward
        config print FILE` shows what comes out of it, with a comment at every value that is a default. Secrets are
        redacted there and in every message. The JSON file of JD Cloud's own plugin is taken as it is
        ([migrate-from-jdcloud-plugin.md](migrate-from-jdcloud-plugin.md)); `kmsward config convert FILE` prints what it
        means in the form described here.

        ## How the file is read

        - UTF-8, at most 1 MiB, one document, at most 16 levels deep and 10,000 values.
        - No anchors, aliases, merge keys or tags, and no name twice in one block.
        - Text that YAML would take for a number, a truth value or nothing (`123`, `true`, `null`) needs quotes, and so
          does a value that begins with `@`.
        - Truth values are `true` and `false`, and nothing else.
        - Durations are whole numbers with units, largest first: `90s`, `10m`, `1h30m`, `30d`; `ms` exists too.
        - Modes are octal and begin with 0: `"0660"`.
        - A block whose options are all commented out is a block of defaults.

        ## Errors

        `kmsward config check FILE` and `kmsward serve` report every mistake at once, one line each, in the order of
        the file:

        ```
        /etc/kmsward/kmsward.yaml:3:3: error: socket.mod: unknown option; did you mean mode?
        /etc/kmsward/kmsward.yaml:12:10: error: log.level: expected one of trace, debug, info, notice, warning, error, \
        critical, found "warn"; did you mean warning?
        /etc/kmsward/kmsward.yaml:15:11: warning: metrics.listen: 0.0.0.0 is reachable from other machines, and metrics \
        are served without authentication
        ```

        An error means that nothing is served (exit code 78); a warning does not. User and group names are looked up,
        and key files opened, only on the machine that serves, so a file can be checked anywhere.

        """

    private static var reloading: String {
        let taken = Schema.file.options.map(\.summary).filter(\.reloads).map { "`\($0.path)`" }
        let list = taken.dropLast().joined(separator: ", ") + " and " + (taken.last ?? "")
        return """
            ## Changes while it runs

            The daemon takes a changed file without a restart: at once when `kmsward reload` (as `systemctl reload kmsward` does)
            or SIGHUP asks for it, else when it has seen the same new content twice, two seconds apart, so that a half-written
            file is not taken. `kmsward reload` waits, and says what became of it. The daemon follows symbolic links, so files that
            Kubernetes or a configuration tool exchanges behind one are seen too. Taken are

            - \(list).

            Everything else is as it was until the next start; one warning names what waits for it. `keys` is taken as a whole:

            - A key whose block is the same goes on as it is, with its connections and all that is in memory, wherever in the
              list it stands.
            - Bounds (`ride_through`, `auth_grace`, `on_forbidden`, `local_kek`) and what is accepted (`accept_formats`,
              `accept_identities`, `adopt_key_ids`) change with the key as it is, in an outage too.
            - A new or otherwise changed key, and one that comes first now, must show within 20 s that it works: it answers, and the
              first one also wraps and unwraps. Then all are exchanged at once. No call fails: those under way end with the
              keys they began with.
            - A key that is not in the list any more is closed, and what it unwrapped is wiped. One that is changed, but still
              the same key (another endpoint, a moved file, other credentials), keeps what is in memory.
            - The first key's key_id is announced at once, and API servers take it for a rotation.

            A file that is wrong anywhere, or names a key that does not work, changes nothing at all. The reasons are logged,
            one line each, `kmsward_config_last_reload_successful` is 0, and the former configuration goes on. The file is not
            tried again before it changes: `kmsward reload` does that, for a file that is right and names what came later.

            A peer that `allow` admits no more is disconnected. Credential files of JD Cloud are no part of the file and need
            no SIGHUP: a change is seen by the next call. Should the service refuse the new credentials, or a file be empty or
            unreadable, the former ones go on, and a warning says why. Key files of `local` are read again when they change.

            """
    }

    private static let epilogue = """
        ## Beyond single options

        - Key names differ, no two keys name one key file, and no identity or key id is accepted by two keys.
        - Each key has exactly one provider block.
        - An abstract socket needs `allow.uids` or `allow.gids`, and has neither `owner` nor `group`.

        """
}
