import CKernels
import COpenBLAS
import ModelStore

/// Matrix products and row-wise work, spread over the threads.
package final class Products {
    let pool: ThreadPool
    let compute: ComputeBackend

    /// Work that is shared, in bytes read times rows: less is done before another thread has woken.
    private static let sharedBytes = 256 * 1024
    /// What an item has to do at least.
    private static let grainBytes = 32 * 1024
    /// Weights that an item reads at most: a few panels, so that a thread that is held up does not hold up the rest.
    private static let itemBytes = 512 * 1024
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
    ///   - parts: 1, or the parts in which the inner dimension is summed (`tk_matmul`).
    ///   - stride: floats from one row of `out` to the next.
    package func multiply(
        _ matrices: [Matrix], offsets: [Int], input: Activations, parts: Int = 1, out: UnsafeMutablePointer<Float>,
        stride: Int
    ) {
        guard compute == .native else {
            for (matrix, offset) in zip(matrices, offsets) { blas(matrix, input, out + offset, stride) }
            return
        }
        let count = input.count
        let panels = matrices.reduce(0) { $0 + $1.panelCount }
        let bytes = matrices.reduce(0) { $0 + $1.panelCount * $1.panelBytes }
        panelRanges(panels: panels, bytes: bytes, rows: count) { range in
            var first = 0
            for (matrix, offset) in zip(matrices, offsets) {
                let begin = max(range.lowerBound - first, 0)
                let end = min(range.upperBound - first, matrix.panelCount)
                first += matrix.panelCount
                guard begin < end else { continue }
                let rows = input.form(matrix.activation)
                tk_matmul(
                    Kernels.isa, matrix.format.kernelFormat, matrix.panels, matrix.columns, matrix.rows, begin, end,
                    rows.base, rows.stride, count, parts, out + offset, stride)
            }
        }
    }

    /// out[i][r] = silu(Σ_k gate[r][k] · input[i][k]) · Σ_k up[r][k] · input[i][k].
    ///
    /// - Parameter scratch: `count * gate.rows` floats.
    func multiplyGateUp(
        gate: Matrix, up: Matrix, input: Activations, scratch: UnsafeMutablePointer<Float>,
        out: UnsafeMutablePointer<Float>
    ) {
        let (count, width) = (input.count, gate.rows)
        if compute == .native, gate.format == up.format {
            let bytes = gate.panelCount * gate.panelBytes * 2
            panelRanges(panels: gate.panelCount, bytes: bytes, rows: count) { range in
                let rows = input.form(gate.activation)
                tk_matmul_gate_up(
                    Kernels.isa, gate.format.kernelFormat, gate.panels, up.panels, gate.columns, gate.rows,
                    range.lowerBound, range.upperBound, rows.base, rows.stride, count, out, width)
            }
        } else {
            multiply([gate], offsets: [0], input: input, out: out, stride: width)
            multiply([up], offsets: [0], input: input, out: scratch, stride: width)
            tk_silu_multiply(Kernels.isa, out, scratch, count * width, out)
        }
    }

    /// Calls `body` for every row, sharing the rows between threads where each costs enough (about `bytes` touched).
    func eachRow(_ count: Int, bytes: Int, _ body: (Int) -> Void) {
        let rowsPerItem = max(1, Self.grainBytes / max(bytes, 1))
        let items = (count + rowsPerItem - 1) / rowsPerItem
        share(items, bytes: count * bytes) { item in
            for row in item * rowsPerItem..<min((item + 1) * rowsPerItem, count) { body(row) }
        }
    }

    /// Calls `body` for every item, on all threads where the items together touch enough bytes.
    func share(_ items: Int, bytes: Int, _ body: (Int) -> Void) {
        if bytes < Self.sharedBytes {
            for item in 0..<max(items, 0) { body(item) }
        } else {
            pool.run(items: items, body)
        }
    }

    /// Cuts panels into ranges and shares them between the threads.
    private func panelRanges(panels: Int, bytes: Int, rows: Int, _ body: (Range<Int>) -> Void) {
        guard rows > 0, panels > 0 else { return }
        let worth = bytes * rows
        let shared = pool.threads > 1 && worth >= Self.sharedBytes
        let wanted = max(bytes / Self.itemBytes, pool.threads * Self.itemsPerThread)
        let most = shared ? min(panels, worth / Self.grainBytes, wanted) : 1
        var size = (panels + most - 1) / most
        if size > Self.panelsTogether {
            size = (size + Self.panelsTogether - 1) / Self.panelsTogether * Self.panelsTogether
        }
        pool.run(items: (panels + size - 1) / size) { item in
            body(item * size..<min((item + 1) * size, panels))
        }
    }

    private func blas(_ matrix: Matrix, _ input: Activations, _ out: UnsafeMutablePointer<Float>, _ stride: Int) {
        guard let dense = matrix.dense, input.count > 0 else { return }
        cblas_sgemm(
            CblasRowMajor, CblasNoTrans, CblasTrans, Int32(clamping: input.count), Int32(clamping: matrix.rows),
            Int32(clamping: matrix.columns), 1, input.floats, Int32(clamping: matrix.columns), dense.base,
            Int32(clamping: matrix.columns), 0, out, Int32(clamping: stride))
    }
}
