import CKernels
import COpenBLAS
import ModelStore

/// Matrix products and row-wise work, spread over the threads.
package final class Products {
    let pool: ThreadPool
    let compute: ComputeBackend

    /// Work that is shared, in bytes read from memory: about 5 µs, more than a thread that looks for work takes to find it.
    private static let sharedBytes = 64 * 1024

    private var items = PanelItems()

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
        _ matrices: ArraySlice<Matrix>, offsets: ArraySlice<Int>, input: Activations, parts: Int = 1,
        out: UnsafeMutablePointer<Float>, stride: Int
    ) {
        let (first, firstOffset) = (matrices.startIndex, offsets.startIndex)
        multiply(matrices.count) { index in
            Product(
                matrix: matrices[first + index], input: input, rows: 0..<input.count, parts: parts,
                out: out + offsets[firstOffset + index], stride: stride)
        }
    }

    /// The same with one matrix.
    func multiply(_ matrix: Matrix, input: Activations, out: UnsafeMutablePointer<Float>, stride: Int) {
        multiply(1) { _ in
            Product(matrix: matrix, input: input, rows: 0..<input.count, parts: 1, out: out, stride: stride)
        }
    }

    /// Computes some products together.
    func multiply(_ count: Int, product: (Int) -> Product) {
        guard compute == .native else {
            for index in 0..<count { blas(product(index)) }
            return
        }
        sharePanels(count, product)
    }

    /// Computes some products of gate and up together.
    ///
    /// - Parameter scratch: as many floats as `out`.
    func multiply(
        _ count: Int, scratch: UnsafeMutablePointer<Float>, product: (Int) -> GateUpProduct
    ) {
        guard compute == .native, (0..<count).allSatisfy({ product($0).isOnePass }) else {
            for index in 0..<count {
                let product = product(index)
                multiply(2) { product.part($0, scratch: scratch) }
                let first = product.rows.lowerBound * product.gate.rows
                tk_silu_multiply(
                    Kernels.isa, product.out + first, scratch + first, product.rows.count * product.gate.rows,
                    product.out + first)
            }
            return
        }
        sharePanels(count, product)
    }

    /// Calls `body` for every row, sharing the rows between threads where each costs enough (about `bytes` touched).
    func eachRow(_ count: Int, bytes: Int, _ body: (Int) -> Void) {
        let rowsPerItem = max(1, PanelItems.leastCost / max(bytes, 1))
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

    /// Cuts the panels of some products into items and shares them between the threads.
    private func sharePanels(_ count: Int, _ product: (Int) -> some PanelProduct) {
        let cost = (0..<count).reduce(0) { $0 + product($1).size.cost }
        guard pool.threads > 1, cost >= Self.sharedBytes else {
            for index in 0..<count { product(index).multiplyAll() }
            return
        }
        items.cut(count, cost: cost, threads: pool.threads) { product($0).size }
        pool.run(items: items.items.count) { [items] in
            product(items.items[$0].product).multiply(panels: items.items[$0].panels)
        }
    }

    private func blas(_ product: Product) {
        let (matrix, rows) = (product.matrix, product.rows)
        guard let dense = matrix.dense, !rows.isEmpty else { return }
        let columns = Int32(clamping: matrix.columns)
        cblas_sgemm(
            CblasRowMajor, CblasNoTrans, CblasTrans, Int32(clamping: rows.count), Int32(clamping: matrix.rows), columns,
            1, product.input.floats + rows.lowerBound * matrix.columns, columns, dense.base, columns, 0,
            product.out + rows.lowerBound * product.stride, Int32(clamping: product.stride))
    }
}

/// What can be computed panel by panel.
protocol PanelProduct {
    var size: ProductSize { get }

    /// Some panels' outputs, on the calling thread.
    func multiply(panels: Range<Int>)
}

extension PanelProduct {
    /// All outputs, on the calling thread.
    func multiplyAll() {
        let size = size
        if size.cost > 0 { multiply(panels: 0..<size.panels) }
    }
}

/// out[i][r] = Σ_k matrix[r][k] · input[i][k] for some rows.
struct Product: PanelProduct {
    let matrix: Matrix
    let input: Activations
    /// Of `input` and of `out`.
    let rows: Range<Int>
    /// 1, or the parts in which the inner dimension is summed (`tk_matmul`).
    let parts: Int
    let out: UnsafeMutablePointer<Float>
    /// Floats from one row of `out` to the next.
    let stride: Int

    var size: ProductSize { ProductSize(panels: matrix.panelCount, bytes: matrix.bytes, rows: rows.count) }

    func multiply(panels: Range<Int>) {
        let form = input.form(matrix.activation)
        tk_matmul(
            Kernels.isa, matrix.format.kernelFormat, matrix.panels, matrix.columns, matrix.rows, panels.lowerBound,
            panels.upperBound, form.base + rows.lowerBound * form.stride, form.stride, rows.count, parts,
            out + rows.lowerBound * stride, stride)
    }
}

/// out[i][r] = silu(Σ_k gate[r][k] · input[i][k]) · Σ_k up[r][k] · input[i][k] for some rows.
struct GateUpProduct: PanelProduct {
    let gate: Matrix
    let up: Matrix
    let input: Activations
    /// Of `input` and of `out`.
    let rows: Range<Int>
    /// Rows of `gate.rows` floats.
    let out: UnsafeMutablePointer<Float>

    /// Whether one pass over both matrices computes it.
    var isOnePass: Bool { gate.format == up.format }
    var size: ProductSize {
        ProductSize(panels: gate.panelCount, bytes: gate.bytes + up.bytes, rows: rows.count)
    }

    /// Where one pass does it.
    func multiply(panels: Range<Int>) {
        let form = input.form(gate.activation)
        tk_matmul_gate_up(
            Kernels.isa, gate.format.kernelFormat, gate.panels, up.panels, gate.columns, gate.rows, panels.lowerBound,
            panels.upperBound, form.base + rows.lowerBound * form.stride, form.stride, rows.count,
            out + rows.lowerBound * gate.rows, gate.rows)
    }

    /// The product with gate (0), or with up (1), into `scratch`.
    func part(_ index: Int, scratch: UnsafeMutablePointer<Float>) -> Product {
        Product(
            matrix: index == 0 ? gate : up, input: input, rows: rows, parts: 1, out: index == 0 ? out : scratch,
            stride: gate.rows)
    }
}
