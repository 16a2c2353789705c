import Glibc
import KMSWire
import Testing

/// A Python with protobuf and grpcio-tools: the one that is named, which then has to be there, or that of .build/venv.
private let python: String? = {
    if let named = unsafe getenv("KMSWARD_PYTHON") { return unsafe String(cString: named) }
    let made = packageRoot + "/.build/venv/bin/python"
    return unsafe access(made, X_OK) == 0 ? made : nil
}()

private let packageRoot: String = {
    let here = #filePath.split(separator: "/", omittingEmptySubsequences: false)
    return here.dropLast(3).joined(separator: "/")
}()

@Suite(
    "our codec and Python's protobuf agree",
    .enabled(if: python != nil, "no Python with protobuf: set KMSWARD_PYTHON, or make .build/venv"))
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

    private struct Failure: Error { let what: String }

    /// Runs the script on `lines` and returns the lines it wrote.
    private func exchange(_ lines: [String], seed: Int, count: Int) throws -> [String] {
        var template = Array("/tmp/kmsward-corpus-XXXXXX".utf8CString)
        try #require(unsafe mkdtemp(&template) != nil)
        let folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let source = folder + "/in"
        let target = folder + "/out"
        defer {
            for path in [source, target] { _ = unsafe unlink(path) }
            _ = unsafe rmdir(folder)
        }
        let input = unsafe try #require(unsafe fopen(source, "w"))
        for line in lines { _ = unsafe fputs(line + "\n", input) }
        unsafe fclose(input)
        try run([
            packageRoot + "/Tests/KMSWireTests/Python/check_corpus.py", packageRoot + "/Sources/KMSWire",
            source,
            target, "\(seed)", "\(count)",
        ])
        let output = unsafe try #require(unsafe fopen(target, "r"))
        defer { unsafe fclose(output) }
        var text: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 1 << 16)
        while case let count = unsafe fread(&chunk, 1, chunk.count, output), count > 0 {
            text += chunk.prefix(count)
        }
        return String(decoding: text, as: UTF8.self).split(separator: "\n").map(String.init)
    }

    private func run(_ arguments: [String]) throws {
        let python = try #require(python)
        var words: [UnsafeMutablePointer<CChar>?] = unsafe ([python] + arguments).map { unsafe strdup($0) }
        defer { unsafe words.forEach { unsafe free($0) } }
        unsafe words.append(nil)
        var pid: pid_t = 0
        let error = unsafe posix_spawn(&pid, python, nil, nil, words, environ)
        guard error == 0 else { throw Failure(what: "posix_spawn: \(error)") }
        var status: Int32 = 0
        while unsafe waitpid(pid, &status, 0) < 0 {
            guard errno == EINTR else { throw Failure(what: "waitpid: \(errno)") }
        }
        guard status == 0 else { throw Failure(what: "the script ended with status \(status)") }
    }
}
