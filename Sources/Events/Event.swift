// Events: what an operator is told of at warning or above, and the few notices that matter: a code to search for, a MESSAGE_ID,
// what it means for the cluster, what to do first, and the runbook. Beside the path of a request, and of no other room's kind.

/// What the log tells an operator.
///
/// Code and `messageID` are contracts: rules and runbooks go by them, and journals that are kept for years. Neither is changed or
/// used again; what a case is called here may be.
public enum Event: String, Sendable, CaseIterable {
    // Start, stop, configuration.
    /// The daemon could not start.
    case startFailed = "KW-START-FAILED"
    /// The configuration is broken, so the daemon did not start.
    case configurationBroken = "KW-CONFIG-BROKEN"
    /// A reload was refused.
    case configurationRefused = "KW-CONFIG-REFUSED"
    /// A configuration is taken, with a reservation.
    case configurationRemark = "KW-CONFIG-REMARK"
    /// Options wait for a restart.
    case configurationWaits = "KW-CONFIG-WAITS"
    /// Another configuration is in effect.
    case configurationTaken = "KW-CONFIG-TAKEN"
    /// Ready, though the key that encrypts does not serve.
    case readyWithoutKey = "KW-READY-WITHOUT-KEY"
    /// Calls did not end in time at the stop.
    case stopIncomplete = "KW-STOP-INCOMPLETE"
    /// A part of the daemon ended on its own.
    case serviceFailed = "KW-SERVICE-FAILED"
    /// The thread that serves calls does not turn.
    case engineStalled = "KW-ENGINE-STALLED"
    /// A library had something to say.
    case unclassified = "KW-UNCLASSIFIED"

    // The host.
    /// Secrets are in memory that may be swapped or dumped.
    case memoryNotLocked = "KW-MEMORY-NOT-LOCKED"
    /// Other processes of the daemon's user can read its memory.
    case processReadable = "KW-PROCESS-READABLE"
    /// The limit of open files is below what the connections need.
    case openFilesLow = "KW-OPEN-FILES-LOW"
    /// Log lines were lost.
    case logLinesLost = "KW-LOG-LINES-LOST"
    /// There is no journal to write to.
    case journalMissing = "KW-JOURNAL-MISSING"
    /// Metrics and health checks are not served.
    case metricsNotServed = "KW-METRICS-NOT-SERVED"

    // Who connects.
    /// The socket is open to more than it should, or to nobody.
    case socketExposed = "KW-SOCKET-EXPOSED"
    /// A user that is not admitted wanted to connect.
    case peerRefused = "KW-PEER-REFUSED"
    /// Something connected that does not speak gRPC.
    case peerForeign = "KW-PEER-FOREIGN"
    /// All places for connections are taken.
    case connectionsFull = "KW-CONNECTIONS-FULL"
    /// One process holds more than half of the places.
    case connectionsOfOne = "KW-CONNECTIONS-OF-ONE"
    /// No connection can be accepted for want of descriptors or memory.
    case acceptingPaused = "KW-ACCEPTING-PAUSED"
    /// The socket was shut down from outside.
    case socketLost = "KW-SOCKET-LOST"
    /// A connection was cut that harmed the others.
    case peerCut = "KW-PEER-CUT"
    /// A process may not connect for a while.
    case peerBarred = "KW-PEER-BARRED"

    // Calls, by the gRPC status of their answers.
    /// A request breaks the KMS API.
    case requestMalformed = "KW-REQUEST-MALFORMED"
    /// A call was refused for what is in it: INVALID_ARGUMENT.
    case callInvalid = "KW-CALL-INVALID"
    /// A call failed: UNAVAILABLE.
    case callUnavailable = "KW-CALL-UNAVAILABLE"
    /// A call failed: DEADLINE_EXCEEDED.
    case callTimedOut = "KW-CALL-TIMED-OUT"
    /// A call failed: UNAUTHENTICATED.
    case callUnauthenticated = "KW-CALL-UNAUTHENTICATED"
    /// A call failed: PERMISSION_DENIED.
    case callDenied = "KW-CALL-DENIED"
    /// A call failed: FAILED_PRECONDITION.
    case callKeyUnusable = "KW-CALL-KEY-UNUSABLE"
    /// A call failed: RESOURCE_EXHAUSTED.
    case callRefusedBusy = "KW-CALL-REFUSED-BUSY"
    /// A call failed by the daemon's own fault: INTERNAL.
    case callDefect = "KW-CALL-DEFECT"

    // Keys: the first ten by the code of the trouble.
    /// A key's service does not answer in time.
    case keyTimedOut = "KW-KEY-TIMED-OUT"
    /// A key's service cannot be reached or fails.
    case keyUnavailable = "KW-KEY-UNAVAILABLE"
    /// A key's service asks for fewer calls.
    case keyThrottled = "KW-KEY-THROTTLED"
    /// A key's service refuses the credentials.
    case keyUnauthenticated = "KW-KEY-UNAUTHENTICATED"
    /// A key's service does not let the credentials use the key.
    case keyDenied = "KW-KEY-DENIED"
    /// There is no such key.
    case keyNotFound = "KW-KEY-NOT-FOUND"
    /// A key's service says that the key may not be used.
    case keyDisabled = "KW-KEY-DISABLED"
    /// A key does not give back what it wrapped.
    case keyCiphertext = "KW-KEY-CIPHERTEXT"
    /// A key's service answers what is not understood.
    case keyMalformedReply = "KW-KEY-MALFORMED-REPLY"
    /// A key's set-up is wrong.
    case keyMisconfigured = "KW-KEY-MISCONFIGURED"
    /// What was unwrapped with a key is wiped.
    case keyWiped = "KW-KEY-WIPED"
    /// A key's trouble is over.
    case keyWell = "KW-KEY-WELL"
    /// A key_id is announced.
    case keyActive = "KW-KEY-ACTIVE"
    /// What was written under a former key_id cannot be read.
    case keyFormerTrouble = "KW-KEY-FORMER-TROUBLE"
    /// A remembered local KEK does not open any more.
    case localKEKPassedOver = "KW-LOCAL-KEK-PASSED-OVER"
    /// A key serves with what will not last.
    case keyNeedsAttention = "KW-KEY-NEEDS-ATTENTION"
    /// What needed attention at a key is over.
    case keyAttentionOver = "KW-KEY-ATTENTION-OVER"
    /// keyring.json cannot be read.
    case historyNotRead = "KW-HISTORY-NOT-READ"
    /// keyring.json cannot be written.
    case historyNotWritten = "KW-HISTORY-NOT-WRITTEN"

    /// What operators search for, and `kmsward explain` takes.
    public var code: String { rawValue }
}
