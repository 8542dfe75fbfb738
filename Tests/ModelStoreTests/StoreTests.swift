import Foundation
@testable import ModelStore
import Testing

@Suite struct StoreTests {
    private func imported() throws -> (manifest: Manifest, path: String, store: Store, directory: TemporaryDirectory) {
        let directory = try TemporaryDirectory()
        let store = Store(directory: "\(directory.path)/store")
        let source = try directory.write(GGUFBuilder.tiny().bytes(), "tiny.gguf")
        let path = try Importer.run(source: source, store: store)
        return (try store.loadManifest(path: path), path, store, directory)
    }

    /// Replaces a blob's file with a changed copy.
    private func change(_ path: String, _ body: (inout Data) -> Void) throws {
        var data = try Data(contentsOf: URL(filePath: path))
        body(&data)
        try data.write(to: URL(filePath: path))
    }

    @Test func tensorsAreFoundInTheirBlobs() throws {
        let (manifest, _, store, directory) = try imported()
        defer { withExtendedLifetime(directory) {} }
        let dense = try store.map(manifest.layers[1].dense, verify: true)
        defer { withExtendedLifetime(dense) {} }
        let (entry, bytes) = try dense.tensor("wk")
        #expect(entry.panels && entry.format == .f32 && entry.rows == 16 && entry.columns == 32)
        #expect(entry.offset % 64 == 0 && bytes.count == entry.bytes)
        // One panel of plain values: [column][row], in Hugging Face's order of rows.
        let weights = TinyModel.weights("model.layers.1.self_attn.k_proj.weight", 16 * 32)
        for row in 0..<16 {
            for column in 0..<32 {
                let value = bytes.load(fromByteOffset: (column * 16 + row) * 4, as: Float.self)
                #expect(value == weights[row * 32 + column])
            }
        }
        let error = #expect(throws: ModelError.self) { _ = try dense.tensor("w1") }
        #expect(error?.field == "w1")
    }

    @Test func aBlobThatWasCutIsNamed() throws {
        let (manifest, _, store, directory) = try imported()
        defer { withExtendedLifetime(directory) {} }
        let blob = manifest.layers[0].experts[1]
        try change(store.blobPath(blob)) { $0.removeLast() }
        let error = #expect(throws: ModelError.self) { _ = try store.map(blob, verify: false) }
        #expect(error?.code == "blob_size")
        #expect(error?.file == store.blobPath(blob))
    }

    @Test func aBlobWithOneOtherBitIsNamed() throws {
        let (manifest, _, store, directory) = try imported()
        defer { withExtendedLifetime(directory) {} }
        let blob = manifest.layers[0].experts[1]
        try change(store.blobPath(blob)) { $0[77] ^= 4 }
        let error = #expect(throws: ModelError.self) { _ = try store.map(blob, verify: true) }
        #expect(error?.code == "blob_altered")
        #expect(error?.file == store.blobPath(blob))
    }

    @Test func verifyFindsEveryBadBlob() throws {
        let (manifest, _, store, directory) = try imported()
        defer { withExtendedLifetime(directory) {} }
        #expect(store.verify(manifest, progress: { _ in }).isEmpty)
        try change(store.blobPath(manifest.head)) { $0[0] ^= 1 }
        try change(store.blobPath(manifest.layers[1].experts[0])) { $0.append(0) }
        try FileManager.default.removeItem(atPath: store.blobPath(manifest.tokenizer))
        var last: StoreProgress?
        let bad = store.verify(manifest) { last = $0 }
        #expect(
            bad.map(\.sha256)
                == [manifest.tokenizer.sha256, manifest.layers[1].experts[0].sha256, manifest.head.sha256])
        #expect(bad.map(\.error.code) == ["blob_missing", "blob_size", "blob_altered"])
        #expect(last?.itemsDone == manifest.uniqueBlobs.count)
        #expect(last?.bytesDone == last?.bytes)
    }

    // MARK: Manifests

    @Test func theDigestDependsOnContentAlone() throws {
        let (manifest, path, _, directory) = try imported()
        defer { withExtendedLifetime(directory) {} }
        #expect(manifest.digest.count == 32)
        let reread = try JSONDecoder().decode(Manifest.self, from: Data(try manifest.canonicalBytes))
        #expect(reread.digest == manifest.digest)
        #expect(try [UInt8](Data(contentsOf: URL(filePath: path))) == manifest.canonicalBytes)
        var other = manifest
        other.shape.ropeTheta += 1
        #expect(other.digest != manifest.digest)
    }

    struct Fault: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var field: String
        var change: @Sendable (inout Manifest) -> Void

        init(_ description: String, _ field: String, _ change: @escaping @Sendable (inout Manifest) -> Void) {
            testDescription = description
            self.field = field
            self.change = change
        }
    }

    static let faults: [Fault] = [
        Fault("a blob's name that leads elsewhere", "layers[0].dense.sha256") {
            $0.layers[0].dense.sha256 = "../../../../etc/passwd"
        },
        Fault("upper case", "head.sha256") { $0.head.sha256 = $0.head.sha256.uppercased() + "" },
        Fault("a blob without bytes", "embedding.bytes") { $0.embedding.bytes = 0 },
        Fault("a negative size", "embedding.bytes") { $0.embedding.bytes = -1 },
        Fault("a tensor missing", "head.tensors") { $0.head.tensors.removeLast() },
        Fault("a tensor of another name", "head.tensors") { $0.head.tensors[0].name = "x" },
        Fault("rows that the shape does not have", "layers[1].experts[2].w2") {
            $0.layers[1].experts[2].tensors[1].rows += 1
        },
        Fault("an offset past the end", "head.output.offset") { $0.head.tensors[1].offset = .max & ~63 },
        Fault("a negative offset", "head.norm.offset") { $0.head.tensors[0].offset = -64 },
        Fault("tensors that overlap", "head.output.offset") { $0.head.tensors[1].offset = 64 },
        Fault("a size that is not the format's", "head.norm.bytes") { $0.head.tensors[0].bytes = 64 },
        Fault("a format that the columns are no blocks of", "head.output") { $0.head.tensors[1].format = .q4_K },
        Fault("a norm that is not float32", "head.norm.format") { $0.head.tensors[0].format = .f16 },
        Fault("a matrix without panels", "head.output.panels") { $0.head.tensors[1].panels = false },
        Fault("a layer too few", "layers") { $0.layers.removeLast() },
        Fault("an expert too few", "layers[0].experts") { $0.layers[0].experts.removeLast() },
        Fault("a name that is a path", "name") { $0.name = "a/b" },
        Fault("a later version", "formatVersion") { $0.formatVersion += 1 },
        Fault("other numerics", "numericsVersion") { $0.numericsVersion = 0 },
        Fault("no layers", "layers") { $0.shape.layers = 0 },
        Fault("dimensions that overflow", "hidden") { $0.shape.hidden = .max },
        Fault("more experts used than there are", "expertsUsed") { $0.shape.expertsUsed = 4 },
        Fault("theta 0", "ropeTheta") { $0.shape.ropeTheta = 0 },
        Fault("a token past the vocabulary", "endToken") { $0.shape.endToken = 20 },
    ]

    @Test func aManifestThatContradictsItselfIsRefused() throws {
        let (manifest, _, store, directory) = try imported()
        for fault in Self.faults {
            var bad = manifest
            fault.change(&bad)
            let path = try directory.write(bad.canonicalBytes, "bad.json")
            let error = #expect(throws: ModelError.self, "\(fault.testDescription)") {
                _ = try store.loadManifest(path: path)
            }
            #expect(error?.field == fault.field, "\(fault.testDescription)")
        }
    }

    @Test(arguments: [
        "", "{", "[]", "{\"name\": 1}", "{\"a\": 1, \"a\": 2}", "{\"shape\": {\"layers\": 1e400}}",
        String(repeating: "[", count: 100_000), "\"\\ud800\"", "{\"a\": \u{1}}", "nul", "01", "1.e5", "\"\\u12G4\"",
    ])
    func textThatIsNoManifest(_ text: String) throws {
        let directory = try TemporaryDirectory()
        let path = try directory.write(Array(text.utf8), "bad.json")
        #expect(throws: ModelError.self) { _ = try Store(directory: directory.path).loadManifest(path: path) }
    }

    @Test func namesAreNoPaths() {
        for name in ["a", "demo-8x22B_q4.K", "0"] { #expect(Store.isValidName(name)) }
        for name in ["", ".", "..", "a/b", "-a", ".a", "a b", "ä", String(repeating: "a", count: 101)] {
            #expect(!Store.isValidName(name))
        }
        #expect(Store.name(from: "../my model (v2)") == "my-model--v2-")
        #expect(Store.name(from: "…") == "model")
    }
}
