private import COpenSSL

/// Why a cryptographic operation gave no result.
public enum CryptoFailure: Error, Sendable, Equatable {
    /// The message is not what was sealed under this key, header and context: damaged, foreign or too short. Which of
    /// these is not told, on purpose.
    case notAuthentic
    /// The loaded OpenSSL lacks this algorithm: install one that has it, or configure another suite.
    case unavailable(String)
    /// A key has the wrong length: a defect of the caller.
    case wrongKeyLength(Int)
    /// OpenSSL refused; `codes` is its error queue, oldest first.
    case openSSL(operation: String, codes: [UInt])

    /// The failure of `operation`, with OpenSSL's queue of this thread, which is empty afterwards.
    static func draining(_ operation: StaticString) -> Self {
        var codes: [UInt] = []
        while case let code = ERR_get_error(), code != 0 { codes.append(UInt(code)) }
        return .openSSL(operation: "\(operation)", codes: codes)
    }

    /// `notAuthentic`, with OpenSSL's queue of this thread emptied.
    static func refusing() -> Self {
        ERR_clear_error()
        return .notAuthentic
    }
}

extension CryptoFailure: CustomStringConvertible {
    /// One line, without secrets.
    public var description: String {
        switch self {
        case .notAuthentic: "the message cannot be opened under this key"
        case .unavailable(let name):
            "the loaded OpenSSL has no \(name): update it, or configure another suite"
        case .wrongKeyLength(let count): "a key of \(count) bytes where 32 are needed"
        case .openSSL(let operation, let codes):
            "OpenSSL failed in \(operation) (\(codes.map { "error " + String($0, radix: 16) }.joined(separator: ", ")))"
        }
    }
}
