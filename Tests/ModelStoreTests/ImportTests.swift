import Foundation
@testable import ModelStore
import TestSupport
import Testing

@Suite struct ImportTests {
    private func imported(
        _ source: URL, quantize: TensorFormat? = nil
    ) throws -> (manifest: Manifest, store: Store, directory: TemporaryDirectory) {
        let directory = try TemporaryDirectory()
        let store = Store(directory: directory.path)
        let path = try Importer.run(source: source.path, store: store, quantize: quantize)
        return (try store.loadManifest(path: path), store, directory)
    }

    private func gguf(_ name: String) -> URL { Fixtures.url("gguf/\(name).gguf") }

    @Test func aHuggingFaceDirectory() throws {
        let (manifest, store, directory) = try imported(Fixtures.demo)
        defer { withExtendedLifetime(directory) {} }
        #expect(manifest.name == "demo")
        #expect(
            manifest.shape
                == ModelShape(
                    layers: 6, hidden: 256, heads: 8, keyValueHeads: 2, headDimension: 32, feedForward: 256,
                    experts: 8, expertsUsed: 2, vocabulary: 1536, contextLength: 2048, ropeTheta: 1e6,
                    normEpsilon: 1e-5, beginToken: 1, endToken: 2))
        #expect(store.verify(manifest, progress: { _ in }).isEmpty)
        let tokenizer = try store.map(manifest.tokenizer, verify: true)
        defer { withExtendedLifetime(tokenizer) {} }
        #expect(try Data(tokenizer.bytes) == Data(contentsOf: Fixtures.demo.appending(path: "tokenizer.model")))
    }

    /// Q and K, which GGUF keeps in another order, are back in Hugging Face's.
    @Test func theSameWeightsFromGGUFAndFromSafetensorsAreTheSameBlobs() throws {
        let first = try imported(Fixtures.demo).manifest
        let second = try imported(gguf("demo-bf16")).manifest
        #expect(first.shape == second.shape)
        #expect(first.layers == second.layers)
        #expect(first.embedding == second.embedding)
        #expect(first.head == second.head)
    }

    @Test func quantisingGivesTheBytesOfLlamaCpp() throws {
        let ours = try imported(Fixtures.demo, quantize: .q8_0).manifest
        let theirs = try imported(gguf("demo-q8_0")).manifest
        #expect(ours.layers == theirs.layers)
        #expect(ours.embedding == theirs.embedding)
        #expect(ours.head == theirs.head)
    }

    @Test func quantisingToQ4K() throws {
        let (manifest, store, directory) = try imported(Fixtures.demo, quantize: .q4_K)
        defer { withExtendedLifetime(directory) {} }
        #expect(
            manifest.layers.allSatisfy {
                $0.dense.tensors.map(\.format) == [.f32, .q4_K, .q4_K, .q4_K, .q4_K, .f32, .f32]
            })
        #expect(manifest.layers.allSatisfy { $0.experts.allSatisfy { $0.tensors.allSatisfy { $0.format == .q4_K } } })
        #expect(manifest.embedding.tensors.map(\.format) == [.q4_K])
        #expect(manifest.head.tensors.map(\.format) == [.f32, .q4_K])
        #expect(store.verify(manifest, progress: { _ in }).isEmpty)
        // The same numbers from another file, by other threads.
        let again = try imported(gguf("demo-bf16"), quantize: .q4_K).manifest
        #expect(again.layers == manifest.layers)
        #expect(again.embedding == manifest.embedding)
        #expect(again.head == manifest.head)
    }

    /// Rows of 32 and 64 values are no blocks of 256.
    @Test func rowsThatAreNoBlocksOfQ4KBecomeQ80() throws {
        let directory = try TemporaryDirectory()
        let source = try directory.write(GGUFBuilder.tiny().bytes(), "tiny.gguf")
        let store = Store(directory: "\(directory.path)/store")
        var notices: [String] = []
        let path = try Importer.run(source: source, store: store, quantize: .q4_K, notice: { notices.append($0) })
        #expect(notices.count == 1)
        #expect(notices.first?.hasSuffix(": embedding, wq, wk, wv, wo, w1, w2, w3, output") == true, "\(notices)")
        let manifest = try store.loadManifest(path: path)
        let plain = try store.loadManifest(path: Importer.run(source: source, store: store, quantize: .q8_0))
        #expect(manifest.layers == plain.layers)
    }

    /// A name that goes over to another model is not taken silently; importing the same once more is nothing new.
    @Test func aNameThatGoesOverIsSaid() throws {
        let directory = try TemporaryDirectory()
        let store = Store(directory: directory.path)
        func notices(seed: UInt64) throws -> [String] {
            var notices: [String] = []
            let model = try SyntheticModel(.mini, layers: 1, format: .q4_0, seed: seed)
            _ = try Importer.run(synthetic: model, store: store, name: "mini", notice: { notices.append($0) })
            return notices
        }
        #expect(try notices(seed: 1).isEmpty)
        #expect(try notices(seed: 1).isEmpty)
        #expect(try notices(seed: 2).map { $0.hasPrefix("another model was called mini") } == [true])
    }

    @Test func oldPerExpertTensorsGiveTheSameBlobsAsMergedOnes() throws {
        let merged = try imported(gguf("demo-q4_0")).manifest
        let separate = try imported(gguf("demo-q4_0-per-expert")).manifest
        #expect(merged.layers == separate.layers)
        #expect(merged.embedding == separate.embedding)
        #expect(merged.head == separate.head)
    }

    /// The tokenizer inside a GGUF says the same as the file that it was made from.
    @Test func theTokenizerOfAGGUFIsRewritten() throws {
        let model = try SourceModel.load(SourceFiles(path: gguf("demo-q4_0").path))
        let original = try [UInt8](Data(contentsOf: Fixtures.demo.appending(path: "tokenizer.model")))
        let ours = try TokenizerBlob.check(model.tokenizer, vocabulary: 1536, file: "ours")
        let theirs = try TokenizerBlob.check(original, vocabulary: 1536, file: "theirs")
        #expect(ours == theirs)
    }

    @Test(arguments: ["demo-f16", "demo-q4_k-pure", "demo-q4_k_m", "demo-q5_k_m", "demo-q6_k"])
    func everyQuantisation(_ name: String) throws {
        let (manifest, store, directory) = try imported(gguf(name))
        defer { withExtendedLifetime(directory) {} }
        #expect(manifest.shape.layers == 6)
        for (index, plan) in [(0, "w1"), (1, "w2"), (2, "w3")] {
            #expect(manifest.layers[5].experts[7].tensors[index].name == plan)
        }
        // Rows come back out of the panels as they are in the file.
        let source = try SourceModel.load(SourceFiles(path: gguf(name).path))
        for (blob, sources) in [
            (manifest.layers[3].experts[2], source.layers[3].experts[2]), (manifest.head, source.head),
        ] {
            let mapped = try store.map(blob, verify: true)
            defer { withExtendedLifetime(mapped) {} }
            for tensor in sources where tensor.rows > 1 {
                let entryName = blob.tensors[sources.firstIndex { $0.name == tensor.name } ?? 0].name
                let (entry, bytes) = try mapped.tensor(entryName)
                #expect(entry.format == tensor.format)
                let rowBytes = tensor.rowBytes
                let panelBytes = entry.format.panelBytes(columns: entry.columns)
                let panel = UnsafeRawBufferPointer(rebasing: bytes[panelBytes..<2 * panelBytes])
                var rows = [UInt8](repeating: 0, count: 16 * rowBytes)
                rows.withUnsafeMutableBytes {
                    Panels.unpack(entry.format, panel: panel, columns: entry.columns, into: $0)
                }
                #expect(try rows == tensor.file.bytes(at: tensor.offset + UInt64(16 * rowBytes), count: rows.count))
            }
        }
    }

    @Test func progressCoversEverything() throws {
        let directory = try TemporaryDirectory()
        var last: ImportProgress?
        _ = try Importer.run(source: gguf("demo-q4_0").path, store: Store(directory: directory.path)) { progress in
            #expect(progress.bytesDone >= last?.bytesDone ?? 0)
            #expect(progress.itemsDone >= last?.itemsDone ?? 0)
            last = progress
        }
        #expect(last?.itemsDone == 1 + 6 * 9 + 1 + 1)
        #expect(last?.items == last?.itemsDone)
        #expect(last?.bytesDone == last?.bytes)
    }
}
