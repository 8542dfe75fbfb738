import Engine
import Foundation
import ModelStore
import TestSupport

/// The models that tests share, imported once in a run into a directory that goes when the process does.
enum Models {
    struct Imported: Sendable {
        let manifest: Manifest
        let store: Store

        /// An engine that holds everything.
        func engine(
            threads: Int = 1, pages: Int? = nil, compute: ComputeBackend = .native,
            weightMemory: WeightMemory = .mapped,
            shard: ShardSpec? = nil
        ) throws -> Engine {
            try Engine(
                manifest: manifest, store: store, shard: shard ?? .whole(manifest.shape),
                pages: pages ?? (manifest.shape.contextLength + Engine.pageTokens - 1) / Engine.pageTokens,
                threads: threads, compute: compute, weightMemory: weightMemory)
        }

        func runner(threads: Int = 1, compute: ComputeBackend = .native) throws -> LocalRunner {
            LocalRunner(engine: try engine(threads: threads, compute: compute))
        }
    }

    private static let directory: URL = {
        let url = FileManager.default.temporaryDirectory.appending(path: "tramontane-engine-tests-\(getpid())")
        atexit { try? FileManager.default.removeItem(at: Models.directory) }
        return url
    }()

    private static func imported(_ source: URL, _ name: String) -> Result<Imported, any Error> {
        Result {
            let store = Store(directory: directory.appending(path: "store").path)
            let path = try Importer.run(source: source.path, store: store, name: name)
            return Imported(manifest: try store.loadManifest(path: path), store: store)
        }
    }

    /// The BF16 demo.
    static let demo = imported(Fixtures.demo, "demo")

    /// The quantised files, by name.
    static let quantised: [String: Result<Imported, any Error>] = Dictionary(
        uniqueKeysWithValues: quantisedFiles.map { file in
            (file, imported(Fixtures.url("gguf/\(file)"), file.replacing(".gguf", with: "")))
        })

    static let quantisedFiles = [
        "demo-bf16.gguf", "demo-f16.gguf", "demo-q8_0.gguf", "demo-q4_0.gguf", "demo-q4_0-per-expert.gguf",
        "demo-q4_k-pure.gguf", "demo-q4_k_m.gguf", "demo-q5_k_m.gguf", "demo-q6_k.gguf",
    ]

    /// One of `quantisedFiles`.
    static func quantised(_ file: String) throws -> Imported {
        guard let model = quantised[file] else { throw EngineError(code: "test", message: "no fixture \(file)") }
        return try model.get()
    }

    /// A model made up by `TinyModel`.
    static func tiny(_ model: TinyModel, _ name: String) throws -> Imported {
        let source = directory.appending(path: name)
        try model.write(to: source)
        return try imported(source, name).get()
    }
}

/// Bits, for comparisons that no tolerance blurs.
func bits(_ floats: some Sequence<Float>) -> [UInt32] {
    floats.map(\.bitPattern)
}

extension LocalRunner.Score {
    /// Everything it says, in bits.
    var bits: [UInt64] {
        var bits = top.joined().flatMap { [UInt64(bitPattern: Int64($0.0)), UInt64($0.1.bitPattern)] }
        bits += lastLogits.map { UInt64($0.bitPattern) }
        bits.append(meanNLL.bitPattern)
        for route in routesLast {
            bits += route.experts.map { UInt64($0) } + route.weights.map { UInt64($0.bitPattern) }
        }
        return bits
    }
}
