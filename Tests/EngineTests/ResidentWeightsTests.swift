import Engine
import Foundation
import ModelStore
import TestSupport
import Testing

/// Weights in memory of the process's own.
@Suite struct ResidentWeightsTests {
    private let ids: [Int32] = [1, 40, 72, 300, 5, 9, 41]

    @Test(arguments: ["demo-q4_k_m.gguf", "demo-q8_0.gguf", "demo-bf16.gguf"])
    func noBitDependsOnWhereTheWeightsAre(file: String) throws {
        let model = try Models.quantised(file)
        let mapped = try model.engine(), resident = try model.engine(threads: 3, weightMemory: .resident)
        #expect(resident.mappedBlobs == mapped.mappedBlobs)
        #expect(resident.weightBytes == mapped.weightBytes)
        #expect(
            try LocalRunner(engine: resident).score(ids: ids, top: 8).bits
                == LocalRunner(engine: mapped).score(ids: ids, top: 8).bits)
    }

    /// A store of this test's own, whose files it may harm.
    private func ownModel(_ body: (Models.Imported) throws -> Void) throws {
        let source = FileManager.default.temporaryDirectory.appending(path: "resident-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: source) }
        try TinyModel().write(to: source)
        let store = Store(directory: source.appending(path: "store").path)
        let path = try Importer.run(source: source.path, store: store, name: "tiny")
        try body(Models.Imported(manifest: try store.loadManifest(path: path), store: store))
    }

    /// Mapped weights would end the process with SIGBUS.
    @Test func filesThatAreCutAfterTheyWereReadChangeNothing() throws {
        try ownModel { model in
            let expected = try model.runner().score(ids: ids.map { $0 % 263 }, top: 8).bits
            let engine = try model.engine(threads: 2, weightMemory: .resident)
            for blob in model.manifest.uniqueBlobs {
                #expect(truncate(model.store.blobPath(blob), 0) == 0)
            }
            #expect(try LocalRunner(engine: engine).score(ids: ids.map { $0 % 263 }, top: 8).bits == expected)
        }
    }

    @Test(arguments: WeightMemory.allCases)
    func ofSeveralBadBlobsTheFirstIsNamed(memory: WeightMemory) throws {
        try ownModel { model in
            let bad = [model.manifest.layers[0].experts[3], model.manifest.layers[1].dense]
            for blob in bad {
                let url = URL(filePath: model.store.blobPath(blob))
                var bytes = try Data(contentsOf: url)
                bytes[7] ^= 1
                try bytes.write(to: url)
            }
            #expect {
                _ = try model.engine(threads: 4, weightMemory: memory)
            } throws: {
                let error = $0 as? ModelError
                return error?.code == "blob_altered" && error?.file == model.store.blobPath(bad[0])
            }
            try FileManager.default.removeItem(atPath: model.store.blobPath(bad[0]))
            #expect {
                _ = try model.engine(threads: 4, weightMemory: memory)
            } throws: {
                ($0 as? ModelError)?.code == "blob_missing"
            }
        }
    }
}
