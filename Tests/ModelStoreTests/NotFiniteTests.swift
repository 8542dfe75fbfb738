import Foundation
@testable import ModelStore
import Testing

/// Weights and scales that are infinite or not a number are found at import, wherever they are, and named.
@Suite struct NotFiniteTests {
    private func error(_ change: (inout GGUFBuilder) -> Void, quantize: TensorFormat? = nil) throws -> ModelError? {
        let directory = try TemporaryDirectory()
        var file = GGUFBuilder.tiny()
        change(&file)
        let source = try directory.write(file.bytes(), "tiny.gguf")
        let store = Store(directory: "\(directory.path)/store")
        do {
            _ = try Importer.run(source: source, store: store, quantize: quantize)
            return nil
        } catch let error as ModelError {
            #expect(!FileManager.default.fileExists(atPath: store.manifestPath(name: "tiny")))
            return error
        }
    }

    @Test(arguments: [Float.nan, .infinity, -.infinity, .signalingNaN])
    func aWeight(_ value: Float) throws {
        let error = try error {
            $0.change("blk.1.ffn_up_exps.weight") { tensor in
                // Expert 2, row 5, column 7.
                let index = (2 * 64 + 5) * 32 + 7
                tensor.data.replaceSubrange(index * 4..<index * 4 + 4, with: TinyModel.floats([value]))
            }
        }
        #expect(error?.code == "not_finite")
        #expect(error?.field == "blk.1.ffn_up_exps.weight[2], row 5, column 7")
    }

    @Test(arguments: ["blk.0.attn_q.weight", "blk.0.attn_norm.weight", "token_embd.weight", "output.weight"])
    func inEveryKindOfTensor(_ name: String) throws {
        let error = try error { $0.change(name) { $0.data.replaceSubrange(0..<4, with: TinyModel.floats([.nan])) } }
        #expect(error?.field == "\(name), row 0, column 0")
    }

    /// Each place of a word of the vectorised search, and the rest behind the last word.
    @Test func theSearchFindsEveryPlace() {
        for (format, bad, width) in [
            (TensorFormat.f32, [0, 0, 0x80, 0xFF] as [UInt8], 4), (.f16, [1, 0x7C], 2), (.bf16, [0x80, 0x7F], 2),
        ] {
            for count in [1, 3, 4, 9] {
                var largest = [UInt8](repeating: 0xFF, count: count * width)
                for index in 0..<count {
                    // The largest finite number of the format, negative: all bits but the exponent's lowest.
                    largest[index * width + width - 1] = format == .f16 ? 0xFB : 0xFF
                    if format != .f16 { largest[index * width + width - 2] = 0x7F }
                }
                #expect(largest.withUnsafeBytes { FiniteCheck.firstBad(format, $0) } == nil)
                for index in 0..<count {
                    var values = largest
                    values.replaceSubrange(index * width..<(index + 1) * width, with: bad)
                    #expect(values.withUnsafeBytes { FiniteCheck.firstBad(format, $0) } == index)
                }
            }
        }
    }

    @Test(arguments: TensorFormat.allCases.filter { !$0.isPlain })
    func aScaleOfEachFormat(_ format: TensorFormat) {
        let scales: [Int] =
            switch format {
            case .q4_K, .q5_K: [0, 2]
            case .q6_K: [208]
            default: [0]
            }
        for scale in scales {
            var blocks = [UInt8](repeating: 0, count: format.bytesPerBlock * 3)
            #expect(blocks.withUnsafeBytes { FiniteCheck.firstBad(format, $0) } == nil)
            blocks[format.bytesPerBlock * 2 + scale + 1] = 0x7C
            #expect(blocks.withUnsafeBytes { FiniteCheck.firstBad(format, $0) } == 2)
        }
    }

    @Test func weightsTooLargeForTheScaleOfTheirBlock() throws {
        let error = try error(
            { $0.change("output.weight") { $0.data.replaceSubrange(0..<4, with: TinyModel.floats([1e7])) } },
            quantize: .q8_0)
        #expect(error?.code == "not_finite")
        #expect(error?.field == "output.weight, row 0, column 0")
    }
}
