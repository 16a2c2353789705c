// swift-tools-version:6.2
import PackageDescription

// Strictness is set once, for every target (CONTRIBUTING.md says what each switch buys).
let strict: [SwiftSetting] =
    [.swiftLanguageMode(.v6), .strictMemorySafety(), .treatAllWarnings(as: .error)]
    + [
        "ExistentialAny", "InternalImportsByDefault", "MemberImportVisibility",
        "NonisolatedNonsendingByDefault",
        "InferIsolatedConformances", "ImmutableWeakCaptures",
    ].map { .enableUpcomingFeature($0) }

func room(
    _ name: String, path: String? = nil, _ dependencies: [Target.Dependency], exclude: [String] = []
) -> Target {
    .target(name: name, dependencies: dependencies, path: path, exclude: exclude, swiftSettings: strict)
}

func tests(_ name: String, _ dependencies: [Target.Dependency], exclude: [String] = []) -> Target {
    .testTarget(
        name: name + "Tests", dependencies: [.byName(name: name), "TestSupport"] + dependencies,
        exclude: exclude,
        swiftSettings: strict)
}

/// A C library of the distribution: module map and static-inline shims only.
///
/// Its `link` lines replace pkg-config, whose argument list for grpc grows too long to link.
func systemModule(_ name: String) -> Target { .systemLibrary(name: name) }

let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let metrics = Target.Dependency.product(name: "CoreMetrics", package: "swift-metrics")
let lifecycle = Target.Dependency.product(name: "ServiceLifecycle", package: "swift-service-lifecycle")
let signals = Target.Dependency.product(name: "UnixSignals", package: "swift-service-lifecycle")
let argumentParser = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let protobuf = Target.Dependency.product(name: "SwiftProtobuf", package: "swift-protobuf")

let package = Package(
    name: "kmsward",
    products: [.executable(name: "kmsward", targets: ["kmsward"])],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        // Tests only: the independent codec that ours is compared with.
        .package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0"),
    ],
    targets: [
        systemModule("CGRPC"),
        systemModule("COpenSSL"),
        systemModule("CSystemd"),
        systemModule("CYAML"),
        systemModule("CEvent"),
        .target(name: "CShims"),
        // Not a system module: it loads its library itself.
        .target(name: "CCurl"),

        room("Events", [logging]),
        room("Threads", ["CShims"]),
        room("SecureMemory", ["COpenSSL", "CShims"]),
        room("EnvelopeCrypto", ["COpenSSL", "SecureMemory"]),
        room("RequestSigning", ["COpenSSL", "SecureMemory"]),
        room("KMSWire", ["SecureMemory"], exclude: ["v1beta1.proto", "v2.proto"]),
        room("GRPCEngine", ["CGRPC", "CShims"]),
        room("SocketAcceptance", ["CShims", "Events", logging]),
        room("RemoteKMS", ["SecureMemory", "Observability", metrics]),
        room("HTTPTransport", ["CCurl", "CShims", "SecureMemory", "Threads"]),
        room(
            "LocalProvider", path: "Sources/Providers/Local",
            ["RemoteKMS", "EnvelopeCrypto", "SecureMemory", "CShims"]),
        room(
            "JDCloudProvider", path: "Sources/Providers/JDCloud",
            ["RemoteKMS", "HTTPTransport", "RequestSigning", "SecureMemory"]),
        room(
            "KeyService",
            [
                "KMSWire", "EnvelopeCrypto", "SecureMemory", "RemoteKMS", "DEKCache", "Events",
                "Observability", logging, metrics,
            ]),
        room(
            "RequestDecoding",
            [
                "GRPCEngine", "KMSWire", "KeyService", "RemoteKMS", "SecureMemory", "Events", "Observability",
                logging, metrics,
            ]),
        room("DEKCache", ["SecureMemory", "Observability", metrics]),
        room("Configuration", ["CYAML", "CShims", "SecureMemory"]),
        room("Observability", ["CSystemd", "CEvent", "CShims", "Events", "Threads", logging, metrics]),
        room(
            "Lifecycle",
            [
                "CSystemd", "CShims", "SecureMemory", "EnvelopeCrypto", "GRPCEngine", "SocketAcceptance",
                "RequestDecoding",
                "KeyService", "Events", "Observability", "StatusPage", "Threads", logging, metrics,
                lifecycle, signals,
            ]),
        .target(
            name: "StatusPage",
            dependencies: ["EnvelopeCrypto", "Events", "KeyService", "Observability", logging],
            resources: [.embedInCode("page.css"), .embedInCode("page.js")], swiftSettings: strict),
        room("Doctor", ["Events", "GRPCEngine", "KMSWire", "SecureMemory", "CShims"]),
        .executableTarget(
            name: "kmsward",
            dependencies: [
                "SecureMemory", "EnvelopeCrypto", "KMSWire", "GRPCEngine", "SocketAcceptance", "RemoteKMS",
                "LocalProvider", "JDCloudProvider", "HTTPTransport", "KeyService", "DEKCache",
                "RequestDecoding",
                "Configuration", "Events", "Observability", "StatusPage",
                "Lifecycle",
                "Doctor", "CShims", logging, metrics, argumentParser,
            ],
            swiftSettings: strict),

        room("TestSupport", path: "Tests/TestSupport", []),
        tests("Events", [logging, .product(name: "InMemoryLogging", package: "swift-log")]),
        tests("SecureMemory", ["CShims"]),
        tests("EnvelopeCrypto", ["SecureMemory"]),
        tests("RequestSigning", ["SecureMemory"]),
        tests("KMSWire", ["SecureMemory", protobuf], exclude: ["Generated/README.md", "Python"]),
        tests("GRPCEngine", ["CShims"], exclude: ["Python"]),
        tests("SocketAcceptance", ["CShims", "Events", logging]),
        tests("RemoteKMS", ["SecureMemory", metrics]),
        tests("HTTPTransport", ["SecureMemory", "Threads"], exclude: ["Python"]),
        room("ProviderConformance", path: "Tests/ProviderConformance", ["RemoteKMS", "SecureMemory"]),
        tests("LocalProvider", ["ProviderConformance", "RemoteKMS", "EnvelopeCrypto", "SecureMemory"]),
        tests("JDCloudProvider", ["HTTPTransport", "ProviderConformance", "RemoteKMS", "SecureMemory"]),
        tests(
            "KeyService",
            [
                "KMSWire", "EnvelopeCrypto", "SecureMemory", "RemoteKMS", "DEKCache", "LocalProvider",
                "Observability", logging, metrics,
            ]),
        tests(
            "RequestDecoding",
            [
                "GRPCEngine", "KMSWire", "KeyService", "RemoteKMS", "SecureMemory", "Observability", logging,
                .product(name: "InMemoryLogging", package: "swift-log"),
            ]),
        tests("DEKCache", ["SecureMemory", "Observability", metrics]),
        tests("Configuration", []),
        tests("Observability", ["Events", "Threads", logging, metrics]),
        tests("StatusPage", ["EnvelopeCrypto", "Events", "KeyService", "Observability", logging, metrics]),
        tests(
            "Lifecycle",
            [
                "EnvelopeCrypto", "GRPCEngine", "KeyService", "RemoteKMS", "SecureMemory",
                "SocketAcceptance", "Observability", logging, metrics,
                .product(name: "InMemoryLogging", package: "swift-log"),
            ]),
    ],
    cxxLanguageStandard: .cxx17
)
