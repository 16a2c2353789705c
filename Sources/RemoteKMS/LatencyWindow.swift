/// How long the last good answers took.
struct LatencyWindow {
    private var recent: [Duration] = []
    private var next = 0

    private static let capacity = 128

    mutating func add(_ duration: Duration) {
        if recent.count < Self.capacity {
            recent.append(duration)
        } else {
            recent[next] = duration
            next = (next + 1) % Self.capacity
        }
    }

    /// The time that this share of the answers took at most; nil before the first.
    func quantile(_ share: Double) -> Duration? {
        guard !recent.isEmpty else { return nil }
        let sorted = recent.sorted()
        return sorted[min(sorted.count - 1, Int((Double(sorted.count) * share).rounded(.down)))]
    }
}
