import Engine
import ModelStore
import TestSupport
import Testing

/// What perplexity cannot see: a product with the wrong scale of one block, or with another format's weights.
@Suite struct ProductTests {
    /// A tensor of a fixture: one for each kind and format.
    private struct Subject {
        let file: String
        let entry: TensorEntry
        let blob: BlobReference
    }

    /// Every kind of matrix in every format that the fixtures have of it.
    private func subjects() throws -> [(Models.Imported, Subject)] {
        var found: [String: (Models.Imported, Subject)] = [:]
        for file in Models.quantisedFiles {
            let model = try Models.quantised(file)
            let blobs = [model.manifest.head] + model.manifest.layers.flatMap { [$0.dense] + $0.experts }
            for blob in blobs {
                for entry in blob.tensors where entry.panels {
                    let key = "\(entry.name) \(entry.format.rawValue)"
                    if found[key] == nil { found[key] = (model, Subject(file: file, entry: entry, blob: blob)) }
                }
            }
        }
        return found.sorted { $0.key < $1.key }.map(\.value)
    }

    /// Rows that int8 holds exactly: integers times a power of two, with ±127 in every block.
    private func exactRow(_ columns: Int, block: Int, _ random: inout SeededGenerator) -> [Float] {
        let unit: Float = [0.125, 1, 0.0078125].randomElement(using: &random) ?? 1
        return (0..<columns).map { index in
            let value =
                index % block == 3
                ? (Bool.random(using: &random) ? 127 : -127) : Int.random(in: -127...127, using: &random)
            return Float(value) * unit
        }
    }

    /// The matrix in float64, through the store's own dequantiser and not the kernels'.
    private func dequantised(_ entry: TensorEntry, _ bytes: UnsafeRawBufferPointer) -> [[Double]] {
        let panelBytes = entry.format.panelBytes(columns: entry.columns)
        let rowBytes = entry.format.rowBytes(columns: entry.columns)
        return stride(from: 0, to: entry.rows, by: TensorFormat.panelRows).flatMap { first in
            let panel = UnsafeRawBufferPointer(
                rebasing: bytes[
                    first / TensorFormat.panelRows * panelBytes..<(first / TensorFormat.panelRows + 1) * panelBytes])
            let count = min(TensorFormat.panelRows, entry.rows - first)
            var rows = [UInt8](repeating: 0, count: count * rowBytes)
            return rows.withUnsafeMutableBytes { rows in
                Panels.unpack(entry.format, panel: panel, columns: entry.columns, into: rows)
                return (0..<count).map { row in
                    let bytes = UnsafeRawBufferPointer(rebasing: rows[row * rowBytes..<(row + 1) * rowBytes])
                    return Dequantiser.row(entry.format, bytes, columns: entry.columns).map(Double.init)
                }
            }
        }
    }

    @Test func everyTypeAndKindOfTensorMultipliesExactly() throws {
        let seed: UInt64 = 77
        var random = SeededGenerator(seed: seed)
        var formats: Set<TensorFormat> = []
        let products = Products(threads: 2, compute: .native)
        for (model, subject) in try subjects() {
            let blob = try model.store.map(subject.blob, verify: false)
            let entry = subject.entry
            let (_, bytes) = try blob.tensor(entry.name)
            let matrix = try Matrix(entry.name, of: blob, rows: entry.rows, columns: entry.columns)
            let count = 5
            let input = Activations()
            input.reset(count: count, columns: entry.columns, formats: ActivationFormats(matrix.activation))
            let block = max(matrix.activation.blockSize, 32)
            let rows = (0..<count).map { _ in exactRow(entry.columns, block: block, &random) }
            for (index, row) in rows.enumerated() {
                input.row(index).update(from: row, count: row.count)
                input.encode(row: index)
            }
            let out = RowBuffer(rows: count, width: entry.rows)
            products.multiply(
                [matrix], offsets: [0], input: input, parts: entry.name == "w2" ? matrix.downParts : 1, out: out.base,
                stride: out.width)
            var worst = 0.0
            for (output, weights) in dequantised(entry, bytes).enumerated() {
                for (index, row) in rows.enumerated() {
                    var (exact, size) = (0.0, 0.0)
                    for (weight, value) in zip(weights, row) {
                        exact += weight * Double(value)
                        size += abs(weight * Double(value))
                    }
                    let error = abs(Double(out[index][output]) - exact)
                    if error > 0 { worst = max(worst, error / size) }
                }
            }
            #expect(worst < 1e-5, "\(subject.file) \(entry.name) \(entry.format.rawValue), seed \(seed)")
            formats.insert(entry.format)
        }
        #expect(formats == Set(TensorFormat.allCases))
    }

    /// OpenBLAS multiplies with widened weights and whole floats: what differs is the rounding of activations to int8.
    @Test(arguments: Models.quantisedFiles)
    func openBLASAgrees(file: String) throws {
        let model = try Models.quantised(file)
        let ids: [Int32] = [1] + (0..<60).map { Int32(300 + $0 * 17 % 1200) }
        let native = try model.runner().score(ids: ids, top: 0)
        let oracle = try model.runner(threads: 2, compute: .openblas).score(ids: ids, top: 0)
        let difference = zip(native.lastLogits, oracle.lastLogits).map { abs($0 - $1) }.max() ?? .infinity
        let plain = model.manifest.layers.allSatisfy { $0.dense.tensors.allSatisfy { $0.format.isPlain } }
        print("openblas \(file): logits off by \(difference), nll by \(native.meanNLL - oracle.meanNLL)")
        #expect(difference < (plain ? 0.01 : 0.5))
        #expect(abs(native.meanNLL - oracle.meanNLL) < (plain ? 0.001 : 0.05))
    }
}
