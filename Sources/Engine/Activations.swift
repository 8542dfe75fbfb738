import CKernels
package import ModelStore

/// The rows that products take, in the forms that their weights want: float32, or quantised once and prepared.
///
/// A row is made ready by `encode`, row by row, so that threads can share the work; after that products only read.
package final class Activations {
    private(set) var count = 0
    private(set) var columns = 0
    /// The float32 rows, `columns` floats apart.
    private(set) var floats: UnsafeMutablePointer<Float>
    private var formats: [ActivationFormat] = []
    private let floatMemory = Scratch()
    private let encodedMemory = Scratch()
    private let preparedMemory: [Scratch] = [Scratch(), Scratch(), Scratch()]
    private var prepared: [UnsafeMutableRawPointer?] = [nil, nil, nil]
    private var encoded: UnsafeMutableRawPointer
    private var encodedBytes = 0

    package init() {
        floats = floatMemory.reserve(0).assumingMemoryBound(to: Float.self)
        encoded = encodedMemory.reserve(0)
    }

    /// Makes room for `count` rows of `columns` floats that will be needed in `formats`.
    package func reset(count: Int, columns: Int, formats: [ActivationFormat]) {
        self.count = count
        self.columns = columns
        self.formats = formats
        floats = floatMemory.reserve(count * columns * MemoryLayout<Float>.size)
            .bindMemory(to: Float.self, capacity: count * columns)
        encodedBytes = 0
        for format in formats where format != .f32 {
            encodedBytes = max(encodedBytes, tk_encoded_row_bytes(format.kernelActivation, columns))
            let bytes = tk_prepared_row_bytes(format.kernelActivation, columns)
            prepared[Int(format.rawValue)] = preparedMemory[Int(format.rawValue)].reserve(count * bytes)
        }
        encoded = encodedMemory.reserve(count * encodedBytes)
    }

    /// A float32 row, to be filled before `encode`.
    package func row(_ row: Int) -> UnsafeMutablePointer<Float> {
        floats + row * columns
    }

    /// Quantises a float32 row into the forms asked for. Any thread, each row once.
    package func encode(row: Int) {
        for format in formats where format != .f32 {
            let bytes = encoded + row * encodedBytes
            tk_quantise(Kernels.isa, format.kernelActivation, self.row(row), columns, bytes)
            prepare(row: row, from: bytes, format: format)
        }
    }

    /// Takes a row that was encoded elsewhere, at any alignment.
    func load(row: Int, from bytes: UnsafeRawPointer, format: ActivationFormat) {
        if format == .f32 {
            UnsafeMutableRawPointer(self.row(row)).copyMemory(
                from: bytes, byteCount: columns * MemoryLayout<Float>.size)
            encode(row: row)
        } else {
            prepare(row: row, from: bytes, format: format)
        }
    }

    /// The rows in a form, and the bytes from one to the next.
    func form(_ format: ActivationFormat) -> (base: UnsafeRawPointer, stride: Int) {
        guard format != .f32, let prepared = prepared[Int(format.rawValue)] else {
            return (UnsafeRawPointer(floats), columns * MemoryLayout<Float>.size)
        }
        return (UnsafeRawPointer(prepared), tk_prepared_row_bytes(format.kernelActivation, columns))
    }

    private func prepare(row: Int, from bytes: UnsafeRawPointer, format: ActivationFormat) {
        guard let base = prepared[Int(format.rawValue)] else { return }
        let activation = format.kernelActivation
        tk_prepare(
            Kernels.isa, activation, bytes, tk_encoded_row_bytes(activation, columns), columns, 1,
            base + row * tk_prepared_row_bytes(activation, columns))
    }
}
