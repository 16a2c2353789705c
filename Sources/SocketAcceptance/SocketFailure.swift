// SocketAcceptance: owns the UNIX socket, decides who may speak, and hands accepted connections to the engine.
// libgrpc's own listener can do none of that: no peer check, no activation, no limit that dead connections do not fill.

private import Glibc

/// Why the socket cannot be used: one line with the reason and the remedy.
public struct SocketFailure: Error, Sendable, Equatable, CustomStringConvertible {
    /// What kind of failure it is.
    public enum Code: Sendable, CaseIterable {
        /// The address is not one that kube-apiserver could dial as written.
        ///
        /// Correct `socket.path`.
        case badAddress
        /// Mode, owner or group cannot be what was asked for.
        ///
        /// Correct `socket.mode`, `socket.owner`, `socket.group`.
        case badPermissions
        /// A live process serves this socket.
        ///
        /// Stop it or choose another path; it is never displaced.
        case ownedByAnother
        /// Something that is not a socket has this name.
        ///
        /// It is never deleted; remove it by hand.
        case notASocket
        /// The directory is missing, not writable or not a directory.
        case badDirectory
        /// An abstract socket without an allow-list would be open to every process of the network namespace.
        case allowListRequired
        /// What systemd passed on is not what it should be.
        ///
        /// Correct the socket unit.
        case badActivation
        /// No such user or group.
        case unknownAccount
        /// The kernel refused for a reason of its own.
        case system
    }

    /// What kind of failure it is.
    public let code: Code
    /// One line for the operator; no secret.
    public let message: String

    init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    /// The message.
    public var description: String { message }

    /// A failed system call, in words.
    static func text(of number: Int32) -> String {
        // strerror of glibc 2.32 and later answers from thread-local or constant memory.
        unsafe strerror(number).map { unsafe String(cString: $0) } ?? "error \(number)"
    }
}
