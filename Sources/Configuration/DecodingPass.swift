/// One pass over a document: collects what is wrong instead of stopping at the first mistake.
struct DecodingPass {
    struct Problem {
        var severity: Diagnostic.Severity
        var mark: Mark
        var message: String
        var isAboutOwnSocket = false
    }

    private(set) var problems: [Problem] = []
    private(set) var marks: [String: Mark] = [:]
    private var unsoundPaths: Set<String> = []
    /// While a secret option is read, its value is not repeated in messages.
    private var hidesValues = false

    mutating func place(_ path: String, at mark: Mark) {
        marks[path] = mark
    }

    mutating func error(_ path: String, at mark: Mark, _ message: String) {
        unsoundPaths.insert(path)
        problems.append(Problem(severity: .error, mark: mark, message: label(path) + message))
    }

    mutating func warning(
        _ path: String, at mark: Mark, _ message: String, isAboutOwnSocket: Bool = false
    ) {
        problems.append(
            Problem(
                severity: .warning, mark: mark, message: label(path) + message,
                isAboutOwnSocket: isAboutOwnSocket))
    }

    /// Reports that the value of `path` is not what it must be; silent about nodes that the reader already reported.
    ///
    /// A block that is none is told by its kind: it may be a secret that has come there by a slip of the keyboard.
    mutating func refuse(
        _ node: Node, for path: String, expected: String, hint: String? = nil, isBlock: Bool = false
    ) {
        if case .refused = node.content {
            unsoundPaths.insert(path)
            return
        }
        let isShown = !hidesValues || node.isNothing
        let found =
            isShown
            ? (isBlock ? node.foundKind : node.found) : "a value that is not shown because it is secret"
        let advice = hint.map { "; \($0)" } ?? ""
        error(path, at: node.mark, "expected \(expected), found \(found)\(advice)")
    }

    /// Reads one secret value: no message of `body` repeats what it found.
    mutating func hidingValues<Value>(if isSecret: Bool, _ body: (inout DecodingPass) -> Value) -> Value {
        let before = hidesValues
        hidesValues = hidesValues || isSecret
        defer { hidesValues = before }
        return body(&self)
    }

    /// Whether nothing at or below any of `paths` has an error, so that cross-checks on them mean something.
    func isSound(_ paths: String...) -> Bool {
        !unsoundPaths.contains { unsound in
            paths.contains { unsound == $0 || unsound.hasPrefix($0 + ".") || unsound.hasPrefix($0 + "[") }
        }
    }

    private func label(_ path: String) -> String {
        path.isEmpty ? "" : "\(path): "
    }
}
