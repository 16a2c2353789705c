import Testing

@testable import Lifecycle

@Suite struct OpenFilesTests {
    private static let needed: UInt64 = 2 * 128 + 2 * OpenFiles.least

    @Test(
        "the soft limit is raised as far as needed and allowed, and never lowered",
        arguments: [
            (1_024, 524_288, nil), (128, 524_288, needed), (needed, needed, nil), (100, needed, needed),
        ] as [(UInt64, UInt64, UInt64?)])
    func raising(soft: UInt64, hard: UInt64, to: UInt64?) {
        #expect(OpenFiles.verdict(soft: soft, hard: hard, connections: 128) == .raise(to: to, warning: nil))
    }

    @Test("a hard limit too low for the connections is told with the number that is enough")
    func tooLow() throws {
        guard case .raise(let soft, let warning?) = OpenFiles.verdict(soft: 64, hard: 200, connections: 128)
        else {
            Issue.record("no warning")
            return
        }
        #expect(soft == 200)
        #expect(warning.contains("LimitNOFILE=\(Self.needed)"))
    }

    @Test("with fewer descriptors than the daemon itself needs it does not start")
    func refusal() {
        guard
            case .refuse(let reason) = OpenFiles.verdict(
                soft: 16, hard: OpenFiles.least - 1, connections: 128)
        else {
            Issue.record("not refused")
            return
        }
        #expect(reason.contains("LimitNOFILE="))
    }
}
