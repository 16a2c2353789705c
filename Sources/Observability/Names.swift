// Observability: metrics, health endpoint and log handlers; beside the path of a request, never in it.
// This file is the one place where metrics, labels and log keys get their names.

private import Events

/// Names of metrics, labels and log metadata keys.
///
/// Dashboards, rules and runbooks are checked against this file.
public enum Names {
    /// Metric names, Prometheus style: base unit in the name, counters end in `_total`.
    public enum Metric {
        /// Counter of answered calls; labels api, method, code.
        public static let requests = "kmsward_requests_total"
        /// Histogram of the time from a call's arrival to its answer; labels api, method.
        public static let requestDuration = "kmsward_request_duration_seconds"
        /// Gauge of calls being served.
        public static let requestsInFlight = "kmsward_requests_in_flight"
        /// Gauge, 1 or 0: what /readyz says.
        public static let ready = "kmsward_ready"
        /// Histogram of the time that sealing or opening one message takes; label operation.
        public static let cryptoDuration = "kmsward_crypto_duration_seconds"
        /// Gauge of open connections.
        public static let connections = "kmsward_connections"
        /// Counter of connections let in.
        public static let connectionsAccepted = "kmsward_connections_accepted_total"
        /// Counter of connections turned away or cut off; label reason.
        public static let connectionsRefused = "kmsward_connections_refused_total"
        /// Counter of connections whose peer left before it had begun to speak HTTP/2.
        public static let connectionsAbandoned = "kmsward_connections_abandoned_total"
        /// Gauge, 1 or 0: no connection is accepted for want of descriptors or memory.
        public static let acceptingPaused = "kmsward_accepting_paused"
        /// Gauge, always 1: which key_id is announced, and what goes into it; labels key, key_id, version, epoch, suite,
        /// write_format, role, provider.
        public static let keyInfo = "kmsward_key_info"
        /// Gauge, 1 or 0: the key can encrypt and decrypt now; label key.
        public static let keyReady = "kmsward_key_ready"
        /// Gauge of the age of the local KEK in use; label key.
        public static let localKEKAge = "kmsward_local_kek_age_seconds"
        /// Gauge of the age at which it is to be replaced; label key.
        public static let localKEKMaximumAge = "kmsward_local_kek_maximum_age_seconds"
        /// Gauge of the messages sealed under the local KEK in use; label key.
        public static let localKEKUses = "kmsward_local_kek_uses"
        /// Gauge, 1 while there is trouble with the key, which may serve all the same; labels key, code.
        public static let keyTrouble = "kmsward_key_trouble"
        /// Gauge of how long the key goes on encrypting if its trouble lasts, 0 if it does not encrypt now; label key.
        ///
        /// With `write_format: compatible` it is 0 as soon as the key-management service does not wrap, though Status fails
        /// only later.
        public static let keyWritesStop = "kmsward_key_writes_stop_in_seconds"
        /// Gauge of when the key was last seen to unwrap, Unix seconds; label key.
        public static let keyLastProof = "kmsward_key_last_proof_timestamp_seconds"
        /// Gauge of when the last probe of the key that has ended began, Unix seconds; label key.
        public static let keyLastProbe = "kmsward_key_last_probe_timestamp_seconds"
        /// Counter of the probes of the key; labels key, result.
        public static let keyProbes = "kmsward_key_probes_total"
        /// Gauge of how often the key is probed; label key.
        public static let keyProbeInterval = "kmsward_key_probe_interval_seconds"
        /// Counter of the key_ids that took the place of another while the daemon ran; label key.
        public static let keyRotations = "kmsward_key_rotations_total"
        /// Counter of Decrypts of what was written under another key_id than the one that encrypts; label key.
        public static let formerKeyDecrypts = "kmsward_former_key_decrypts_total"
        /// Gauge of when the credentials for the key end, Unix seconds; label key.
        public static let credentialsEnd = "kmsward_credentials_expiry_timestamp_seconds"
        /// Gauge of what is added to this machine's time in calls to the key-management service; label key.
        public static let clockOffset = "kmsward_backend_clock_offset_seconds"
        /// Counter of looks at a configuration that somebody changed or asked to be read anew; label result.
        public static let reloads = "kmsward_config_reloads_total"
        /// Gauge, 1 or 0: the last of them was not refused.
        public static let reloadSucceeded = "kmsward_config_last_reload_successful"
        /// Gauge of when the configuration that runs was read, Unix seconds.
        public static let reloadedAt = "kmsward_config_last_reload_success_timestamp_seconds"
        /// Counter of calls to the key-management service; labels key, operation, outcome, attempt.
        public static let backendCalls = "kmsward_backend_calls_total"
        /// Histogram of the time of one call to the key-management service; labels key, operation.
        public static let backendDuration = "kmsward_backend_duration_seconds"
        /// Histogram of the time that a call to the key-management service waited for its turn; label key.
        public static let queueDuration = "kmsward_queue_duration_seconds"
        /// Counter of calls that the key-management service took, as its provider bills them; label key.
        public static let billedCalls = "kmsward_backend_billed_calls_total"
        /// Gauge of the configured price of one of them; label key.
        public static let callPrice = "kmsward_backend_call_price"
        /// Gauge of when the certificate of the key-management service ends, Unix seconds; label key.
        public static let certificateEnd = "kmsward_backend_certificate_expiry_timestamp_seconds"
        /// Counter of what was decided about calls to the key-management service; labels key, decision.
        public static let backendDecisions = "kmsward_backend_decisions_total"
        /// Gauge of calls that wait for their turn at the key-management service; label key.
        public static let backendCallsWaiting = "kmsward_backend_calls_waiting"
        /// Gauge, 1 or 0: the key-management service is left alone since it only failed; label key.
        public static let backendBreakerOpen = "kmsward_backend_breaker_open"
        /// Counter of requests to the cache of unwrapped keys; label outcome.
        public static let cacheRequests = "kmsward_cache_requests_total"
        /// Histogram of the time that a request waited for what was not in it; label key.
        public static let cacheLoadDuration = "kmsward_cache_load_duration_seconds"
        /// Counter of entries that left it; label reason.
        public static let cacheEvictions = "kmsward_cache_evictions_total"
        /// Counter of its reloads beside a hit; label outcome.
        public static let cacheReloads = "kmsward_cache_reloads_total"
        /// Gauge of its entries.
        public static let cacheEntries = "kmsward_cache_entries"
        /// Gauge of the bytes of secrets in it.
        public static let cacheSecretBytes = "kmsward_cache_secret_bytes"
        /// Gauge of its loads under way.
        public static let cacheLoadsInFlight = "kmsward_cache_loads_in_flight"
        /// Gauge, 1 or 0: secrets are in memory that cannot be swapped out.
        public static let memoryLocked = "kmsward_memory_locked"
        /// Counter of log lines lost because their reader did not keep up.
        public static let logLinesDropped = "kmsward_log_lines_dropped_total"
        /// Gauge, always 1: the version that runs; label version.
        public static let buildInfo = "kmsward_build_info"
        /// Counter of series that were folded into `other`; label metric.
        public static let seriesFolded = "kmsward_metrics_series_folded_total"

        /// Counter of processor seconds spent, user and system.
        public static let processCPU = "process_cpu_seconds_total"
        /// Gauge of resident memory.
        public static let processResidentMemory = "process_resident_memory_bytes"
        /// Gauge of virtual memory.
        public static let processVirtualMemory = "process_virtual_memory_bytes"
        /// Gauge of open file descriptors.
        public static let processOpenFDs = "process_open_fds"
        /// Gauge of the limit of open file descriptors.
        public static let processMaxFDs = "process_max_fds"
        /// Gauge of the start time, Unix seconds.
        public static let processStartTime = "process_start_time_seconds"
        /// Gauge of threads.
        public static let processThreads = "process_threads"
    }

    /// Label names.
    public enum Label {
        /// KMS API version, `v1beta1` or `v2`.
        public static let api = "api"
        /// `encrypt`, `decrypt`, `status` or `version`.
        public static let method = "method"
        /// gRPC status, as in the specification: `OK`, `INVALID_ARGUMENT`.
        public static let code = "code"
        /// Why a connection was refused.
        public static let reason = "reason"
        /// Name of a configured key.
        public static let key = "key"
        /// The announced key_id.
        public static let keyID = "key_id"
        /// The configured epoch.
        public static let epoch = "epoch"
        /// What the key encrypts with.
        public static let suite = "suite"
        /// What it writes.
        public static let writeFormat = "write_format"
        /// `encrypts`, or `decrypts` only.
        public static let role = "role"
        /// Provider of the key.
        public static let provider = "provider"
        /// Call to a key-management service, or what is done with a message.
        public static let operation = "operation"
        /// How such a call ended: `ok` or the code of the error.
        public static let outcome = "outcome"
        /// Which try of a call it was: `first`, `beside` it or `again` after it.
        public static let attempt = "attempt"
        /// How a reload or a probe ended.
        public static let result = "result"
        /// What was decided about a call to a key-management service.
        public static let decision = "decision"
        /// Version of the daemon, or of a key as its backend names it.
        public static let version = "version"
        /// Name of a metric.
        public static let metric = "metric"
    }

    /// Log metadata keys (journal fields are these in upper case with the prefix `KMSWARD_`).
    public enum LogKey {
        /// Name of the configured key concerned.
        public static let key = "key"
        /// key_id concerned.
        public static let keyID = "key_id"
        /// KMS API version.
        public static let api = "api"
        /// KMS method.
        public static let method = "method"
        /// Status or error code.
        public static let code = "code"
        /// Call to the key-management service.
        public static let operation = "operation"
        /// How it ended.
        public static let outcome = "outcome"
        /// Code of the event (room Events); the journal adds its MESSAGE_ID.
        public static let event = Event.logKey
        /// What went wrong, one line.
        public static let cause = "cause"
        /// Why something was decided.
        public static let reason = "reason"
        /// What changed.
        public static let changes = "changes"
        /// What the operator should do.
        public static let remedy = "remedy"
        /// File, directory or socket concerned.
        public static let path = "path"
        /// Address of an endpoint.
        public static let address = "address"
        /// Version of the daemon or of something it met.
        public static let version = "version"
        /// User id of a peer.
        public static let peerUID = "peer_uid"
        /// Group id of a peer.
        public static let peerGID = "peer_gid"
        /// Process id of a peer.
        public static let peerPID = "peer_pid"
        /// Bytes from a peer that have not been read yet.
        public static let unreadBytes = "unread_bytes"
        /// Bytes for a peer that it has not read yet.
        public static let unsentBytes = "unsent_bytes"
        /// Calls being served.
        public static let callsInFlight = "calls_in_flight"
        /// How the daemon is, one line.
        public static let status = "status"
        /// How long it took, milliseconds.
        public static let durationMS = "duration_ms"
        /// How many.
        public static let count = "count"
        /// A limit that was reached.
        public static let limit = "limit"
        /// Signal received.
        public static let signal = "signal"
        /// UID of the request as the API server sent it.
        public static let uid = "uid"
    }

    /// Values of the labels whose values are known beforehand.
    public enum Value {
        /// Values of `Label.api`.
        public static let apis = ["v1beta1", "v2"]
        /// Values of `Label.method`.
        public static let methods = ["encrypt", "decrypt", "status", "version"]
        /// Values of `Label.code`: every gRPC status.
        public static let codes = [
            "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
            "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
        ]
        /// Those that are failures: not what the caller gave up or asked wrongly.
        public static let failures =
            codes.filter { !["OK", "CANCELLED", "INVALID_ARGUMENT"].contains($0) } + [other]
        /// Values of `Label.reason`.
        public static let refusals = ["uid", "limit", "handshake_timeout", "not_http2", "stalled", "barred"]
        /// Values of `Label.operation`.
        public static let operations = ["describe", "wrap", "unwrap"]
        /// Values of `Label.attempt`.
        public static let attempts = ["first", "beside", "again"]
        /// Values of `Label.decision`.
        public static let decisions = [
            "tried_beside", "beside_won", "tried_again", "credentials_renewed", "refused_by_breaker",
            "opened_breaker", "refused_by_rate", "refused_by_queue", "outlived_caller", "ended_with_caller",
        ]
        /// Values of `Label.code` of trouble with a key.
        public static let troubles = [
            "deadlineExceeded", "unavailable", "throttled", "unauthenticated", "permissionDenied",
            "keyNotFound", "keyDisabled", "invalidCiphertext", "malformedReply", "misconfigured",
        ]
        /// Values of `Label.result`.
        public static let reloads = ["applied", "unchanged", "refused"]
        /// Values of `Label.result` of probes.
        public static let probes = ["ok", "failed"]
        /// Values of `Label.operation` of messages.
        public static let messageOperations = ["seal", "open"]
        /// Values of `Label.suite`.
        public static let suites = ["aes-256-gcm", "sm4-ctr-hmac-sm3", "sm4-gcm"]
        /// Values of `Label.writeFormat`.
        public static let writeFormats = ["envelope", "compatible"]
        /// Values of `Label.role`.
        public static let roles = ["encrypts", "decrypts"]
        /// Values of `Label.outcome` of the cache's requests.
        public static let cacheResults = ["hit", "miss", "coalesced", "negative"]
        /// Values of `Label.reason` of what left the cache.
        public static let cacheEvictions = [
            "capacity", "expired", "denied", "removed", "replaced", "off", "shutdown",
        ]
        /// Values of `Label.outcome` of the cache's reloads.
        public static let cacheReloads = ["started", "failed"]
        /// Where a value goes that does not belong to its label's values, or a series beyond the metric's limit.
        public static let other = "other"
    }

    /// What a metric is.
    public enum Kind: String, Sendable {
        /// Only grows; its name ends in `_total`.
        case counter
        /// Goes up and down.
        case gauge
        /// Counts observations in buckets.
        case histogram
    }

    /// A label of a metric and the values it may have.
    public struct LabelRule: Sendable {
        /// Name of the label.
        public let name: String
        /// The only values; any other becomes `other`.
        ///
        /// Empty: values come from the configuration, bounded by the number of series of the metric.
        public let values: [String]

        init(_ name: String, _ values: [String] = []) {
            self.name = name
            self.values = values
        }
    }

    /// A row of the catalogue: all there is to know about a metric before it has a value.
    public struct Entry: Sendable {
        /// Name, as in `Metric`.
        public let name: String
        /// What it is.
        public let kind: Kind
        /// The `# HELP` text.
        public let help: String
        /// Its labels, always all of them, in the order of rendering.
        public let labels: [LabelRule]
        /// Upper bounds of a histogram's buckets, ascending, without +Inf.
        public let buckets: [Double]
        /// How many series it may have before further ones are folded into one.
        public let maximumSeries: Int

        /// It is not in the catalogue: a library's, with whatever labels it came with.
        let isForeign: Bool

        init(
            _ name: String, _ kind: Kind, _ help: String, _ labels: [LabelRule] = [], buckets: [Double] = [],
            maximumSeries: Int = 256, isForeign: Bool = false
        ) {
            self.name = name
            self.kind = kind
            self.help = help
            self.labels = labels
            self.buckets = buckets
            self.maximumSeries = maximumSeries
            self.isForeign = isForeign
        }
    }

    /// Every metric of the daemon.
    ///
    /// `# HELP`, `# TYPE` and the documentation come from here.
    public static let catalogue: [Entry] = [
        Entry(
            Metric.requests, .counter, "KMS calls answered, by API version, method and gRPC status.",
            [
                LabelRule(Label.api, Value.apis), LabelRule(Label.method, Value.methods),
                LabelRule(Label.code, Value.codes),
            ]),
        Entry(
            Metric.requestDuration, .histogram, "Time from the arrival of a KMS call to its answer.",
            [LabelRule(Label.api, Value.apis), LabelRule(Label.method, Value.methods)],
            buckets: Buckets.request),
        Entry(Metric.requestsInFlight, .gauge, "KMS calls being served now."),
        Entry(
            Metric.ready, .gauge,
            "1 if the daemon is ready, as /readyz says: the key that encrypts serves; else 0."),
        Entry(
            Metric.cryptoDuration, .histogram, "Time of sealing or opening one message with a local KEK.",
            [LabelRule(Label.operation, Value.messageOperations)], buckets: Buckets.crypto),
        Entry(Metric.connections, .gauge, "Open connections on the KMS socket."),
        Entry(Metric.connectionsAccepted, .counter, "Connections let in on the KMS socket."),
        Entry(
            Metric.connectionsRefused, .counter,
            "Connections turned away or cut off on the KMS socket, by reason.",
            [LabelRule(Label.reason, Value.refusals)]),
        Entry(
            Metric.connectionsAbandoned, .counter,
            "Connections whose peer left before it had begun to speak HTTP/2."),
        Entry(
            Metric.acceptingPaused, .gauge,
            "1 while no connection is accepted for want of file descriptors or memory, else 0."),
        Entry(
            Metric.keyInfo, .gauge,
            "Always 1; names the key_id that each configured key announces, or would, and what it is made and used with.",
            [
                LabelRule(Label.key), LabelRule(Label.keyID), LabelRule(Label.version),
                LabelRule(Label.epoch), LabelRule(Label.suite, Value.suites),
                LabelRule(Label.writeFormat, Value.writeFormats), LabelRule(Label.role, Value.roles),
                LabelRule(Label.provider),
            ]),
        Entry(
            Metric.keyReady, .gauge, "1 if the key can encrypt and decrypt now, else 0.",
            [LabelRule(Label.key)]),
        Entry(
            Metric.localKEKAge, .gauge, "Age of the local key-encryption key in use.", [LabelRule(Label.key)]),
        Entry(
            Metric.localKEKMaximumAge, .gauge,
            "Age at which the local key-encryption key is to be replaced, as configured.",
            [LabelRule(Label.key)]),
        Entry(
            Metric.localKEKUses, .gauge, "Messages sealed under the local key-encryption key in use.",
            [LabelRule(Label.key)]),
        Entry(
            Metric.keyTrouble, .gauge,
            "1 while there is trouble of that class with the key, which may serve all the same.",
            [LabelRule(Label.key), LabelRule(Label.code, Value.troubles)]),
        Entry(
            Metric.keyWritesStop, .gauge,
            "How long the key goes on encrypting if its trouble lasts, 0 if it does not now; absent where nothing limits it.",
            [LabelRule(Label.key)]),
        Entry(
            Metric.keyLastProof, .gauge,
            "When the key was last seen to unwrap, seconds since the Unix epoch.",
            [LabelRule(Label.key)]),
        Entry(
            Metric.keyLastProbe, .gauge,
            "When the last probe of the key that has ended, well or badly, began, seconds since the Unix epoch.",
            [LabelRule(Label.key)]),
        Entry(
            Metric.keyProbes, .counter, "Probes of the key, by result.",
            [LabelRule(Label.key), LabelRule(Label.result, Value.probes)]),
        Entry(
            Metric.keyProbeInterval, .gauge, "How often the key is probed, as configured.",
            [LabelRule(Label.key)]),
        Entry(
            Metric.keyRotations, .counter,
            "Key_ids that took the place of another one of the key since the start.",
            [LabelRule(Label.key)]),
        Entry(
            Metric.formerKeyDecrypts, .counter,
            "Decrypts of what was written under another key_id than the one that encrypts now, by the key that opened it.",
            [LabelRule(Label.key)]),
        Entry(
            Metric.credentialsEnd, .gauge,
            "When the temporary credentials for the key end, seconds since the Unix epoch.",
            [LabelRule(Label.key)]),
        Entry(
            Metric.clockOffset, .gauge,
            "What is added to this machine's time in calls to the key-management service.",
            [LabelRule(Label.key)]),
        Entry(
            Metric.reloads, .counter, "Reloads of the configuration, by result.",
            [LabelRule(Label.result, Value.reloads)]),
        Entry(
            Metric.reloadSucceeded, .gauge,
            "1 if the last reload of the configuration was not refused, else 0."
        ),
        Entry(
            Metric.reloadedAt, .gauge,
            "When the configuration that runs was taken, seconds since the Unix epoch."),
        Entry(
            Metric.backendCalls, .counter,
            "Calls to the key-management service, by key, operation, outcome and attempt.",
            [
                LabelRule(Label.key), LabelRule(Label.operation, Value.operations),
                LabelRule(Label.outcome, ["ok"] + Value.troubles),
                LabelRule(Label.attempt, Value.attempts),
            ], maximumSeries: 2048),
        Entry(
            Metric.backendDuration, .histogram, "Time of one call to the key-management service.",
            [LabelRule(Label.key), LabelRule(Label.operation, Value.operations)], buckets: Buckets.backend),
        Entry(
            Metric.queueDuration, .histogram,
            "Time that a call to the key-management service waited for its turn and for the rate asked for.",
            [LabelRule(Label.key)], buckets: Buckets.backend),
        Entry(
            Metric.billedCalls, .counter,
            "Requests that the key-management service answered, but for those it refused with 429 or failed with 5xx.",
            [LabelRule(Label.key)]),
        Entry(
            Metric.callPrice, .gauge,
            "Price of one request to the key-management service, as configured; absent where none is.",
            [LabelRule(Label.key)]),
        Entry(
            Metric.certificateEnd, .gauge,
            "When the certificate of the key-management service ends, seconds since the Unix epoch, as last seen.",
            [LabelRule(Label.key)]),
        Entry(
            Metric.backendDecisions, .counter,
            "What was decided about calls to the key-management service: further tries, refusals, renewals.",
            [LabelRule(Label.key), LabelRule(Label.decision, Value.decisions)], maximumSeries: 512),
        Entry(
            Metric.backendCallsWaiting, .gauge,
            "Calls that wait for their turn at the key-management service.",
            [LabelRule(Label.key)]),
        Entry(
            Metric.backendBreakerOpen, .gauge,
            "1 while the key-management service is left alone since it only fails, else 0.",
            [LabelRule(Label.key)]),
        Entry(
            Metric.cacheRequests, .counter, "Requests to the cache of unwrapped keys, by outcome.",
            [LabelRule(Label.outcome, Value.cacheResults)]),
        Entry(
            Metric.cacheLoadDuration, .histogram,
            "Time that a request waited for an unwrapped key that was not in the cache.",
            [LabelRule(Label.key)], buckets: Buckets.backend),
        Entry(
            Metric.cacheEvictions, .counter, "Entries that left the cache of unwrapped keys, by reason.",
            [LabelRule(Label.reason, Value.cacheEvictions)]),
        Entry(
            Metric.cacheReloads, .counter, "Entries of the cache loaded anew beside a hit, by outcome.",
            [LabelRule(Label.outcome, Value.cacheReloads)]),
        Entry(Metric.cacheEntries, .gauge, "Unwrapped keys in the cache."),
        Entry(Metric.cacheSecretBytes, .gauge, "Bytes of secrets in the cache."),
        Entry(Metric.cacheLoadsInFlight, .gauge, "Loads of unwrapped keys under way."),
        Entry(Metric.memoryLocked, .gauge, "1 if secrets are in memory that cannot be swapped out, else 0."),
        Entry(Metric.logLinesDropped, .counter, "Log lines lost because their reader did not keep up."),
        Entry(Metric.buildInfo, .gauge, "Always 1; names the version that runs.", [LabelRule(Label.version)]),
        Entry(
            Metric.seriesFolded, .counter,
            "Requests for a series that was folded into `other`: an unknown label value, or too many series.",
            [LabelRule(Label.metric)]),
        Entry(Metric.processCPU, .counter, "User and system processor time spent."),
        Entry(Metric.processResidentMemory, .gauge, "Resident memory."),
        Entry(Metric.processVirtualMemory, .gauge, "Virtual memory."),
        Entry(Metric.processOpenFDs, .gauge, "Open file descriptors."),
        Entry(Metric.processMaxFDs, .gauge, "Limit of open file descriptors."),
        Entry(Metric.processStartTime, .gauge, "Start time of the process, seconds since the Unix epoch."),
        Entry(Metric.processThreads, .gauge, "Threads of the process."),
    ]

    /// Bucket bounds, seconds.
    public enum Buckets {
        /// A call answered from memory takes tens of microseconds; the API server gives up after seconds.
        public static let request = [
            0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5,
            2, 2.5,
            3, 5, 10,
        ]
        /// Sealing and opening take some ten microseconds, and more only where the host is short of processors.
        public static let crypto = [
            0.000005, 0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.005,
        ]
        /// A call to a key-management service crosses a network, or not.
        public static let backend = [
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 2.5, 3, 5, 10, 30,
        ]
        /// For a histogram that the catalogue does not know.
        public static let standard = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10]
    }
}
