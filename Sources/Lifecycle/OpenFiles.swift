private import Glibc

/// The limit of open files, which decides how many connections the daemon can hold.
public enum OpenFiles {
    /// Below this not even the daemon itself gets its descriptors, and libraries end the process without a word.
    static let least: UInt64 = 48

    /// What follows from the limits of this process.
    enum Verdict: Equatable {
        case refuse(String)
        /// Raise the soft limit to this, and tell the operator that, if there is something to tell.
        case raise(to: UInt64?, warning: String?)
    }

    /// Raises the soft limit as far as `connections` need it and the hard limit allows.
    ///
    /// - Returns: One line for the operator if connections will be refused before their own limit is reached.
    public static func makeRoom(for connections: Int) throws(StartFailure) -> String? {
        var limit = rlimit()
        let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
        guard unsafe getrlimit(resource, &limit) == 0 else { return nil }
        switch verdict(soft: UInt64(limit.rlim_cur), hard: UInt64(limit.rlim_max), connections: connections) {
        case .refuse(let reason): throw StartFailure(reason)
        case .raise(let soft, let warning):
            guard let soft else { return warning }
            limit.rlim_cur = rlim_t(soft)
            guard unsafe setrlimit(resource, &limit) == 0 else {
                return
                    "the limit of open files cannot be raised to \(soft): set LimitNOFILE=\(soft) in the unit"
            }
            return warning
        }
    }

    /// The rule of `makeRoom`.
    static func verdict(soft: UInt64, hard: UInt64, connections: Int) -> Verdict {
        // Each connection has a copy, by which the stall guard sees and cuts it.
        let needed = UInt64(2 * connections) + 2 * least
        guard hard >= least else {
            return .refuse(
                "the limit of open files is \(hard), and at least \(least) are needed: set LimitNOFILE=\(needed) in the unit"
            )
        }
        return .raise(
            to: soft < needed ? min(needed, hard) : nil,
            warning: hard < needed
                ? "the limit of open files is \(hard), too few for \(connections) connections: set LimitNOFILE=\(needed) in the unit"
                : nil)
    }
}
