import KMSWire
import TestSupport
import Testing

@Suite(
    "our codec and Python's protobuf agree",
    .enabled(if: Python.path != nil, "no Python with protobuf: set KMSWARD_PYTHON, or make .build/venv"))
struct PythonAgreementTests {
    @Test("both ways, on good and on damaged messages, and on the names of all methods")
    func corpus() throws {
        var generator = SeededGenerator(seed: 7)
        var sent: [(message: WireMessage, bytes: [UInt8], sample: Sample)] = []
        for message in WireMessage.allCases {
            for _ in 0..<200 {
                let sample = generator.sample(message)
                sent.append((message, try sample.ourBytes(), sample))
            }
        }
        let corpus = sent.map { "\($0.message.rawValue) \(hex($0.bytes))" }
        let answers = try exchange(corpus, seed: 8, count: 500)

        let methods = Set(answers.filter { $0.hasPrefix("method ") })
        #expect(
            methods
                == Set(
                    KMSMethod.allCases.map {
                        "method \($0.path) \($0.request.rawValue) \($0.response.rawValue)"
                    }))

        let read = answers.filter { $0.hasPrefix("read ") || $0 == "refused" }
        try #require(read.count == sent.count)
        for (answer, sent) in zip(read, sent) {
            let parts = answer.split(separator: " ", omittingEmptySubsequences: false)
            try #require(parts.count == 3, "Python refused \(hex(sent.bytes))")
            #expect(parts[1] == sent.sample.line)
            #expect(try ourSample(sent.message, bytes(hex: parts[2])).line == sent.sample.line)
        }

        let made = answers.filter { $0.hasPrefix("made ") }
        #expect(made.count == WireMessage.allCases.count * 500)
        var agreed = 0
        for answer in made {
            let parts = answer.split(separator: " ", omittingEmptySubsequences: false)
            let message = try #require(WireMessage(rawValue: String(parts[1])))
            do throws(WireError) {
                let ours = try ourSample(message, bytes(hex: parts[2]))
                agreed += 1
                #expect(ours.line == parts[3], "\(answer)")
            } catch {
                if ReferenceAgreementTests.stricter.contains(error.reason) { continue }
                #expect(parts[3] == "refused", "\(error): \(answer)")
            }
        }
        #expect(agreed > 1_000)
    }

    /// Runs the script on `lines` and returns the lines it wrote.
    private func exchange(_ lines: [String], seed: Int, count: Int) throws -> [String] {
        let folder = TemporaryFolder()
        folder.write(lines.map { $0 + "\n" }.joined(), to: "in")
        let outcome = try Command.run([
            #require(Python.path), Repository.root + "/Tests/KMSWireTests/Python/check_corpus.py",
            Repository.root + "/Sources/KMSWire", folder("in"), folder("out"), "\(seed)", "\(count)",
        ])
        try #require(outcome.status == 0, "\(outcome.output)")
        return folder.text(of: "out").split(separator: "\n").map(String.init)
    }
}
