import Glibc
import TestSupport
import Testing

@testable import Configuration

/// A file of the repository, by its path from the top.
func repositoryFile(_ path: String) throws -> String {
    let handle = unsafe open("\(Repository.root)/\(path)", O_RDONLY)
    try #require(handle >= 0, "\(path) is missing")
    defer { close(handle) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 1 << 16)
    while case let count = unsafe read(handle, &chunk, chunk.count), count > 0 { bytes += chunk[..<count] }
    return String(decoding: bytes, as: UTF8.self)
}

@Suite struct ReferenceTests {
    @Test("the committed reference page is the schema's")
    func pageIsCurrent() throws {
        let committed = try repositoryFile("docs/configuration.md")
        #expect(
            committed == ConfigurationReference.markdown(),
            "out of date: kmsward config reference > docs/configuration.md")
    }

    @Test("every option stands on the page, in a section of its own block")
    func pageIsComplete() {
        let page = ConfigurationReference.markdown()
        for option in ConfigurationReference.options {
            #expect(page.contains("| `\(option.path)` | "))
        }
        #expect(ConfigurationReference.options.allSatisfy { !$0.text.isEmpty && $0.text.hasSuffix(".") })
    }

    @Test("the examples on the page are what the program says")
    func pageExamples() throws {
        let page = ConfigurationReference.markdown()
        let yaml = try #require(page.split(separator: "```yaml\n").last?.split(separator: "```").first)
        #expect(try settings(String(yaml)).keys.map(\.name) == ["primary"])
        let file =
            "keys: [{ name: a, local: { file: /k } }]\nsocket:\n  mod: \"0600\"\n\n\n\n\n\n\n\nlog:\n"
            + "  level: warn\n\nmetrics:\n  listen: 0.0.0.0:80\n"
        let lines = Settings.parse(bytes: Array(file.utf8), name: "/etc/kmsward/kmsward.yaml").diagnostics
        for line in lines { #expect(page.contains("\n\(line)\n")) }
        #expect(lines.count == 3)
    }

    @Test("the sample file is the defaults with one key")
    func sampleIsDefaults() throws {
        var expected = Settings()
        expected.keys = [
            Settings.Key(
                name: "primary", provider: .local(Settings.LocalProvider(file: "/etc/kmsward/local.keys")))
        ]
        #expect(try settings(repositoryFile("ops/kmsward.yaml")) == expected)
    }

    @Test("the sample's commented options are all there are, with their defaults")
    func sampleIsComplete() throws {
        let optionLine = /^( *)# ( *)([a-z_0-9]+:.*)$/
        let uncommented = try repositoryFile("ops/kmsward.yaml")
            .split(separator: "\n", omittingEmptySubsequences: false)
            .map { line in
                guard let match = line.wholeMatch(of: optionLine) else { return String(line) }
                return "\(match.1)\(match.2)\(match.3)"
            }
            .joined(separator: "\n")
        let sample = try settings(uncommented)
        for option in ConfigurationReference.options where !option.path.hasPrefix("keys[].jdcloud.") {
            let path = option.path.split(separator: "[]").joined(separator: "[0]")
            #expect(sample.position(of: path) != nil, "\(option.path) is missing in the sample")
        }
        // The only options without a default.
        #expect((sample.socket.owner, sample.socket.group) == (.name("root"), .name("kube-apiserver")))
        var rest = sample
        (rest.socket.owner, rest.socket.group) = (nil, nil)
        #expect(try rest == settings(repositoryFile("ops/kmsward.yaml")))
    }

    @Test("the sample for JD Cloud is right and names every option of its block, with its default")
    func jdcloudSample() throws {
        let text = try repositoryFile("ops/kmsward-jdcloud.yaml")
        let sample = try settings(text)
        #expect(sample.keys.map(\.jdcloud.keyID) == ["srh6mt4lj49tnzvs"])
        for option in ConfigurationReference.options where option.path.hasPrefix("keys[].jdcloud.") {
            let value = option.defaultText.map { " \($0)" } ?? ""
            #expect(
                text.contains(" \(option.name):\(value)"),
                "\(option.path) is missing in the sample, or has another default")
        }
    }
}
