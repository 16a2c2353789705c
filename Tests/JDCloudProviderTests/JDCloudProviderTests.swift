import Glibc
import HTTPTransport
import ProviderConformance
import RemoteKMS
import SecureMemory
import TestSupport
import Testing

@testable import JDCloudProvider

private let dek = (0..<32).map { UInt8($0) }

extension WithFake {
    @Suite("Provider jdcloud")
    struct JDCloudProviderTests {
        @Test("keeps the contract of every provider", arguments: [JDCloudSettings.Signature.v2, .v3])
        func conformance(_ signature: JDCloudSettings.Signature) async throws {
            let fake = try await Fake.fresh()
            let key = try await fake.newKey()
            try await ProviderConformance.verify(
                Candidate(
                    provider: try fake.provider(key, signature: signature),
                    stranger: try fake.provider(try await fake.newKey(), signature: signature),
                    rotate: { try await fake.control("POST", "/keys/\(key)/rotate") },
                    hang: {
                        try await fake.fault("hang", #""key_id":"\#(key)""#)
                        return { try await fake.untilInFlight(1) }
                    },
                    secrets: ["TESTSKabcdefghijklmnop"]))
            try await fake.control("DELETE", "/faults")
        }

        @Test(
            "what it wraps is the service's blob and nothing else; https with the authority that is configured"
        )
        func blob() async throws {
            let fake = try await Fake.fresh()
            let provider = try fake.provider(try await fake.newKey(), endpoint: fake.facts.https)
            let wrapped = try await provider.wrap(dek)
            // Nonce (12), version (4), ciphertext (32), tag (16): the fake's own form.
            #expect(wrapped.count == 64)
            #expect(try await provider.opens(wrapped, dek))
        }

        @Test("it says what it is billed for, and until when the service's certificate is good")
        func bills() async throws {
            let fake = try await Fake.fresh()
            let provider = try fake.provider(try await fake.newKey(), endpoint: fake.facts.https)
            let before = await provider.facts
            #expect(before.billedCalls == 0 && before.certificateEnd == nil)
            _ = try await provider.describe(patient)  // two requests
            _ = try await provider.wrap(dek)
            let now = Int64(time(nil))
            var facts = await provider.facts
            #expect(facts.billedCalls == 3)
            let end = try #require(facts.certificateEnd)
            #expect(end > now && end < now + 400 * 86_400)
            for code in ["429", "500"] {
                try await fake.fault("error", #""code":\#(code)"#)
                await #expect(throws: RemoteKMSError.self) { try await provider.wrap(dek) }
                try await fake.control("DELETE", "/faults")
            }
            facts = await provider.facts
            #expect(facts.billedCalls == 3 && facts.certificateEnd == end)
        }

        @Test("a service without TLS shows no certificate")
        func plain() async throws {
            let fake = try await Fake.fresh()
            let provider = try fake.provider(try await fake.newKey())
            _ = try await provider.wrap(dek)
            let facts = await provider.facts
            #expect(facts.billedCalls == 1 && facts.certificateEnd == nil)
        }

        @Test("any region may stand in the scope")
        func region() async throws {
            let fake = try await Fake.fresh()
            let provider = try fake.provider(try await fake.newKey(), region: "cn-north-1")
            try await #expect(provider.opens(provider.wrap(dek), dek))
        }

        @Test(
            "the newest version that is enabled is the one, over pages and in any order",
            arguments: ["scrambled", "oldest", "newest"])
        func versions(_ order: String) async throws {
            let fake = try await Fake.fresh()
            try await fake.set(#""version_order":"\#(order)""#)
            let key = try await fake.newKey()
            let provider = try fake.provider(key)
            let first = try await provider.describe(patient)
            #expect(first.identity == key)
            for _ in 0..<104 { try await fake.control("POST", "/keys/\(key)/rotate") }
            let names = try await fake.control("POST", "/keys/\(key)/rotate") { document, bytes in
                (document["versions"]?.items ?? []).compactMap { $0["version"]?.text(in: bytes) }
            }
            #expect(names.count == 106)
            #expect(try await provider.describe(patient).version == names.last)
            try await fake.control("POST", "/keys/\(key)/versions/\(names[105])/disable")
            #expect(try await provider.describe(patient).version == names[104])
        }

        @Test("a realm tells equal identifiers apart")
        func realm() async throws {
            let fake = try await Fake.fresh()
            let key = try await fake.newKey()
            let settings = JDCloudSettings(
                keyID: key, realm: "gov", endpoint: fake.facts.http, credentials: Fake.credentials)
            let provider = try JDCloudProvider(settings, transport: fake.transport)
            #expect(try await provider.describe(patient).identity == "gov/\(key)")
        }

        // MARK: Failures

        struct Trouble: CustomTestStringConvertible, Sendable {
            var kind: String
            var options = ""
            var code: RemoteKMSError.Code
            var retryAfter: Duration?

            var testDescription: String { "\(kind) \(options)" }
        }

        static let troubles =
            [
                Trouble(
                    kind: "throttle", options: #""retry_after":7"#, code: .throttled, retryAfter: .seconds(7)),
                Trouble(kind: "throttle", code: .throttled),
                Trouble(kind: "error", options: #""code":500"#, code: .unavailable),
                Trouble(kind: "error", options: #""code":502"#, code: .unavailable),
                Trouble(
                    kind: "error", options: #""code":503,"retry_after":2"#, code: .unavailable,
                    retryAfter: .seconds(2)),
                Trouble(kind: "error", options: #""code":504"#, code: .unavailable),
                Trouble(kind: "error", options: #""code":403"#, code: .permissionDenied),
                Trouble(kind: "error", options: #""code":400"#, code: .permissionDenied),
                Trouble(
                    kind: "error",
                    options: #""code":404,"message":"no route and no API found with those values [gw]""#,
                    code: .misconfigured),
                Trouble(
                    kind: "error", options: #""code":401,"message":"Invalid accessKey [gw]""#,
                    code: .unauthenticated),
                Trouble(
                    kind: "error", options: #""code":401,"message":"sign result is not same [gw]""#,
                    code: .unauthenticated),
                Trouble(kind: "expired_token", code: .unauthenticated),
                Trouble(kind: "clock_skew", code: .unauthenticated),
                Trouble(kind: "redirect", code: .misconfigured),
                Trouble(kind: "reset", options: #""at":"before""#, code: .unavailable),
                Trouble(kind: "reset", options: #""at":"body""#, code: .unavailable),
                Trouble(kind: "close", code: .unavailable),
                Trouble(kind: "truncate", code: .unavailable),
            ]
            + [
                "html", "empty", "not_json", "not_utf8", "array", "no_result", "null_result", "list_result",
                "wrong_types",
                "null_fields", "missing_fields", "bad_base64", "unpadded_base64", "huge", "no_content",
            ].map { Trouble(kind: "content", options: #""variant":"\#($0)""#, code: .malformedReply) }
            + [Trouble(kind: "content", options: #""variant":"error_in_200""#, code: .unavailable)]

        @Test("each kind of trouble has its class, in one line that names host and key", arguments: troubles)
        func trouble(_ trouble: Trouble) async throws {
            let fake = try await Fake.fresh()
            let key = try await fake.newKey()
            let provider = try fake.provider(key)
            let wrapped = try await provider.wrap(dek)
            try await fake.fault(trouble.kind, trouble.options)
            let host = try HTTPOrigin(parsing: fake.facts.http).description
            let errors = [
                await failure { () throws(RemoteKMSError) in _ = try await provider.wrap(dek) },
                await failure { () throws(RemoteKMSError) in _ = try await provider.opens(wrapped, dek) },
                // A description has no base64 in it.
                trouble.options.contains("unpadded_base64")
                    ? nil
                    : await failure { () throws(RemoteKMSError) in _ = try await provider.describe(patient) },
            ]
            #expect(errors.count { $0 == nil } == (trouble.options.contains("unpadded_base64") ? 1 : 0))
            for error in errors.compactMap({ $0 }) {
                #expect(error.code == trouble.code, "\(error)")
                #expect(error.retryAfter == trouble.retryAfter)
                #expect(error.summary.contains(key) && error.summary.contains(host), "\(error)")
                #expect(!error.description.contains("\n"))
            }
            try await fake.control("DELETE", "/faults")
            #expect(try await provider.opens(wrapped, dek))
        }

        @Test(
            "a key that the service calls unusable is disabled, whatever words Encrypt and Decrypt refuse with",
            arguments: ["disable", "delete", "destroy"], [400, 403, 404, 409])
        func unusable(_ verb: String, _ code: Int) async throws {
            let fake = try await Fake.fresh()
            try await fake.set(#""key_state_error":{"code":\#(code),"status":"NO"}"#)
            let key = try await fake.newKey()
            let provider = try fake.provider(key)
            let wrapped = try await provider.wrap(dek)
            try await fake.control("POST", "/keys/\(key)/\(verb)")
            let expected: RemoteKMSError.Code = verb == "destroy" ? .keyNotFound : .keyDisabled
            for error in [
                await failure { () throws(RemoteKMSError) in _ = try await provider.wrap(dek) },
                await failure { () throws(RemoteKMSError) in _ = try await provider.opens(wrapped, dek) },
                await failure { () throws(RemoteKMSError) in _ = try await provider.describe(patient) },
            ] {
                #expect(error?.code == expected, "\(error?.description ?? "answered")")
            }
        }

        @Test("a disabled version spoils what it wrapped and nothing else")
        func disabledVersion() async throws {
            let fake = try await Fake.fresh()
            let key = try await fake.newKey()
            let provider = try fake.provider(key)
            let old = try await provider.wrap(dek)
            let version = try await provider.describe(patient).version
            try await fake.control("POST", "/keys/\(key)/rotate")
            try await fake.control("POST", "/keys/\(key)/versions/\(version)/disable")
            let error = await failure { () throws(RemoteKMSError) in _ = try await provider.opens(old, dek) }
            #expect(error?.code == .permissionDenied)
            #expect(error?.remedy == "enable the version of the key that wrapped it")
            try await #expect(provider.opens(provider.wrap(dek), dek))
        }

        @Test("a key whose every version is disabled is disabled")
        func noVersion() async throws {
            let fake = try await Fake.fresh()
            let key = try await fake.newKey()
            let provider = try fake.provider(key)
            let version = try await provider.describe(patient).version
            try await fake.control("POST", "/keys/\(key)/versions/\(version)/disable")
            let error = await failure { () throws(RemoteKMSError) in _ = try await provider.describe(patient)
            }
            #expect(error?.code == .keyDisabled)
        }

        @Test(
            "an access key that may do half is refused for the other half, and the key is not blamed",
            arguments: [
                ("TESTAKENCRYPTONLY", [true, false, true]), ("TESTAKDECRYPTONLY", [false, true, true]),
                ("TESTAKNODESCRIBE", [true, true, false]), ("TESTAKNOTHING", [false, false, false]),
            ])
        func permissions(_ accessKey: String, _ allowed: [Bool]) async throws {
            let fake = try await Fake.fresh()
            let key = try await fake.newKey()
            let wrapped = try await fake.provider(key).wrap(dek)
            let provider = try fake.provider(
                key,
                credentials: .given(
                    accessKey: accessKey, secretKey: SharedSecret(secret("TESTSK" + accessKey.lowercased()))))
            let codes = [
                await failure { () throws(RemoteKMSError) in _ = try await provider.wrap(dek) }?.code,
                await failure { () throws(RemoteKMSError) in _ = try await provider.opens(wrapped, dek) }?
                    .code,
                await failure { () throws(RemoteKMSError) in _ = try await provider.describe(patient) }?.code,
            ]
            let expected: [RemoteKMSError.Code?] = allowed.map { $0 ? nil : .permissionDenied }
            #expect(codes == expected)
        }

        @Test("an access key that may not describe is told which permissions it lacks, and the way without")
        func noDescribe() async throws {
            let fake = try await Fake.fresh()
            let key = try await fake.newKey()
            let half = CredentialSettings.given(
                accessKey: "TESTAKNODESCRIBE", secretKey: SharedSecret(secret("TESTSKtestaknodescribe")))
            let observing = try fake.provider(key, credentials: half)
            let error = try #require(
                await failure { () throws(RemoteKMSError) in _ = try await observing.describe(patient) })
            for word in ["describeKey and", "describeKeyDetail", "version: static"] {
                #expect(error.remedy.contains(word), "\(error)")
            }

            let before = try await fake.calls("describeKey")
            let provider = try fake.provider(key, observesVersion: false, credentials: half)
            let description = KeyDescription(identity: key, version: "static", versionCreatedAt: "")
            #expect(provider.fixedDescription == description)
            try await fake.control("POST", "/keys/\(key)/rotate")
            try await #expect(provider.opens(provider.wrap(dek), dek))
            #expect(provider.fixedDescription == description)
            #expect(try await fake.calls("describeKey") == before)

            // Whether the key is enabled cannot be asked: it is not said that it is.
            let wrapped = try await provider.wrap(dek)
            try await fake.set(#""key_state_error":{"code":400,"status":"NO"}"#)
            try await fake.control("POST", "/keys/\(key)/disable")
            let refused = await failure { () throws(RemoteKMSError) in
                _ = try await provider.opens(wrapped, dek)
            }
            #expect(refused?.remedy.hasPrefix("see that the key is enabled") == true)
        }

        @Test(
            "a new pair that may do half is given up for the former one, whatever it did before, and that is said",
            arguments: ["TESTAKENCRYPTONLY", "TESTAKDECRYPTONLY", "TESTAKNODESCRIBE", "TESTAKNOTHING"],
            [true, false])
        func trial(_ accessKey: String, _ observesVersion: Bool) async throws {
            let fake = try await Fake.fresh()
            let folder = TemporaryFolder()
            folder.write("TESTAK0123456789", to: "ak")
            folder.write("TESTSKabcdefghijklmnop", to: "sk")
            let provider = try fake.provider(
                try await fake.newKey(), observesVersion: observesVersion,
                credentials: .files(CredentialFiles(accessKey: folder("ak"), secretKey: folder("sk"))))
            /// What a key that writes and reads is asked for, each with the one other try that a caller makes.
            func round() async throws {
                func twice<T>(_ body: () async throws(RemoteKMSError) -> T) async throws -> T {
                    do throws(RemoteKMSError) { return try await body() } catch {
                        #expect(await provider.recover(from: error, deadline: patient.deadline), "\(error)")
                        return try await body()
                    }
                }
                if observesVersion {
                    _ = try await twice { () throws(RemoteKMSError) in try await provider.describe(patient) }
                }
                let wrapped = try await twice { () throws(RemoteKMSError) in try await provider.wrap(dek) }
                #expect(
                    try await twice { () throws(RemoteKMSError) in try await provider.opens(wrapped, dek) })
            }
            try await round()
            folder.write(accessKey, to: "ak")
            folder.write("TESTSK" + accessKey.lowercased(), to: "sk")
            try await round()
            let isEnough = accessKey == "TESTAKNODESCRIBE" && !observesVersion
            for _ in 0..<2 {
                let reservation = await provider.facts.reservation
                #expect((reservation == nil) == isEnough, "\(reservation?.description ?? "")")
                try await round()
            }

            folder.write("TESTAK0123456789", to: "ak")
            folder.write("TESTSKabcdefghijklmnop", to: "sk")
            try await round()
            #expect(await provider.facts.reservation == nil)
        }

        @Test(
            "certificates that do not hold are told apart from a service that is down",
            arguments: ["expired", "not-yet-valid", "wrong-name", "unknown-authority"])
        func certificates(_ kind: String) async throws {
            let fake = try await Fake.fresh()
            try await fake.control("POST", "/certificate/\(kind)")
            let provider = try fake.provider(try await fake.newKey(), endpoint: fake.facts.https)
            // Another connection was checked before.
            let attempt = Attempt(deadline: patient.deadline, wantsFreshConnection: true)
            let error = await failure { () throws(RemoteKMSError) in
                _ = try await provider.wrap(secret(dek), context: context, attempt: attempt)
            }
            #expect(error?.code == .unauthenticated, "\(error?.description ?? "answered")")
            #expect(await provider.recover(from: try #require(error), deadline: patient.deadline) == false)
        }

        @Test("a service that refuses connections is unavailable")
        func closed() async throws {
            let fake = try await Fake.fresh()
            let provider = try fake.provider(try await fake.newKey())
            try await fake.control("POST", "/listeners/http/close")
            let error = await failure { () throws(RemoteKMSError) in _ = try await provider.wrap(dek) }
            #expect(error?.code == .unavailable)
            try await fake.control("POST", "/listeners/http/open")
            try await #expect(provider.opens(provider.wrap(dek), dek))
        }

        // MARK: Recovery

        @Test(
            "a wrong clock is set right by the service's Date, once and for all calls",
            arguments: [-7_200, 7_200] as [Int64])
        func skew(_ error: Int64) async throws {
            let fake = try await Fake.fresh()
            let provider = try fake.provider(
                try await fake.newKey(), systemTime: { SkewedClock.system() + error })
            let refused = try #require(
                await failure { () throws(RemoteKMSError) in _ = try await provider.wrap(dek) })
            #expect(refused.code == .unauthenticated)
            #expect(await provider.recover(from: refused, deadline: patient.deadline))
            #expect(
                await provider.recover(from: refused, deadline: patient.deadline) == false,
                "asked again of the same")
            try await #expect(provider.opens(provider.wrap(dek), dek))
        }

        @Test("a clock that is right already is no reason to try again")
        func noSkew() async throws {
            let fake = try await Fake.fresh()
            let provider = try fake.provider(try await fake.newKey())
            try await fake.fault("clock_skew")
            let refused = try #require(
                await failure { () throws(RemoteKMSError) in _ = try await provider.wrap(dek) })
            #expect(await provider.recover(from: refused, deadline: patient.deadline) == false)
        }

        @Test("credentials that cannot be renewed are no reason to try again")
        func revoked() async throws {
            let fake = try await Fake.fresh()
            let provider = try fake.provider(try await fake.newKey())
            try await fake.control("POST", "/accounts/TESTAK0123456789/revoke")
            let refused = await failure { () throws(RemoteKMSError) in _ = try await provider.wrap(dek) }
            try await fake.control("POST", "/accounts/TESTAK0123456789/restore")
            #expect(try #require(refused).code == .unauthenticated)
            #expect(await provider.recover(from: try #require(refused), deadline: patient.deadline) == false)
        }

        // MARK: Temporary credentials

        private static let role = AssumedRole(
            jrn: "jrn:iam::123456789012:role/kmsward", sessionName: "kmsward", duration: .seconds(3600),
            endpoint: "")

        private func role(_ fake: Fake) -> CredentialSettings {
            var role = Self.role
            role.endpoint = fake.facts.http
            return .role(role, with: Fake.credentials)
        }

        @Test(
            "a role is assumed once for many calls; tokens go in base64 or as they are",
            arguments: [false, true], [JDCloudSettings.Signature.v2, .v3])
        func role(_ isRaw: Bool, _ signature: JDCloudSettings.Signature) async throws {
            let fake = try await Fake.fresh()
            try await fake.set(#""raw_tokens":\#(isRaw)"#)
            let provider = try fake.provider(
                try await fake.newKey(), signature: signature, sendsRawTokens: isRaw, credentials: role(fake))
            try await withThrowingTaskGroup { group in
                for _ in 0..<20 {
                    group.addTask { try await #expect(provider.opens(provider.wrap(dek), dek)) }
                }
                try await group.waitForAll()
            }
            #expect(try await fake.calls("assumeRole") == 1)
            let left = try #require(await provider.facts.credentialsServeFor)
            #expect(left > .seconds(3000) && left <= .seconds(3600))
        }

        @Test("a session that ended early is renewed by one call, for all that were refused")
        func expiredSession() async throws {
            let fake = try await Fake.fresh()
            try await fake.set(#""sts_lifetime_seconds":1"#)
            // The service's clock runs ahead, so the session is over when it is used.
            let provider = try fake.provider(try await fake.newKey(), credentials: role(fake))
            _ = try await provider.wrap(dek)
            try await fake.set(#""clock_offset_seconds":60,"sts_lifetime_seconds":600"#)
            let errors = await withTaskGroup(of: RemoteKMSError?.self) { group in
                for _ in 0..<8 {
                    group.addTask {
                        await failure { () throws(RemoteKMSError) in _ = try await provider.wrap(dek) }
                    }
                }
                return await group.reduce(into: []) { $0.append($1) }
            }
            for error in errors {
                let error = try #require(error)
                #expect(error.code == .unauthenticated)
                #expect(await provider.recover(from: error, deadline: patient.deadline))
            }
            try await #expect(provider.opens(provider.wrap(dek), dek))
            #expect(try await fake.calls("assumeRole") == 2)
        }

        @Test("a role is assumed with a wrong clock, too")
        func roleWithSkew() async throws {
            let fake = try await Fake.fresh()
            let provider = try fake.provider(
                try await fake.newKey(), credentials: role(fake), systemTime: { SkewedClock.system() - 7_200 }
            )
            try await #expect(provider.opens(provider.wrap(dek), dek))
        }

        @Test(
            "what fails at the token service is not said of the key",
            arguments: [
                ("403", RemoteKMSError.Code.permissionDenied), ("404", .misconfigured), ("500", .unavailable),
            ])
        func roleTrouble(_ status: String, _ code: RemoteKMSError.Code) async throws {
            let fake = try await Fake.fresh()
            let provider = try fake.provider(try await fake.newKey(), credentials: role(fake))
            try await fake.fault(
                "error", #""operation":"assumeRole","code":\#(status),"message":"role not found""#)
            let error = try #require(
                await failure { () throws(RemoteKMSError) in _ = try await provider.wrap(dek) })
            #expect(error.code == code)
            #expect(error.summary.contains("jrn:iam::123456789012:role/kmsward"))
        }

        @Test(
            "the role of the machine serves, however its answer names the end",
            arguments: ["expiration", "expireTime", "remainingSeconds", "none"])
        func instanceRole(_ expiry: String) async throws {
            let fake = try await Fake.fresh()
            try await fake.set(#""metadata_expiry":"\#(expiry)","metadata_code":"Success""#)
            let provider = try fake.provider(
                try await fake.newKey(), credentials: .instanceRole(metadata: fake.facts.metadata))
            try await #expect(provider.opens(provider.wrap(dek), dek))
            #expect(try await fake.calls("metadataCredentials") == 1)
            let left = try #require(await provider.facts.credentialsServeFor)
            #expect(left <= .seconds(expiry == "none" ? 900 : 3601) && left > .zero)
        }

        @Test("a machine without a role is told to have one")
        func noInstanceRole() async throws {
            let fake = try await Fake.fresh()
            try await fake.set(#""metadata_role":null"#)
            let provider = try fake.provider(
                try await fake.newKey(), credentials: .instanceRole(metadata: fake.facts.metadata))
            let error = try #require(
                await failure { () throws(RemoteKMSError) in _ = try await provider.wrap(dek) })
            #expect(error.code == .misconfigured)
            #expect(error.remedy == "bind a role that may use the key to the machine")
        }

        // MARK: Secrets

        @Test("what a service repeats of a request does not get into the error")
        func echo() async throws {
            let fake = try await Fake.fresh()
            let provider = try fake.provider(try await fake.newKey())
            let plaintext = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
            try await fake.fault(
                "error",
                #""code":400,"status":"INVALID","message":"bad plaintext \#(plaintext), line\nbreak \"x\"""#)
            let error = try #require(
                await failure { () throws(RemoteKMSError) in _ = try await provider.wrap(dek) })
            #expect(!error.description.contains("AAECAwQF") && !error.description.contains("\n"))
            #expect(error.summary.contains("bad plaintext …, line break"))
        }
    }
}
