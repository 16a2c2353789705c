/// Why there is no value; the cache knows no words for an operator, so its caller maps these to its own error.
public enum DEKCacheFailure<LoadFailure: Error>: Error {
    /// The load that this caller made or joined failed.
    case load(LoadFailure)
    /// A load failed lately by the ciphertext's own fault; none was made now.
    case remembered(LoadFailure)
    /// The caller's task was cancelled; a load it made or joined goes on.
    case cancelled
    /// The scope was wiped while the load was under way: its key was denied or removed.
    case revoked
    /// The cache is shut down.
    case shutDown
}

extension DEKCacheFailure: Equatable where LoadFailure: Equatable {}
