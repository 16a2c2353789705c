public import Logging

// What is said of each event: a table that tests hold the runbooks to.

extension Event {
    /// What is to be said of an event, beside what the log line says.
    public struct Entry: Sendable {
        /// 32 hex digits, the MESSAGE_ID of the journal.
        public let messageID: String
        /// The level it is logged at, where nothing makes it worse or milder.
        public let level: Logger.Level
        /// One line; `@KMSWARD_KEY@` stands for the field of the journal.
        public let subject: String
        /// What lies behind it, most likely first.
        public let cause: String
        /// What it does to the cluster.
        public let meaning: String
        /// What to do first.
        public let steps: [String]
        /// The page below `runbooks`, without `.md`.
        public let runbook: String
    }

    /// What is to be said of it.
    public var entry: Entry {
        switch self {
        case .startFailed:
            Entry(
                messageID: "0be43d9f4ef54ec1bc3335206d99e3fc", level: .critical,
                subject: "The daemon could not start",
                cause:
                    "The message says what it needed and did not get: its socket, a port, a descriptor.",
                meaning:
                    "No call is answered on this host: reads of what the API server has not in memory fail with "
                    + "DEADLINE_EXCEEDED, writes stop within 3 minutes, and after a restart it cannot read Secrets.",
                steps: [
                    "Do what the message says; systemd starts the daemon again by itself, each second.",
                    "runuser -u kmsward -- kmsward config check --on-this-host /etc/kmsward/kmsward.yaml",
                    "systemctl status kmsward; if it says inactive: systemctl start kmsward",
                ],
                runbook: "KW-START-FAILED")
        case .configurationBroken:
            Entry(
                messageID: "73676014df204a25a8083929f7041c65", level: .critical,
                subject: "The configuration is broken, so the daemon did not start",
                cause:
                    "The file was changed since the last start, or the daemon's user may not read it, or the unit passes "
                    + "on another socket than it should.",
                meaning:
                    "No call is answered on this host until it is mended; the socket unit keeps callers waiting, so "
                    + "the API server sees DEADLINE_EXCEEDED.",
                steps: [
                    "runuser -u kmsward -- kmsward config check --on-this-host /etc/kmsward/kmsward.yaml",
                    "Mend each line it prints; systemd starts the daemon again by itself, each second.",
                    "If it cannot be read: chgrp kmsward /etc/kmsward/kmsward.yaml; chmod 640 /etc/kmsward/kmsward.yaml",
                ],
                runbook: "KW-START-FAILED")
        case .configurationRefused:
            Entry(
                messageID: "46ff315f2b4f4bef863c9f360e4c20da", level: .error,
                subject: "The new configuration is refused; the former one goes on",
                cause:
                    "The file is wrong somewhere, or names a key that does not show within 20 s that it works.",
                meaning:
                    "Nothing has changed yet. The next restart would meet the same file, and fail.",
                steps: [
                    "runuser -u kmsward -- kmsward config check --on-this-host /etc/kmsward/kmsward.yaml",
                    "Mend the file, or put the former one back: it is read again by itself.",
                    "If the file is right, and what it names was not there yet (a service, a key file): systemctl "
                        + "reload kmsward, once it is.",
                ],
                runbook: "KmswardReloadRefused")
        case .configurationRemark:
            Entry(
                messageID: "3d4a3b6bdb0c4440aa20f0373d23e375", level: .warning,
                subject: "The configuration is taken, but somebody should look at it",
                cause:
                    "An option is allowed and rarely meant, such as metrics beyond loopback, or says otherwise than the "
                    + "unit of a socket that systemd passes on.",
                meaning:
                    "None now.",
                steps: [
                    "kmsward config check /etc/kmsward/kmsward.yaml",
                    "Change the option, or leave it if it is meant.",
                ],
                runbook: "KmswardReloadRefused")
        case .configurationWaits:
            Entry(
                messageID: "a551d07e8e424af6afc90f37944e619f", level: .warning,
                subject: "Some new options wait for a restart",
                cause:
                    "They are among those that cannot change while the daemon runs, such as limits.drain and "
                    + "cluster_context. A reload exits with 0 and applies none of them.",
                meaning:
                    "None: the former values are in force.",
                steps: [
                    "If cluster_context is among them and the keys are well: take the change back.",
                    "Else systemctl restart kmsward, when every key is ok in systemctl status kmsward, or has "
                        + "\"Last proof: none yet\" on the status page, and so nothing in memory.",
                ],
                runbook: "KmswardReloadRefused")
        case .configurationTaken:
            Entry(
                messageID: "761a4804851c4b8c80678b4f09b7225e", level: .notice,
                subject: "A new configuration is in effect",
                cause:
                    "Somebody changed the file.",
                meaning:
                    "What the message lists. Another first key is a rotation for the API server.",
                steps: [
                    "Nothing, if the change was meant. To see all of it: kmsward config print "
                        + "/etc/kmsward/kmsward.yaml"
                ],
                runbook: "KmswardReloadRefused")
        case .readyWithoutKey:
            Entry(
                messageID: "18f2fe7388a141f3bc4225b994618286", level: .warning,
                subject: "Ready, but the key that encrypts does not serve",
                cause:
                    "The key's service or key file was in trouble when the daemon started, or cluster_context or the "
                    + "first key was changed before.",
                meaning:
                    "kube-apiserver starts and is told the cause, but cannot read or write Secrets until the"
                    + " key serves.",
                steps: [
                    "curl -sS -m 5 http://127.0.0.1:9464/readyz",
                    "Follow the entry that names the key's trouble.",
                ],
                runbook: "KmswardNotReady")
        case .stopIncomplete:
            Entry(
                messageID: "bed275bc44114e3aa42afabafeda44f3", level: .error,
                subject: "Calls did not end though they were cancelled",
                cause:
                    "A thread of the daemon was held up, most likely by a starved machine.",
                meaning:
                    "The calls in flight failed; the API server tries again.",
                steps: [
                    "See whether the daemon is back: systemctl status kmsward",
                    "Look for the machine's own trouble at that time: processor, memory, disk.",
                ],
                runbook: "KW-ENGINE-STALLED")
        case .serviceFailed:
            Entry(
                messageID: "de9513e23e5f44a5bda3706575904d14", level: .critical,
                subject: "A part of the daemon ended on its own: a defect",
                cause:
                    "A defect of kmsward.",
                meaning:
                    "systemd starts the daemon again; calls wait in the socket meanwhile.",
                steps: [
                    "See whether the daemon is back: systemctl status kmsward",
                    "Report it, with the journal of the hour before.",
                ],
                runbook: "KW-CALL-DEFECT")
        case .engineStalled:
            Entry(
                messageID: "4042d96544134b9996b09a134039f572", level: .error,
                subject: "The thread that serves calls does not turn",
                cause:
                    "The machine gives the daemon no processor time, or a defect.",
                meaning:
                    "No call is answered on this host. The watchdog restarts the daemon within 15 s; calls "
                    + "wait in the socket.",
                steps: [
                    "systemctl status kmsward",
                    "See whether the machine is starved: uptime; cat /proc/pressure/cpu",
                ],
                runbook: "KW-ENGINE-STALLED")
        case .unclassified:
            Entry(
                messageID: "9e2f17c839254acd8ce53a72a126b41a", level: .warning,
                subject: "A library of the daemon reported something",
                cause:
                    "Not known beforehand; the message has it.",
                meaning:
                    "Not known beforehand.",
                steps: [
                    "kmsward doctor",
                    "Report it.",
                ],
                runbook: "KW-CALL-DEFECT")
        case .memoryNotLocked:
            Entry(
                messageID: "124c769dec644e77a5a593c8ab77286a", level: .warning,
                subject: "Secrets are in memory that may be swapped out or dumped",
                cause:
                    "LimitMEMLOCK= of the unit is too small, or core files are allowed.",
                meaning:
                    "Every call is served. Keys may reach the disk of this host.",
                steps: [
                    "systemctl show -p LimitMEMLOCK -p LimitCORE kmsward",
                    "Put LimitMEMLOCK=64M and LimitCORE=0 back into the unit, and restart.",
                ],
                runbook: "KmswardMemoryNotLocked")
        case .processReadable:
            Entry(
                messageID: "c76f93df03b64ff98d8a827671a4b7fa", level: .warning,
                subject: "The memory of the daemon is not closed to others",
                cause:
                    "memory.dumpable is on, or a seccomp filter forbids what closes it.",
                meaning:
                    "Every call is served. Whoever runs as the daemon's user can read keys.",
                steps: [
                    "Take memory.dumpable out of the configuration, and restart."
                ],
                runbook: "KmswardMemoryNotLocked")
        case .openFilesLow:
            Entry(
                messageID: "0606d19a96a64c1c8700d71dbfdd9124", level: .warning,
                subject: "The limit of open files is too small for socket.max_connections",
                cause:
                    "LimitNOFILE= of the unit is too small.",
                meaning:
                    "Every call is served until many connections are open; then new ones wait.",
                steps: [
                    "Put LimitNOFILE=4096 into the unit, and restart."
                ],
                runbook: "KmswardAcceptingPaused")
        case .logLinesLost:
            Entry(
                messageID: "53c69e9175f240219465b326173e9f6d", level: .warning,
                subject: "Log lines were lost: their reader did not keep up",
                cause:
                    "journald or whoever reads standard error was held up, or the level is debug under load.",
                meaning:
                    "Calls are not slowed by it. What happened meanwhile may be missing in this journal.",
                steps: [
                    "systemctl status systemd-journald",
                    "df -h /var/log/journal",
                    "Set log.level back to info.",
                ],
                runbook: "KW-LOG-LINES-LOST")
        case .journalMissing:
            Entry(
                messageID: "ec35e3eff942422cab5ebf0a81676aae", level: .warning,
                subject: "journald is not here; the log is text on standard error",
                cause:
                    "log.format is journal where no journald runs, as in a container.",
                meaning:
                    "None.",
                steps: [
                    "Set log.format to auto."
                ],
                runbook: "KW-LOG-LINES-LOST")
        case .metricsNotServed:
            Entry(
                messageID: "a982bb35ceec4b7c936adc077ce20774", level: .warning,
                subject: "Metrics and health checks are not served until the next start",
                cause:
                    "Another process has their port, or the unit of their socket is not there.",
                meaning:
                    "None: keys are served. Alerts of this host say that the plugin is down.",
                steps: [
                    "systemctl --failed",
                    "ss -ltnp | grep 9464",
                    "Stop the process that has the port, then restart kmsward when every key is well.",
                ],
                runbook: "KmswardDown")
        case .socketExposed:
            Entry(
                messageID: "a7ec5408312e41ec8408efa53126908f", level: .warning,
                subject: "The socket's permissions or the namespace of its peers are not right",
                cause:
                    "The socket or its directory is writable by everybody, or the daemon runs with PrivateUsers=.",
                meaning:
                    "Calls may be served; who may connect is not what the configuration says.",
                steps: [
                    "Do what the message says, then: systemctl restart kmsward.socket kmsward.service"
                ],
                runbook: "KW-SOCKET-EXPOSED")
        case .peerRefused:
            Entry(
                messageID: "ec15ee5b824f4f5b9988fc970ad037b2", level: .warning,
                subject: "A process of a user that is not admitted wanted to connect",
                cause:
                    "kube-apiserver runs under another user than before, or somebody tries the socket.",
                meaning:
                    "If it is kube-apiserver: it cannot read or write Secrets on this host.",
                steps: [
                    "ps -o user:32,pid,args -p @KMSWARD_PEER_PID@",
                    "If it is kube-apiserver: put its user into allow.uids as the entry shows; it is taken at once.",
                ],
                runbook: "KmswardPeersRefused")
        case .peerForeign:
            Entry(
                messageID: "e0cd204825c6497bae1c94141fea5167", level: .warning,
                subject: "Something connected that does not speak gRPC without TLS",
                cause:
                    "A probe, a scanner, or a client that was given the wrong socket.",
                meaning:
                    "None: it was disconnected.",
                steps: [
                    "ps -o user:32,pid,args -p @KMSWARD_PEER_PID@",
                    "Point that process elsewhere.",
                ],
                runbook: "KmswardPeersRefused")
        case .connectionsFull:
            Entry(
                messageID: "6ad40eee54994480bcaa831c4b44e29b", level: .warning,
                subject: "All places for connections are taken; idle ones give way",
                cause:
                    "A process opens connections and does not close them, or there are more API servers than places.",
                meaning:
                    "Calls are served; connections that are silent are closed.",
                steps: [
                    "ss -xp | grep kmsward",
                    "Raise socket.max_connections, or stop the process that opens so many.",
                ],
                runbook: "KW-CONNECTIONS-FULL")
        case .connectionsOfOne:
            Entry(
                messageID: "bad02296778d4272b3fe2903925a6d8e", level: .warning,
                subject: "One process holds more than half of the places for connections",
                cause:
                    "A client that connects anew for each call and does not close.",
                meaning:
                    "None yet.",
                steps: [
                    "ps -o user:32,pid,args -p @KMSWARD_PEER_PID@"
                ],
                runbook: "KW-CONNECTIONS-FULL")
        case .acceptingPaused:
            Entry(
                messageID: "e73a8fcfcd9c4d91b9142d9b103c924e", level: .error,
                subject: "No connection can be accepted for want of descriptors or memory",
                cause:
                    "LimitNOFILE= is too small, or the machine is out of memory.",
                meaning:
                    "Connections that are open are served; new ones wait.",
                steps: [
                    "systemctl show -p LimitNOFILE kmsward",
                    "curl -sS -m 5 http://127.0.0.1:9464/metrics | grep process_open_fds",
                ],
                runbook: "KmswardAcceptingPaused")
        case .socketLost:
            Entry(
                messageID: "9c6eb78af97e41eaae676c9fc56a7b0c", level: .critical,
                subject: "The daemon does not listen any more: its socket was shut down",
                cause:
                    "Another program shut the socket down, or systemd replaced it.",
                meaning:
                    "No new connection reaches the daemon; those that are open go on.",
                steps: [
                    "systemctl restart kmsward.socket kmsward.service"
                ],
                runbook: "KmswardDown")
        case .peerCut:
            Entry(
                messageID: "0c7edb1ccc8e4db48e719e1bf6ca2946", level: .error,
                subject: "A connection was cut because it kept the others from being served",
                cause:
                    "A peer floods the socket with requests, or does not read its replies.",
                meaning:
                    "The others are served. If it was kube-apiserver, it connects again by itself.",
                steps: [
                    "ps -o user:32,pid,args -p @KMSWARD_PEER_PID@",
                    "Stop that process, if it is no kube-apiserver.",
                ],
                runbook: "KW-PEER-CUT")
        case .peerBarred:
            Entry(
                messageID: "89c8bfdf95a842079e1ec71a9c2dc7c2", level: .error,
                subject: "A process may not connect for a while, since it was cut again and again",
                cause:
                    "It floods the socket, or does not read its replies.",
                meaning:
                    "The others are served. If it is kube-apiserver: it is without encryption for the time "
                    + "in the message.",
                steps: [
                    "ps -o user:32,pid,args -p @KMSWARD_PEER_PID@",
                    "Restart or stop that process; a new process is not barred.",
                ],
                runbook: "KW-PEER-CUT")
        case .requestMalformed:
            Entry(
                messageID: "a3b3c775e69341839716be56bbb8d10e", level: .warning,
                subject: "A request that breaks the KMS API was refused",
                cause:
                    "The caller is no kube-apiserver, or a proxy in between damages messages.",
                meaning:
                    "None, as long as the caller is no kube-apiserver.",
                steps: [
                    "Find the caller: ss -xp | grep kmsward"
                ],
                runbook: "KW-REQUEST-MALFORMED")
        case .callInvalid:
            Entry(
                messageID: "35e4ab15a81741ed849d3f823f1368f6", level: .warning,
                subject: "A call was refused for what is in it (INVALID_ARGUMENT)",
                cause:
                    "A stored object is damaged, or was written with a key that is not configured, or under another "
                    + "cluster_context. Each run of kmsward doctor makes three, on purpose; those of v2 end in "
                    + "request kmsward-doctor.",
                meaning:
                    "The objects concerned cannot be read; everything else can, if /readyz is ok.",
                steps: [
                    "If /readyz says that this host announced another key_id before: follow that entry.",
                    "If the key_id belongs to no configured key: configure the former key as a further key.",
                    "accept_identities: the same key had another identity; adopt_key_ids: another plugin wrote with "
                        + "it. Neither helps after a changed cluster_context.",
                    "The runbook says how to find the objects.",
                ],
                runbook: "KmswardObjectsUnreadable")
        case .callUnavailable:
            Entry(
                messageID: "fe48382e821e4941911ed0da61b94085", level: .warning,
                subject: "A call failed because the key-management service does not serve (UNAVAILABLE)",
                cause:
                    "The service cannot be reached, fails, or asks for fewer calls.",
                meaning:
                    "What is in memory is served. What is not cannot be read until the service is back.",
                steps: [
                    "curl -sS -m 5 http://127.0.0.1:9464/readyz",
                    "See whether the service is up, and the way to it.",
                ],
                runbook: "KW-KEY-UNAVAILABLE")
        case .callTimedOut:
            Entry(
                messageID: "43a7be949bda45bb812e85af95d4ba62", level: .warning,
                subject:
                    "A call was not answered in the time that the API server gave it (DEADLINE_EXCEEDED)",
                cause:
                    "The key-management service is slow, or the timeout of the EncryptionConfiguration is short. "
                    + "(A daemon that does not run looks the same to the API server: systemctl is-active kmsward.)",
                meaning:
                    "The API server tries again; what the service unwraps later is in memory then.",
                steps: [
                    "curl -sS -m 5 http://127.0.0.1:9464/readyz",
                    "kmsward doctor shows the latencies.",
                ],
                runbook: "KmswardCallsSlow")
        case .callUnauthenticated:
            Entry(
                messageID: "d1392e81db454eb99094887556287bff", level: .warning,
                subject:
                    "A call failed because the key-management service refuses the credentials (UNAUTHENTICATED)",
                cause:
                    "The access key is wrong, disabled or expired, the clock is off, or the service's "
                    + "certificate is not trusted.",
                meaning:
                    "What is in memory is served. Status fails when auth_grace is over; writes stop within 3 minutes.",
                steps: [
                    "Read the cause in the entry, then mend credentials, clock or trust."
                ],
                runbook: "KmswardUnauthorised")
        case .callDenied:
            Entry(
                messageID: "7029bf35abcd45d594f2cdaa8694620a", level: .warning,
                subject: "A call failed because the credentials may not use the key (PERMISSION_DENIED)",
                cause:
                    "A permission was taken away, or something between refuses.",
                meaning:
                    "What is in memory is served. Status fails when auth_grace is over; writes stop within 3 minutes.",
                steps: [
                    "Give the credentials encrypt, decrypt and describe for the key again."
                ],
                runbook: "KmswardUnauthorised")
        case .callKeyUnusable:
            Entry(
                messageID: "f627f07f0b2e424d9b743e49dc9f01d3", level: .warning,
                subject: "A call failed because the key cannot be used as it is (FAILED_PRECONDITION)",
                cause:
                    "The key is disabled, deleted, not found, or its set-up is wrong; the entry says which.",
                meaning:
                    "What the entry names cannot be read or written.",
                steps: [
                    "curl -sS -m 5 http://127.0.0.1:9464/readyz",
                    "Follow the entry of the key's trouble: it comes with every such failure.",
                ],
                runbook: "KW-CALL-KEY-UNUSABLE")
        case .callRefusedBusy:
            Entry(
                messageID: "c480a311f6584a0dbd946c7dc709efc2", level: .warning,
                subject: "A call was refused because too many are in flight (RESOURCE_EXHAUSTED)",
                cause:
                    "More callers than limits.calls_in_flight, most likely behind a slow key-management service.",
                meaning:
                    "Those calls fail and are tried again by the API server.",
                steps: [
                    "curl -sS -m 5 http://127.0.0.1:9464/metrics | grep -E 'in_flight|waiting'"
                ],
                runbook: "KW-CALL-REFUSED-BUSY")
        case .callDefect:
            Entry(
                messageID: "9ef3227e542c42e4af66ef0dd9bc21ff", level: .error,
                subject: "A call failed by the daemon's own fault (INTERNAL): a defect",
                cause:
                    "A defect of kmsward, or a broken OpenSSL.",
                meaning:
                    "That call failed; the API server tries again.",
                steps: [
                    "openssl version",
                    "Report it, with the entry.",
                ],
                runbook: "KW-CALL-DEFECT")
        case .keyTimedOut:
            Entry(
                messageID: "dcdee471ff36477fb6836e5826f84895", level: .warning,
                subject: "Key @KMSWARD_KEY@: its key-management service does not answer in time",
                cause:
                    "The service is overloaded or hangs, or the way to it loses packets.",
                meaning:
                    Self.untilWritesStop,
                steps: [
                    "curl -sS -m 5 http://127.0.0.1:9464/readyz",
                    "See whether the service is up and how long it takes from this host.",
                    "Do not restart kmsward: it has in memory what a new one could not get.",
                ],
                runbook: "KmswardCallsSlow")
        case .keyUnavailable:
            Entry(
                messageID: "2f66191a6ac44789b82696e3edf81d5b", level: .warning,
                subject: "Key @KMSWARD_KEY@: its key-management service cannot be reached, or fails",
                cause:
                    "The service is down, or name servers, firewall, route or proxy between.",
                meaning:
                    Self.untilWritesStop,
                steps: [
                    "curl -sS -m 5 http://127.0.0.1:9464/readyz",
                    "Mend the way to the service, or wait for it.",
                    "Do not restart kmsward: it has in memory what a new one could not get.",
                ],
                runbook: "KW-KEY-UNAVAILABLE")
        case .keyThrottled:
            Entry(
                messageID: "4e233e1ffd64428dabccab340151e769", level: .warning,
                subject: "Key @KMSWARD_KEY@: its key-management service asks for fewer calls",
                cause:
                    "The quota of the credentials or of the account is used up, perhaps by others.",
                meaning:
                    Self.untilWritesStop,
                steps: [
                    "See who else uses the access key.",
                    "Raise the quota.",
                    "Do not restart kmsward: a start costs more calls.",
                ],
                runbook: "KmswardThrottled")
        case .keyUnauthenticated:
            Entry(
                messageID: "f5d4c8d0ff19422ab05df4518b38960d", level: .warning,
                subject: "Key @KMSWARD_KEY@: its key-management service refuses the credentials",
                cause:
                    "They are wrong, disabled or expired; or the clock is off; or the service's certificate "
                    + "is not trusted.",
                meaning:
                    Self.untilWritesStop,
                steps: [
                    "Read the cause in the entry. Was it meant? Ask whoever owns IAM: a key may have leaked.",
                    "Put credentials in place that serve; those in files are taken with the next call.",
                    "To win time: auth_grace: 4h below the key in the configuration, and systemctl reload kmsward.",
                    "timedatectl, if the cause names clock or date, or kmsward_backend_clock_offset_seconds is not 0.",
                ],
                runbook: "KmswardUnauthorised")
        case .keyDenied:
            Entry(
                messageID: "b633517312fa457799305ad08c6ccb9f", level: .warning,
                subject: "Key @KMSWARD_KEY@: the credentials may not use it",
                cause:
                    "A permission was taken away, or a firewall or proxy refuses.",
                meaning:
                    Self.untilWritesStop,
                steps: [
                    "Was it meant? Ask whoever owns IAM.",
                    "Give the credentials encrypt, decrypt and describe for the key again; it is noticed at "
                        + "the next probe.",
                ],
                runbook: "KmswardUnauthorised")
        case .keyNotFound:
            Entry(
                messageID: "04d17265fff04747b5bbe438b498b8cc", level: .warning,
                subject: "Key @KMSWARD_KEY@: its service or key file has no such key",
                cause:
                    "The key_id or endpoint is another, the key was destroyed, or the key file is an older copy.",
                meaning:
                    Self.untilWritesStop,
                steps: [
                    "Local key: kmsward key list --file FILE, and copy the file from the host that has the version.",
                    "Otherwise: compare key_id and endpoint with the console.",
                ],
                runbook: "KmswardKeyDisabled")
        case .keyDisabled:
            Entry(
                messageID: "c37fbdf92f754bda8794ced7292bf5bf", level: .error,
                subject: "Key @KMSWARD_KEY@: its service says that it may not be used",
                cause:
                    "Somebody disabled the key or scheduled its deletion, by mistake or for a reason.",
                meaning:
                    "Every API server becomes unready at once, and refuses writes 3 minutes after its last good "
                    + "Status. Said again 30 s later, what is in memory is wiped, and kmsward decrypts nothing.",
                steps: [
                    "Ask who did it, and why.",
                    "Enable the key again, or cancel its deletion, in the console of the service.",
                    "It is noticed at the next probe, 30 s; no restart.",
                ],
                runbook: "KmswardKeyDisabled")
        case .keyCiphertext:
            Entry(
                messageID: "47887314916e4978865cc4baaf75e2f7", level: .error,
                subject: "Key @KMSWARD_KEY@: its service does not give back what it wrapped",
                cause:
                    "The key was replaced by another of the same name, restored from a backup, or the "
                    + "service is broken.",
                meaning:
                    "kmsward encrypts nothing more, since it could not be read again. API servers are unready at once, "
                    + "and refuse writes 3 minutes after their last good Status. What is in memory is read.",
                steps: [
                    "Do not force writes.",
                    "Ask whoever runs the service what was changed.",
                ],
                runbook: "KW-KEY-CIPHERTEXT")
        case .keyMalformedReply:
            Entry(
                messageID: "919e8af5e34f479891a5ad4694079d5b", level: .warning,
                subject: "Key @KMSWARD_KEY@: its service answers what kmsward does not understand",
                cause:
                    "The endpoint is not the service, or a proxy or login page stands between.",
                meaning:
                    Self.untilWritesStop,
                steps: [
                    "curl -sS -m 5 http://127.0.0.1:9464/readyz",
                    "Ask the endpoint by hand and see who answers.",
                ],
                runbook: "KW-KEY-UNAVAILABLE")
        case .keyMisconfigured:
            Entry(
                messageID: "500a48a6ec5646e7bc57026488d1e959", level: .warning,
                subject: "Key @KMSWARD_KEY@: its set-up is wrong",
                cause:
                    "A file is missing or damaged, a value cannot be used, or the key is another one than before: "
                    + "cluster_context, key_id or key file was changed.",
                meaning:
                    Self.untilWritesStop,
                steps: [
                    "runuser -u kmsward -- kmsward config check --on-this-host /etc/kmsward/kmsward.yaml",
                    "Do what the entry says; what is put right below keys is noticed at the next probe or reload.",
                    "\"this host announced ... before\": compare cluster_context and the first key with another "
                        + "control plane, put back what was there, and restart: a reload does not take cluster_context.",
                ],
                runbook: "KmswardKeyMisconfigured")
        case .keyWiped:
            Entry(
                messageID: "b472b619af9e485c8ff4b2d231de3730", level: .error,
                subject: "Key @KMSWARD_KEY@: what was unwrapped with it is wiped",
                cause:
                    "Its service said twice that the key may not be used, or has not been seen to decrypt "
                    + "for a day; or it refuses for longer than auth_grace, with on_forbidden: wipe.",
                meaning:
                    "Nothing written with it can be read until it serves again.",
                steps: [
                    "Make the key serve again: see the entry of its trouble.",
                    "Nothing is lost: it is unwrapped again then.",
                ],
                runbook: "KW-KEY-WIPED")
        case .keyWell:
            Entry(
                messageID: "ca15f67196f74c11b63cb95c816f5589", level: .notice,
                subject: "Key @KMSWARD_KEY@ is well again",
                cause:
                    "It wraps and unwraps again.",
                meaning:
                    "None: API servers become ready within a minute.",
                steps: [
                    "Nothing."
                ],
                runbook: "KmswardNotReady")
        case .keyActive:
            Entry(
                messageID: "36963faacd6e43ffb518785caaf876f4", level: .notice,
                subject: "Another key_id is announced: @KMSWARD_KEY_ID@",
                cause:
                    "A start of the daemon, a rotation at the key's service or in its file, or another first key.",
                meaning:
                    "New writes carry it. Objects keep the former one until they are written again.",
                steps: [
                    "Nothing, if the rotation was meant.",
                    "Former versions must stay enabled until every object was written again.",
                ],
                runbook: "KW-KEY-ACTIVE")
        case .keyFormerTrouble:
            Entry(
                messageID: "dc74b81b7bcc44b7b1278a54db7e1b29", level: .warning,
                subject: "What was written under the former key_id @KMSWARD_KEY_ID@ cannot be read",
                cause:
                    "That version was disabled or destroyed before everything was written anew.",
                meaning:
                    "Objects that still carry it can be read from memory only; after a restart they cannot.",
                steps: [
                    "Enable the former version again.",
                    "Then have the API server write every object anew, before it is disabled.",
                ],
                runbook: "KW-KEY-FORMER-TROUBLE")
        case .localKEKPassedOver:
            Entry(
                messageID: "8fc9193ca8254bc3b7f816bf5b5f8c04", level: .warning,
                subject: "A remembered local KEK does not open any more, and a new one is made",
                cause:
                    "The version that wrapped it is gone, or keyring.json is another host's.",
                meaning:
                    "Objects written under it cannot be read, if there are any.",
                steps: [
                    "Enable the former version again, if there is one."
                ],
                runbook: "KW-KEY-FORMER-TROUBLE")
        case .keyNeedsAttention:
            Entry(
                messageID: "6c81472869064323889c7ee3b981d160", level: .warning,
                subject: "Key @KMSWARD_KEY@ serves, but with credentials that somebody should look at",
                cause:
                    "New credentials are refused or cannot be fetched, and the former ones go on.",
                meaning:
                    "None now. When the former credentials end, the key's trouble begins.",
                steps: [
                    "Read the cause in the entry.",
                    "Put both halves of a pair in place that the service takes.",
                ],
                runbook: "KmswardUnauthorised")
        case .keyAttentionOver:
            Entry(
                messageID: "88cae39e300b451e84ae467534070eae", level: .notice,
                subject: "Key @KMSWARD_KEY@: what needed attention is over",
                cause:
                    "The service takes the new credentials.",
                meaning:
                    "None.",
                steps: [
                    "Nothing. The former credentials may be revoked."
                ],
                runbook: "KmswardUnauthorised")
        case .historyNotRead:
            Entry(
                messageID: "a7ac87abcf674a3bb7db55c95eee48c3", level: .warning,
                subject: "The history of keys, keyring.json, cannot be read",
                cause:
                    "Its owner or mode was changed, or it is damaged.",
                meaning:
                    "None now: it is kept in memory. A retired key_id could come back after the next restart.",
                steps: [
                    "ls -l /var/lib/kmsward",
                    "chown kmsward:kmsward /var/lib/kmsward/keyring.json; it is read again by itself.",
                ],
                runbook: "KW-HISTORY-NOT-WRITTEN")
        case .historyNotWritten:
            Entry(
                messageID: "48d3531d5b464d3e87f62f5b3dc66e17", level: .warning,
                subject: "The history of keys, keyring.json, cannot be written",
                cause:
                    "The disk is full or read-only, or the directory's owner was changed.",
                meaning:
                    "None now. A restart makes new local KEKs, and fills memory slowly.",
                steps: [
                    "df -h /var/lib/kmsward",
                    "ls -ld /var/lib/kmsward",
                    "chown kmsward:kmsward /var/lib/kmsward; it is written again by itself.",
                ],
                runbook: "KW-HISTORY-NOT-WRITTEN")
        }
    }

    private static let untilWritesStop =
        "Nothing while it goes on with what it has, until the time in the message is over. Then, or at once if the"
        + " message says that it does not serve, Status fails: API servers that ask this host are unready, and refuse"
        + " writes 3 minutes after their last good Status."
}
