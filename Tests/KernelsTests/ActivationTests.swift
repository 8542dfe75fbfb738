import CKernels
import ModelStore
import Testing

@Suite("Quantised activations")
struct ActivationTests {
    static func quantise(_ isa: tk_isa, _ kind: tk_activation, _ row: [Float]) -> [UInt8] {
        var encoded = [UInt8](repeating: 0, count: tk_encoded_row_bytes(kind, row.count))
        tk_quantise(isa, kind, row, row.count, &encoded)
        return encoded
    }

    static func decode(_ kind: tk_activation, _ encoded: [UInt8], _ columns: Int) -> [Float] {
        var out = [Float](repeating: 0, count: columns)
        tk_decode_row(kind, encoded, columns, &out)
        return out
    }

    @Test(
        "Every set encodes the same bytes, within half a step", arguments: [TK_ACTIVATION_A8_32, TK_ACTIVATION_A8_256])
    func encode(kind: tk_activation) {
        let block = tk_activation_block(kind)
        for seed: UInt64 in 1...10 {
            var generator = SeededGenerator(seed: seed)
            let row = generator.floats(block * 3, spread: Int(seed))
            let encoded = Self.quantise(TK_ISA_PORTABLE, kind, row)
            for isa in vectorSets {
                #expect(Self.quantise(isa, kind, row) == encoded, "\(name(isa)) seed \(seed)")
            }
            let decoded = Self.decode(kind, encoded, row.count)
            for b in 0..<3 {
                let range = b * block..<(b + 1) * block
                let step = (row[range].map(abs).max() ?? 0) / 127
                let worst = range.map { abs(decoded[$0] - row[$0]) }.max() ?? 0
                #expect(worst <= step * 0.5001, "seed \(seed)")
            }
        }
    }

    @Test("Ties go to even, blocks of zeros and of tiny values are zeros, and the largest is ±127")
    func edges() {
        var row = [Float](repeating: 0, count: 128)
        row.replaceSubrange(0..<6, with: [127, 0.5, 1.5, 2.5, -0.5, -127])
        row[64] = .leastNonzeroMagnitude
        row[96] = -.greatestFiniteMagnitude
        for isa in availableSets {
            let encoded = Self.quantise(isa, TK_ACTIVATION_A8_32, row)
            #expect(encoded[0..<6].map { Int8(bitPattern: $0) } == [127, 0, 2, 2, 0, -127])
            #expect(encoded[6..<96].allSatisfy { $0 == 0 })
            #expect(Int8(bitPattern: encoded[96]) == -127)
            let scales = Self.decode(TK_ACTIVATION_F32, Array(encoded[128...]), 4)
            #expect(scales == [1, 0, 0, .greatestFiniteMagnitude / 127])
        }
    }

    @Test("Every set prepares the same rows from any alignment; -128 becomes -127")
    func prepare() {
        for kind in [TK_ACTIVATION_A8_32, TK_ACTIVATION_A8_256] {
            var generator = SeededGenerator(seed: 1)
            let columns = tk_activation_block(kind) * 3
            let bytes = tk_encoded_row_bytes(kind, columns)
            var encoded = [UInt8](repeating: 0, count: 3 + 2 * bytes)
            for row in 0..<2 {
                for k in 0..<columns { encoded[3 + row * bytes + k] = UInt8.random(in: 0...255, using: &generator) }
            }
            encoded[3] = 0x80
            let stride = tk_prepared_row_bytes(kind, columns)
            var expected = [UInt8](repeating: 0, count: 2 * stride)
            encoded.withUnsafeBytes { encoded in
                guard let base = encoded.baseAddress else { return }
                tk_prepare(TK_ISA_PORTABLE, kind, base + 3, bytes, columns, 2, &expected)
                for isa in vectorSets {
                    var prepared = [UInt8](repeating: 0, count: 2 * stride)
                    tk_prepare(isa, kind, base + 3, bytes, columns, 2, &prepared)
                    #expect(prepared == expected, "\(name(isa))")
                }
            }
            #expect(Int8(bitPattern: expected[0]) == -127)
        }
    }
}
