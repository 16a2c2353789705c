// The catalogue as texts: for journalctl(1), and for who has no journal.

extension Event {
    /// Where the package puts the runbooks.
    public static let runbooks = "/usr/share/doc/kmsward/runbooks"

    /// The gRPC status that an API server logs for a failed call, as `kmsward explain` takes it too.
    public static let byStatus: [String: Event] = [
        "INVALID_ARGUMENT": .callInvalid, "UNAVAILABLE": .callUnavailable, "DEADLINE_EXCEEDED": .callTimedOut,
        "UNAUTHENTICATED": .callUnauthenticated, "PERMISSION_DENIED": .callDenied,
        "FAILED_PRECONDITION": .callKeyUnusable, "RESOURCE_EXHAUSTED": .callRefusedBusy,
        "INTERNAL": .callDefect,
    ]

    /// What a reader of the log is told, on lines of at most 100 characters.
    public var explanation: String {
        let entry = entry
        let parts = [("Cause", [entry.cause]), ("Cluster", [entry.meaning]), ("First", entry.steps)]
        return parts.map { title, texts in
            let margin = String(repeating: " ", count: 9)
            return texts.enumerated().map { index, text in
                let head = index == 0 ? "\(title):".padded(to: margin.count) : margin
                let item = texts.count > 1 ? "- " : ""
                let indent = margin + String(repeating: " ", count: item.count)
                return head + item + text.wrapped(to: 100 - indent.count).joined(separator: "\n" + indent)
            }.joined(separator: "\n")
        }.joined(separator: "\n")
    }

    /// The same where there is no journal to fill in its fields: what is to be put in stands in capitals, as in the runbooks.
    public var plainExplanation: String { Self.plain(explanation) }

    /// What to do first, likewise.
    public var plainSteps: [String] { entry.steps.map(Self.plain) }

    private static func plain(_ text: String) -> String {
        text.replacing(/@KMSWARD_([A-Z_]+)@/) { $0.1 }
    }

    /// The message catalogue of the journal, for `journalctl --update-catalog`.
    public static func catalog() -> String {
        allCases.map { event in
            """
            -- \(event.entry.messageID)
            Subject: \(event.entry.subject)
            Defined-By: kmsward
            Documentation: file://\(runbooks)/\(event.entry.runbook).md

            \(event.explanation)
            Runbook: \(runbooks)/\(event.entry.runbook).md
            Code:    \(event.code)

            """
        }.joined(separator: "\n")
    }
}

extension Event.Entry {
    /// The subject, where there is no journal to fill in its fields.
    public var title: String {
        let key = "Key @KMSWARD_KEY@"
        let text = subject.hasPrefix(key) ? "A key" + subject.dropFirst(key.count) : subject
        return text.split(separator: " ").filter { !$0.hasPrefix("@KMSWARD_") }.joined(separator: " ")
    }
}

extension String {
    fileprivate func padded(to width: Int) -> String {
        self + String(repeating: " ", count: max(0, width - count))
    }

    /// Lines of at most `width` characters, broken between words.
    fileprivate func wrapped(to width: Int) -> [String] {
        split(separator: " ").reduce(into: []) { lines, word in
            if let last = lines.last, last.count + 1 + word.count <= width {
                lines[lines.count - 1] = last + " " + word
            } else {
                lines.append(String(word))
            }
        }
    }
}
