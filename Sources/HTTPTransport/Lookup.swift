private import Glibc
internal import Threads

/// Asks the system's resolver, which blocks, on a thread of its own.
///
/// curl has such threads too, but waits for them when a transfer is taken back (measured: 10 s with a mute name
/// server), or lets go of any number of them.
enum Lookup {
    /// How names are looked up; tests put their own in.
    typealias Function = @Sendable (_ name: String) -> NameCache.Answer

    /// The thread of one lookup.
    final class Running {
        private var thread: OwnedThread?

        /// Starts; nil if the process has no thread left.
        init?(
            _ name: String, by look: @escaping Function, then: @escaping @Sendable (NameCache.Answer) -> Void
        ) {
            thread = OwnedThread(name: "http-dns") { then(look(name)) }
            if thread == nil { return nil }
        }

        /// Waits for the thread's end, after its answer has come.
        func join() { thread.take()?.join() }

        /// Lets go of a thread that still waits: the resolver cannot be interrupted.
        func abandon() { thread.take()?.abandon() }

        deinit { precondition(thread == nil, "lookup dropped without a join") }
    }

    /// getaddrinfo(3): files, name servers, and whatever else this host is set up to ask.
    static func bySystem(_ name: String) -> NameCache.Answer {
        var hints = unsafe addrinfo()
        unsafe hints.ai_family = AF_UNSPEC
        unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        unsafe hints.ai_flags = AI_ADDRCONFIG
        var list: UnsafeMutablePointer<addrinfo>?
        let code = unsafe getaddrinfo(name, nil, &hints, &list)
        guard code == 0 else {
            let reason = unsafe String(cString: gai_strerror(code)).lowercased()
            return code == EAI_NONAME ? .noSuchName(reason) : .unknown(reason)
        }
        defer { unsafe freeaddrinfo(list) }
        var addresses: [IPAddress] = []
        var next = unsafe list
        while let entry = unsafe next {
            if let address = unsafe entry.pointee.ai_addr.flatMap({ unsafe IPAddress($0) }),
                !addresses.contains(address)
            {
                addresses.append(address)
            }
            unsafe next = entry.pointee.ai_next
        }
        return addresses.isEmpty ? .noSuchName("the name has no address") : .addresses(addresses)
    }
}
