internal import EnvelopeCrypto
private import FoundationEssentials

/// What the page may do: apply its own style, run its own script, ask this daemon again.
///
/// Style and script are allowed by their digests, which are those of every answer: a page that is fetched to renew another
/// is judged by the other's policy.
struct Policy {
    let text: String

    init() throws(CryptoFailure) {
        let style = try Self.source(PackageResources.page_css)
        let script = try Self.source(PackageResources.page_js)
        text =
            "default-src 'none'; style-src \(style); script-src \(script); connect-src 'self'; img-src data:; "
            + "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    }

    static func source(_ bytes: [UInt8]) throws(CryptoFailure) -> String {
        "'sha256-\(Data(try DigestAlgorithm.sha256.hash(bytes.span)).base64EncodedString())'"
    }
}
