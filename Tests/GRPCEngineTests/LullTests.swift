import Testing

@testable import GRPCEngine

@Suite struct LullTests {
    private static let soon = Lull.short - 1
    private static let late = Lull.short

    @Test("events that follow each other closely are looked for, others are slept for")
    func closeness() {
        var lull = Lull(processors: 2)
        #expect(!lull.isWorthLooking, "nothing is known yet")
        lull.slept(Self.late)
        #expect(!lull.isWorthLooking)
        lull.slept(Self.soon)
        #expect(lull.isWorthLooking)
        for _ in 0..<1_000 { lull.looked(isSeen: true) }
        #expect(lull.isWorthLooking, "as long as it succeeds")
    }

    @Test("a look in vain is followed by sleep, ever longer, until a look succeeds")
    func vain() {
        var lull = Lull(processors: 2)
        lull.slept(Self.soon)
        var rests: [Int] = []
        for _ in 0..<8 {
            lull.looked(isSeen: false)
            var slept = 0
            while !lull.isWorthLooking {
                lull.slept(Self.soon)
                slept += 1
            }
            rests.append(slept)
        }
        #expect(
            rests == [3, 5, 9, 17, 33, 65, 65, 65],
            "2 to the power of the looks in vain, and one that shows a burst")
        lull.looked(isSeen: true)
        lull.looked(isSeen: false)
        var slept = 0
        while !lull.isWorthLooking {
            lull.slept(Self.soon)
            slept += 1
        }
        #expect(slept == 3, "after a success it begins anew")
    }

    @Test("where there is one processor, nothing is looked for: the peer needs it")
    func oneProcessor() {
        var lull = Lull(processors: 1)
        lull.slept(Self.soon)
        #expect(!lull.isWorthLooking)
    }
}
