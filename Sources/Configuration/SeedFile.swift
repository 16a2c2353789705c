/// The JSON file of JD Cloud's own Kubernetes plugin, which kmsward takes the place of.
struct SeedFile: Sendable {
    enum Schema: String, Sendable, CaseIterable {
        case https, http
    }

    var accessKey = ""
    var secretKey: Settings.Secret?
    var endpoint = ""
    var keyID = ""
    var schema = Schema.https
    var socketPath = ""
    var isDebugging = false
    /// How the file spells `AccessKey` and `SecretKey`.
    var secretNames: [String] = []

    private static let table = Table(
        blank: SeedFile(),
        [
            Option("AccessKey", \.accessKey, Configuration.Schema.accessKey, required: true, ""),
            Option(
                "SecretKey", \.secretKey, .optional(Configuration.Schema.secretKey), required: true,
                secret: true, ""),
            Option("KmsEndpoint", \.endpoint, Configuration.Schema.host, required: true, ""),
            Option("KmsKeyId", \.keyID, Configuration.Schema.keyIdentifier, required: true, ""),
            Option("KmsSchema", \.schema, .choice, ""),
            Option("GRPCSocketPath", \.socketPath, Configuration.Schema.socketPath, required: true, ""),
            Option("DebugMode", \.isDebugging, .boolean, ""),
        ])

    private static var names: [String] { table.names(in: "") }
    private static let optional: Set<String> = ["KmsSchema", "DebugMode"]

    /// Whether a document is such a file: it has one of its names, and no `keys`.
    static func isSeed(_ root: Node) -> Bool {
        guard case .mapping(let entries) = root.content, !entries.contains(where: { $0.key == "keys" }) else {
            return false
        }
        let known = Set(names.map { $0.lowercased() })
        return entries.contains { known.contains($0.key.lowercased()) }
    }

    /// Reads such a file as its plugin does: names in any case, unknown ones passed over.
    static func decode(_ root: Node, _ pass: inout DecodingPass) -> Settings {
        var known = root
        var spellings: [String: String] = [:]
        if case .mapping(let entries) = root.content {
            var kept: [Node.Entry] = []
            for entry in entries {
                if let name = names.first(where: { $0.lowercased() == entry.key.lowercased() }) {
                    if let spelling = spellings[name] {
                        pass.warning(
                            "", at: entry.mark,
                            "\(quoted(entry.key)) is given before as \(quoted(spelling)); the last one counts, keep one"
                        )
                    }
                    spellings[name] = entry.key
                    // As its plugin does, which then keeps what it has without them.
                    if optional.contains(name), entry.value.isNothing { continue }
                    kept.append(Node.Entry(key: name, mark: entry.mark, value: entry.value))
                } else {
                    let name = mayBeShown(name: entry.key) ? quoted(entry.key) : "this name"
                    pass.warning(
                        "", at: entry.mark, "\(name) means nothing here and is passed over")
                }
            }
            known.content = .mapping(kept)
        }
        var seed = table.decode(known, path: "", owner: .start, &pass)
        if let accessKey = spellings["AccessKey"], let secretKey = spellings["SecretKey"] {
            seed.secretNames = [accessKey, secretKey]
        }
        if seed.schema == .http, let mark = pass.marks["KmsSchema"] {
            let endpoint = pass.isSound("KmsEndpoint") ? seed.endpoint : "the endpoint"
            pass.warning(
                "KmsSchema", at: mark,
                "http: keys travel in clear text between here and \(endpoint); use https, or trust everything between"
            )
        }
        for (old, new) in [
            ("GRPCSocketPath", "socket.path"), ("KmsKeyId", "keys[0].jdcloud.key_id"),
            ("KmsEndpoint", "keys[0].jdcloud.endpoint"), ("KmsSchema", "keys[0].jdcloud.scheme"),
        ] {
            if let mark = pass.marks[old] { pass.place(new, at: mark) }
        }
        return seed.settings
    }

    /// What it means here: the format of its plugin, so that this one can take over again.
    private var settings: Settings {
        var jdcloud = Settings.JDCloudProvider()
        jdcloud.keyID = keyID
        jdcloud.endpoint = endpoint
        jdcloud.scheme = schema == .http ? .http : .https
        jdcloud.allowPlainHTTP = schema == .http
        jdcloud.credentials.source = .config
        jdcloud.credentials.accessKey = accessKey
        jdcloud.credentials.secretKey = secretKey
        var key = Settings.Key(name: "jdcloud", provider: .jdcloud(jdcloud))
        key.writeFormat = .compatible
        key.acceptFormats = [.compatible, .envelope]
        key.rideThrough = .seconds(120)
        var settings = Settings()
        settings.keys = [key]
        settings.origin.secretNames = secretNames
        settings.socket.path = socketPath
        settings.log.level = isDebugging ? .debug : .info
        return settings
    }
}

extension Settings {
    /// A file that is to hold a secret alone.
    public struct SecretFile: Sendable, Equatable {
        /// Where it is to be.
        public var path: String
        /// What the JSON file of JD Cloud's plugin, as it spells its names, calls what goes into it; nil for other files.
        public var name: String?
    }

    /// The same settings with the secrets of the file in files of their own, below `directory`; and those files.
    public func withSecretsInFiles(below directory: String) -> (settings: Settings, files: [SecretFile]) {
        var result = self
        var files: [SecretFile] = []
        for index in keys.indices {
            guard case .jdcloud(var jdcloud) = keys[index].provider, jdcloud.credentials.source == .config
            else { continue }
            let paths = ["access-key", "secret-key"].map { "\(directory)/\(keys[index].name)-\($0)" }
            jdcloud.credentials.source = .files
            jdcloud.credentials.accessKey = nil
            jdcloud.credentials.secretKey = nil
            jdcloud.credentials.accessKeyFile = paths[0]
            jdcloud.credentials.secretKeyFile = paths[1]
            let names = origin.secretNames
            files += paths.indices.map { SecretFile(path: paths[$0], name: names.isEmpty ? nil : names[$0]) }
            result.keys[index].provider = .jdcloud(jdcloud)
        }
        return (result, files)
    }
}
