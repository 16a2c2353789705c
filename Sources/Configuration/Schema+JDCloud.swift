// The options of provider jdcloud.

extension Schema {
    static let jdcloud: [Option<Settings.Key>] = [
        Option(
            "jdcloud.key_id", \.jdcloud.keyID, keyIdentifier, required: true,
            "The key's identifier, from the console. With `realm` it is the key's identity: part of every key_id."
        ),
        Option(
            "jdcloud.realm", \.jdcloud.realm, .text("text of 0 to 64 bytes", bytes: 0...64),
            "Tells apart keys of one identifier in different clouds of JD's. Never changed once objects are written."
        ),
        Option(
            "jdcloud.endpoint", \.jdcloud.endpoint, host, required: true,
            """
            The host, with a port if it is not the usual one: `kms.cn-north-1.jdcloud-api.com`, or inside a VPC \
            `kms.internal.cn-north-1.jdcloud-api.com`. In the region of the key.
            """),
        Option("jdcloud.scheme", \.jdcloud.scheme, .choice, "`http` needs `allow_plain_http` as well."),
        Option(
            "jdcloud.allow_plain_http", \.jdcloud.allowPlainHTTP, .boolean,
            "Keys travel in clear text over `http`: only where everything between is trusted."),
        Option(
            "jdcloud.region", \.jdcloud.region, region,
            "The region that requests are signed for; the service takes any."),
        Option("jdcloud.signature", \.jdcloud.signature, .choice, "The version of the signature."),
        Option(
            "jdcloud.token_encoding", \.jdcloud.tokenEncoding, .choice, "How session tokens are sent."),
        Option(
            "jdcloud.version", \.jdcloud.version, .choice,
            """
            `observed`: the key's state and version are read, which needs the permissions `describeKey` and \
            `describeKeyDetail`; a rotation gives a new key_id. `static`: neither is read, so `encrypt` and `decrypt` are \
            enough; rotations are not noticed, and that the key is disabled shows by failing calls alone. A change gives a \
            new key_id once, like a rotation; back again needs another `epoch` as well.
            """),
        Option(
            "jdcloud.ca_file", \.jdcloud.caFile, .optional(.path),
            "A PEM file with the only authorities to trust; the system's when left out."),
        Option(
            "jdcloud.proxy", \.jdcloud.proxy, proxy,
            """
            `environment` means `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy`, as curl reads them. A proxy that \
            wants a password can only be given there.
            """),
        Option(
            "jdcloud.no_proxy", \.jdcloud.noProxy,
            .list("hosts", of: .text("a name, an address, a network or *", bytes: 1...253), atMost: 64),
            "What is reached directly though `proxy` is a URL; a name stands for all below it."),
        Option(
            "jdcloud.credentials.source", \.jdcloud.credentials.source, .choice, required: true,
            """
            `config`: `access_key` and `secret_key` here. `files`: in files of their own, read again when they change. \
            `systemd`: the same, by their names among the unit's credentials. `environment`: `JDCLOUD_ACCESS_KEY_ID` and \
            `JDCLOUD_SECRET_ACCESS_KEY`. `instance-role`: temporary ones of the role that is bound to this machine.
            """),
        Option(
            "jdcloud.credentials.access_key", \.jdcloud.credentials.accessKey, .optional(accessKey),
            "With `source: config`."),
        Option(
            "jdcloud.credentials.secret_key", \.jdcloud.credentials.secretKey, .optional(secretKey),
            secret: true,
            "With `source: config`; the file must then be readable for the daemon's user alone."),
        Option(
            "jdcloud.credentials.access_key_file", \.jdcloud.credentials.accessKeyFile, .optional(.path),
            "With `source: files` a path; with `systemd` a name, `jdcloud-access-key` when left out."),
        Option(
            "jdcloud.credentials.secret_key_file", \.jdcloud.credentials.secretKeyFile, .optional(.path),
            "With `source: files` a path; with `systemd` a name, `jdcloud-secret-key` when left out."),
        Option(
            "jdcloud.credentials.session_token_file", \.jdcloud.credentials.sessionTokenFile,
            .optional(.path),
            "The same for the token of temporary credentials that something else renews."),
        Option(
            "jdcloud.credentials.metadata", \.jdcloud.credentials.metadata, .text("a URL", bytes: 1...255),
            "With `source: instance-role`: the metadata service. Never asked through a proxy."),
        Option(
            "jdcloud.credentials.role.jrn", \.jdcloud.credentials.role.jrn,
            .optional(.text("a role such as jrn:iam::123456789012:role/NAME", bytes: 1...255)),
            "A role to assume with these credentials; its temporary ones then sign, renewed ahead of their end."
        ),
        Option(
            "jdcloud.credentials.role.session_name", \.jdcloud.credentials.role.sessionName, sessionName,
            "Names the session in the audit trail."),
        Option(
            "jdcloud.credentials.role.duration", \.jdcloud.credentials.role.duration,
            .duration(.seconds(3600)...(.seconds(43_200))), "How long a session serves."),
        Option(
            "jdcloud.credentials.role.endpoint", \.jdcloud.credentials.role.endpoint, host,
            "The host of the security token service; over the same scheme as the key's endpoint."),
    ]

    static let keyIdentifier = Kind<String>.text("1 to 64 letters, digits, - and _", bytes: 1...64) {
        text throws(Refusal) in
        guard text.utf8.allSatisfy(\.isNameByte) else { throw Refusal() }
    }

    static let host = Kind<String>.text(
        "a host such as kms.cn-north-1.jdcloud-api.com, or HOST:PORT", bytes: 1...253
    ) {
        text throws(Refusal) in
        if text.contains("://") { throw Refusal("leave the scheme out; it is an option of its own") }
        let marks = Set("-_.:[]".utf8)
        guard text.utf8.allSatisfy({ $0.isASCIILetter || $0.isASCIIDigit || marks.contains($0) }) else {
            throw Refusal(text.contains("/") ? "leave the path out" : nil)
        }
    }

    static let accessKey = Kind<String>.text("1 to 128 letters, digits, - and _", bytes: 1...128) {
        text throws(Refusal) in
        guard text.utf8.allSatisfy(\.isNameByte) else { throw Refusal() }
    }

    static let secretKey = Kind<Settings.Secret>.scalar(
        "one word of printable ASCII", render: { _ in YAMLText.redacted }
    ) {
        scalar throws(Refusal) in
        let isWord =
            (1...1024).contains(scalar.text.utf8.count) && scalar.text.utf8.allSatisfy { 0x21...0x7E ~= $0 }
        // Digits alone are a secret as well; nothing is not.
        guard isWord, scalar.type != .nothing else { throw Refusal() }
        return Settings.Secret(scalar.text)
    }

    private static let region = Kind<String>.text("1 to 64 of a-z, 0-9 and -", bytes: 1...64) {
        text throws(Refusal) in
        guard text.utf8.allSatisfy({ $0.isASCIILowercase || $0.isASCIIDigit || $0 == UInt8(ascii: "-") })
        else {
            throw Refusal()
        }
    }

    private static let sessionName = Kind<String>.text("2 to 64 letters, digits and _.@=,-", bytes: 2...64) {
        text throws(Refusal) in
        let marks = Set("_.@=,-".utf8)
        guard text.utf8.allSatisfy({ $0.isASCIILetter || $0.isASCIIDigit || marks.contains($0) }) else {
            throw Refusal()
        }
    }

    private static let proxy = Kind<String>.text("environment, none, or http://HOST:PORT", bytes: 1...255) {
        text throws(Refusal) in
        guard text != "environment", text != "none" else { return }
        guard text.hasPrefix("http://") || text.hasPrefix("https://") else { throw Refusal() }
        guard !text.contains("@") else { throw Refusal("give a proxy with a password in the environment") }
    }
}

extension UInt8 {
    fileprivate var isNameByte: Bool {
        isASCIILetter || isASCIIDigit || self == UInt8(ascii: "-") || self == UInt8(ascii: "_")
    }
}

extension Settings {
    /// A key that cannot write in an outage says so soon, unless the file has its own bound.
    mutating func settleRideThrough(_ pass: DecodingPass) {
        for index in keys.indices where keys[index].writeFormat == .compatible {
            if pass.marks["keys[\(index)].ride_through"] == nil { keys[index].rideThrough = .seconds(120) }
        }
    }
}

// MARK: - Checks that need more than one option

extension Settings.JDCloudProvider {
    /// Reports what is wrong between options that are right by themselves; `path` is that of the block.
    func check(at path: String, _ pass: inout DecodingPass) {
        guard let block = pass.marks[path], pass.isSound(path) else { return }
        func mark(_ name: String) -> Mark { pass.marks["\(path).\(name)"] ?? block }
        if scheme == .http {
            if allowPlainHTTP {
                pass.warning(
                    "\(path).scheme", at: mark("scheme"),
                    "keys travel in clear text between here and \(endpoint); use https, or trust everything between"
                )
            } else {
                pass.error(
                    "\(path).scheme", at: mark("scheme"),
                    "keys would travel in clear text; use https, or set allow_plain_http: true if that is meant"
                )
            }
        }
        if !noProxy.isEmpty, !proxy.contains("://") {
            pass.error("\(path).no_proxy", at: mark("no_proxy"), "it goes with a proxy that is a URL")
        }
        checkCredentials(at: "\(path).credentials", block, &pass)
    }

    private func checkCredentials(at path: String, _ block: Mark, _ pass: inout DecodingPass) {
        guard let owner = pass.marks[path] else {
            return pass.error(path, at: block, "missing; expected a block of options with source")
        }
        let sources: [(name: String, isGiven: Bool, takenBy: [Settings.JDCloudCredentials.Source])] = [
            ("access_key", credentials.accessKey != nil, [.config]),
            ("secret_key", credentials.secretKey != nil, [.config]),
            ("access_key_file", credentials.accessKeyFile != nil, [.files, .systemd]),
            ("secret_key_file", credentials.secretKeyFile != nil, [.files, .systemd]),
            ("session_token_file", credentials.sessionTokenFile != nil, [.files, .systemd]),
        ]
        for option in sources where option.isGiven && !option.takenBy.contains(credentials.source) {
            let names = option.takenBy.map { "source: \($0.rawValue)" }.joined(separator: " or ")
            pass.error(
                "\(path).\(option.name)", at: pass.marks["\(path).\(option.name)"] ?? owner,
                "it goes with \(names)")
        }
        let needed: [Settings.JDCloudCredentials.Source: Set<String>] = [
            .config: ["access_key", "secret_key"], .files: ["access_key_file", "secret_key_file"],
        ]
        for option in sources
        where needed[credentials.source]?.contains(option.name) == true && !option.isGiven {
            pass.error(
                "\(path).\(option.name)", at: owner,
                "missing; source: \(credentials.source.rawValue) needs it")
        }
        for option in sources where option.isGiven && option.name.hasSuffix("_file") {
            guard let mark = pass.marks["\(path).\(option.name)"] else { continue }
            let text = [
                "access_key_file": credentials.accessKeyFile, "secret_key_file": credentials.secretKeyFile,
                "session_token_file": credentials.sessionTokenFile,
            ][option.name]
            guard let text = text.flatMap({ $0 }) else { continue }
            if credentials.source == .files, !text.hasPrefix("/") {
                pass.error(
                    "\(path).\(option.name)", at: mark,
                    "expected the absolute path of a file, and this does not begin with /")
            }
            if credentials.source == .systemd, text.contains("/") {
                pass.error(
                    "\(path).\(option.name)", at: mark,
                    "\(quoted(text)) is a path; with source: systemd give a name")
            }
        }
    }

    /// The files that the daemon reads, with the options that name them.
    var files: [(option: String, path: String)] {
        var files: [(option: String, path: String)] = []
        if let caFile { files.append(("ca_file", caFile)) }
        guard credentials.source == .files else { return files }
        for (option, path) in [
            ("access_key_file", credentials.accessKeyFile), ("secret_key_file", credentials.secretKeyFile),
            ("session_token_file", credentials.sessionTokenFile),
        ] {
            if let path { files.append(("credentials.\(option)", path)) }
        }
        return files
    }
}
