import Glibc
import SecureMemory
import Testing

@testable import HTTPTransport

extension HTTPTransportTests {
    @Suite struct ResidueTests {
        private static let length = 48

        /// The places in this process's writable memory where `masked`, each byte xored with `mask`, stands.
        private func occurrences(of masked: [UInt8], xored mask: UInt8) throws -> Int {
            guard let maps = unsafe fopen("/proc/self/maps", "r") else {
                throw Servers.Failure(what: "no maps")
            }
            defer { unsafe fclose(maps) }
            let memory = unsafe open("/proc/self/mem", O_RDONLY)
            defer { close(memory) }
            // Not on the heap, and wiped, so that the search does not find itself.
            let size = 1 << 20
            let window = unsafe mmap(nil, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
            let buffer = unsafe UnsafeMutableRawBufferPointer(start: window, count: size)
            defer { unsafe munmap(window, size) }
            let own = UInt(bitPattern: buffer.baseAddress)
            var ranges: [Range<UInt>] = []
            var line = [CChar](repeating: 0, count: 512)
            while unsafe fgets(&line, Int32(line.count), maps) != nil {
                let text = String(
                    decoding: line.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
                let words = text.split(separator: " ")
                let ends = words[0].split(separator: "-").compactMap { UInt($0, radix: 16) }
                guard words[1].hasPrefix("rw"), ends.count == 2, ends[0] != own else { continue }
                // A sanitizer's shadow, of terabytes; nothing of ours is that large.
                guard ends[1] - ends[0] < 1 << 28 else { continue }
                ranges.append(ends[0]..<ends[1])
            }
            var found = 0
            for range in ranges {
                var start = range.lowerBound
                while start < range.upperBound {
                    let wanted = min(size, Int(range.upperBound - start))
                    let count = unsafe pread(memory, buffer.baseAddress, wanted, off_t(start))
                    guard count > masked.count else { break }
                    found += unsafe Self.count(
                        masked, mask, in: UnsafeRawBufferPointer(rebasing: buffer[..<count]))
                    start += UInt(
                        count - (count < wanted || start + UInt(count) == range.upperBound ? 0 : masked.count)
                    )
                }
            }
            return found
        }

        private static func count(_ masked: [UInt8], _ mask: UInt8, in bytes: UnsafeRawBufferPointer) -> Int {
            guard let base = bytes.baseAddress else { return 0 }
            let first = masked[0] ^ mask
            var found = 0
            var offset = 0
            while offset + masked.count <= bytes.count {
                guard let hit = unsafe memchr(base + offset, Int32(first), bytes.count - offset)
                else { break }
                offset = unsafe UnsafeRawPointer(hit) - base
                guard offset + masked.count <= bytes.count else { break }
                var same = 0
                while same < masked.count, unsafe bytes[offset + same] == masked[same] ^ mask { same += 1 }
                if same == masked.count { found += 1 }
                offset += 1
            }
            return found
        }

        @Test(
            "neither a request's body nor an answer's is left in memory when both are gone",
            arguments: ["http", "https", "h2"])
        func bodies(server: String) async throws {
            let secret = SecretBytes(randomCount: Self.length)
            // What this test keeps of the secret must not be the secret.
            let masked = secret.withBytes { span in
                span.byteOffsets.map { unsafe span.unsafeLoad(fromByteOffset: $0, as: UInt8.self) ^ 0x33 }
            }
            try #expect(occurrences(of: masked, xored: 0x33) == 1, "the search does not find what is there")
            try await withTransport { transport, servers in
                let scheme = server == "http" ? "http" : "https"
                let origin = try HTTPOrigin(parsing: "\(scheme)://kms.test:\(servers.port(server))")
                for _ in 0..<3 {
                    let body = SecretBytes(count: Self.length) { span in
                        secret.withBytes { span.copy($0, toByteOffset: 0) }
                    }
                    let response = try await transport.send(
                        HTTPRequest("POST", origin, "/masked", body: body), deadline: soon)
                    #expect(response.body.count == Self.length)
                    let isRight = response.body.withBytes { span in
                        span.byteOffsets.allSatisfy {
                            unsafe span.unsafeLoad(fromByteOffset: $0, as: UInt8.self) == masked[$0] ^ 0x66
                        }
                    }
                    #expect(isRight)
                }
                // libcurl's read buffer lives as long as an HTTP/2 connection; therefore it is off by default.
                let open = try occurrences(of: masked, xored: 0x66)
                #expect(server == "h2" ? open <= 1 : open == 0)
            }
            let left = try (occurrences(of: masked, xored: 0x33) - 1, occurrences(of: masked, xored: 0x66))
            #expect(left.0 == 0 && left.1 == 0)
            withExtendedLifetime(masked) {}
        }
    }
}
