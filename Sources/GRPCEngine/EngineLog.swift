internal import CGRPC
private import Synchronization

/// What libgrpc itself has to say, instead of on stderr in a form of its own.
///
/// Errors only, unless GRPC_VERBOSITY asks for more: a failed accept, a broken frame. Never message bytes.
public enum EngineLog {
    private static let sink = Mutex<(@Sendable (_ line: String) -> Void)?>(nil)

    /// Sends libgrpc's lines to `receive`, from any thread; for the whole process.
    public static func redirect(to receive: @escaping @Sendable (_ line: String) -> Void) {
        sink.withLock { $0 = receive }
        unsafe gpr_set_log_function { arguments in
            guard let message = unsafe arguments?.pointee.message else { return }
            EngineLog.deliver(unsafe String(cString: message))
        }
    }

    fileprivate static func deliver(_ line: String) {
        let receive = sink.withLock { $0 }
        receive?(line)
    }
}
