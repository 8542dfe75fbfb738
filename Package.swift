// swift-tools-version: 6.2
import PackageDescription

let swiftSettings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .treatAllWarnings(as: .error),
]

let coreMetrics: Target.Dependency = .product(name: "CoreMetrics", package: "swift-metrics")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")
let heap: Target.Dependency = .product(name: "HeapModule", package: "swift-collections")
let serviceLifecycle: Target.Dependency = .product(name: "ServiceLifecycle", package: "swift-service-lifecycle")
let crypto: Target.Dependency = .product(name: "Crypto", package: "swift-crypto")
let unixSignals: Target.Dependency = .product(name: "UnixSignals", package: "swift-service-lifecycle")
let protobuf: Target.Dependency = .product(name: "SwiftProtobuf", package: "swift-protobuf")
let nioCore: Target.Dependency = .product(name: "NIOCore", package: "swift-nio")
let nioPosix: Target.Dependency = .product(name: "NIOPosix", package: "swift-nio")
let nioHTTP1: Target.Dependency = .product(name: "NIOHTTP1", package: "swift-nio")
let nioHTTPTypes: Target.Dependency = .product(name: "NIOHTTPTypes", package: "swift-nio-extras")
let nioHTTPTypesHTTP1: Target.Dependency = .product(name: "NIOHTTPTypesHTTP1", package: "swift-nio-extras")
let httpTypes: Target.Dependency = .product(name: "HTTPTypes", package: "swift-http-types")
let nioEmbedded: Target.Dependency = .product(name: "NIOEmbedded", package: "swift-nio")
let hummingbird: Target.Dependency = .product(name: "Hummingbird", package: "hummingbird")
let hummingbirdCore: Target.Dependency = .product(name: "HummingbirdCore", package: "hummingbird")
let argumentParser: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")
let yams: Target.Dependency = .product(name: "Yams", package: "Yams")

func target(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: swiftSettings)
}

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .testTarget(name: name, dependencies: dependencies, swiftSettings: swiftSettings)
}

let package = Package(
    name: "tramontane",
    products: [
        .library(name: "TramontaneClient", targets: ["TramontaneClient"]),
        .executable(name: "tramontane", targets: ["tramontane"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-nio.git", from: "2.101.0"),
        .package(url: "https://github.com/apple/swift-protobuf.git", from: "1.39.0"),
        .package(url: "https://github.com/apple/swift-log.git", from: "1.16.0"),
        .package(url: "https://github.com/apple/swift-metrics.git", from: "2.13.0"),
        .package(url: "https://github.com/apple/swift-collections.git", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-crypto.git", from: "4.5.0"),
        .package(url: "https://github.com/apple/swift-argument-parser.git", from: "1.8.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle.git", from: "2.13.0"),
        .package(url: "https://github.com/hummingbird-project/hummingbird.git", from: "2.28.0", traits: []),
        .package(url: "https://github.com/apple/swift-nio-extras.git", from: "1.34.0"),
        .package(url: "https://github.com/apple/swift-http-types.git", from: "1.5.0"),
        .package(url: "https://github.com/jpsim/Yams.git", from: "6.2.0"),
    ],
    targets: [
        .target(name: "CKernels"),
        .systemLibrary(name: "CNUMA", providers: [.apt(["libnuma-dev"])]),
        .systemLibrary(name: "COpenBLAS", providers: [.apt(["libopenblas-dev"])]),
        .target(name: "CCRC32C"),
        target("Wire", ["CCRC32C", nioCore, protobuf]),
        target("JSONText", []),
        target("Prometheus", [coreMetrics]),
        target("ModelStore", ["JSONText", crypto, logging]),
        target("Tokenizer", ["JSONText"]),
        target("Engine", ["CKernels", "CNUMA", "COpenBLAS", "ModelStore", logging]),
        target("Placement", ["Wire", "ModelStore"]),
        target("Transport", ["Wire", nioCore, nioPosix, logging]),
        target("Worker", ["Engine", "Transport", "Prometheus", coreMetrics, logging, serviceLifecycle]),
        target(
            "Coordinator",
            [
                "Placement", "Transport", "Tokenizer", "Prometheus", coreMetrics, crypto, logging, serviceLifecycle,
                heap,
            ]),
        target(
            "Gateway",
            [
                "Coordinator", "ModelStore", "Tokenizer", "Transport", "Prometheus", hummingbird, hummingbirdCore,
                httpTypes, coreMetrics, nioCore, nioPosix, nioHTTP1, nioHTTPTypes, logging, serviceLifecycle,
            ]),
        target("TramontaneClient", ["Wire", "Transport", nioCore, nioPosix]),
        .executableTarget(name: "ChatExample", dependencies: ["TramontaneClient"], swiftSettings: swiftSettings),
        target("TestSupport", ["ModelStore"]),
        .executableTarget(
            name: "tramontane",
            dependencies: [
                "Worker", "Gateway", "TramontaneClient", "Prometheus", argumentParser, yams, coreMetrics,
                logging, serviceLifecycle, unixSignals,
            ],
            swiftSettings: swiftSettings
        ),
        tests("KernelsTests", ["CKernels", "ModelStore"]),
        tests("JSONTextTests", ["JSONText"]),
        tests("PrometheusTests", ["Prometheus", "TestSupport", coreMetrics]),
        tests("WireTests", ["Wire", "TestSupport", nioCore, protobuf]),
        tests("ModelStoreTests", ["ModelStore", "TestSupport"]),
        tests("TokenizerTests", ["Tokenizer", "TestSupport"]),
        tests("EngineTests", ["Engine", "TestSupport"]),
        tests("PlacementTests", ["Placement", "TestSupport"]),
        tests("TransportTests", ["Transport", "TestSupport", nioCore, nioPosix, nioEmbedded, logging]),
        tests(
            "TramontaneClientTests",
            ["TramontaneClient", "TestSupport", "Transport", "Wire", nioCore, nioPosix, logging]),
        tests("WorkerTests", ["Worker", "Prometheus", "TestSupport", nioCore, nioPosix, nioEmbedded]),
        tests(
            "CoordinatorTests",
            ["Coordinator", "Prometheus", "JSONText", "TestSupport", nioCore, nioPosix, nioEmbedded]),
        tests(
            "GatewayTests",
            [
                "Gateway", "Coordinator", "Prometheus", "Tokenizer", "TestSupport", serviceLifecycle, logging,
                httpTypes, nioCore, nioEmbedded, nioHTTP1, nioHTTPTypes, nioHTTPTypesHTTP1, nioPosix,
            ]),
        tests(
            "CommandTests",
            [
                "tramontane", "Tokenizer", "Placement", "Wire", "TestSupport", nioCore, nioPosix, argumentParser,
                protobuf,
            ]),
        tests("ClusterTests", ["tramontane", "TramontaneClient", "ModelStore", "Tokenizer", "TestSupport"]),
    ]
)
