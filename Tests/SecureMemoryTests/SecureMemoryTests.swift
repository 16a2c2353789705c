import CShims
import Glibc
import Synchronization
import Testing

@testable import SecureMemory

/// Both sanitizers turn mlock(2) off and report a fault instead of dying of it.
private let isUnderSanitizer = unsafe dlsym(nil, "__asan_init") != nil || dlsym(nil, "__tsan_init") != nil

private struct Refused: Error, Equatable {}

@Suite("Secret bytes")
struct SecretBytesTests {
    @Test(
        "what fill writes is what withBytes lends",
        arguments: [0, 1, 15, 16, 32, 72, 129, 2048, 2049, 65_535, 200_000])
    func roundTrip(count: Int) {
        let secret = SecretBytes(count: count) { span in
            for index in 0..<span.byteCount {
                span.storeBytes(
                    of: UInt8(truncatingIfNeeded: index &* 7), toByteOffset: index, as: UInt8.self)
            }
        }
        let read = secret.copied()
        let length = secret.count
        #expect(length == count)
        #expect(read == (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7) })
    }

    @Test("a cell is zeroed when fill sees it, also after reuse")
    func zeroed() {
        for count in [32, 300, 5000] {
            for _ in 0..<100 {
                _ = SecretBytes(count: count) { span in
                    let isZero = span.isZero
                    #expect(isZero)
                    span.fill(0xA5)
                }
            }
        }
    }

    @Test("copies and random cells hold what they should")
    func otherMakers() {
        let copy = unsafe SecretBytes(copying: ([1, 2, 3] as [UInt8]).span.bytes)
        let read = copy.copied()
        #expect(read == [1, 2, 3])
        let first = SecretBytes(randomCount: 32)
        let second = SecretBytes(randomCount: 32)
        let counts = (first.count, SecretBytes(randomCount: 0).count)
        #expect(counts == (32, 0))
        let isEqual = first.isEqual(to: second)
        #expect(!isEqual)
    }

    @Test("comparison tells equal from unequal in every byte and in length")
    func comparison() {
        let bytes: [UInt8] = Array(0..<40)
        let same = bytes
        #expect(isEqual(bytes, same))
        #expect(isEqual([], []))
        #expect(!isEqual(bytes, bytes.dropLast()))
        for index in bytes.indices {
            var other = bytes
            other[index] ^= 0x10
            #expect(!isEqual(bytes, other))
        }
    }

    /// Both comparisons, which must agree.
    private func isEqual(_ a: [UInt8], _ b: [UInt8]) -> Bool {
        let ofSpans = unsafe SecureMemory.isEqual(a.span.bytes, b.span.bytes)
        let ofSecrets = unsafe SecretBytes(copying: a.span.bytes).isEqual(
            to: SecretBytes(copying: b.span.bytes))
        #expect(ofSpans == ofSecrets)
        return ofSpans
    }

    @Test("a secret that went leaves zeros in its cell", .timeLimit(.minutes(1)))
    func wipedAtEnd() async {
        await #expect(processExitsWith: .success) {
            // A process of its own: nobody else takes the cell between the end of the secret and the look at it.
            var address: UInt = 0
            do {
                let secret = SecretBytes(count: 48) { $0.fill(0x5C) }
                address = secret.address()
                #expect(unsafe peek(address, 48).allSatisfy { $0 == 0x5C })
            }
            #expect(unsafe peek(address, 48).allSatisfy { $0 == 0 })
        }
    }

    @Test("fill that throws passes its error on and leaves zeros", .timeLimit(.minutes(1)))
    func wipedOnThrow() async {
        await #expect(processExitsWith: .success) {
            var address: UInt = 0
            #expect(throws: Refused()) {
                _ = try SecretBytes(count: 64) { span throws(Refused) in
                    span.fill(0x5C)
                    address = span.bytes.address
                    throw Refused()
                }
            }
            #expect(address != 0)
            #expect(unsafe peek(address, 64).allSatisfy { $0 == 0 })
        }
    }

    @Test("a shared secret lives until its last owner lets go", .timeLimit(.minutes(1)))
    func shared() async {
        await #expect(processExitsWith: .success) {
            var first: SharedSecret? = SharedSecret(SecretBytes(count: 16) { $0.fill(7) })
            var second = first
            let address = first?.bytes.address() ?? 0
            first = nil
            let read = second?.bytes.copied()
            #expect(read == Array(repeating: 7, count: 16))
            second = nil
            #expect(unsafe peek(address, 16).allSatisfy { $0 == 0 })
        }
    }
}

@Suite("Locked arena")
struct LockedArenaTests {
    @Test("cells are aligned, apart from each other, and wiped before they are handed out again")
    func cells() {
        let arena = LockedArena()
        for count in LockedArena.cellSizes + [1, 17, 100, 700, 2049, 4096, 70_000] {
            let first = unsafe arena.allocate(count)
            let second = unsafe arena.allocate(count)
            let address = UInt(bitPattern: first.baseAddress)
            let distance = abs(Int(bitPattern: first.baseAddress) - Int(bitPattern: second.baseAddress))
            #expect(first.count == count)
            #expect(address % 16 == 0)
            #expect(distance >= count)
            unsafe first.initializeMemory(as: UInt8.self, repeating: 0xEE)
            unsafe second.initializeMemory(as: UInt8.self, repeating: 0xEE)
            unsafe arena.free(first)
            if count <= LockedArena.largestCell {
                #expect(unsafe peek(address, count).allSatisfy { $0 == 0 })
            }
            unsafe arena.free(second)
            let again = unsafe arena.allocate(count)
            let isZero = unsafe again.allSatisfy { $0 == 0 }
            #expect(isZero)
            unsafe arena.free(again)
        }
    }

    @Test(
        "every length falls into the smallest class that holds it",
        arguments: [1, 16, 17, 128, 129, 192, 193, 2047, 2048])
    func sizeClasses(count: Int) {
        let index = LockedArena.sizeClass(of: count)
        #expect(LockedArena.cellSizes[index] >= count)
        #expect(index == 0 || LockedArena.cellSizes[index - 1] < count)
    }

    @Test("chunks grow on demand and freed cells are used again")
    func growth() {
        let arena = LockedArena(lock: { _, _ in 0 })
        let perChunk = arena.chunkLength / 32
        var cells = unsafe (0..<3 * perChunk).map { _ in unsafe arena.allocate(32) }
        #expect(arena.chunkAddresses.count == 3)
        let addresses = unsafe Set(cells.map { UInt(bitPattern: $0.baseAddress) })
        #expect(addresses.count == 3 * perChunk)
        unsafe cells.forEach { unsafe arena.free($0) }
        unsafe cells = (0..<3 * perChunk).map { _ in unsafe arena.allocate(32) }
        #expect(arena.chunkAddresses.count == 3)
        unsafe cells.forEach { unsafe arena.free($0) }
    }

    @Test("a large cell ends at its guard page and its mapping is given back")
    func largeCells() {
        let arena = LockedArena(lock: { _, _ in 0 })
        let before = arena.ledger
        let cell = unsafe arena.allocate(70_000)
        #expect(arena.ledger.mappedBytes - before.mappedBytes >= 70_000)
        let end = UInt(bitPattern: cell.baseAddress) + UInt(cell.count + 15) / 16 * 16
        #expect(Mapping.containing(end)?.permissions == "---p")
        unsafe arena.free(cell)
        #expect(arena.ledger == before)
    }

    @Test("chunks lie between guard pages")
    func guards() throws {
        let arena = LockedArena()
        arena.prepare()
        let chunk = try #require(arena.chunkAddresses.first)
        #expect(Mapping.containing(chunk - 1)?.permissions == "---p")
        #expect(Mapping.containing(chunk)?.permissions == "rw-p")
        #expect(Mapping.containing(chunk + UInt(arena.chunkLength) - 1)?.permissions == "rw-p")
        #expect(Mapping.containing(chunk + UInt(arena.chunkLength))?.permissions == "---p")
    }

    @Test("writing past the end of a chunk ends the process", .timeLimit(.minutes(1)))
    func overrun() async {
        await #expect(processExitsWith: isUnderSanitizer ? .failure : .signal(SIGSEGV)) {
            let arena = LockedArena()
            arena.prepare()
            let end = (arena.chunkAddresses.first ?? 0) + UInt(arena.chunkLength)
            unsafe poke(end - 1)
            unsafe poke(end)
        }
    }

    @Test("reading before the start of a chunk ends the process", .timeLimit(.minutes(1)))
    func underrun() async {
        await #expect(processExitsWith: isUnderSanitizer ? .failure : .signal(SIGSEGV)) {
            let arena = LockedArena()
            arena.prepare()
            let start = arena.chunkAddresses.first ?? 0
            _ = unsafe peek(start, 1)
            _ = unsafe peek(start - 1, 1)
        }
    }

    @Test("secrets are kept out of core files and of children, and are locked where the limit allows")
    func kernelFlags() throws {
        let secret = SecretBytes(count: 32) { $0.fill(1) }
        let flags = try #require(Mapping.containing(secret.address())?.flags)
        #expect(flags.contains("dd"))
        #expect(flags.contains("wf"))
        if !isUnderSanitizer { #expect(flags.contains("lo") == SecureMemory.isLocked) }
    }

    @Test("a refused lock goes on unlocked and is told exactly once")
    func refusedLock() {
        let arena = LockedArena(lock: { _, _ in ENOMEM })
        #expect(!arena.takeWarning())
        let small = unsafe arena.allocate(32)
        let large = unsafe arena.allocate(5000)
        unsafe small.initializeMemory(as: UInt8.self, repeating: 1)
        #expect(arena.ledger.firstLockFailure == ENOMEM)
        #expect(arena.ledger.lockedBytes == 0)
        #expect(arena.takeWarning())
        #expect(!arena.takeWarning())
        let report = SecureMemory.report(of: arena.ledger)
        #expect(!report.isLocked)
        #expect(report.warning?.contains("LimitMEMLOCK=") == true)
        #expect(report.warning?.contains("ulimit -l") == true)
        #expect(report.warning?.contains("\n") == false)
        unsafe arena.free(small)
        unsafe arena.free(large)
        #expect(arena.ledger.lockedBytes == 0)
    }

    @Test("only what was locked is counted as locked, also when large cells come and go")
    func partlyLocked() {
        let arena = LockedArena(lock: { _, count in count > 100_000 ? ENOMEM : 0 })
        arena.prepare()
        let base = arena.ledger
        #expect(SecureMemory.report(of: base).isLocked)
        let locked = unsafe arena.allocate(5000)
        let refused = unsafe arena.allocate(200_000)
        #expect(!SecureMemory.report(of: arena.ledger).isLocked)
        unsafe arena.free(refused)
        #expect(SecureMemory.report(of: arena.ledger).isLocked)
        unsafe arena.free(locked)
        #expect(arena.ledger.lockedBytes == base.lockedBytes)
    }

    @Test("under a limit of zero the process works unlocked and warns once", .timeLimit(.minutes(1)))
    func realLimit() async {
        await #expect(processExitsWith: .success) {
            #expect(ksw_set_memlock_limit(0) == 0)
            if geteuid() == 0 {
                // Root is above the limit; nobody is not. Where root may not become nobody there is nothing to see.
                guard setgid(65534) == 0, setuid(65534) == 0 else { return }
            }
            if isUnderSanitizer { return }
            let secret = SecretBytes(count: 32) { $0.fill(3) }
            let read = secret.copied()
            #expect(read == Array(repeating: 3, count: 32))
            #expect(!SecureMemory.isLocked)
            #expect(SecureMemory.report().limit == 0)
            #expect(SecureMemory.takeWarning()?.contains("LimitMEMLOCK=") == true)
            #expect(SecureMemory.takeWarning() == nil)
        }
    }

    @Test("many tasks make, check and drop secrets without ever sharing a cell")
    func stress() async {
        let damaged = Atomic(0)
        await withTaskGroup(of: Int.self) { group in
            for task in 0..<8 {
                group.addTask {
                    var wrong = 0
                    let sizes = [16, 32, 48, 72, 200, 1024, 3000]
                    for round in 0..<2_000 {
                        let mark = UInt8(truncatingIfNeeded: task &* 31 &+ round &+ 1)
                        let first = SecretBytes(count: sizes[round % sizes.count]) { $0.fill(mark) }
                        let second = SecretBytes(count: sizes[(round + task) % sizes.count]) { span in
                            if !span.isZero { wrong += 1 }
                            span.fill(~mark)
                        }
                        if round % 64 == 0 { await Task.yield() }
                        if !first.withBytes({ $0.copied.allSatisfy { $0 == mark } }) { wrong += 1 }
                        if !second.withBytes({ $0.copied.allSatisfy { $0 == ~mark } }) { wrong += 1 }
                    }
                    return wrong
                }
            }
            for await wrong in group { damaged.add(wrong, ordering: .relaxed) }
        }
        #expect(damaged.load(ordering: .relaxed) == 0)
    }
}

@Suite("Process hardening")
struct ProcessHardeningTests {
    @Test("the process can be neither attached to nor dumped", .timeLimit(.minutes(1)))
    func hardened() async {
        await #expect(processExitsWith: .success) {
            #expect(ProcessHardening.apply(dumpable: false) == [])
            #expect(ksw_get_dumpable() == 0)
            #expect(coreLimit() == 0)
        }
    }

    @Test("`dumpable` leaves the process as it is and says so in one line", .timeLimit(.minutes(1)))
    func dumpable() async {
        await #expect(processExitsWith: .success) {
            let before = (ksw_get_dumpable(), coreLimit())
            let warnings = ProcessHardening.apply(dumpable: true)
            #expect(warnings.count == 1)
            #expect(warnings.allSatisfy { $0.contains("memory.dumpable") && !$0.contains("\n") })
            #expect((ksw_get_dumpable(), coreLimit()) == before)
        }
    }
}

// MARK: Looking at memory

/// The bytes at `address`, whoever owns them.
@unsafe private func peek(_ address: UInt, _ count: Int) -> [UInt8] {
    unsafe Array(UnsafeRawBufferPointer(start: UnsafeRawPointer(bitPattern: address), count: count))
}

@unsafe private func poke(_ address: UInt) {
    unsafe UnsafeMutableRawPointer(bitPattern: address)?.storeBytes(of: 1, as: UInt8.self)
}

private func coreLimit() -> UInt64 {
    let line = lines(of: "/proc/self/limits").first { $0.hasPrefix("Max core file size") } ?? ""
    let words = line.split(separator: " ")
    return words.count > 4 ? UInt64(words[4]) ?? .max : .max
}

private func lines(of path: String) -> [String] {
    guard let file = unsafe fopen(path, "r") else { return [] }
    defer { unsafe fclose(file) }
    var text: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while case let count = unsafe fread(&buffer, 1, buffer.count, file), count > 0 {
        text += buffer[..<count]
    }
    return String(decoding: text, as: UTF8.self).split(separator: "\n").map(String.init)
}

/// One mapping of this process, as /proc/self/smaps tells it.
private struct Mapping {
    var range: Range<UInt>
    var permissions: String
    var flags: [String] = []

    static func containing(_ address: UInt) -> Mapping? {
        var found: Mapping?
        for line in lines(of: "/proc/self/smaps") {
            let words = line.split(separator: " ").map(String.init)
            if words[0] == "VmFlags:" {
                if var found {
                    found.flags = Array(words.dropFirst())
                    return found
                }
                continue
            }
            let ends = words[0].split(separator: "-").compactMap { UInt($0, radix: 16) }
            guard ends.count == 2, words.count > 1 else { continue }
            found =
                ends[0] <= address && address < ends[1]
                ? Mapping(range: ends[0]..<ends[1], permissions: words[1]) : nil
        }
        return nil
    }
}

extension RawSpan {
    fileprivate var copied: [UInt8] { unsafe withUnsafeBytes { unsafe Array($0) } }
    fileprivate var address: UInt { unsafe withUnsafeBytes { UInt(bitPattern: $0.baseAddress) } }
}

extension SecretBytes {
    fileprivate borrowing func copied() -> [UInt8] { withBytes { $0.copied } }
    fileprivate borrowing func address() -> UInt { withBytes { $0.address } }
}

extension MutableRawSpan {
    fileprivate var isZero: Bool { bytes.copied.allSatisfy { $0 == 0 } }
    fileprivate mutating func fill(_ byte: UInt8) {
        for index in 0..<byteCount { storeBytes(of: byte, toByteOffset: index, as: UInt8.self) }
    }
}
