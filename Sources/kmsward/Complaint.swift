internal import Events
private import Glibc
private import Observability

/// Writes one line to standard error.
func printError(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    // Nowhere to complain to if standard error is gone.
    _ = unsafe bytes.withUnsafeBytes { unsafe write(STDERR_FILENO, $0.baseAddress, $0.count) }
}

/// Says before there is a log what is wrong: to standard error, or where that is the journal's, as entries of `event`.
func complain(_ text: String, _ event: Event) {
    let lines = text.split(separator: "\n").map(String.init)
    if !LogOutput.sendToJournal(lines, of: event) { lines.forEach(printError) }
}
