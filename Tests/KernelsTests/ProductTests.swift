import CKernels
import ModelStore
import Testing

@Suite("Matrix products")
struct ProductTests {
    /// Columns with odd numbers of blocks, and of every remainder of what a kernel may take at once.
    static func columns(_ format: TensorFormat, using generator: inout SeededGenerator) -> Int {
        format.blockSize
            * (format.isPlain ? Int.random(in: 1...90, using: &generator) : Int.random(in: 1...5, using: &generator))
    }

    @Test("Every instruction set gives the portable bits", arguments: TensorFormat.allCases)
    func sameBits(format: TensorFormat) {
        for seed: UInt64 in 1...12 {
            var generator = SeededGenerator(seed: seed)
            let columns = Self.columns(format, using: &generator)
            // Few rows take runs of many panels; more than 8 share weights that are unpacked once.
            let rows = Int.random(in: seed % 4 == 1 ? 250...600 : 1...50, using: &generator)
            let counts = seed % 4 == 0 ? 9...40 : seed % 4 == 1 ? 1...8 : 1...9
            let count = Int.random(in: counts, using: &generator)
            let contents: Matrix.Contents = seed % 3 == 0 ? .extreme : .random
            let matrix = Matrix(format, rows: rows, columns: columns, contents: contents, using: &generator)
            let activations = Activations(
                format, columns: columns,
                values: generator.floats(count * columns, spread: contents == .extreme ? 0 : 4))
            for parts in [1, tk_down_parts(format.kernel, columns)] {
                let expected = bits(matrix.product(TK_ISA_PORTABLE, activations, parts: parts))
                for isa in vectorSets {
                    #expect(
                        bits(matrix.product(isa, activations, parts: parts)) == expected,
                        "\(name(isa)) \(format) seed \(seed) \(rows)x\(columns) rows \(count) parts \(parts)")
                }
            }
        }
    }

    @Test("The largest sums are exact, not saturated", arguments: TensorFormat.allCases.filter { !$0.isPlain })
    func extremes(format: TensorFormat) {
        // All activations ±127 against blocks of equal bytes: the sums reach the bounds that the kernels rely on.
        for seed: UInt64 in 1...8 {
            var generator = SeededGenerator(seed: seed)
            let columns = format.blockSize * 4
            let matrix = Matrix(format, rows: 33, columns: columns, contents: .extreme, using: &generator)
            var values = [Float](repeating: 127, count: 3 * columns)
            for k in columns..<2 * columns { values[k] = -127 }
            for k in stride(from: 2 * columns, to: 3 * columns, by: 2) { values[k] = -127 }
            // Few rows, or so many that they share unpacked weights.
            let copies = [[Float]](repeating: values, count: seed % 2 == 0 ? 1 : 4)
            let activations = Activations(format, columns: columns, values: copies.flatMap(\.self))
            let product = matrix.product(TK_ISA_PORTABLE, activations)
            Self.expectNear(product, matrix, activations, "seed \(seed)")
            for isa in vectorSets {
                #expect(bits(matrix.product(isa, activations)) == bits(product), "\(name(isa)) \(format) seed \(seed)")
            }
        }
    }

    @Test("Products equal those in float64 of the dequantised weights", arguments: TensorFormat.allCases)
    func matchesDouble(format: TensorFormat) {
        for seed: UInt64 in 1...6 {
            var generator = SeededGenerator(seed: seed)
            let columns = format.isPlain ? 257 : format.blockSize * 5
            let matrix = Matrix(format, rows: 37, columns: columns, using: &generator)
            // Integers times a power of two with 127 in each block: the int8 quantisation of such rows is exact.
            let exponent = Int.random(in: -6...6, using: &generator)
            let values = (0..<3 * columns).map { (index: Int) -> Float in
                let integer = index % 32 == 0 ? 127 : Int.random(in: -127...127, using: &generator)
                return Float(sign: .plus, exponent: exponent, significand: Float(integer))
            }
            let activations = Activations(format, columns: columns, values: values)
            for parts in [1, tk_down_parts(format.kernel, columns)] {
                let product = matrix.product(TK_ISA_PORTABLE, activations, parts: parts)
                Self.expectNear(product, matrix, activations, "seed \(seed) parts \(parts)")
            }
        }
    }

    /// Within 1e-5 of the sum of |w x|, in float64.
    static func expectNear(_ product: [Float], _ matrix: Matrix, _ activations: Activations, _ context: String) {
        var worst = 0.0
        for output in 0..<matrix.rows {
            let weights = matrix.values(row: output)
            for row in 0..<activations.count {
                var sum = 0.0
                var magnitude = 0.0
                for k in 0..<matrix.columns {
                    let term = Double(weights[k]) * Double(activations.values[row * matrix.columns + k])
                    sum += term
                    magnitude += abs(term)
                }
                if magnitude > 0 {
                    worst = max(worst, abs(Double(product[row * matrix.rows + output]) - sum) / magnitude)
                }
            }
        }
        #expect(worst <= 1e-5, "\(matrix.format) \(context)")
    }

    @Test(
        "A row's result does not depend on its neighbours or on who computes which panel",
        arguments: TensorFormat.allCases)
    func invariance(format: TensorFormat) {
        var generator = SeededGenerator(seed: 7)
        let columns = format.isPlain ? 96 : format.blockSize * 4
        let matrix = Matrix(format, rows: 70, columns: columns, using: &generator)
        let activations = Activations(format, columns: columns, values: generator.floats(9 * columns))
        for isa in availableSets {
            for parts in [1, 2, 4] {
                let whole = matrix.product(isa, activations, parts: parts)
                for count in 1...9 {
                    for begin in 0...(9 - count) {
                        let some = matrix.product(isa, activations, parts: parts, rows: begin..<begin + count)
                        #expect(
                            bits(some) == bits(Array(whole[begin * 70..<(begin + count) * 70])),
                            "\(name(isa)) \(format) rows \(begin)..<\(begin + count) parts \(parts)")
                    }
                }
                let front = matrix.product(isa, activations, parts: parts, panels: 0..<2)
                let back = matrix.product(isa, activations, parts: parts, panels: 2..<5)
                #expect(zip(front, back).map(+) == whole, "\(name(isa)) \(format) panels")
            }
        }
    }

    @Test("The parts of a down projection are added pairwise")
    func parts() {
        var generator = SeededGenerator(seed: 3)
        let columns = 512
        let matrix = Matrix(.q8_0, rows: 16, columns: columns, using: &generator)
        let values = generator.floats(columns)
        let quarters = (0..<4).map { part in
            // The other parts' activations are zero: their products add nothing.
            let some = values.enumerated().map { $0.offset / 128 == part ? $0.element : 0 }
            return matrix.product(TK_ISA_PORTABLE, Activations(.q8_0, columns: columns, values: some))
        }
        let whole = matrix.product(
            TK_ISA_PORTABLE, Activations(.q8_0, columns: columns, values: values), parts: 4)
        let expected = (0..<16).map { (quarters[0][$0] + quarters[1][$0]) + (quarters[2][$0] + quarters[3][$0]) }
        #expect(whole == expected)
        #expect(tk_down_parts(TK_FORMAT_Q4_K, 16384) == 4)
        #expect(tk_down_parts(TK_FORMAT_Q4_K, 14336) == 4)
        #expect(tk_down_parts(TK_FORMAT_Q4_K, 512) == 2)
        #expect(tk_down_parts(TK_FORMAT_Q4_K, 256) == 1)
        #expect(tk_down_parts(TK_FORMAT_Q8_0, 96) == 1)
    }

    /// 35 outputs are three panels; 599 are two runs and six panels more, for as many rows as take runs (5: all of an AVX2 tile).
    @Test(
        "Gate and up together are silu(gate) * up of two products", arguments: TensorFormat.allCases,
        [(35, 5), (599, 1), (599, 5), (599, 8)])
    func gateAndUp(format: TensorFormat, shape: (rows: Int, count: Int)) {
        var generator = SeededGenerator(seed: 11)
        let columns = format.isPlain ? 64 : format.blockSize * 2
        let rows = shape.rows
        let gate = Matrix(format, rows: rows, columns: columns, using: &generator)
        let up = Matrix(format, rows: rows, columns: columns, using: &generator)
        let activations = Activations(format, columns: columns, values: generator.floats(shape.count * columns))
        for isa in availableSets {
            var expected = gate.product(isa, activations)
            tk_silu_multiply(isa, expected, up.product(isa, activations), expected.count, &expected)
            var out = [Float](repeating: 0, count: expected.count)
            tk_matmul_gate_up(
                isa, format.kernel, gate.panels, up.panels, columns, rows, 0, tk_panel_count(rows),
                activations.prepared, activations.stride, activations.count, &out, rows)
            #expect(bits(out) == bits(expected), "\(name(isa)) \(format)")
        }
    }

    @Test("Sizes are ModelStore's", arguments: TensorFormat.allCases)
    func sizes(format: TensorFormat) {
        for blocks in 1...9 {
            let columns = blocks * format.blockSize
            #expect(tk_row_bytes(format.kernel, columns) == format.rowBytes(columns: columns))
            #expect(tk_panel_bytes(format.kernel, columns) == format.panelBytes(columns: columns))
            #expect(tk_activation_for(format.kernel).rawValue == UInt32(format.activation.rawValue))
            #expect(
                tk_encoded_row_bytes(tk_activation_for(format.kernel), columns)
                    == format.activation.rowBytes(columns: columns))
        }
        #expect(tk_block_size(format.kernel) == format.blockSize)
    }

    @Test("Rows and panels dequantise to the reference's bits", arguments: TensorFormat.allCases)
    func dequantise(format: TensorFormat) {
        var generator = SeededGenerator(seed: 5)
        let columns = format.isPlain ? 21 : format.blockSize * 3
        let matrix = Matrix(format, rows: 21, columns: columns, using: &generator)
        let expected = (0..<21).map { bits(matrix.values(row: $0)) }
        let rowBytes = format.rowBytes(columns: columns)
        for row in 0..<21 {
            var out = [Float](repeating: 0, count: columns)
            tk_dequantise_row(format.kernel, Array(matrix.source[row * rowBytes..<(row + 1) * rowBytes]), columns, &out)
            #expect(bits(out) == expected[row], "\(format) row \(row)")
        }
        let panelBytes = format.panelBytes(columns: columns)
        for (panel, rows) in [(0, 16), (1, 5)] {
            var out = [Float](repeating: 0, count: rows * columns)
            tk_dequantise_panel(
                format.kernel, Array(matrix.panels[panel * panelBytes..<(panel + 1) * panelBytes]), columns, rows, &out,
                columns)
            #expect(bits(out) == expected[panel * 16..<panel * 16 + rows].flatMap { $0 }, "\(format) panel \(panel)")
        }
    }
}
