private import CShims
private import Glibc

/// Who connected, as the kernel noted at connect time.
public struct PeerCredentials: Sendable, Hashable {
    /// Process number; 0 if it is of a PID namespace that we cannot see.
    public let pid: Int32
    /// Effective user.
    public let uid: UInt32
    /// Effective group.
    public let gid: UInt32

    /// The credentials of a process.
    public init(pid: Int32, uid: UInt32, gid: UInt32) {
        self.pid = pid
        self.uid = uid
        self.gid = gid
    }

    /// SO_PEERCRED; nil if the kernel does not tell.
    init?(of descriptor: Int32) {
        var pid: pid_t = 0
        var uid: uid_t = 0
        var gid: gid_t = 0
        guard unsafe ksw_peer_credentials(descriptor, &pid, &uid, &gid) == 0 else { return nil }
        self.init(pid: pid, uid: uid, gid: gid)
    }

    /// SO_PEERGROUPS: the supplementary groups; empty where the kernel has no such option.
    static func groups(of descriptor: Int32) -> [UInt32] {
        var capacity = 64
        while true {
            var groups = [gid_t](repeating: 0, count: capacity)
            let count = unsafe groups.withUnsafeMutableBufferPointer {
                unsafe Int(ksw_peer_groups(descriptor, $0.baseAddress, $0.count))
            }
            guard count > 0 else { return [] }
            if count <= capacity { return Array(groups.prefix(count)) }
            capacity = count
        }
    }
}

/// Whether user and group numbers mean here what they mean on the host.
public struct IdentityMap: Sendable, Equatable {
    /// False in a user namespace: peers from outside of it then all appear under the overflow numbers.
    public let isIdentity: Bool
    /// The number that stands for every unmapped user.
    public let overflowUID: UInt32
    /// The number that stands for every unmapped group.
    public let overflowGID: UInt32

    /// Facts about a namespace.
    public init(isIdentity: Bool, overflowUID: UInt32 = 65534, overflowGID: UInt32 = 65534) {
        self.isIdentity = isIdentity
        self.overflowUID = overflowUID
        self.overflowGID = overflowGID
    }

    /// This process's, from /proc.
    public static func ofThisProcess() -> IdentityMap {
        IdentityMap(
            isIdentity: isIdentity(firstLines(of: "/proc/self/uid_map"))
                && isIdentity(firstLines(of: "/proc/self/gid_map")),
            overflowUID: UInt32(firstLines(of: "/proc/sys/kernel/overflowuid").trimmed) ?? 65534,
            overflowGID: UInt32(firstLines(of: "/proc/sys/kernel/overflowgid").trimmed) ?? 65534)
    }

    static func isIdentity(_ map: String) -> Bool {
        let numbers = map.split(whereSeparator: \.isWhitespace)
        return numbers == ["0", "0", "4294967295"]
    }

    private static func firstLines(of path: String) -> String {
        guard let file = OwnedDescriptor(adopting: unsafe open(path, O_RDONLY | O_CLOEXEC)) else { return "" }
        var bytes = [UInt8](repeating: 0, count: 1024)
        let count = unsafe bytes.withUnsafeMutableBytes { unsafe read(file.number, $0.baseAddress, $0.count) }
        return String(decoding: bytes.prefix(max(0, count)), as: UTF8.self)
    }
}

extension String {
    fileprivate var trimmed: String { String(split(whereSeparator: \.isWhitespace).first ?? "") }
}

/// Who may speak to the daemon.
///
/// Always: user 0 and the daemon's own user. Beyond them the listed users, and the listed groups matched against the
/// peer's effective and supplementary groups.
public struct PeerPolicy: Sendable, Equatable {
    private let ownUID: UInt32
    private let uids: Set<UInt32>
    private var gids: Set<UInt32>
    private let identities: IdentityMap
    /// Whether somebody was listed: an abstract socket is not opened without.
    public let isExplicit: Bool

    /// A policy; the last two describe this process unless told.
    public init(
        uids: Set<UInt32> = [], gids: Set<UInt32> = [], ownUID: UInt32? = nil,
        identities: IdentityMap = .ofThisProcess()
    ) {
        self.ownUID = ownUID ?? geteuid()
        self.uids = uids
        self.gids = gids
        self.identities = identities
        isExplicit = !uids.isEmpty || !gids.isEmpty
    }

    /// One line to log at start if peers cannot be told apart here; nil if they can.
    public var warning: String? {
        guard !identities.isIdentity else { return nil }
        return
            "this process runs in a user namespace: users from outside of it all appear as \(identities.overflowUID), "
            + "which is never admitted; turn off PrivateUsers= or run in the host's user namespace"
    }

    /// The same policy, with the group of a socket.
    func admitting(group: UInt32?) -> PeerPolicy {
        guard let group else { return self }
        var policy = self
        policy.gids.insert(group)
        return policy
    }

    /// Whether a peer may speak.
    ///
    /// The groups are asked for only if the user does not decide.
    func admits(_ peer: PeerCredentials, groups: () -> [UInt32]) -> Bool {
        if meansSomebody(uid: peer.uid), peer.uid == 0 || peer.uid == ownUID || uids.contains(peer.uid) {
            return true
        }
        guard !gids.isEmpty else { return false }
        if admits(gid: peer.gid) { return true }
        return groups().contains(where: admits(gid:))
    }

    private func meansSomebody(uid: UInt32) -> Bool { identities.isIdentity || uid != identities.overflowUID }

    private func admits(gid: UInt32) -> Bool {
        (identities.isIdentity || gid != identities.overflowGID) && gids.contains(gid)
    }
}
