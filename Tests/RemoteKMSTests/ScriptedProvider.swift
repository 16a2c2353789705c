import RemoteKMS
import SecureMemory
import Synchronization

/// A backend whose every try the test sees, and answers when it likes.
final class ScriptedProvider: Provider {
    struct Try {
        let attempt: Attempt
        fileprivate var continuation: CheckedContinuation<Result<String, RemoteKMSError>, Never>?
        var isCancelled = false
    }

    private struct State {
        var tries: [Try] = []
        var watchers: [(count: Int, continuation: CheckedContinuation<Void, Never>)] = []
        var isRecoverable = false
        var recoveries = 0
    }

    let name = "scripted"
    let fixedDescription: KeyDescription?
    private let state = Mutex(State())

    init(fixedDescription: KeyDescription? = nil) { self.fixedDescription = fixedDescription }

    var tries: [Try] { state.withLock { $0.tries } }
    var recoveries: Int { state.withLock { $0.recoveries } }
    func makeRecoverable() { state.withLock { $0.isRecoverable = true } }

    /// Waits until so many tries were begun, ended ones included.
    func untilTried(_ count: Int) async {
        await withCheckedContinuation { continuation in
            let isThere = state.withLock { state in
                guard state.tries.count < count else { return true }
                state.watchers.append((count, continuation))
                return false
            }
            if isThere { continuation.resume() }
        }
    }

    /// Ends a try, counted from 0.
    func answer(_ index: Int, _ result: Result<String, RemoteKMSError>) {
        state.withLock { $0.tries[index].continuation.take() }?.resume(returning: result)
    }

    func fail(_ index: Int, _ code: RemoteKMSError.Code, retryAfter: Duration? = nil) {
        answer(index, .failure(RemoteKMSError(code, "the script says \(code)", retryAfter: retryAfter)))
    }

    func describe(_ attempt: Attempt) async throws(RemoteKMSError) -> KeyDescription {
        KeyDescription(identity: try await step(attempt), version: "1", versionCreatedAt: "")
    }

    func wrap(
        _ plaintext: borrowing SecretBytes, context: WrapContext, attempt: Attempt
    ) async throws(RemoteKMSError) -> [UInt8] { Array(try await step(attempt).utf8) }

    func unwrap(
        _ wrapped: [UInt8], context: WrapContext, attempt: Attempt
    ) async throws(RemoteKMSError) -> SecretBytes {
        let text = Array(try await step(attempt).utf8)
        return SecretBytes(count: text.count) { $0.copy(text.span, toByteOffset: 0) }
    }

    func recover(from error: RemoteKMSError, deadline: Deadline) async -> Bool {
        state.withLock { state in
            state.recoveries += 1
            return state.isRecoverable
        }
    }

    private func step(_ attempt: Attempt) async throws(RemoteKMSError) -> String {
        let number = state.withLock { state in
            state.tries.append(Try(attempt: attempt))
            return state.tries.count - 1
        }
        let result = await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let (isCancelled, watchers) = state.withLock { state in
                    let isCancelled = state.tries[number].isCancelled
                    if !isCancelled { state.tries[number].continuation = continuation }
                    let ready = state.watchers.filter { $0.count <= state.tries.count }
                    state.watchers.removeAll { $0.count <= state.tries.count }
                    return (isCancelled, ready.map(\.continuation))
                }
                for watcher in watchers { watcher.resume() }
                // A later cancellation finds the continuation.
                if isCancelled { continuation.resume(returning: .failure(Self.cancelled)) }
            }
        } onCancel: {
            let waiting = state.withLock { state in
                state.tries[number].isCancelled = true
                return state.tries[number].continuation.take()
            }
            waiting?.resume(returning: .failure(Self.cancelled))
        }
        return try result.get()
    }

    private static let cancelled = RemoteKMSError(.deadlineExceeded, "cancelled")
}
