private import Synchronization

/// One caller that waits for a load: answered once, by the load, by a wipe, or by its own cancellation, from any thread.
final class Waiter<Answer: Sendable>: Sendable {
    private enum State {
        case idle
        case waiting(CheckedContinuation<Answer, Never>)
        /// Answered before it began to wait.
        case early(Answer)
        case done
    }

    private let state = Mutex(State.idle)

    /// Waits for the answer; once.
    func answer() async -> Answer {
        await withCheckedContinuation { continuation in
            let early = state.withLock { state -> Answer? in
                switch state {
                case .idle:
                    state = .waiting(continuation)
                    return nil
                case .early(let answer):
                    state = .done
                    return answer
                case .waiting, .done: preconditionFailure("a waiter waits once")
                }
            }
            if let early { continuation.resume(returning: early) }
        }
    }

    /// Answers; the first one counts.
    func settle(_ answer: Answer) {
        let continuation = state.withLock { state -> CheckedContinuation<Answer, Never>? in
            switch state {
            case .idle:
                state = .early(answer)
                return nil
            case .waiting(let continuation):
                state = .done
                return continuation
            case .early, .done: return nil
            }
        }
        continuation?.resume(returning: answer)
    }
}
