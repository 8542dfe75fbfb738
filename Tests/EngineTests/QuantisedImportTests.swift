import Engine
import Foundation
import ModelStore
import TestSupport
import Testing

/// The demo, quantised by the import, against llama.cpp's own quantiser.
@Suite struct QuantisedImportTests {
    @Test(arguments: [(TensorFormat.q8_0, "demo-q8_0.gguf"), (.q4_K, "demo-q4_k-pure.gguf")])
    func theMeanNegativeLogLikelihoodIsLlamaCpps(format: TensorFormat, file: String) throws {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        let perplexity = try decoder.decode(
            GoldenTests.Perplexity.self, from: Data(contentsOf: Fixtures.url("demo/perplexity.json")))
        let directory = FileManager.default.temporaryDirectory.appending(path: "quantised-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: directory) }
        let store = Store(directory: directory.path)
        let manifest = try store.loadManifest(
            path: Importer.run(source: Fixtures.demo.path, store: store, quantize: format))
        let runner = try Models.Imported(manifest: manifest, store: store).runner()
        let sum = try perplexity.windows.reduce(0.0) { try $0 + runner.score(ids: $1, top: 0).meanNLL }
        let found = sum / Double(perplexity.windows.count)
        let expected = try #require(perplexity.files[file]).mean
        #expect(abs(found - expected) < 0.01)
        print("perplexity quantised to \(format): \(found), off by \(found - expected)")
    }
}
