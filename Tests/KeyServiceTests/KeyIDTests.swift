import RemoteKMS
import Testing

@testable import KeyService

@Suite("key_id")
struct KeyIDTests {
    private static let identity = "4a1c6f0e-8f0b-4c53-9f6c-0d5b7a9d2e11"
    private static let part = String(repeating: "A", count: 22)

    private func make(
        provider: String = "local", identity: String = identity, version: String = "1",
        createdAt: String = "",
        context: String = "", epoch: UInt32 = 0
    ) throws -> KeyID {
        try KeyID(
            provider: provider,
            key: KeyDescription(identity: identity, version: version, versionCreatedAt: createdAt),
            clusterContext: context, epoch: epoch)
    }

    @Test("is what an independent implementation computes", arguments: CiphertextVectors.all.keyIds)
    func vectors(_ vector: CiphertextVectors.KeyIDVector) throws {
        let keyID = try make(
            provider: vector.provider, identity: vector.identity, version: vector.version,
            createdAt: vector.versionCreatedAt, context: vector.clusterContext, epoch: vector.epoch)
        #expect(keyID.description == vector.keyId)
        #expect(try KeyID(parsing: vector.keyId) == keyID)
    }

    @Test(
        "has a key part that only identity and context change, and a version part that only versions change")
    func parts() throws {
        let base = try make()
        #expect(base.description == "kw1.\(base.keyPart).0.\(base.versionPart)")
        #expect(base.description.utf8.count == 51)
        for other in try [make(provider: "x"), make(identity: "x"), make(context: "x")] {
            #expect(other.keyPart != base.keyPart)
        }
        for other in try [make(version: "2"), make(createdAt: "x")] {
            #expect(other.keyPart == base.keyPart)
            #expect(other.versionPart != base.versionPart)
        }
        let raised = try make(epoch: 3)
        #expect(raised.epoch == 3)
        #expect((raised.keyPart, raised.versionPart) == (base.keyPart, base.versionPart))
        #expect(raised != base)
    }

    @Test("does not confuse items whose bytes run together")
    func itemsAreApart() throws {
        #expect(
            try make(provider: "ab", identity: "c").keyPart != make(provider: "a", identity: "bc").keyPart)
        #expect(try make(version: "12", createdAt: "3") != make(version: "1", createdAt: "23"))
    }

    @Test(
        "reads back what it wrote, up to the highest epoch", arguments: [0, 1, 10, 4_294_967_295] as [UInt32])
    func roundTrip(epoch: UInt32) throws {
        let keyID = try make(epoch: epoch)
        let again = try KeyID(parsing: keyID.description)
        #expect(again == keyID)
        #expect(again.epoch == epoch)
        #expect((again.keyPart, again.versionPart) == (keyID.keyPart, keyID.versionPart))
    }

    @Test(
        "refuses every text that it could not have written",
        arguments: [
            "", "kw1", "kw1.", "kw1.\(part).0.", "kw2.\(part).0.\(part)", "KW1.\(part).0.\(part)",
            "kw1.\(part)..\(part)", "kw1.\(part).00.\(part)", "kw1.\(part).01.\(part)",
            "kw1.\(part).-1.\(part)",
            "kw1.\(part).+1.\(part)", "kw1.\(part).1x.\(part)", "kw1.\(part).4294967296.\(part)",
            "kw1.\(part).99999999999.\(part)", "kw1.\(part).0.\(part)A", "kw1.A\(part).0.\(part)",
            "kw1.\(part).0.\(part) ", " kw1.\(part).0.\(part)", "kw1.\(part.dropLast())=.0.\(part)",
            "kw1.\(part).0.\(part.dropLast())+", "kw1.\(part.dropLast())..0.\(part)", "kw1.\(part):0.\(part)",
            "kw1.\(part).0:\(part)", "kw1.\(part).0.\(part.dropLast(2))\u{e9}", "kw1.\(part).0.\(part)\n",
        ])
    func malformed(text: String) {
        #expect(throws: KeyID.Malformed()) { try KeyID(parsing: text) }
    }

    @Test("tells what could be a part")
    func isPart() {
        #expect(KeyID.isPart(Self.part))
        #expect(KeyID.isPart("abcdefghijklmnopq0189-_"[...].dropLast().description))
        for text in ["", Self.part + "A", String(Self.part.dropLast()), "+" + Self.part.dropLast()] {
            #expect(!KeyID.isPart(text))
        }
    }
}

@Suite("Accepting a key_id")
struct KeyAcceptanceTests {
    private static let own = String(repeating: "o", count: 22)
    private static let former = String(repeating: "f", count: 22)
    private static let other = String(repeating: "x", count: 22)
    private let rule = KeyAcceptance(
        keyPart: own, acceptIdentities: [former], adoptKeyIDs: ["jdcloud-kms:1", "kw1.odd"])

    @Test(
        "goes by the key part alone, or literally for the ids of other plugins",
        arguments: [
            ("kw1.\(own).0.\(own)", true), ("kw1.\(own).7.\(other)", true),
            ("kw1.\(former).0.\(other)", true),
            ("jdcloud-kms:1", true), ("kw1.odd", true), ("kw1.\(other).0.\(own)", false),
            ("jdcloud-kms:12", false),
            ("jdcloud-kms:", false), ("", false), (own, false), ("kw1.\(own).0", false),
            ("kw1.\(own).00.\(own)", false),
        ])
    func accepts(text: String, isAccepted: Bool) throws {
        #expect(rule.accepts(text) == isAccepted)
        if let keyID = try? KeyID(parsing: text) { #expect(rule.accepts(keyID) == isAccepted) }
    }
}
