import Foundation
@testable import ModelStore
import Testing

@Suite struct SyntheticTests {
    /// The mean of random weights is near 0, their deviation near what was asked for.
    @Test(arguments: TensorFormat.allCases)
    func weights(_ format: TensorFormat) {
        let tensor = SyntheticTensor(
            name: "w", path: "", format: format, rows: 64, columns: 2048,
            content: .random(seed: SyntheticTensor.seed(1, "w"), spread: 0.02))
        var bytes = [UInt8](repeating: 0, count: tensor.bytes)
        bytes.withUnsafeMutableBytes { tensor.read(0..<64, into: $0) }
        #expect(bytes.withUnsafeBytes { FiniteCheck.firstBad(format, $0) } == nil)
        var values = [Float](repeating: 0, count: 64 * 2048)
        bytes.withUnsafeBytes { bytes in
            values.withUnsafeMutableBufferPointer { Widening.row(format, bytes, into: $0) }
        }
        let mean = values.reduce(0.0) { $0 + Double($1) } / Double(values.count)
        let deviation = (values.reduce(0.0) { $0 + Double($1) * Double($1) } / Double(values.count)).squareRoot()
        // Quants of 4 bits in q4_0 are -8 to 7, half of a step below 0 in the mean.
        #expect(abs(mean) < 0.003, "\(mean)")
        #expect(abs(deviation / 0.02 - 1) < 0.05, "\(deviation)")
        // A row does not depend on which rows are read with it.
        var row = [UInt8](repeating: 0, count: tensor.rowBytes)
        row.withUnsafeMutableBytes { tensor.read(17..<18, into: $0) }
        #expect(row.elementsEqual(bytes[17 * tensor.rowBytes..<18 * tensor.rowBytes]))
    }

    @Test func layersRepeatAndBlobsAreStoredOnce() throws {
        let directory = try TemporaryDirectory()
        let store = Store(directory: directory.path)
        let model = try SyntheticModel(.mini, layers: 5, uniqueLayers: 2, format: .q4_0)
        let path = try Importer.run(synthetic: model, store: store)
        let manifest = try store.loadManifest(path: path)
        #expect(manifest.name == "synthetic-mini-q4_0")
        #expect(manifest.shape.layers == 5)
        #expect(manifest.layers[0] != manifest.layers[1])
        #expect(manifest.layers[2] == manifest.layers[0])
        #expect(manifest.layers[3] == manifest.layers[1])
        #expect(manifest.layers[4] == manifest.layers[0])
        // Tokenizer, embedding and head, and two layers of a dense part and 8 experts.
        #expect(manifest.uniqueBlobs.count == 3 + 2 * 9)
        #expect(store.verify(manifest, progress: { _ in }).isEmpty)
        // The same model again writes nothing, one of more layers nothing but its manifest.
        let before = try FileManager.default.contentsOfDirectory(atPath: "\(store.directory)/blobs")
        _ = try Importer.run(synthetic: SyntheticModel(.mini, layers: 9, format: .q4_0), store: store, name: "nine")
        #expect(try FileManager.default.contentsOfDirectory(atPath: "\(store.directory)/blobs") == before)
        #expect(try store.loadManifest(path: store.manifestPath(name: "nine")).layers[8] == manifest.layers[0])
    }

    @Test func theBlobsDependOnTheSeedAlone() throws {
        let model = try SyntheticModel(.mini, layers: 1, format: .q8_0, seed: 7).importModel()
        let same = try SyntheticModel(.mini, layers: 4, format: .q8_0, seed: 7).importModel()
        let other = try SyntheticModel(.mini, layers: 1, format: .q8_0, seed: 8).importModel()
        func bytes(_ model: ImportModel) throws -> [UInt8] {
            let source = model.layers[0].experts[3][1]
            var bytes = [UInt8](repeating: 0, count: source.rowBytes)
            try bytes.withUnsafeMutableBytes { try source.read(5..<6, into: $0) }
            return bytes
        }
        #expect(try bytes(model) == bytes(same))
        #expect(try bytes(model) != bytes(other))
    }

    @Test(arguments: SyntheticModel.Width.allCases)
    func shapes(_ width: SyntheticModel.Width) throws {
        let model = try SyntheticModel(width)
        #expect(model.uniqueLayers == 2)
        #expect(model.shape.headDimension == (width == .mini ? 64 : 128))
        let pieces = try TokenizerBlob.check(
            SyntheticTokenizer.model(vocabulary: model.shape.vocabulary), vocabulary: model.shape.vocabulary, file: "")
        #expect(pieces.count == model.shape.vocabulary)
        for format in TensorFormat.allCases {
            #expect(model.shape.hidden.isMultiple(of: format.blockSize))
            #expect(model.shape.feedForward.isMultiple(of: format.blockSize))
        }
    }

    @Test func numbersThatAreNotPossible() throws {
        for (layers, unique, field) in [
            (0, 1, "layers"), (-1, 1, "layers"), (70_000, 1, "layers"), (2, 0, "unique-layers"),
            (2, 3, "unique-layers"),
        ] {
            let error = #expect(throws: ModelError.self) {
                _ = try SyntheticModel(.mini, layers: layers, uniqueLayers: unique)
            }
            #expect(error?.field == field)
        }
        #expect(try SyntheticModel(.mini, layers: 1).uniqueLayers == 1)
    }
}
