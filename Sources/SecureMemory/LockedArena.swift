private import COpenSSL
private import Glibc
private import Synchronization

/// Memory for secrets: mapped between two guard pages, locked, kept out of core files and of forked children, and
/// handed out as cells that are zero whenever they are free.
///
/// Cells of up to 2,048 bytes come from chunks of 64 KiB, each cut into slabs of one cell size; larger ones get a
/// mapping of their own, its end against the guard page. Free lists lie outside the cells, so a stray write into a
/// freed cell cannot forge a pointer. Chunks are kept until the arena goes: the high-water mark stays mapped.
final class LockedArena: Sendable {
    /// What the arena holds, and the first reason why some of it is not locked.
    struct Ledger: Equatable {
        var mappedBytes = 0
        var lockedBytes = 0
        var firstLockFailure: Int32?
        var isDumpExcluded = true
        var isWarningTaken = false
    }

    private struct State {
        var free: [[UInt]]
        var spareSlabs: [UInt] = []
        var chunks: [UInt] = []
        var unlockedMappings: Set<UInt> = []
        var ledger = Ledger()
    }

    static let shared = LockedArena()

    static let cellSizes = [16, 32, 48, 64, 80, 96, 112, 128, 192, 256, 384, 512, 1024, 2048]
    static let largestCell = 2048
    private static let slabSize = 4096

    private let state = Mutex(State(free: Array(repeating: [], count: cellSizes.count)))
    private let lock: @Sendable (UInt, Int) -> Int32
    private let pageSize: Int
    private let chunkSize: Int

    /// An arena; `lock` locks the given range and returns 0 or an errno.
    init(lock: @escaping @Sendable (_ start: UInt, _ count: Int) -> Int32 = LockedArena.mlockRange) {
        self.lock = lock
        pageSize = sysconf(Int32(_SC_PAGESIZE))
        chunkSize = max(64 * 1024, pageSize)
    }

    deinit {
        // Only arenas of tests end; their cells are gone by then.
        for chunk in state.withLock({ $0.chunks }) { unmap(payload: chunk, count: chunkSize) }
    }

    /// What is mapped and locked now.
    var ledger: Ledger { state.withLock { $0.ledger } }

    /// The start of every chunk's payload.
    var chunkAddresses: [UInt] { state.withLock { $0.chunks } }

    /// Length of every chunk's payload.
    var chunkLength: Int { chunkSize }

    /// True for the first caller since a lock was refused, false for every other.
    func takeWarning() -> Bool {
        state.withLock { state in
            guard state.ledger.firstLockFailure != nil || !state.ledger.isDumpExcluded else { return false }
            defer { state.ledger.isWarningTaken = true }
            return !state.ledger.isWarningTaken
        }
    }

    /// Maps the first chunk, so that the ledger tells whether locking works.
    func prepare() {
        if state.withLock({ $0.chunks.isEmpty }) { addChunk() }
    }

    /// A zeroed cell of `count` bytes, aligned to 16.
    ///
    /// Traps when the system has no memory left, as malloc's users do.
    func allocate(_ count: Int) -> UnsafeMutableRawBufferPointer {
        guard count > 0 else { return unsafe UnsafeMutableRawBufferPointer(start: nil, count: 0) }
        guard count <= Self.largestCell else { return unsafe Self.buffer(at: allocateMapping(count), count) }
        let index = Self.sizeClass(of: count)
        while true {
            if let cell = state.withLock({ Self.takeCell(index, from: &$0) }) {
                return unsafe Self.buffer(at: cell, count)
            }
            addChunk()  // outside the lock: two threads may both grow, which wastes nothing for long
        }
    }

    /// Wipes a cell that `allocate` returned, then makes it free for reuse.
    func free(_ cell: UnsafeMutableRawBufferPointer) {
        guard let base = cell.baseAddress else { return }
        let address = UInt(bitPattern: base)
        guard cell.count <= Self.largestCell else {
            unsafe OPENSSL_cleanse(base, cell.count)
            freeMapping(address, cell.count)
            return
        }
        let index = Self.sizeClass(of: cell.count)
        unsafe OPENSSL_cleanse(base, Self.cellSizes[index])
        state.withLock { $0.free[index].append(address) }
    }

    // MARK: Cells

    static func sizeClass(of count: Int) -> Int {
        if count <= 128 { return (count + 15) / 16 - 1 }
        var index = 8
        while cellSizes[index] < count { index += 1 }
        return index
    }

    private static func buffer(at address: UInt, _ count: Int) -> UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(
            start: UnsafeMutableRawPointer(bitPattern: address), count: count)
    }

    private static func takeCell(_ index: Int, from state: inout State) -> UInt? {
        if let cell = state.free[index].popLast() { return cell }
        guard let slab = state.spareSlabs.popLast() else { return nil }
        let size = cellSizes[index]
        // Reserved for every cell of the class, so that a free never allocates more than once per slab.
        let cells = slabSize / size
        state.free[index].reserveCapacity(cells)
        for cell in stride(from: cells - 1, through: 1, by: -1) {
            state.free[index].append(slab + UInt(cell * size))
        }
        return slab
    }

    private func addChunk() {
        let mapping = map(chunkSize)
        state.withLock { state in
            state.chunks.append(mapping.payload)
            Self.enter(mapping, chunkSize, into: &state.ledger)
            for offset in stride(from: chunkSize - Self.slabSize, through: 0, by: -Self.slabSize) {
                state.spareSlabs.append(mapping.payload + UInt(offset))
            }
        }
    }

    // MARK: Mappings

    private struct Mapping {
        let payload: UInt
        let lockFailure: Int32
        let isDumpExcluded: Bool
    }

    private static func enter(_ mapping: Mapping, _ count: Int, into ledger: inout Ledger) {
        ledger.mappedBytes += count
        if mapping.lockFailure == 0 {
            ledger.lockedBytes += count
        } else if ledger.firstLockFailure == nil {
            ledger.firstLockFailure = mapping.lockFailure
        }
        if !mapping.isDumpExcluded { ledger.isDumpExcluded = false }
    }

    private func allocateMapping(_ count: Int) -> UInt {
        let length = wholePages(count)
        let mapping = map(length)
        state.withLock { state in
            Self.enter(mapping, length, into: &state.ledger)
            if mapping.lockFailure != 0 { state.unlockedMappings.insert(mapping.payload) }
        }
        return mapping.payload + UInt(length - Self.aligned(count))
    }

    private func freeMapping(_ cell: UInt, _ count: Int) {
        let length = wholePages(count)
        let payload = cell + UInt(Self.aligned(count)) - UInt(length)
        // Before the unmap: afterwards another thread may be given the same address.
        state.withLock { state in
            state.ledger.mappedBytes -= length
            if state.unlockedMappings.remove(payload) == nil { state.ledger.lockedBytes -= length }
        }
        unmap(payload: payload, count: length)
    }

    /// Maps `count` bytes (whole pages) between two pages that nobody may touch.
    private func map(_ count: Int) -> Mapping {
        let whole = count + 2 * pageSize
        let start = unsafe mmap(nil, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        guard let start = unsafe start, unsafe start != MAP_FAILED else {
            fatalError("out of memory: mmap of \(whole) bytes for secrets failed, errno \(errno)")
        }
        let payload = unsafe start + pageSize
        let isDumpExcluded = unsafe madvise(start, whole, MADV_DONTDUMP) == 0
        // A forked child sees zeros instead of keys; kernels before 4.14 do not know it, and we fork nowhere.
        _ = unsafe madvise(start, whole, MADV_WIPEONFORK)
        guard unsafe mprotect(payload, count, PROT_READ | PROT_WRITE) == 0 else {
            fatalError("out of memory: mprotect of \(count) bytes for secrets failed, errno \(errno)")
        }
        let address = UInt(bitPattern: payload)
        return Mapping(payload: address, lockFailure: lock(address, count), isDumpExcluded: isDumpExcluded)
    }

    private func unmap(payload: UInt, count: Int) {
        let start = unsafe UnsafeMutableRawPointer(bitPattern: payload - UInt(pageSize))
        let result = unsafe munmap(start, count + 2 * pageSize)
        precondition(result == 0, "munmap of a mapping of ours failed")
    }

    /// mlock(2): 0 or an errno.
    static func mlockRange(_ start: UInt, _ count: Int) -> Int32 {
        unsafe mlock(UnsafeRawPointer(bitPattern: start), count) == 0 ? 0 : errno
    }

    private static func aligned(_ count: Int) -> Int { (count + 15) & ~15 }

    private func wholePages(_ count: Int) -> Int { (count + pageSize - 1) / pageSize * pageSize }
}
