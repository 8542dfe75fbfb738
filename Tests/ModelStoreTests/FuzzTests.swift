import Foundation
@testable import ModelStore
import Testing

/// Right files with bytes changed, cut or repeated: each is either refused with a ``ModelError`` or a model whose
/// manifest holds. A trap would end the test run. The seed is in every message.
@Suite struct FuzzTests {
    /// Changes that find more than single bits do: extremes of counts and offsets.
    private func mutate(_ bytes: [UInt8], upTo limit: Int, _ generator: inout SeededGenerator) -> [UInt8] {
        var bytes = bytes
        for _ in 0..<Int.random(in: 1...4, using: &generator) where !bytes.isEmpty {
            let index = Int.random(in: 0..<min(limit, bytes.count), using: &generator)
            switch Int.random(in: 0..<6, using: &generator) {
            case 0: bytes[index] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
            case 1: bytes[index] = UInt8.random(in: 0...255, using: &generator)
            case 2:
                let value: UInt8 = Bool.random(using: &generator) ? 0xFF : 0
                for place in index..<min(index + 8, bytes.count) { bytes[place] = value }
            case 3: bytes[index] = [0x22, 0x2C, 0x5B, 0x7B, 0x2D, 0x39, 0x5C].randomElement(using: &generator) ?? 0
            case 4: bytes.removeSubrange(index..<min(index + Int.random(in: 1...8, using: &generator), bytes.count))
            default: bytes = Array(bytes.prefix(index))
            }
        }
        return bytes
    }

    private func check(_ path: String, in directory: TemporaryDirectory, seed: UInt64, imports: inout Int) throws {
        do {
            let model = try SourceModel.load(SourceFiles(path: path))
            try model.shape.validate(file: path)
            // Importing is slow because it syncs; some of the files that load are enough.
            guard imports > 0 else { return }
            imports -= 1
            let store = Store(directory: "\(directory.path)/store")
            let manifest = try store.loadManifest(path: Importer.run(source: path, store: store))
            #expect(store.verify(manifest, progress: { _ in }).isEmpty, "seed \(seed)")
        } catch is ModelError {
            // Refused, as it should be.
        } catch {
            Issue.record("seed \(seed): \(error)")
        }
    }

    @Test func gguf() throws {
        let directory = try TemporaryDirectory()
        let whole = GGUFBuilder.tiny().bytes()
        let header = whole.count - TinyModel.tensors().reduce(0) { $0 + $1.values.count * 4 }
        var imports = 8
        for seed in 0..<UInt64(400) {
            var generator = SeededGenerator(seed: seed)
            let path = try directory.write(mutate(whole, upTo: header, &generator), "fuzz.gguf")
            try check(path, in: directory, seed: seed, imports: &imports)
        }
    }

    @Test func directories() throws {
        let directory = try TemporaryDirectory()
        var builder = DirectoryBuilder.tiny()
        builder.index =
            "{\"weight_map\": {"
            + builder.tensors.map { "\"\($0.name)\": \"model.safetensors\"" }.joined(separator: ", ") + "}}"
        let path = try builder.write(in: directory)
        let files: [(name: String, bytes: [UInt8], limit: Int)] = [
            ("model.safetensors", builder.safetensors(), 6000), ("config.json", Array(builder.config.utf8), .max),
            ("tokenizer.model", builder.tokenizer, .max),
            ("model.safetensors.index.json", Array((builder.index ?? "").utf8), .max),
        ]
        var imports = 8
        for seed in 0..<UInt64(400) {
            var generator = SeededGenerator(seed: seed)
            let file = files[Int(seed) % files.count]
            _ = try directory.write(mutate(file.bytes, upTo: file.limit, &generator), "tiny/\(file.name)")
            try check(path, in: directory, seed: seed, imports: &imports)
            _ = try directory.write(file.bytes, "tiny/\(file.name)")
        }
    }

    @Test func manifests() throws {
        let directory = try TemporaryDirectory()
        let store = Store(directory: "\(directory.path)/store")
        let source = try directory.write(GGUFBuilder.tiny().bytes(), "tiny.gguf")
        let whole = try [UInt8](Data(contentsOf: URL(filePath: Importer.run(source: source, store: store))))
        for seed in 0..<UInt64(300) {
            var generator = SeededGenerator(seed: seed)
            let path = try directory.write(mutate(whole, upTo: .max, &generator), "fuzz.json")
            do {
                let manifest = try store.loadManifest(path: path)
                for blob in manifest.uniqueBlobs {
                    guard let mapped = try? store.map(blob, verify: false) else { continue }
                    for tensor in blob.tensors { _ = try mapped.tensor(tensor.name) }
                }
            } catch is ModelError {
                // Refused, as it should be.
            } catch {
                Issue.record("seed \(seed): \(error)")
            }
        }
    }
}
