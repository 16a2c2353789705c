/// Decides which entry goes when there is no room: LIRS, by how long ago an entry was asked for the last time but one,
/// with a count of requests to break in.
///
/// 99 % of the slots belong to frequent entries, the rest is a queue for newcomers. A newcomer that comes again while the
/// frequent entry not asked for the longest did not takes its place, if it was also asked for more often lately; a scan
/// passes through the queue and leaves the rest alone. For that, evicted keys are remembered a while, as 64-bit
/// fingerprints: twice as many as there are slots, so that a cycle over twice the capacity is recognised when it replaces
/// other traffic.
///
/// No clock, no keys, no randomness. Slots are numbers below `capacity` that stay with an entry for its life.
/// Fingerprints come from the caller and must be seeded: whoever can make two alike can have one key taken for another,
/// which costs hits and nothing else. Operations are O(1), amortised.
struct EvictionPolicy {
    typealias Slot = Int

    private enum Kind: UInt8 {
        /// Asked for twice within a short while; in the stack.
        case frequent
        /// A newcomer, or one that lost its place: in the queue, and in the stack if asked for lately.
        case passing
        /// Evicted, remembered: in the stack and among the ghosts.
        case ghost
    }

    private struct Node {
        var fingerprint: UInt64 = 0
        var older: Int32
        var newer: Int32
        /// Neighbours in the queue of passing entries or of ghosts.
        var ahead: Int32
        var behind: Int32
        var slot: Int32 = -1
        var kind = Kind.passing
        var isInStack = false
    }

    /// Nodes 0 and 1 are the ends of the circular lists: the stack and the passing entries, the ghosts.
    private static let stack = 0
    private static let passing = 0
    private static let ghosts = 1

    private var nodes: [Node]
    private var sketch: FrequencySketch
    private var freeNodes: [Int32] = []
    private var nodeOfSlot: [Int32] = []
    private var freeSlots: [Int32] = []
    private var nodeOfGhost: [UInt64: Int32] = [:]
    private var frequentCount = 0
    private let frequentCapacity: Int
    private let ghostCapacity: Int

    /// Entries it holds at most.
    let capacity: Int
    /// Entries it holds.
    private(set) var count = 0

    /// A policy for at least one entry.
    init(capacity: Int) {
        precondition(capacity > 0 && capacity < 1 << 28, "a cache of \(capacity) entries cannot be")
        self.capacity = capacity
        frequentCapacity = capacity - Self.passingCapacity(of: capacity)
        ghostCapacity = 2 * capacity
        sketch = FrequencySketch(capacity: capacity, sample: 10 * max(8, capacity))
        nodes = (0...1).map { Node(older: $0, newer: $0, ahead: $0, behind: $0) }
        // Memory that is not touched is not used.
        nodes.reserveCapacity(3 * capacity + 2)
        nodeOfSlot.reserveCapacity(capacity)
    }

    /// How many of that many slots are for newcomers.
    static func passingCapacity(of capacity: Int) -> Int { max(1, capacity / 100) }

    /// Bytes of memory, about.
    var byteCount: Int {
        nodes.capacity * MemoryLayout<Node>.stride + nodeOfGhost.capacity * 4 / 3 * 12
            + (nodeOfSlot.capacity + freeNodes.capacity + freeSlots.capacity) * 4 + sketch.byteCount
    }

    /// Every slot in use, the one to go first at the beginning; O(n).
    var slots: [Slot] {
        var slots: [Slot] = []
        var node = Int(nodes[Self.passing].behind)
        while node != Self.passing {
            slots.append(Int(nodes[node].slot))
            node = Int(nodes[node].behind)
        }
        node = Int(nodes[Self.stack].newer)
        while node != Self.stack {
            if nodes[node].kind == .frequent { slots.append(Int(nodes[node].slot)) }
            node = Int(nodes[node].newer)
        }
        return slots
    }

    /// The entry of that slot was asked for.
    mutating func hit(_ slot: Slot) {
        let node = Int(nodeOfSlot[slot])
        sketch.increment(nodes[node].fingerprint)
        switch nodes[node].kind {
        case .frequent:
            lift(node)
        case .passing:
            leaveQueue(node)
            if nodes[node].isInStack, deserves(node) {
                becomeFrequent(node)
            } else {
                lift(node)
                enterQueue(node, Self.passing)
            }
        case .ghost: preconditionFailure("a hit on a slot without an entry")
        }
        prune()
    }

    /// Takes out the entry that a newcomer has to replace; nil while there is room.
    mutating func makeRoom() -> Slot? {
        guard count == capacity else { return nil }
        let node = Int(nodes[Self.passing].behind)
        precondition(node != Self.passing, "a full cache has newcomers")
        leaveQueue(node)
        let slot = emptySlot(of: node)
        if nodes[node].isInStack { becomeGhost(node) } else { freeNodes.append(Int32(node)) }
        return slot
    }

    /// Gives a newcomer its slot; there must be room.
    mutating func insert(_ fingerprint: UInt64) -> Slot {
        precondition(count < capacity, "makeRoom() comes first")
        count += 1
        sketch.increment(fingerprint)
        let ghost = nodeOfGhost.removeValue(forKey: fingerprint)
        let node = ghost.map(Int.init) ?? newNode(fingerprint)
        if ghost != nil { leaveQueue(node) }
        let slot = freeSlots.popLast() ?? Int32(nodeOfSlot.count)
        if Int(slot) == nodeOfSlot.count { nodeOfSlot.append(Int32(node)) }
        nodeOfSlot[Int(slot)] = Int32(node)
        nodes[node].slot = slot
        if frequentCount < frequentCapacity || ghost != nil && deserves(node) {
            becomeFrequent(node)
        } else {
            nodes[node].kind = .passing
            lift(node)
            enterQueue(node, Self.passing)
        }
        prune()
        return Int(slot)
    }

    /// The entry of that slot is gone, and its key not remembered.
    mutating func remove(_ slot: Slot) {
        let node = Int(nodeOfSlot[slot])
        switch nodes[node].kind {
        case .frequent: frequentCount -= 1
        case .passing: leaveQueue(node)
        case .ghost: preconditionFailure("a slot emptied twice")
        }
        if nodes[node].isInStack { leaveStack(node) }
        _ = emptySlot(of: node)
        freeNodes.append(Int32(node))
        prune()
    }

    // MARK: Kinds

    /// Whether it was asked for more often lately than the frequent entry whose place it would take.
    private func deserves(_ node: Int) -> Bool {
        guard frequentCount == frequentCapacity else { return frequentCapacity > 0 }
        let oldest = Int(nodes[Self.stack].newer)
        return frequentCapacity > 0
            && sketch.count(nodes[node].fingerprint) > sketch.count(nodes[oldest].fingerprint)
    }

    private mutating func becomeFrequent(_ node: Int) {
        nodes[node].kind = .frequent
        frequentCount += 1
        lift(node)
        guard frequentCount > frequentCapacity else { return }
        // The stack's bottom is a frequent entry: the one not asked for the longest.
        let oldest = Int(nodes[Self.stack].newer)
        leaveStack(oldest)
        nodes[oldest].kind = .passing
        enterQueue(oldest, Self.passing)
        frequentCount -= 1
    }

    private mutating func becomeGhost(_ node: Int) {
        nodes[node].kind = .ghost
        // Another key with this fingerprint is forgotten.
        if let other = nodeOfGhost.updateValue(Int32(node), forKey: nodes[node].fingerprint) {
            discard(ghost: Int(other))
        }
        enterQueue(node, Self.ghosts)
        guard nodeOfGhost.count > ghostCapacity else { return }
        let oldest = Int(nodes[Self.ghosts].behind)
        nodeOfGhost[nodes[oldest].fingerprint] = nil
        discard(ghost: oldest)
        prune()
    }

    private mutating func discard(ghost node: Int) {
        leaveQueue(node)
        leaveStack(node)
        freeNodes.append(Int32(node))
    }

    /// What lies below the oldest frequent entry can never be asked for again sooner than that one was.
    private mutating func prune() {
        while true {
            let oldest = Int(nodes[Self.stack].newer)
            guard oldest != Self.stack, nodes[oldest].kind != .frequent else { return }
            if nodes[oldest].kind == .ghost {
                nodeOfGhost[nodes[oldest].fingerprint] = nil
                discard(ghost: oldest)
            } else {
                leaveStack(oldest)
            }
        }
    }

    private mutating func newNode(_ fingerprint: UInt64) -> Int {
        if let node = freeNodes.popLast() {
            nodes[Int(node)].fingerprint = fingerprint
            return Int(node)
        }
        let own = Int32(nodes.count)
        nodes.append(Node(fingerprint: fingerprint, older: own, newer: own, ahead: own, behind: own))
        return Int(own)
    }

    private mutating func emptySlot(of node: Int) -> Slot {
        let slot = nodes[node].slot
        nodes[node].slot = -1
        freeSlots.append(slot)
        count -= 1
        return Int(slot)
    }

    // MARK: Lists

    /// Makes a node the top of the stack.
    private mutating func lift(_ node: Int) {
        if nodes[node].isInStack { leaveStack(node) }
        let top = nodes[Self.stack].older
        nodes[node].older = top
        nodes[node].newer = Int32(Self.stack)
        nodes[node].isInStack = true
        nodes[Int(top)].newer = Int32(node)
        nodes[Self.stack].older = Int32(node)
    }

    private mutating func leaveStack(_ node: Int) {
        let (older, newer) = (nodes[node].older, nodes[node].newer)
        nodes[Int(older)].newer = newer
        nodes[Int(newer)].older = older
        nodes[node].isInStack = false
    }

    /// Puts a node at the end of a queue.
    private mutating func enterQueue(_ node: Int, _ queue: Int) {
        let last = nodes[queue].ahead
        nodes[node].ahead = last
        nodes[node].behind = Int32(queue)
        nodes[Int(last)].behind = Int32(node)
        nodes[queue].ahead = Int32(node)
    }

    private mutating func leaveQueue(_ node: Int) {
        let (ahead, behind) = (nodes[node].ahead, nodes[node].behind)
        nodes[Int(ahead)].behind = behind
        nodes[Int(behind)].ahead = ahead
    }
}
