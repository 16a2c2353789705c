import Testing

@testable import StatusPage

struct HTMLTests {
    @Test(
        "text that somebody said cannot become markup",
        arguments: [
            ("plain words, 100 %", "plain words, 100 %"),
            ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
            (#"" onload="x"#, "&quot; onload=&quot;x"),
            ("' & '", "&#39; &amp; &#39;"),
            ("a\u{0}b\u{1B}[31mc", "a\u{FFFD}b\u{FFFD}[31mc"),
            ("turn \u{202E}around", "turn \u{FFFD}around"),
            ("密钥 ключ\nnext\tline", "密钥 ключ\nnext\tline"),
        ])
    func escapes(text: String, expected: String) {
        let html: HTML = "<p title=\"\(text)\">\(text)</p>"
        #expect(html.text == "<p title=\"\(expected)\">\(expected)</p>")
    }

    @Test("pieces of markup are put together as they are")
    func pieces() {
        let items: [HTML] = ["a", "<b>"].map { "<li>\($0)</li>" }
        let list: HTML = "<ul>\(items)</ul> \(3)"
        #expect(list.text == "<ul><li>a</li><li>&lt;b&gt;</li></ul> 3")
    }
}
