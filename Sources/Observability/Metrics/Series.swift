internal import CoreMetrics
internal import Synchronization

/// One series of a counter; both of swift-metrics' counters, whole and fractional, in one.
final class CounterSeries: CounterHandler, FloatingPointCounterHandler {
    let metric: String
    let labels: String
    private let whole = Atomic<Int64>(0)
    private let fraction = AtomicDouble()

    init(metric: String, labels: String) {
        self.metric = metric
        self.labels = labels
    }

    var value: Number {
        let fraction = fraction.value
        let whole = whole.load(ordering: .relaxed)
        return fraction == 0 ? .whole(whole) : .real(Double(whole) + fraction)
    }

    func increment(by amount: Int64) {
        guard amount > 0 else { return }
        whole.wrappingAdd(amount, ordering: .relaxed)
    }

    func increment(by amount: Double) {
        guard amount > 0, amount.isFinite else { return }
        fraction.add(amount)
    }

    func reset() {
        whole.store(0, ordering: .relaxed)
        fraction.value = 0
    }
}

/// One series of a gauge.
final class GaugeSeries: RecorderHandler, MeterHandler {
    let metric: String
    let labels: String
    private let current = AtomicDouble()

    init(metric: String, labels: String) {
        self.metric = metric
        self.labels = labels
    }

    var value: Number { .real(current.value) }

    func record(_ value: Int64) { current.value = Double(value) }
    func record(_ value: Double) { current.value = value }
    func set(_ value: Int64) { current.value = Double(value) }
    func set(_ value: Double) { current.value = value }
    func increment(by amount: Double) { current.add(amount) }
    func decrement(by amount: Double) { current.add(-amount) }
}

/// One series of a histogram.
///
/// Durations are kept as whole nanoseconds, so timing a call is two additions.
final class HistogramSeries: TimerHandler, RecorderHandler {
    let metric: String
    let labels: String
    let bounds: [Double]
    private let nanosecondBounds: [Int64]
    private let tallies: [Tally]  // one per bound, and one above the last
    private let nanoseconds = Atomic<Int64>(0)
    private let sum = AtomicDouble()

    init(metric: String, labels: String, bounds: [Double]) {
        self.metric = metric
        self.labels = labels
        self.bounds = bounds
        nanosecondBounds = bounds.map { Int64(($0 * 1e9).rounded()) }
        tallies = (0...bounds.count).map { _ in Tally() }
    }

    /// What was observed so far: cumulative counts (the last is the count of all) and the sum.
    var snapshot: (cumulative: [UInt64], sum: Double) {
        var total: UInt64 = 0
        let cumulative = tallies.map { tally in
            total += tally.count.load(ordering: .relaxed)
            return total
        }
        return (cumulative, Double(nanoseconds.load(ordering: .relaxed)) / 1e9 + sum.value)
    }

    func recordNanoseconds(_ duration: Int64) {
        let duration = max(duration, 0)
        tallies[Self.bucket(of: duration, in: nanosecondBounds)].count.wrappingAdd(1, ordering: .relaxed)
        nanoseconds.wrappingAdd(duration, ordering: .relaxed)
    }

    func record(_ value: Int64) { record(Double(value)) }

    func record(_ value: Double) {
        guard !value.isNaN else { return }
        tallies[Self.bucket(of: value, in: bounds)].count.wrappingAdd(1, ordering: .relaxed)
        sum.add(value)
    }

    /// Index of the first bound that is not below `value`; `bounds.count` if all are.
    private static func bucket<Value: Comparable>(of value: Value, in bounds: [Value]) -> Int {
        var low = 0
        var high = bounds.count
        while low < high {
            let middle = (low + high) / 2
            if bounds[middle] < value { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private final class Tally: Sendable {
        let count = Atomic<UInt64>(0)
    }
}

/// A value as it is rendered.
enum Number: Equatable {
    case whole(Int64)
    case real(Double)

    var real: Double {
        switch self {
        case .whole(let value): Double(value)
        case .real(let value): value
        }
    }
}

/// A floating-point number that many threads add to.
private struct AtomicDouble: ~Copyable {
    private let bits = Atomic<UInt64>(0)

    init() {}

    var value: Double {
        get { Double(bitPattern: bits.load(ordering: .relaxed)) }
        nonmutating set { bits.store(newValue.bitPattern, ordering: .relaxed) }
    }

    func add(_ amount: Double) {
        var seen = bits.load(ordering: .relaxed)
        while true {
            let next = (Double(bitPattern: seen) + amount).bitPattern
            let result = bits.weakCompareExchange(expected: seen, desired: next, ordering: .relaxed)
            if result.exchanged { return }
            seen = result.original
        }
    }
}
