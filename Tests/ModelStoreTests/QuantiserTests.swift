import Foundation
@testable import ModelStore
import TestSupport
import Testing

@Suite struct QuantiserTests {
    private func quantised(_ values: [Float], _ format: TensorFormat) -> (bytes: [UInt8], bad: Int?) {
        var bytes = [UInt8](repeating: 0xAA, count: format.rowBytes(columns: values.count))
        let bad = values.withUnsafeBufferPointer { values in
            bytes.withUnsafeMutableBytes { Quantiser.row(values, to: format, into: $0) }
        }
        return (bytes, bad)
    }

    private func roundTrip(_ values: [Float], _ format: TensorFormat) -> [Float] {
        let bytes = quantised(values, format).bytes
        return bytes.withUnsafeBytes { Dequantiser.row(format, $0, columns: values.count) }
    }

    private func squares(_ left: some Sequence<Float>, _ right: some Sequence<Float>) -> Double {
        zip(left, right).reduce(0) { sum, pair in
            let off = Double(pair.0) - Double(pair.1)
            return sum + off * off
        }
    }

    private static func model(_ name: String) throws -> SourceModel {
        try SourceModel.load(SourceFiles(path: Fixtures.url("gguf/\(name).gguf").path))
    }

    /// All tensors of the demo: embedding and head, then layer by layer.
    @Test(arguments: -1..<6)
    func noTensorHasALargerErrorThanLlamaCppsQuantiserLeaves(layer: Int) throws {
        func tensors(_ model: SourceModel) -> [SourceTensor] {
            layer < 0
                ? [model.embedding] + model.head
                : model.layers[layer].dense + model.layers[layer].experts.flatMap { $0 }
        }
        let plain = tensors(try Self.model("demo-bf16"))
        // GGUF keeps a layer's experts together: their errors are added.
        var errors: [String: (ours: Double, theirs: Double)] = [:]
        for (tensor, other) in zip(plain, tensors(try Self.model("demo-q4_k-pure"))) where other.format == .q4_K {
            #expect(tensor.name == other.name)
            var (ours, theirs) = errors[tensor.name.split(separator: "[").joined(), default: (0, 0)]
            let rowBytes = (tensor.rowBytes, other.rowBytes)
            let bytes = (
                try tensor.file.bytes(at: tensor.offset, count: tensor.rows * rowBytes.0),
                try other.file.bytes(at: other.offset, count: other.rows * rowBytes.1)
            )
            var values = [Float](repeating: 0, count: tensor.columns)
            for row in 0..<tensor.rows {
                bytes.0[row * rowBytes.0..<(row + 1) * rowBytes.0].withUnsafeBytes { bytes in
                    values.withUnsafeMutableBufferPointer { Widening.row(tensor.format, bytes, into: $0) }
                }
                let file = bytes.1[row * rowBytes.1..<(row + 1) * rowBytes.1].withUnsafeBytes {
                    Dequantiser.row(.q4_K, $0, columns: tensor.columns)
                }
                theirs += squares(file, values)
                ours += squares(roundTrip(values, .q4_K), values)
            }
            errors[tensor.name.split(separator: "[").joined()] = (ours, theirs)
        }
        #expect(errors.count >= 2)
        for (name, error) in errors {
            #expect(error.ours <= error.theirs, "\(name): \(error.ours), not \(error.theirs)")
        }
    }

    /// Lines of 16 values on 6-bit multiples are what the format can say.
    @Test func numbersThatTheFormatHasComeBack() {
        var values: [Float] = []
        for group in 0..<8 {
            // The largest scale and minimum are 63 units.
            let scale = Float(group == 0 ? 63 : 10 + 6 * group) / 1024
            let minimum = Float(group == 0 ? 63 : 2 * group) / 256
            values += (0..<32).map { scale * Float($0 % 16) - minimum }
        }
        #expect(roundTrip(values, .q4_K) == values)
    }

    @Test func blocksOfOneNumber() {
        for value in [Float(0), 1, -1, 0.25, -3e-7, 3e-7, 60_000, -60_000] {
            for (index, found) in roundTrip([Float](repeating: value, count: 512), .q4_K).enumerated() {
                #expect(abs(found - value) <= abs(value) * 0.002 + 6e-8, "\(value) at \(index)")
            }
        }
    }

    /// Whatever a finite row has, it becomes finite blocks or is refused.
    @Test func numbersOfEverySize() {
        var generator = SeededGenerator(seed: 5)
        for exponent in stride(from: Float(-45), through: 38, by: 0.5) {
            let largest = exponent <= -44 ? Float.leastNonzeroMagnitude : Float(pow(10, Double(exponent)))
            let values = (0..<256).map { _ in Float.random(in: -1...1, using: &generator) * largest }
            for format in [TensorFormat.q4_K, .q8_0] {
                let (bytes, bad) = quantised(values, format)
                if exponent <= 6 { #expect(bad == nil, "\(format) 1e\(exponent)") }
                if exponent >= 9 { #expect(bad == 0, "\(format) 1e\(exponent)") }
                guard bad == nil else { continue }
                #expect(bytes.withUnsafeBytes { FiniteCheck.firstBad(format, $0) } == nil)
                let found = bytes.withUnsafeBytes { Dequantiser.row(format, $0, columns: 256) }
                // A factor of float16 below 6e-8 is none; above 1e-3 it is as good as any.
                #expect(squares(found, values) <= Double(largest) * Double(largest) * 256, "\(format) 1e\(exponent)")
                if exponent >= -1 {
                    #expect(
                        squares(found, values) <= Double(largest) * Double(largest) * 256 * 0.004,
                        "\(format) 1e\(exponent)")
                }
            }
        }
        for value in [Float.greatestFiniteMagnitude, -Float.greatestFiniteMagnitude, 1e30, -1e8] {
            var values = [Float](repeating: 0, count: 512)
            values[300] = value
            #expect(quantised(values, .q4_K).bad == 1)
            #expect(quantised(values, .q8_0).bad == 300 / 32)
        }
    }

    @Test func q80TakesTheNearestAndOfTwoTheOuterOne() {
        var values = [Float](repeating: 0, count: 32)
        (values[0], values[1], values[2], values[3], values[4], values[5]) = (127, 0.5, -0.5, 2.5, -2.5, 0.49999997)
        #expect(roundTrip(values, .q8_0).prefix(6) == [127, 1, -1, 3, -3, 0])
        #expect(roundTrip(values.map { -$0 }, .q8_0).prefix(6) == [-127, -1, 1, -3, 3, 0])
    }

    @Test func aBlockOfTheSmallestNumbersBecomesZeros() {
        let (bytes, bad) = quantised([Float](repeating: .leastNonzeroMagnitude, count: 32), .q8_0)
        #expect(bad == nil)
        #expect(bytes == [UInt8](repeating: 0, count: 34))
    }

    @Test func wideningIsExact() {
        for format in [TensorFormat.f32, .f16, .bf16] {
            var bytes: [UInt8] = []
            for bits in UInt32(0)...UInt32(UInt16.max) {
                switch format {
                case .f32: bytes += GGUFBuilder.little(bits << 15)
                // Numbers that are not finite were refused before.
                case .f16: bytes += GGUFBuilder.little(UInt16(bits & 0x7C00 == 0x7C00 ? bits & 0x83FF : bits))
                default: bytes += GGUFBuilder.little(UInt16(bits))
                }
            }
            let expected = bytes.withUnsafeBytes { Dequantiser.row(format, $0, columns: 1 << 16) }
            var found = [Float](repeating: 1, count: 1 << 16)
            bytes.withUnsafeBytes { bytes in
                found.withUnsafeMutableBufferPointer { Widening.row(format, bytes, into: $0) }
            }
            #expect(found.map(\.bitPattern) == expected.map(\.bitPattern))
        }
    }
}
