import CKernels
package import ModelStore

/// A matrix of weights: `rows` outputs, `columns` inputs.
package struct Matrix {
    package let format: TensorFormat
    package let rows: Int
    package let columns: Int
    /// Panels of 16 outputs, as they lie in the blob.
    let panels: UnsafeRawPointer
    let panelCount: Int
    let panelBytes: Int
    /// Bytes of all panels.
    var bytes: Int { panelCount * panelBytes }
    /// Float32, row-major: what OpenBLAS multiplies with; nil for the native kernels.
    var dense: DenseWeights?

    /// The form in which products read their activations.
    package var activation: ActivationFormat { dense == nil ? format.activation : .f32 }
    /// Parts in which an expert's down projection sums its inner dimension: 4, or 2 or 1 where parts would split blocks.
    package var downParts: Int { tk_down_parts(format.kernelFormat, columns) }

    /// - Throws: `EngineError` `model_shape` where the tensor is not the model's, `ModelError` where the blob lacks it.
    package init(_ name: String, of blob: MappedBlob, rows: Int, columns: Int) throws {
        let (entry, bytes) = try blob.tensor(name)
        let format = entry.format
        let panelCount = tk_panel_count(rows)
        let panelBytes = tk_panel_bytes(format.kernelFormat, columns)
        guard entry.rows == rows, entry.columns == columns, entry.panels, columns.isMultiple(of: format.blockSize),
            bytes.count == panelCount * panelBytes, let base = bytes.baseAddress
        else {
            throw EngineError(
                code: "model_shape",
                message:
                    "blob \(blob.reference.sha256), tensor \(name): \(entry.rows)x\(entry.columns) \(format.rawValue) "
                    + "in \(bytes.count) bytes; the model needs \(rows)x\(columns) in panels")
        }
        self.format = format
        self.rows = rows
        self.columns = columns
        self.panels = base
        self.panelCount = panelCount
        self.panelBytes = panelBytes
    }
}

/// A matrix widened to float32, row-major.
final class DenseWeights {
    let memory: MappedMemory
    var base: UnsafeMutablePointer<Float> { memory.base.assumingMemoryBound(to: Float.self) }

    /// - Throws: `EngineError` `memory`.
    init(_ matrix: Matrix) throws {
        let (rows, columns) = (matrix.rows, matrix.columns)
        memory = try MappedMemory(bytes: rows * columns * MemoryLayout<Float>.size)
        memory.base.bindMemory(to: Float.self, capacity: rows * columns)
        for panel in 0..<matrix.panelCount {
            let first = panel * Int(TK_PANEL_ROWS)
            tk_dequantise_panel(
                matrix.format.kernelFormat, matrix.panels + panel * matrix.panelBytes, columns,
                min(rows - first, Int(TK_PANEL_ROWS)), base + first * columns, columns)
        }
    }
}

/// A vector of float32 weights as it lies in a blob.
struct Vector {
    let base: UnsafePointer<Float>
    let count: Int

    init(_ name: String, of blob: MappedBlob, count: Int) throws {
        let (entry, bytes) = try blob.tensor(name)
        guard entry.format == .f32, bytes.count == count * MemoryLayout<Float>.size, let base = bytes.baseAddress,
            Int(bitPattern: base).isMultiple(of: MemoryLayout<Float>.alignment)
        else {
            throw EngineError(
                code: "model_shape",
                message:
                    "blob \(blob.reference.sha256), tensor \(name): \(entry.format.rawValue) in \(bytes.count) bytes; "
                    + "the model needs \(count) float32")
        }
        self.base = base.assumingMemoryBound(to: Float.self)
        self.count = count
    }
}
