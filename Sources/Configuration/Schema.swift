private import Glibc

/// Every option of the file, once: decoding, spelling checks, `config print` and the reference page come from here.
enum Schema {
    /// The options of the file.
    static let file = Table(
        blank: Settings(),
        [
            Option(
                "socket.path", \.socket.path, socketPath,
                """
                The socket that API servers connect to: a path, `unix:///PATH`, or `@NAME` (in quotes) for an abstract \
                socket, which has no file and therefore requires `allow.uids` or `allow.gids`.
                """),
            Option(
                "socket.mode", \.socket.mode, .socketMode,
                "The permission bits of the socket file. `\"0660\"` together with `socket.group` admits a group."
            ),
            Option(
                "socket.owner", \.socket.owner, .optional(.account("user")),
                "The owner of the socket file; the daemon's own user when left out."),
            Option(
                "socket.group", \.socket.group, .optional(.account("group")),
                "The group of the socket file; the daemon's own group when left out. Its members may connect."
            ),
            Option(
                "socket.max_connections", \.socket.maxConnections, .integer(1...65_536),
                "The most connections open at once; a further one takes the place of a silent one, or is closed."
            ),
            Option(
                "socket.handshake_timeout", \.socket.handshakeTimeout,
                .duration(.milliseconds(1)...(.seconds(600))),
                "How long a peer has to begin HTTP/2 before it is disconnected."),

            Option(
                "allow.uids", \.allow.uids, .list("users", of: .account("user"), atMost: 256), reloads: true,
                "Users that may connect. Uid 0 and the daemon's own uid always may."),
            Option(
                "allow.gids", \.allow.gids, .list("groups", of: .account("group"), atMost: 256),
                reloads: true,
                "Groups whose members may connect; supplementary groups count. The socket's group always may."
            ),

            Option(
                "api.v2_version", \.api.v2Version, .choice,
                """
                The version that the v2 Status call answers. `v2beta1` suits Kubernetes 1.27 and all later ones, `v2` needs \
                1.29. API servers pin the first value they see, so change it only together with their restart.
                """),
            Option(
                "cluster_context", \.clusterContext, .text("text of 0 to 255 bytes", bytes: 0...255),
                """
                Bound into every key_id and ciphertext, so that clusters sharing a key cannot read each other's objects. \
                The same on every replica, and never changed once objects are written.
                """),
            Option(
                "state_directory", \.stateDirectory, .path,
                """
                The directory of the key history (public data); `StateDirectory=` of systemd's unit when left out there. Losing \
                it costs time at the next start, not data.
                """),

            Option(
                "keys", \.keys, .blocks(of: key, atMost: 64), required: true, reloads: true,
                "The keys. The first encrypts; all decrypt."),

            Option(
                "rotation.observe_every", \.rotation.observeEvery, .duration(.seconds(1)...(.seconds(3600))),
                "How often the remote key's version is looked up."),
            Option(
                "rotation.settle", \.rotation.settle, .duration(.zero...(.seconds(86_400))),
                "How long a new version must have been seen before it is taken over."),

            Option(
                "limits.calls_in_flight", \.limits.callsInFlight, .integer(1...65_536),
                "The most calls served at once; further ones are refused at once with RESOURCE_EXHAUSTED."),
            Option(
                "limits.drain", \.limits.drain, .duration(.zero...(.seconds(600))),
                "How long calls in hand may finish at shutdown."),

            Option(
                "cache.entries", \.cache.entries, .integer(0...1_000_000), reloads: true,
                """
                The most unwrapped keys kept in memory, a few hundred bytes each. 0 keeps none: every Decrypt but those of \
                the local key-encryption key in use is a call to its service, and fails in an outage.
                """),

            Option(
                "metrics.listen", \.metrics.listen, listen,
                """
                Where Prometheus metrics and health checks are served, without authentication: a literal IP address and a \
                port, or `"off"`. Beyond loopback it earns a warning.
                """),

            Option(
                "log.level", \.log.level, .choice, reloads: true,
                "The least important level that is written. No level writes keys, plaintexts or tokens."),
            Option(
                "log.format", \.log.format, .choice,
                "`auto` is the journal under systemd and text otherwise."),

            Option(
                "memory.dumpable", \.memory.dumpable, .boolean,
                "Whether core dumps and debuggers may see the memory, keys included. For debugging only."),
        ])

    /// The options of one key.
    static let key = Table(
        blank: Settings.Key(name: "", provider: .local(Settings.LocalProvider(file: ""))),
        alternatives: Alternatives(
            noun: "provider",
            blocks: [
                Alternatives.Block(name: "local") { key in
                    switch key.provider {
                    case .local: true
                    case .jdcloud: false
                    }
                },
                Alternatives.Block(name: "jdcloud") { key in
                    switch key.provider {
                    case .local: false
                    case .jdcloud: true
                    }
                },
            ]),
        [
            Option(
                "name", \.name, keyName, required: true,
                "The name in metrics, logs and messages. No part of the ciphertext: it may be changed."),
            Option(
                "suite", \.suite, .choice,
                """
                The algorithms that this key encrypts with; each ciphertext says itself which ones open it. A suite that \
                the loaded OpenSSL lacks is refused at start.
                """),
            Option(
                "epoch", \.epoch, .integer(0...UInt64(UInt32.max)),
                """
                Part of the key_id. Raise it by one, on every replica, when a key goes back to a version it had before; \
                the daemon refuses to reuse a retired key_id and says so.
                """),
            Option(
                "accept_identities", \.acceptIdentities, .list("identities", of: identity, atMost: 256),
                """
                The second part (`F` in `kw1.F.E.V`) of key ids that this key also opens, for a key that was moved and \
                thereby changed its identity.
                """),
            Option(
                "adopt_key_ids", \.adoptKeyIDs, .list("key ids", of: keyID, atMost: 256),
                "Whole key ids, written by another plugin, that this key also opens."),
            Option(
                "ride_through", \.rideThrough, .duration(.zero...(.seconds(7 * 86_400))),
                """
                How long Encrypt and Status go on while the key's backend does not answer, counted from the last proof that \
                it decrypts; 0s stops at the first failed proof. With `write_format: compatible`, which cannot write \
                meanwhile, it is 2m when left out. What is in memory is read for a day, or for `ride_through` if that is longer.
                """),
            Option(
                "auth_grace", \.authGrace, .duration(.zero...(.seconds(86_400))),
                """
                The same while the backend refuses the daemon, or the key's set-up is wrong: a key file that is missing, \
                damaged or older than before.
                """),
            Option(
                "on_forbidden", \.onForbidden, .choice,
                """
                What becomes of what is in memory when `auth_grace` is over and the backend still says 401, 403 or 404: `keep` \
                reads it for a day, as in an outage, so that a mistake in its permissions is no outage of the cluster; `wipe` \
                lets go of it at once, so that taking the permission away ends all reading.
                """),
            Option(
                "write_format", \.writeFormat, .choice,
                """
                `envelope` seals here, so that writing goes on through an outage and costs no remote call; `compatible` \
                writes what the provider's own plugin writes, so that it can take over again.
                """),
            Option(
                "accept_formats", \.acceptFormats, .list("formats", of: .choice, atMost: 2),
                "Which ciphertexts are read; those of `write_format` alone when left empty."),
            Option(
                "local_kek.max_age", \.localKEK.maxAge, .duration(.seconds(60)...(.seconds(3650 * 86_400))),
                "The age at which a new local key-encryption key is made. Soft: a failed renewal never stops writes."
            ),
            Option(
                "local_kek.max_uses", \.localKEK.maxUses, .integer(1...(1 << 48)),
                "The number of encryptions after which a new one is made; soft as well."),
            Option(
                "price_per_million_calls", \.pricePerMillionCalls, .integer(0...1_000_000_000),
                """
                What a million calls to the key's service cost, in any currency: only for the metric \
                `kmsward_backend_call_price`, which makes a cost meter of the calls that are counted. 0: not told.
                """),
            Option(
                "local.file", \.local.file, .path, required: true,
                "The key file, made by `kmsward key init`. Readable by the daemon's user alone."),
        ] + jdcloud)

    /// The blocks in the order of the reference page, with a line on each.
    static let sections: [(path: String, text: String)] = [
        (
            "socket",
            """
            The socket that API servers connect to. Where systemd passes it on, as the packaged units do, its unit says path, \
            mode, owner and group.
            """
        ),
        (
            "allow",
            "Who may connect. The kernel says who a peer is; a peer not listed is disconnected before it can speak."
        ),
        ("api", "What is said to the API server."),
        ("", "Options at the top level of the file."),
        (
            "keys[]",
            "One block per key, each beginning with `- `. Exactly one provider block per key: `local` or `jdcloud`."
        ),
        (
            "keys[].local_kek",
            "The local key-encryption key: wrapped by the provider's key, it seals the objects."
        ),
        ("keys[].local", "Provider: a key file on this machine."),
        ("keys[].jdcloud", "Provider: a key of JD Cloud KMS."),
        ("keys[].jdcloud.credentials", "What requests to JD Cloud are signed with."),
        ("keys[].jdcloud.credentials.role", "A role that is assumed with them."),
        ("rotation", "When a changed key is noticed and taken over."),
        ("limits", "Bounds of the work in hand."),
        ("cache", "What is kept of what the keys' services unwrapped."),
        ("metrics", "The endpoint for Prometheus and health checks."),
        ("log", "The log, on standard error or in the journal."),
        ("memory", "The process's memory."),
    ]
}

// MARK: - Kinds that only this file format has

extension Schema {
    static let socketPath = Kind<String>.text(
        "a path, unix:///PATH or \"@NAME\", of 1 to 107 bytes", bytes: 1...4096
    ) { text throws(Refusal) in
        var socket = Settings.Socket()
        socket.path = text
        guard socket.name.hasPrefix("/") || !text.hasPrefix("unix://") else {
            throw Refusal(
                "unix:// is followed by a host, and a UNIX socket has none; write unix:///\(socket.name)")
        }
        guard socket.name.utf8.count <= 107 else { throw Refusal("it has \(socket.name.utf8.count) bytes") }
    }

    private static let keyName = Kind<String>.text("1 to 63 of a-z, 0-9 and -", bytes: 1...63) {
        text throws(Refusal) in
        let isName = text.utf8.allSatisfy {
            $0.isASCIILowercase || $0.isASCIIDigit || $0 == UInt8(ascii: "-")
        }
        guard isName else { throw Refusal() }
    }

    private static let identity = Kind<String>.text(
        "22 base64url characters", bytes: 22...22
    ) { text throws(Refusal) in
        let isBase64 = text.utf8.allSatisfy {
            $0.isASCIILetter || $0.isASCIIDigit || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_")
        }
        if text.hasPrefix("kw1.") {
            throw Refusal(
                "give only the part between the first two dots; whole key ids belong into adopt_key_ids")
        }
        guard isBase64 else { throw Refusal() }
        // 16 bytes fill 21 characters and 2 bits: any other ending encodes no identity.
        guard text.utf8.count != 22 || "AQgw".utf8.contains(text.utf8.last ?? 0) else {
            throw Refusal("an identity ends in A, Q, g or w")
        }
    }

    private static let keyID = Kind<String>.text("text of 1 to 1024 bytes", bytes: 1...1024)

    private static let listen = Kind<Settings.ListenAddress?>(
        expected: listenScalar.expected,
        read: { node, path, pass in
            if case .scalar(let scalar) = node.content, scalar.text == "off" { return .some(nil) }
            return listenScalar.read(node, path, &pass).map(Optional.some)
        },
        render: { address in address.map(listenScalar.render) ?? .scalar("\"off\"") })

    private static let listenScalar = Kind<Settings.ListenAddress>.scalar(
        "a literal IP address with a port, as in \"127.0.0.1:9464\" or \"[::1]:9464\", or \"off\"",
        render: { $0.host.contains(":") ? "\"[\($0.host)]:\($0.port)\"" : "\"\($0.host):\($0.port)\"" },
        read: { scalar throws(Refusal) in
            guard scalar.type != .boolean else { throw Refusal("write \"off\" with the quotes") }
            guard let colon = scalar.text.lastIndex(of: ":") else { throw Refusal() }
            let host = scalar.text[..<colon]
            let digits = scalar.text[scalar.text.index(after: colon)...]
            guard digits.utf8.allSatisfy(\.isASCIIDigit), let port = UInt16(digits) else {
                throw Refusal("the port is a number from 0 to 65535")
            }
            if host.hasPrefix("["), host.hasSuffix("]"),
                isLiteral(String(host.dropFirst().dropLast()), AF_INET6)
            {
                return Settings.ListenAddress(host: String(host.dropFirst().dropLast()), port: port)
            }
            if isLiteral(String(host), AF_INET) {
                return Settings.ListenAddress(host: String(host), port: port)
            }
            if isLiteral(String(host), AF_INET6) { throw Refusal("write \"[\(host)]:\(port)\"") }
            switch host {
            case "localhost": throw Refusal("names are not looked up; write \"127.0.0.1:\(port)\"")
            case "", "*": throw Refusal("write \"0.0.0.0:\(port)\" for every IPv4 address")
            default: throw Refusal("names are not looked up")
            }
        })

    private static func isLiteral(_ host: String, _ family: Int32) -> Bool {
        var address = in6_addr()
        // in6_addr is the larger of the two shapes that inet_pton fills; it keeps no pointer.
        return unsafe inet_pton(family, host, &address) == 1
    }
}

// MARK: - Checks that need more than one option

extension Settings {
    /// Reports what is wrong between options that are right by themselves.
    func check(_ pass: inout DecodingPass) {
        checkSocket(&pass)
        checkKeys(&pass)
        checkAbsolute(stateDirectory, at: "state_directory", &pass)
        if let listen = metrics.listen, let mark = pass.marks["metrics.listen"] {
            if !listen.isLoopback {
                pass.warning(
                    "metrics.listen", at: mark,
                    "\(listen.host) is reachable from other machines, and metrics are served without authentication"
                )
            }
            if listen.port == 0 {
                pass.warning("metrics.listen", at: mark, "port 0 is another port after every start")
            }
        }
        if memory.dumpable, let mark = pass.marks["memory.dumpable"] {
            pass.warning("memory.dumpable", at: mark, "core dumps and debuggers can see the keys")
        }
    }

    /// The daemon's working directory is its service manager's choice, not the operator's.
    private func checkAbsolute(_ file: String, at path: String, _ pass: inout DecodingPass) {
        guard !file.hasPrefix("/"), let mark = pass.marks[path], pass.isSound(path) else { return }
        pass.error(path, at: mark, "\(quoted(file)) is relative; write an absolute path")
    }

    private func checkSocket(_ pass: inout DecodingPass) {
        for (name, listed) in [("uids", allow.uids), ("gids", allow.gids)] where !listed.isEmpty {
            if socket.mode & 0o020 == 0, pass.isSound("socket"), pass.isSound("allow"), !socket.isAbstract,
                let mark = pass.marks["allow.\(name)"]
            {
                pass.warning(
                    "allow.\(name)", at: mark,
                    "they cannot connect while socket.mode lets only the owner write; write mode: \"0660\" and a group, as "
                        + "the packaged socket unit has them",
                    isAboutOwnSocket: true)
            }
        }
        if socket.group != nil, socket.mode & 0o020 == 0, pass.isSound("socket"), !socket.isAbstract,
            let mark = pass.marks["socket.group"]
        {
            pass.warning(
                "socket.group", at: mark,
                "members cannot connect while socket.mode lets only the owner write; write mode: \"0660\"",
                isAboutOwnSocket: true)
        }
        guard socket.isAbstract, let mark = pass.marks["socket.path"] else { return }
        if allow.uids.isEmpty, allow.gids.isEmpty, pass.isSound("allow") {
            pass.error(
                "socket.path", at: mark,
                "an abstract socket has no file permissions; list who may connect in allow.uids or allow.gids"
            )
        }
        for name in ["owner", "group"] {
            if let mark = pass.marks["socket.\(name)"] {
                pass.error(
                    "socket.\(name)", at: mark, "an abstract socket has no file to own; remove this option")
            }
        }
    }

    /// What is looked at less often than it is bounded stops at a look, not at the bound.
    private func checkBounds(of key: Key, at path: String, _ pass: inout DecodingPass) {
        for (name, bound) in [("ride_through", key.rideThrough), ("auth_grace", key.authGrace)] {
            guard bound > .zero, bound < rotation.observeEvery, pass.isSound("rotation"),
                pass.isSound("\(path).\(name)"),
                let mark = pass.marks["\(path).\(name)"] ?? pass.marks["rotation.observe_every"]
            else { continue }
            pass.warning(
                "\(path).\(name)", at: mark,
                "\(DurationText.render(bound)) is less than rotation.observe_every "
                    + "(\(DurationText.render(rotation.observeEvery))), so writes stop at the first or second failed observation"
            )
        }
    }

    private func checkKeys(_ pass: inout DecodingPass) {
        var firstUse: [String: String] = [:]
        func checkUnique(_ value: String, at path: String, as use: String, _ advice: String) {
            guard let mark = pass.marks[path], pass.isSound(path) else { return }
            let before = firstUse.updateValue(path, forKey: "\(use) \(value)")
            guard let before else { return }
            firstUse["\(use) \(value)"] = before
            // The same value twice within one list is harmless and has its warning.
            let owner = path.prefix { $0 != "]" }
            guard before.prefix(while: { $0 != "]" }) != owner else { return }
            pass.error(path, at: mark, "\(quoted(value)) is already \(before); \(advice)")
        }
        for (index, key) in keys.enumerated() {
            let path = "keys[\(index)]"
            checkUnique(key.name, at: "\(path).name", as: "name", "give each key a name of its own")
            checkBounds(of: key, at: path, &pass)
            switch key.provider {
            case .local(let local):
                checkAbsolute(local.file, at: "\(path).local.file", &pass)
                checkUnique(
                    local.file, at: "\(path).local.file", as: "file", "two keys cannot be one key file")
                if key.writeFormat == .compatible || key.acceptFormats.contains(.compatible),
                    let mark = pass.marks["\(path).write_format"] ?? pass.marks["\(path).accept_formats"]
                {
                    pass.error(
                        "\(path).write_format", at: mark,
                        "provider local has no other plugin to be compatible with")
                }
            case .jdcloud(let jdcloud):
                jdcloud.check(at: "\(path).jdcloud", &pass)
                if let file = jdcloud.caFile { checkAbsolute(file, at: "\(path).jdcloud.ca_file", &pass) }
                checkUnique(
                    "\(jdcloud.realm)/\(jdcloud.keyID)", at: "\(path).jdcloud.key_id", as: "JD Cloud key",
                    "two keys cannot be one")
            }
            for (position, identity) in key.acceptIdentities.enumerated() {
                checkUnique(
                    identity, at: "\(path).accept_identities[\(position)]", as: "identity",
                    "only one key can open its ciphertexts")
            }
            for (position, keyID) in key.adoptKeyIDs.enumerated() {
                checkUnique(
                    keyID, at: "\(path).adopt_key_ids[\(position)]", as: "key id",
                    "only one key can open its ciphertexts")
            }
        }
    }
}
