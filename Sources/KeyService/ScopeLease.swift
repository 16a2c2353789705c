internal import DEKCache
private import Synchronization

/// A part of the cache that is one key's: given out again when nobody can ask for it any more.
final class ScopeLease: Sendable {
    /// Gives out scopes.
    final class Pool: Sendable {
        private let state = Mutex<(next: Scope, free: [Scope])>((0, []))

        func take() -> ScopeLease {
            let scope = state.withLock { state -> Scope in
                if let scope = state.free.popLast() { return scope }
                defer { state.next += 1 }
                return state.next
            }
            return ScopeLease(scope, of: self)
        }

        fileprivate func giveBack(_ scope: Scope) { state.withLock { $0.free.append(scope) } }
    }

    let scope: Scope
    private let pool: Pool

    private init(_ scope: Scope, of pool: Pool) {
        self.scope = scope
        self.pool = pool
    }

    deinit { pool.giveBack(scope) }
}
