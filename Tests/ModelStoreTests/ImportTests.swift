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

    @Test func oldPerExpertTensorsGiveTheSameBlobsAsMergedOnes() throws {
        let merged = try imported(gguf("demo-q4_0")).manifest
        let separate = try imported(gguf("demo-q4_0-per-expert")).manifest
        #expect(merged.layers == separate.layers)
        #expect(merged.embedding == separate.embedding)
        #expect(merged.head == separate.head)
    }
}
