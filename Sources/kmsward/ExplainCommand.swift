internal import ArgumentParser
internal import Events

/// `kmsward explain`: what a code in the log means.
struct ExplainCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "explain",
        abstract: "Say what a code of the log means for the cluster, and what to do first.",
        discussion: """
            Takes a code such as KW-KEY-DISABLED, or the gRPC status that an API server logs, such as UNAVAILABLE; without one \
            it lists all codes. `journalctl -x` shows the same beside each entry.
            """)

    @Argument(
        help: ArgumentHelp("The code.", valueName: "code"),
        completion: .list(Event.allCases.map(\.code)), transform: parseEvent)
    var event: Event?

    @Flag(help: .hidden)
    var catalog = false

    func run() {
        if catalog { return print(Event.catalog(), terminator: "") }
        guard let event else {
            for event in Event.allCases {
                print(event.code.padding(to: 26) + event.entry.title)
            }
            return
        }
        print("\(event.code): \(event.entry.title)\n\(event.plainExplanation)")
        print("Runbook: runbooks/\(event.entry.runbook).md, installed in \(Event.runbooks)")
    }
}

/// Reads a code of the log, or a gRPC status, in any case.
private func parseEvent(_ text: String) throws -> Event {
    let code = text.uppercased()
    guard let event = Event(rawValue: code) ?? Event.byStatus[code] else {
        throw ValidationError("there is no code \"\(text)\"; `kmsward explain` lists them")
    }
    return event
}
