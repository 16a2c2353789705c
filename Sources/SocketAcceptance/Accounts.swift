private import CShims
private import Glibc

/// Numbers of users and groups, from a number or a name.
///
/// Names are looked up in the system's databases: this may block, so resolve them at start.
public enum Accounts {
    /// The user's number.
    public static func userID(_ text: String) throws(SocketFailure) -> UInt32 {
        if let number = try number(in: text, kind: "user") { return number }
        var uid: uid_t = 0
        let outcome = unsafe ksw_user_id(text, &uid)
        guard outcome == 0 else { throw failure(outcome, "user", text) }
        return uid
    }

    /// The group's number.
    public static func groupID(_ text: String) throws(SocketFailure) -> UInt32 {
        if let number = try number(in: text, kind: "group") { return number }
        var gid: gid_t = 0
        let outcome = unsafe ksw_group_id(text, &gid)
        guard outcome == 0 else { throw failure(outcome, "group", text) }
        return gid
    }

    private static func number(in text: String, kind: String) throws(SocketFailure) -> UInt32? {
        guard !text.isEmpty, text.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
        // The largest number means "leave as is" to chown.
        guard let number = UInt32(text), number != .max else {
            throw SocketFailure(.unknownAccount, "\(kind) number \(text) is too large")
        }
        return number
    }

    private static func failure(_ outcome: Int32, _ kind: String, _ name: String) -> SocketFailure {
        let why = outcome == 1 ? "does not exist" : "cannot be looked up (\(SocketFailure.text(of: errno)))"
        return SocketFailure(
            .unknownAccount, "\(kind) \(name.debugDescription) \(why): create it or write its number")
    }
}
