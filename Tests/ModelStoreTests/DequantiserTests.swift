import Foundation
@testable import ModelStore
import TestSupport
import Testing

@Suite struct DequantiserTests {
    private struct Golden: Decodable {
        var file: String
        var tensor: String
        var rows: [Int]
        var float32_bits: [[UInt32]]
    }

    private static let formats: [String: TensorFormat] = [
        "F32": .f32, "F16": .f16, "BF16": .bf16, "Q8_0": .q8_0, "Q4_0": .q4_0, "Q4_K": .q4_K, "Q5_K": .q5_K,
        "Q6_K": .q6_K,
    ]

    /// Two rows of a tensor of each type, computed by the `gguf` package.
    @Test func equalsTheReferenceToTheLastBit() throws {
        let data = try Data(contentsOf: Fixtures.url("gguf/dequantised.json"))
        let goldens = try JSONDecoder().decode([String: Golden].self, from: data)
        #expect(Set(goldens.keys) == Set(Self.formats.keys))
        for (type, golden) in goldens {
            let format = try #require(Self.formats[type])
            let file = try GGUFFile(SourceFile(path: Fixtures.url("gguf/\(golden.file)").path))
            let tensor = try #require(file.tensors.first { $0.name == golden.tensor })
            #expect(tensor.format == format)
            let columns = tensor.dimensions[0]
            let rowBytes = format.rowBytes(columns: columns)
            for (row, bits) in zip(golden.rows, golden.float32_bits) {
                let bytes = try file.file.bytes(at: tensor.offset + UInt64(row * rowBytes), count: rowBytes)
                let values = bytes.withUnsafeBytes { Dequantiser.row(format, $0, columns: columns) }
                #expect(values.map(\.bitPattern) == bits, "\(type), row \(row)")
            }
        }
    }
}
