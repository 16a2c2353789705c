import KMSWire
import Testing

@Suite("our codec and swift-protobuf's agree")
struct ReferenceAgreementTests {
    static let casesPerMessage = 200

    @Test("what we write, swift-protobuf reads as the same values", arguments: WireMessage.allCases)
    func writing(_ message: WireMessage) throws {
        var generator = SeededGenerator(seed: 1)
        for _ in 0..<Self.casesPerMessage {
            let sample = generator.sample(message)
            let ours = try sample.ourBytes()
            #expect(try referenceSample(message, ours) == sample)
            #expect(try sample.referenceBytes().count == ours.count)
        }
    }

    @Test("what swift-protobuf writes, we read as the same values", arguments: WireMessage.allCases)
    func reading(_ message: WireMessage) throws {
        var generator = SeededGenerator(seed: 2)
        for _ in 0..<Self.casesPerMessage {
            let sample = generator.sample(message)
            #expect(try ourSample(message, sample.referenceBytes()).line == sample.line)
        }
    }

    /// Rules that protobuf itself does not have: the reference may take what breaks them.
    static let stricter: Set<WireError.Reason> = [
        .varintTooLong, .wrongWireType, .unknownField, .notPrintable, .empty, .tooLong, .unsupportedVersion,
        .invalidAnnotationKey,
    ]

    @Test(
        "damaged messages are taken by both or by none, but for our stricter rules",
        arguments: WireMessage.allCases)
    func damage(_ message: WireMessage) throws {
        var generator = SeededGenerator(seed: 3)
        var accepted = 0
        var refused: [WireError.Reason: Int] = [:]
        for _ in 0..<Self.casesPerMessage * 10 {
            let bytes = generator.mutated(try generator.sample(message).referenceBytes())
            let reference = try? referenceSample(message, bytes)
            do throws(WireError) {
                let ours = try ourSample(message, bytes)
                accepted += 1
                #expect(ours.line == reference?.line, "\(hex(bytes))")
            } catch {
                refused[error.reason, default: 0] += 1
                #expect(error.message == message)
                #expect((0...bytes.count).contains(error.offset), "\(error)")
                guard !Self.stricter.contains(error.reason) else { continue }
                #expect(reference == nil, "\(error): \(hex(bytes))")
            }
        }
        // The comparison is worth something only if it saw both sides.
        #expect(accepted > 50)
        #expect(refused.values.reduce(0, +) > 500)
    }

    @Test("any bytes at all are read or refused, never a trap", arguments: WireMessage.allCases)
    func noise(_ message: WireMessage) {
        var generator = SeededGenerator(seed: 4)
        for _ in 0..<Self.casesPerMessage * 5 {
            let bytes = generator.bytes(Int.random(in: 0...24, using: &generator))
            let reference = try? referenceSample(message, bytes)
            guard let ours = try? ourSample(message, bytes) else { continue }
            #expect(ours.line == reference?.line, "\(hex(bytes))")
        }
    }

    @Test(
        "every beginning of a message is read as swift-protobuf reads it, or refused",
        arguments: WireMessage.allCases)
    func truncation(_ message: WireMessage) throws {
        var generator = SeededGenerator(seed: 5)
        let whole = try generator.sample(message).referenceBytes().prefix(3_000)
        for count in 0...whole.count {
            let bytes = Array(whole.prefix(count))
            let reference = try? referenceSample(message, bytes)
            do throws(WireError) {
                #expect(try ourSample(message, bytes).line == reference?.line)
            } catch {
                if error.reason != .empty { #expect(reference == nil, "\(error)") }
            }
        }
    }
}
