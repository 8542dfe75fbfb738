import Foundation
import ModelStore
import Testing
import TestSupport

/// Real processes on this machine, started from the executable that lies next to the tests. One cluster at a time: they
/// share the machine's processors.
@Suite(.serialized, .demoStore) enum ClusterTests {}

/// The demo model, imported once for all cluster tests.
struct DemoStore: Sendable {
    @TaskLocal static var current: DemoStore?

    /// The path of the manifest.
    let model: String
    let directory: URL

    var store: Store { Store(directory: directory.appending(path: "store").path) }

    func manifest() throws -> Manifest { try store.loadManifest(path: model) }

    /// A store of its own, which a test may damage.
    func copied(to directory: URL) throws -> DemoStore {
        let copy = DemoStore(
            model: directory.appending(path: "store/manifests/\(URL(filePath: model).lastPathComponent)").path,
            directory: directory)
        try FileManager.default.copyItem(atPath: store.directory, toPath: copy.store.directory)
        return copy
    }

    static func required() throws -> DemoStore {
        try #require(current, "the suite has no demo store")
    }
}

struct DemoStoreTrait: SuiteTrait, TestScoping {
    func provideScope(for test: Test, testCase: Test.Case?, performing function: @Sendable () async throws -> Void)
        async throws
    {
        let directory = try temporaryDirectory()
        defer { try? FileManager.default.removeItem(at: directory) }
        let store = directory.appending(path: "store").path
        let output = try await Program.run(["import", Fixtures.demo.path, "--store", store, "--name", "demo"])
        let model = output.trimmingCharacters(in: .whitespacesAndNewlines)
        try await DemoStore.$current.withValue(DemoStore(model: model, directory: directory)) {
            try await function()
        }
    }
}

/// Runs a suite's tests against one cluster.
struct ClusterTrait: SuiteTrait, TestScoping {
    let layout: Cluster.Layout

    func provideScope(for test: Test, testCase: Test.Case?, performing function: @Sendable () async throws -> Void)
        async throws
    {
        try await withCluster(layout) { cluster in
            try await Cluster.$current.withValue(cluster) { try await function() }
        }
    }
}

extension Trait where Self == DemoStoreTrait {
    static var demoStore: Self { DemoStoreTrait() }
}

extension Trait where Self == ClusterTrait {
    static func cluster(_ layout: Cluster.Layout) -> Self { ClusterTrait(layout: layout) }
}

func temporaryDirectory() throws -> URL {
    let directory = FileManager.default.temporaryDirectory.appending(path: "tramontane-tests-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
    return directory
}
