import Testing

@testable import GRPCEngine

@Suite struct HeapTrimsTests {
    /// A heap that a test fills and empties; all numbers in MiB.
    private final class Heap {
        var used: Int
        var freed: Int
        var trims = 0

        init(used: Int, freed: Int = 0) { (self.used, self.freed) = (used, freed) }

        func look(_ rules: inout HeapTrims) -> Int64? {
            rules.due(
                resident: { (used + freed) << 20 },
                trim: {
                    freed = 0
                    trims += 1
                })
        }
    }

    @Test("after work has come to rest memory is given back once, and then nobody looks until there is work")
    func rest() {
        var rules = HeapTrims(resident: 20 << 20)
        let heap = Heap(used: 20, freed: 5)
        #expect(rules.worked() == HeapTrims.shortest)
        #expect(rules.worked() == nil, "one look is settled")
        #expect(heap.look(&rules) == HeapTrims.shortest, "there was work since")
        #expect(heap.trims == 0)
        #expect(heap.look(&rules) == nil)
        #expect(heap.trims == 1 && heap.freed == 0)
        #expect(rules.worked() == HeapTrims.shortest)
    }

    @Test("a burst's memory is given back though work never rests")
    func constantWork() {
        var rules = HeapTrims(resident: 20 << 20)
        let heap = Heap(used: 20)
        _ = rules.worked()
        for _ in 0..<3 {
            #expect(heap.look(&rules) == HeapTrims.shortest)
            _ = rules.worked()
        }
        #expect(heap.trims == 0, "a small process is left alone")
        heap.freed = 500
        #expect(heap.look(&rules) == HeapTrims.shortest)
        #expect(heap.trims == 1 && heap.freed == 0)
    }

    @Test("what is freed long after the burst, without an event, is given back within the longest wait")
    func freedLater() {
        var rules = HeapTrims(resident: 20 << 20)
        let heap = Heap(used: 520)
        _ = rules.worked()
        let waits = (0..<6).map { _ in heap.look(&rules) }
        #expect(waits == [6, 12, 20, 20, 20, 20], "ever more rarely, but it goes on")
        (heap.used, heap.freed) = (20, 500)
        #expect(heap.look(&rules) == nil)
        #expect(heap.freed == 0)
    }

    @Test("where the size is not known, memory is still given back at rest")
    func unknownSize() {
        var (rules, trims) = (HeapTrims(resident: 0), 0)
        _ = rules.worked()
        #expect(rules.due(resident: { 0 }, trim: { trims += 1 }) == HeapTrims.shortest)
        #expect(rules.due(resident: { 0 }, trim: { trims += 1 }) == nil)
        #expect(trims == 1)
    }
}
