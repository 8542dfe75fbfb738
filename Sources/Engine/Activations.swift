import CKernels
package import ModelStore

/// Forms of a row that some matrices read.
package struct ActivationFormats: ExpressibleByArrayLiteral {
    private var bits: UInt8 = 0

    package init(arrayLiteral formats: ActivationFormat...) {
        for format in formats { insert(format) }
    }

    package init(_ format: ActivationFormat) {
        insert(format)
    }

    mutating func insert(_ format: ActivationFormat) { bits |= 1 << format.rawValue }
    func contains(_ format: ActivationFormat) -> Bool { bits & 1 << format.rawValue != 0 }
}

/// The rows that products take, in the forms that their weights want: float32, or quantised once and prepared.
///
/// A row is made ready by `encode`, row by row, so that threads can share the work; after that products only read.
package final class Activations {
    private(set) var count = 0
    private(set) var columns = 0
    /// The float32 rows, `columns` floats apart.
    private(set) var floats: UnsafeMutablePointer<Float>
    private let floatMemory = Scratch()
    /// The encoded forms; nil where nobody asked for one.
    private var small: Form?
    private var large: Form?
    private let smallMemory = FormMemory()
    private let largeMemory = FormMemory()

    package init() {
        floats = floatMemory.reserve(0).assumingMemoryBound(to: Float.self)
    }

    /// Makes room for `count` rows of `columns` floats that will be needed in `formats`.
    package func reset(count: Int, columns: Int, formats: ActivationFormats) {
        self.count = count
        self.columns = columns
        floats = floatMemory.reserve(count * columns * MemoryLayout<Float>.size)
            .bindMemory(to: Float.self, capacity: count * columns)
        small = formats.contains(.a8_32) ? Form(.a8_32, count: count, columns: columns, memory: smallMemory) : nil
        large = formats.contains(.a8_256) ? Form(.a8_256, count: count, columns: columns, memory: largeMemory) : nil
    }

    /// A float32 row, to be filled before `encode`.
    package func row(_ row: Int) -> UnsafeMutablePointer<Float> {
        floats + row * columns
    }

    /// Quantises a float32 row into the forms asked for. Any thread, each row once.
    package func encode(row: Int) {
        small?.encode(row: row, self.row(row))
        large?.encode(row: row, self.row(row))
    }

    /// Takes a row that was encoded elsewhere, at any alignment.
    func load(row: Int, from bytes: UnsafeRawPointer, format: ActivationFormat) {
        switch format {
        case .f32:
            UnsafeMutableRawPointer(self.row(row)).copyMemory(
                from: bytes, byteCount: columns * MemoryLayout<Float>.size)
            encode(row: row)
        case .a8_32: small?.prepare(row: row, from: bytes)
        case .a8_256: large?.prepare(row: row, from: bytes)
        }
    }

    /// The rows in a form, and the bytes from one to the next.
    func form(_ format: ActivationFormat) -> (base: UnsafeRawPointer, stride: Int) {
        let form =
            switch format {
            case .f32: nil as Form?
            case .a8_32: small
            case .a8_256: large
            }
        guard let form else { return (UnsafeRawPointer(floats), columns * MemoryLayout<Float>.size) }
        return (UnsafeRawPointer(form.prepared), form.preparedBytes)
    }

    private final class FormMemory {
        let encoded = Scratch()
        let prepared = Scratch()
    }

    /// All rows in one encoded form.
    private struct Form {
        let activation: tk_activation
        let columns: Int
        let encoded: UnsafeMutableRawPointer
        let encodedBytes: Int
        let prepared: UnsafeMutableRawPointer
        let preparedBytes: Int

        init(_ format: ActivationFormat, count: Int, columns: Int, memory: FormMemory) {
            activation = format.kernelActivation
            self.columns = columns
            encodedBytes = tk_encoded_row_bytes(activation, columns)
            preparedBytes = tk_prepared_row_bytes(activation, columns)
            encoded = memory.encoded.reserve(count * encodedBytes)
            prepared = memory.prepared.reserve(count * preparedBytes)
        }

        func encode(row: Int, _ floats: UnsafePointer<Float>) {
            let bytes = encoded + row * encodedBytes
            tk_quantise(Kernels.isa, activation, floats, columns, bytes)
            prepare(row: row, from: bytes)
        }

        func prepare(row: Int, from bytes: UnsafeRawPointer) {
            tk_prepare(
                Kernels.isa, activation, bytes, encodedBytes, columns, 1, prepared + row * preparedBytes)
        }
    }
}
