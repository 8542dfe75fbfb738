/// Rows of any format to float32, exactly; those of plain formats at the speed of memory.
enum Widening {
    /// - Parameters:
    ///   - bytes: a row.
    ///   - values: as many as the row has.
    static func row(
        _ format: TensorFormat, _ bytes: UnsafeRawBufferPointer, into values: UnsafeMutableBufferPointer<Float>
    ) {
        guard let source = bytes.baseAddress, let target = values.baseAddress else { return }
        var index = 0
        switch format {
        case .f32:
            UnsafeMutableRawBufferPointer(values).copyMemory(from: bytes)
        case .bf16:
            while index < values.count {
                let bits = UInt32(source.loadUnaligned(fromByteOffset: index &* 2, as: UInt16.self))
                target[index] = Float(bitPattern: bits &<< 16)
                index &+= 1
            }
        case .f16:
            while index < values.count {
                // Exponent and mantissa in float32's places, then the exponents' difference of 112 as a product, which
                // makes normal numbers of float16's subnormal ones too. Right for all finite numbers.
                let bits = UInt32(source.loadUnaligned(fromByteOffset: index &* 2, as: UInt16.self))
                let scaled = Float(bitPattern: (bits & 0x7FFF) &<< 13) * 0x1p112
                target[index] = Float(bitPattern: scaled.bitPattern | (bits & 0x8000) &<< 16)
                index &+= 1
            }
        default:
            _ = values.update(fromContentsOf: Dequantiser.row(format, bytes, columns: values.count))
        }
    }
}
