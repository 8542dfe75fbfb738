import CKernels
import COpenBLAS
import ModelStore

/// Matrix products and row-wise work, spread over the threads.
package final class Products {
    let pool: ThreadPool
    let compute: ComputeBackend

    /// Work that is shared, in bytes read from memory: about 5 µs, more than a thread that looks for work takes to find it.
    private static let sharedBytes = 64 * 1024
    /// What an item has to do at least.
    private static let grainBytes = 16 * 1024
    /// Weights that an item reads at most: long runs, which memory gives fastest, but so few that a thread that is held up does not
    /// hold up the rest.
    private static let itemBytes = 2 << 20
    /// Rows whose multiply-adds take as long as reading a weight from memory.
    private static let rowsPerRead = 16
    /// Panels that a kernel takes at once where rows are many (`TK_PANELS`): items are whole numbers of them.
    private static let panelsTogether = 4
    /// Items for each thread at least, where the grain allows.
    private static let itemsPerThread = 4

    package init(threads: Int, compute: ComputeBackend) {
        pool = ThreadPool(threads: threads)
        self.compute = compute
        if compute == .openblas { openblas_set_num_threads(Int32(clamping: threads)) }
    }

    /// out[i][offset + r] = Σ_k matrix[r][k] · input[i][k], for matrices that share their input.
    ///
    /// - Parameters:
    ///   - offsets: where each matrix's outputs begin in a row of `out`.
    ///   - rows: of the input and of `out`; nil for all.
    ///   - parts: 1, or the parts in which the inner dimension is summed (`tk_matmul`).
    ///   - stride: floats from one row of `out` to the next.
    package func multiply(
        _ matrices: ArraySlice<Matrix>, offsets: ArraySlice<Int>, input: Activations, rows: Range<Int>? = nil,
        parts: Int = 1,
        out: UnsafeMutablePointer<Float>, stride: Int
    ) {
        let rows = rows ?? 0..<input.count
        guard compute == .native else {
            for (matrix, offset) in zip(matrices, offsets) { blas(matrix, input, rows, out + offset, stride) }
            return
        }
        let panels = matrices.reduce(0) { $0 + $1.panelCount }
        let bytes = matrices.reduce(0) { $0 + $1.bytes }
        panelRanges(panels: panels, bytes: bytes, rows: rows.count) { range in
            var first = 0
            for (matrix, offset) in zip(matrices, offsets) {
                let begin = max(range.lowerBound - first, 0)
                let end = min(range.upperBound - first, matrix.panelCount)
                first += matrix.panelCount
                guard begin < end else { continue }
                multiply(matrix, panels: begin..<end, input: input, rows: rows, parts: parts, out: out + offset, stride)
            }
        }
    }

    /// The same with one matrix.
    package func multiply(
        _ matrix: Matrix, input: Activations, rows: Range<Int>? = nil, parts: Int = 1, out: UnsafeMutablePointer<Float>,
        stride: Int
    ) {
        let rows = rows ?? 0..<input.count
        guard compute == .native else {
            blas(matrix, input, rows, out, stride)
            return
        }
        panelRanges(panels: matrix.panelCount, bytes: matrix.bytes, rows: rows.count) { range in
            multiply(matrix, panels: range, input: input, rows: rows, parts: parts, out: out, stride)
        }
    }

    /// Some panels' outputs for some rows, on the calling thread.
    func multiply(
        _ matrix: Matrix, panels: Range<Int>, input: Activations, rows: Range<Int>, parts: Int,
        out: UnsafeMutablePointer<Float>, _ stride: Int
    ) {
        let form = input.form(matrix.activation)
        tk_matmul(
            Kernels.isa, matrix.format.kernelFormat, matrix.panels, matrix.columns, matrix.rows, panels.lowerBound,
            panels.upperBound, form.base + rows.lowerBound * form.stride, form.stride, rows.count, parts,
            out + rows.lowerBound * stride, stride)
    }

    /// out[i][r] = silu(Σ_k gate[r][k] · input[i][k]) · Σ_k up[r][k] · input[i][k] for some rows.
    ///
    /// - Parameter scratch: as many floats as `out`.
    func multiplyGateUp(
        gate: Matrix, up: Matrix, input: Activations, rows: Range<Int>, scratch: UnsafeMutablePointer<Float>,
        out: UnsafeMutablePointer<Float>
    ) {
        if compute == .native, gate.format == up.format {
            panelRanges(panels: gate.panelCount, bytes: gate.bytes + up.bytes, rows: rows.count) { range in
                multiplyGateUp(gate: gate, up: up, panels: range, input: input, rows: rows, out: out)
            }
        } else {
            let first = rows.lowerBound * gate.rows
            multiply(gate, input: input, rows: rows, out: out, stride: gate.rows)
            multiply(up, input: input, rows: rows, out: scratch, stride: gate.rows)
            tk_silu_multiply(Kernels.isa, out + first, scratch + first, rows.count * gate.rows, out + first)
        }
    }

    /// Some panels' outputs for some rows, on the calling thread; both matrices in one format.
    func multiplyGateUp(
        gate: Matrix, up: Matrix, panels: Range<Int>, input: Activations, rows: Range<Int>,
        out: UnsafeMutablePointer<Float>
    ) {
        let form = input.form(gate.activation)
        tk_matmul_gate_up(
            Kernels.isa, gate.format.kernelFormat, gate.panels, up.panels, gate.columns, gate.rows, panels.lowerBound,
            panels.upperBound, form.base + rows.lowerBound * form.stride, form.stride, rows.count,
            out + rows.lowerBound * gate.rows, gate.rows)
    }

    /// Calls `body` for every row, sharing the rows between threads where each costs enough (about `bytes` touched).
    func eachRow(_ count: Int, bytes: Int, _ body: (Int) -> Void) {
        let rowsPerItem = max(1, Self.grainBytes / max(bytes, 1))
        let items = (count + rowsPerItem - 1) / rowsPerItem
        share(items, bytes: count * bytes) { item, _ in
            for row in item * rowsPerItem..<min((item + 1) * rowsPerItem, count) { body(row) }
        }
    }

    /// Calls `body` for every item, on all threads where the items together touch enough bytes.
    func share(_ items: Int, bytes: Int, _ body: (_ item: Int, _ thread: Int) -> Void) {
        if bytes < Self.sharedBytes {
            for item in 0..<max(items, 0) { body(item, 0) }
        } else {
            pool.run(items: items, body)
        }
    }

    /// Cuts panels into ranges and shares them between the threads.
    private func panelRanges(panels: Int, bytes: Int, rows: Int, _ body: (Range<Int>) -> Void) {
        guard rows > 0, panels > 0 else { return }
        let worth = Self.worth(bytes: bytes, rows: rows)
        guard pool.threads > 1, worth >= Self.sharedBytes else { return body(0..<panels) }
        let wanted = max(bytes / Self.itemBytes, pool.threads * Self.itemsPerThread)
        let most = min(panels, worth / Self.grainBytes, wanted)
        var size = (panels + most - 1) / most
        if size > Self.panelsTogether {
            size = (size + Self.panelsTogether - 1) / Self.panelsTogether * Self.panelsTogether
        }
        pool.run(items: (panels + size - 1) / size) { item in
            body(item * size..<min((item + 1) * size, panels))
        }
    }

    /// What weights of so many bytes cost for so many rows, in bytes read from memory.
    private static func worth(bytes: Int, rows: Int) -> Int {
        bytes + bytes / rowsPerRead * rows
    }

    private func blas(
        _ matrix: Matrix, _ input: Activations, _ rows: Range<Int>, _ out: UnsafeMutablePointer<Float>, _ stride: Int
    ) {
        guard let dense = matrix.dense, !rows.isEmpty else { return }
        cblas_sgemm(
            CblasRowMajor, CblasNoTrans, CblasTrans, Int32(clamping: rows.count), Int32(clamping: matrix.rows),
            Int32(clamping: matrix.columns), 1, input.floats + rows.lowerBound * matrix.columns,
            Int32(clamping: matrix.columns), dense.base, Int32(clamping: matrix.columns), 0,
            out + rows.lowerBound * stride, Int32(clamping: stride))
    }
}
