// Configuration: one YAML file becomes typed settings, and every mistake in it is reported at once, each with its
// place, so that an operator repairs a file in one go and a broken one never reaches the daemon.

/// A place in a file, or a whole file.
public struct FilePosition: Sendable, Hashable, CustomStringConvertible {
    /// The file as the caller named it.
    public var file: String
    /// Line and column, each from 1, columns in characters; nil where no place in the file is meant.
    var mark: Mark?

    init(_ mark: Mark?, in file: String) {
        self.file = file
        self.mark = mark
    }

    /// `FILE:LINE:COLUMN`, or `FILE`.
    public var description: String {
        mark.map { "\(oneLine(file)):\($0.line):\($0.column)" } ?? oneLine(file)
    }
}

/// One remark about a configuration file: where, how bad, what is wrong and what would be right.
public struct Diagnostic: Sendable, Equatable, CustomStringConvertible {
    /// How bad a remark is.
    public enum Severity: String, Sendable {
        /// The file cannot be used.
        case error
        /// The file can be used, but says something that is seldom meant.
        case warning
    }

    /// The place in the file.
    public var position: FilePosition
    /// How bad it is.
    public var severity: Severity
    /// What is wrong and what to do, without line breaks.
    public var message: String
    /// Whether it holds only where the daemon makes the socket by itself.
    public var isAboutOwnSocket = false

    /// Makes a diagnostic; line breaks and control characters in the message are escaped.
    public init(_ severity: Severity, at position: FilePosition, _ message: String) {
        self.position = position
        self.severity = severity
        self.message = oneLine(message)
    }

    /// `FILE:LINE:COLUMN: error: MESSAGE`, or `FILE: error: MESSAGE`, always one line.
    public var description: String { "\(position): \(severity.rawValue): \(message)" }
}

/// A configuration that cannot be used: all that is wrong with it, in the order of the file.
public struct ConfigurationError: Error, Equatable, CustomStringConvertible {
    /// The errors, with the warnings between them, sorted by position; at least one is an error.
    public let diagnostics: [Diagnostic]

    /// Makes an error from what was found.
    public init(_ diagnostics: [Diagnostic]) {
        self.diagnostics = diagnostics
    }

    /// One line per diagnostic.
    public var description: String {
        diagnostics.map(\.description).joined(separator: "\n")
    }
}

/// The text with control characters and line separators written as `\u{…}`, so that it stays on one line of a terminal.
func oneLine(_ text: String) -> String {
    guard text.unicodeScalars.contains(where: \.breaksLine) else { return text }
    return text.unicodeScalars.map { scalar in
        scalar.breaksLine ? "\\u{\(String(scalar.value, radix: 16))}" : String(scalar)
    }.joined()
}

extension Unicode.Scalar {
    /// Whether it is a control character, a line separator or a mark that reorders the text around it.
    var breaksLine: Bool {
        switch properties.generalCategory {
        case .control, .lineSeparator, .paragraphSeparator: true
        case .format: true
        default: false
        }
    }
}
