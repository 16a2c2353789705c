private import Synchronization

/// Local KEKs of other replicas and former times that were unwrapped already: bounded, oldest out first.
///
/// The place where a cache of unwrapped keys plugs in: look up, else unwrap, then keep.
final class OpenedLocalKEKs: Sendable {
    private struct State {
        var entries: [WrappedKeyDigest: LocalKEK] = [:]
        /// A ring of the digests, so that the oldest is found.
        var order: [WrappedKeyDigest] = []
        var oldest = 0
    }

    private let capacity: Int
    private let state = Mutex(State())

    init(capacity: Int = 2 * History.maximumLocalKEKs) { self.capacity = capacity }

    subscript(digest: WrappedKeyDigest) -> LocalKEK? { state.withLock { $0.entries[digest] } }

    func keep(_ kek: LocalKEK, as digest: WrappedKeyDigest) {
        state.withLock { state in
            guard state.entries.updateValue(kek, forKey: digest) == nil else { return }
            if state.order.count < capacity {
                state.order.append(digest)
            } else {
                state.entries[state.order[state.oldest]] = nil
                state.order[state.oldest] = digest
                state.oldest = (state.oldest + 1) % capacity
            }
        }
    }
}
