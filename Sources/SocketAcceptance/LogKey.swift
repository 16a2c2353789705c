/// Keys of this room's log lines.
///
/// They equal those of Observability, which this room does not import; a test of Lifecycle, which sees both, says so.
public enum LogKey: String, Sendable, CaseIterable {
    /// Process id of a peer.
    case peerPID = "peer_pid"
    /// User id of a peer.
    case peerUID = "peer_uid"
    /// Group id of a peer.
    case peerGID = "peer_gid"
    /// Address of the socket concerned.
    case path
    /// Why something was decided.
    case reason
    /// What the operator should do.
    case remedy
    /// Bytes from a peer that the engine has not read yet.
    case unreadBytes = "unread_bytes"
    /// Bytes for a peer that it has not read yet.
    case unsentBytes = "unsent_bytes"
    /// How many were left out.
    case count
}
