private import CShims
private import Glibc

/// The numbers behind the users and groups that the settings name.
public struct ResolvedAccounts: Sendable, Equatable {
    /// The uid of `socket.owner`.
    public var socketOwner: UInt32?
    /// The gid of `socket.group`.
    public var socketGroup: UInt32?
    /// The uids of `allow.uids`; uid 0 and the daemon's own are not added here.
    public var allowedUsers: Set<UInt32> = []
    /// The gids of `allow.gids` and of `socket.group`, which is allowed by itself.
    public var allowedGroups: Set<UInt32> = []

    /// Nobody.
    public init() {}
}

/// Where user and group names are looked up.
public struct AccountDatabase: Sendable {
    /// What a lookup found.
    public enum Answer: Sendable, Equatable {
        /// The uid or gid.
        case number(UInt32)
        /// There is no such name.
        case unknown
        /// The database did not answer; in words.
        case failed(String)
    }

    /// Looks a user name up.
    public var user: @Sendable (String) -> Answer
    /// Looks a group name up.
    public var group: @Sendable (String) -> Answer

    /// Makes a database, for tests.
    public init(user: @escaping @Sendable (String) -> Answer, group: @escaping @Sendable (String) -> Answer) {
        self.user = user
        self.group = group
    }

    /// This machine's user and group databases (getpwnam, getgrnam); may block on the network where NSS does.
    public static let system = AccountDatabase(
        user: { name in
            var uid: uid_t = 0
            let outcome = unsafe ksw_user_id(name, &uid)
            return answer(outcome, uid)
        },
        group: { name in
            var gid: gid_t = 0
            let outcome = unsafe ksw_group_id(name, &gid)
            return answer(outcome, gid)
        })

    private static func answer(_ outcome: Int32, _ number: UInt32) -> Answer {
        switch outcome {
        case 0: .number(number)
        case 1: .unknown
        default: .failed(reason(errno))
        }
    }
}

extension Settings {
    /// Looks up every user and group that the settings name.
    ///
    /// A step of its own, since a file is often checked on another machine than the one it is for. Accounts are nil
    /// exactly when there are diagnostics; all are errors, sorted by position.
    public func accounts(
        in database: AccountDatabase = .system
    ) -> (accounts: ResolvedAccounts?, diagnostics: [Diagnostic]) {
        var diagnostics: [Diagnostic] = []
        func number(
            _ account: Account, _ path: String, _ noun: String, _ lookUp: (String) -> AccountDatabase.Answer
        ) -> UInt32? {
            switch account {
            case .number(let number):
                return number
            case .name(let name):
                let trouble: String
                switch lookUp(name) {
                case .number(let number): return number
                case .unknown:
                    trouble = "there is no \(noun) \(quoted(name)) here; create it, or write its number"
                case .failed(let why): trouble = "\(noun) \(quoted(name)) could not be looked up: \(why)"
                }
                diagnostics.append(diagnostic(.error, about: path, trouble))
                return nil
            }
        }
        var accounts = ResolvedAccounts()
        accounts.socketOwner = socket.owner.flatMap { number($0, "socket.owner", "user", database.user) }
        accounts.socketGroup = socket.group.flatMap { number($0, "socket.group", "group", database.group) }
        for (index, account) in allow.uids.enumerated() {
            if let uid = number(account, "allow.uids[\(index)]", "user", database.user) {
                accounts.allowedUsers.insert(uid)
            }
        }
        for (index, account) in allow.gids.enumerated() {
            if let gid = number(account, "allow.gids[\(index)]", "group", database.group) {
                accounts.allowedGroups.insert(gid)
            }
        }
        if let group = accounts.socketGroup { accounts.allowedGroups.insert(group) }
        diagnostics.sort { ($0.position.mark ?? .start) < ($1.position.mark ?? .start) }
        return (diagnostics.isEmpty ? accounts : nil, diagnostics)
    }

    /// Tries to open each file that the settings name and the daemon only reads; what cannot be read is an error.
    ///
    /// For `config check` on the machine and as the user that the file is for. Reads nothing.
    public func unreadableFiles() -> [Diagnostic] { keys.indices.flatMap(unreadableFiles(ofKeyAt:)) }

    /// The same for one key.
    public func unreadableFiles(ofKeyAt index: Int) -> [Diagnostic] {
        let files =
            switch keys[index].provider {
            case .local(let local): [("local.file", local.file)]
            case .jdcloud(let jdcloud): jdcloud.files.map { ("jdcloud.\($0.option)", $0.path) }
            }
        return files.compactMap { option, file in
            let handle = unsafe open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
            guard handle < 0 else {
                close(handle)
                return nil
            }
            return diagnostic(
                .error, about: "keys[\(index)].\(option)", "\(quoted(file)) cannot be read: \(reason(errno))")
        }
    }
}
