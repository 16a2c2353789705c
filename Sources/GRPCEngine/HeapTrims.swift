/// When to give freed memory back to the system: the rules, without a heap or time.
///
/// glibc keeps what a burst freed. It is given back once work has come to rest, and, because work may never rest, whenever
/// the process has grown far beyond its smallest size. C-core frees part of it later, on other threads and without an event
/// (connections that end, timers), so one look is not enough: looks go on until the size is small again, ever more
/// rarely if they find nothing to give back, since that memory may be in use.
struct HeapTrims {
    /// Seconds between looks at first, and at most.
    static let shortest: Int64 = 3
    static let longest: Int64 = 20
    /// Bytes above the smallest size that are no reason to stop the work for a trim.
    static let slack = 32 << 20
    /// Bytes that make a trim worth another soon after.
    static let worthwhile = 1 << 20

    private var smallest: Int
    private var wait = HeapTrims.shortest
    private var isResting = true
    private var hasWorked = false
    private var isTrimmed = true

    /// `resident` is the process's size before there was any work.
    init(resident: Int) { smallest = resident }

    /// There was work; returns in how many seconds to look at the memory, nil if that is settled already.
    mutating func worked() -> Int64? {
        hasWorked = true
        guard isResting else { return nil }
        isResting = false
        wait = Self.shortest
        return wait
    }

    /// It is time to look; returns when next, in seconds, nil if not before there has been work again.
    mutating func due(resident: () -> Int, trim: () -> Void) -> Int64? {
        let isQuiet = !hasWorked
        hasWorked = false
        if !isQuiet { isTrimmed = false }
        var size = resident()
        if size > smallest + Self.slack || (isQuiet && !isTrimmed) {
            trim()
            let before = size
            size = resident()
            wait = before - size >= Self.worthwhile ? Self.shortest : min(wait * 2, Self.longest)
            isTrimmed = isQuiet
        } else {
            wait = Self.shortest
        }
        smallest = min(smallest, size)
        isResting = isQuiet && isTrimmed && size <= smallest + Self.slack
        return isResting ? nil : wait
    }
}
