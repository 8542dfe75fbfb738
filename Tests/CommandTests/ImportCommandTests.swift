import ArgumentParser
import Engine
import Foundation
import ModelStore
import Testing
import Tokenizer

@testable import tramontane

struct ImportCommandTests {
    @Test func aSourceOrASyntheticModel() throws {
        let source = try ImportCommand.parse(["model.gguf", "--quantize", "q4_K"])
        #expect(source.source == "model.gguf")
        #expect(source.quantize == .q4_K)
        let synthetic = try ImportCommand.parse(
            ["--synthetic", "8x22b", "--layers", "4", "--unique-layers", "1", "--type", "q6_K", "--seed", "3"])
        #expect(synthetic.synthetic == .mixtral8x22B)
        #expect(synthetic.layers == 4)
        #expect(synthetic.uniqueLayers == 1)
        #expect(synthetic.type == .q6_K)
        #expect(synthetic.seed == 3)
    }

    @Test(arguments: [
        ([], "a source is missing, or --synthetic"),
        (["model.gguf", "--synthetic", "mini"], "a source or --synthetic, not both"),
        (["--synthetic", "mini", "--quantize", "q8_0"], "--quantize is for a source; --synthetic takes --type"),
        (["model.gguf", "--layers", "3"], "--layers is for --synthetic"),
        (["model.gguf", "--type", "q8_0"], "--type is for --synthetic"),
        (["model.gguf", "--seed", "5"], "--seed is for --synthetic"),
        (["--synthetic", "7b"], "7b is unknown; allowed are 8x22b, 8x7b, mini"),
        (["--synthetic", "mini", "--type", "q2_K"], "q2_K is unknown; allowed are f32, f16, bf16, q8_0, q4_0, q4_K"),
        (["--synthetic", "mini", "--layers", "-1"], "-1 is not a whole number from 1 to 65535"),
        (["--synthetic", "mini", "--unique-layers", "0"], "0 is not a whole number from 1 to 65535"),
        (["model.gguf", "--quantize", "q4_0"], "q4_0 is unknown; allowed are q8_0, q4_K"),
    ])
    func whatDoesNotGoTogether(arguments: [String], says: String) {
        let error = #expect(throws: (any Error).self) { try ImportCommand.parse(arguments) }
        #expect(error.map { ImportCommand.message(for: $0).contains(says) } == true, "\(arguments)")
    }

    /// A setting of the environment for other imports does not stand in the way.
    @Test func quantizeFromTheEnvironmentIsNotForSyntheticModels() throws {
        let resolver = SettingsResolver(commands: [ImportCommand.self], environment: ["TRAMONTANE_QUANTIZE": "q8_0"])
        #expect(try resolver.resolve(["import", "--synthetic", "mini"]) == ["import", "--synthetic", "mini"])
        #expect(try resolver.resolve(["import", "x.gguf"]) == ["import", "--quantize=q8_0", "x.gguf"])
    }

    @Test func settingsOfSyntheticModelsAreNotForSources() throws {
        let environment = ["TRAMONTANE_SEED": "5", "TRAMONTANE_TYPE": "q8_0", "TRAMONTANE_LAYERS": "2"]
        let resolver = SettingsResolver(commands: [ImportCommand.self], environment: environment)
        #expect(try resolver.resolve(["import", "x.gguf"]) == ["import", "x.gguf"])
        #expect(
            try resolver.resolve(["import", "--synthetic", "mini"])
                == ["import", "--layers=2", "--type=q8_0", "--seed=5", "--synthetic", "mini"])
    }

    /// What benchmarks use: text goes in, tokens are computed, text comes out, and layers share memory.
    @Test func aSyntheticModelAnswers() throws {
        let directory = FileManager.default.temporaryDirectory.appending(path: "synthetic-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: directory) }
        let store = Store(directory: directory.path)
        let model = try SyntheticModel(.mini, layers: 3, uniqueLayers: 1)
        let manifest = try store.loadManifest(path: Importer.run(synthetic: model, store: store, name: "bench"))
        let blob = try store.map(manifest.tokenizer, verify: true)
        let tokenizer = try withExtendedLifetime(blob) { try Tokenizer(model: Array(blob.bytes)) }
        for text in ["Who goes there?", "banana éß", "{\"a\": [1]}"] {
            let ids = tokenizer.encode(text)
            #expect(ids.allSatisfy { (0..<Int32(manifest.shape.vocabulary)).contains($0) })
            #expect(tokenizer.decode(ids) == text)
        }
        // Syllables are pieces.
        #expect(tokenizer.encode("banana").count == 3)
        #expect(try tokenizer.encodeChat([ChatMessage(role: .user, content: "Who?")]).isEmpty == false)
        let engine = try Engine(
            manifest: manifest, store: store, shard: .whole(manifest.shape), pages: 4, threads: 2, compute: .native)
        let output = try LocalRunner(engine: engine).generate(
            prompt: [tokenizer.beginToken] + tokenizer.encode("banana"), parameters: .greedy, maxTokens: 4)
        #expect(output.ids.count == 4)
    }
}
