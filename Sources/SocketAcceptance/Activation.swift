private import CShims
private import Glibc

/// A descriptor that systemd passed on, not looked at yet.
public struct ActivatedDescriptor: Sendable, Equatable {
    /// The descriptor.
    public let number: Int32
    /// `FileDescriptorName=` of its unit, "unknown" if systemd gave none.
    public let name: String

    /// Path or '@' name of the UNIX socket that it is.
    public var address: String { ListeningSocket.name(of: number) }

    /// A descriptor passed on under a name.
    public init(number: Int32, name: String) {
        self.number = number
        self.name = name
    }
}

/// Socket activation: LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, read without libsystemd.
public enum Activation {
    /// The first descriptor that systemd passes on.
    static let firstDescriptor: Int32 = 3
    private static let variables = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"]

    /// What systemd passed to this process, and takes the variables out of the environment.
    ///
    /// Call it once, before other threads start: the environment is not protected. Empty if the daemon was
    /// started in another way.
    public static func take() throws(SocketFailure) -> [ActivatedDescriptor] {
        var environment: [String: String] = [:]
        for variable in variables {
            if let value = unsafe getenv(variable) { environment[variable] = unsafe String(cString: value) }
            _ = unsafe unsetenv(variable)
        }
        let descriptors = try parse(environment, pid: getpid())
        for descriptor in descriptors { _ = ksw_prepare_descriptor(descriptor.number) }
        return descriptors
    }

    static func parse(
        _ environment: [String: String], pid: Int32
    ) throws(SocketFailure) -> [ActivatedDescriptor] {
        guard let owner = environment["LISTEN_PID"], let fds = environment["LISTEN_FDS"] else { return [] }
        guard let ownerPID = Int32(owner), ownerPID > 0 else { throw wrong("LISTEN_PID", owner) }
        // Meant for a parent of ours: what its descriptors are by now is anybody's guess.
        guard ownerPID == pid else { return [] }
        guard let count = Int32(fds), (0...1024).contains(count) else { throw wrong("LISTEN_FDS", fds) }
        var names = [String](repeating: "unknown", count: Int(count))
        if let text = environment["LISTEN_FDNAMES"] {
            let given = text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
            guard given.count == names.count else { throw wrong("LISTEN_FDNAMES", text) }
            names = given
        }
        return names.enumerated().map { index, name in
            ActivatedDescriptor(number: firstDescriptor + Int32(index), name: name)
        }
    }

    private static func wrong(_ variable: String, _ value: String) -> SocketFailure {
        SocketFailure(
            .badActivation,
            "\(variable)=\(value.prefix(100).debugDescription) makes no sense: start through the socket unit, "
                + "or unset the LISTEN_ variables")
    }
}
