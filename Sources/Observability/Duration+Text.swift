extension Duration {
    /// As an operator reads it: `10 s`, `0.25 s`.
    ///
    /// What is below a millisecond is dropped.
    public var inSeconds: String {
        let milliseconds = components.seconds * 1_000 + components.attoseconds / 1_000_000_000_000_000
        return milliseconds % 1_000 == 0 ? "\(milliseconds / 1_000) s" : "\(Double(milliseconds) / 1_000) s"
    }
}
