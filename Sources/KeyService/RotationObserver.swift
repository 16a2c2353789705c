internal import RemoteKMS

/// An instant in the two times that the key ring lives in.
struct Moment: Sendable, Equatable {
    /// Time since the daemon started, from a clock that never jumps: what settling is measured with.
    var uptime: Duration
    /// Seconds since 1970: what outlives the process is dated with this.
    var epochSeconds: Int64
}

/// Decides when an observed key version becomes the one that encrypts: no calls, no clock, no locks.
///
/// A new version counts once it was seen twice, a settle time apart: backends are replicated, and a key_id that
/// flaps makes every API server re-encrypt. That holds over restarts: what was announced last goes on meanwhile. The
/// very first observation counts at once.
struct RotationObserver {
    /// What the shell is to do about an observation.
    enum Step: Equatable {
        /// Go on as before.
        case stay
        /// Make, prove and announce a local KEK for this version.
        case activate(KeyDescription, keyID: String)
        /// Take up this key_id again, announced before a restart; if its local KEK does not open, say `cannotResume`.
        case resume(keyID: String)
        /// Go on as before and say why this version is not taken.
        case refuse(RemoteKMSError)
    }

    /// What the ring remembers of the past, as far as it matters here.
    struct Past {
        /// key_ids that were active once, oldest first; the last one is or was the current one.
        var keyIDs: [String] = []
        /// The highest version seen of this key, where versions are numbers.
        var highestVersion: UInt64?
        /// The last of the key_ids, if it is one of this key.
        var ofThisKey: KeyID?
        /// The last of the key_ids, if it is one of no key that is configured.
        var stranger: KeyID?
    }

    private let keyName: String
    private let storage: KeyStorage
    private let epoch: UInt32
    private let settle: Duration
    private var active: String?
    private var candidate: (keyID: String, since: Duration)?
    private var mayResume = true

    init(keyName: String, storage: KeyStorage = .service, epoch: UInt32 = 0, settle: Duration) {
        self.keyName = keyName
        self.storage = storage
        self.epoch = epoch
        self.settle = settle
    }

    /// A version was observed at `now`; `keyID` is the id it would be announced under.
    mutating func observed(
        _ description: KeyDescription, keyID: String, at now: Duration, past: Past
    ) -> Step {
        if keyID == active {
            candidate = nil
            return .stay
        }
        if let version = UInt64(description.version), let highest = past.highestVersion, version < highest {
            candidate = nil
            return .refuse(
                RemoteKMSError(
                    .misconfigured, "the backend names version \(version), but \(highest) was seen before",
                    remedy: "if it was restored from a backup, rotate the key past version \(highest)"))
        }
        if past.keyIDs.last != keyID, past.keyIDs.contains(keyID) {
            candidate = nil
            // A file that has a former version active again is an older copy: under another epoch it would write
            // what the newer one, once it is back, does not.
            let isOlderFile = storage == .file && past.ofThisKey != nil
            return .refuse(
                RemoteKMSError(
                    .misconfigured, "key_id \(keyID) was active before, and a key_id may never come back",
                    remedy: isOlderFile
                        ? "put the newer key file back, from a host or a backup that has it"
                        : "raise epoch in the shared configuration (key \(keyName)), or activate another version"
                ))
        }
        guard active != nil else {
            // A lost or exchanged key must not look like a first start: its Secrets could not be read any more, and
            // new ones would be written under another key.
            if let stranger = past.stranger {
                return .refuse(
                    RemoteKMSError(
                        .misconfigured,
                        "this host announced \(stranger) before, a key_id of no key that is configured",
                        remedy:
                            "the key was exchanged, or cluster_context was changed: put back what was there and restart, or "
                            + "configure the former key as a further one"
                    ))
            }
            // Another epoch is the operator's word, not the backend's: nothing is to settle.
            if mayResume, settle > .zero, let former = past.ofThisKey, former.epoch == epoch,
                former.description != keyID
            {
                return .resume(keyID: former.description)
            }
            return .activate(description, keyID: keyID)
        }
        guard let candidate, candidate.keyID == keyID else {
            candidate = (keyID, now)
            return settle > .zero ? .stay : .activate(description, keyID: keyID)
        }
        return now - candidate.since >= settle ? .activate(description, keyID: keyID) : .stay
    }

    /// The key_id is announced from now on.
    mutating func activated(_ keyID: String) {
        active = keyID
        candidate = nil
    }

    /// What was announced before the restart does not open any more.
    mutating func cannotResume() { mayResume = false }

    /// What encrypts was wiped: the next observation begins anew.
    mutating func forgotten() {
        active = nil
        candidate = nil
        mayResume = true
    }
}
