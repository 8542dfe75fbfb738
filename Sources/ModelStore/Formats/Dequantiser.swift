/// Rows of blocks to float32, in the order of operations of ggml's reference (ggml-quants.c), so that results agree to
/// the last bit. Plain and slow: it is what kernels are tested against, and what widens small tensors at import.
package enum Dequantiser {
    /// - Parameters:
    ///   - bytes: one row, `format.rowBytes(columns:)` bytes, as in a GGUF file (not in panels).
    ///   - columns: whole blocks.
    package static func row(_ format: TensorFormat, _ bytes: UnsafeRawBufferPointer, columns: Int) -> [Float] {
        precondition(
            columns % format.blockSize == 0 && bytes.count == format.rowBytes(columns: columns), "not a row")
        var values: [Float] = []
        values.reserveCapacity(columns)
        for block in 0..<columns / format.blockSize {
            let begin = block * format.bytesPerBlock
            append(format, UnsafeRawBufferPointer(rebasing: bytes[begin..<begin + format.bytesPerBlock]), to: &values)
        }
        return values
    }

    private static func append(_ format: TensorFormat, _ block: UnsafeRawBufferPointer, to values: inout [Float]) {
        switch format {
        case .f32:
            values.append(Float(bitPattern: block.loadUnaligned(as: UInt32.self)))
        case .f16:
            values.append(half(block, 0))
        case .bf16:
            values.append(Float(bitPattern: UInt32(block.loadUnaligned(as: UInt16.self)) << 16))
        case .q8_0:
            let d = half(block, 0)
            for index in 0..<32 { values.append(Float(Int8(bitPattern: block[2 + index])) * d) }
        case .q4_0:
            let d = half(block, 0)
            for index in 0..<16 { values.append(Float(Int(block[2 + index] & 15) - 8) * d) }
            for index in 0..<16 { values.append(Float(Int(block[2 + index] >> 4) - 8) * d) }
        case .q4_K:
            appendK(block, high: nil, low: 16, to: &values)
        case .q5_K:
            appendK(block, high: 16, low: 48, to: &values)
        case .q6_K:
            let d = half(block, 208)
            for part in 0..<256 {
                // Halves of 128 values; in each, four groups of 32 share 64 bytes of ql and 32 bytes of qh.
                let (base, group, lane) = (part / 128, part % 128 / 32, part % 32)
                let low = block[base * 64 + (group & 1) * 32 + lane]
                let high = block[128 + base * 32 + lane] >> (2 * group) & 3
                let quant = Int(group < 2 ? low & 15 : low >> 4) | Int(high) << 4
                let scale = Int8(bitPattern: block[192 + part / 16])
                values.append(d * Float(scale) * Float(quant - 32))
            }
        }
    }

    /// q4_K and q5_K: eight groups of 32 values, each with a 6-bit scale and a 6-bit minimum.
    private static func appendK(_ block: UnsafeRawBufferPointer, high: Int?, low: Int, to values: inout [Float]) {
        let d = half(block, 0)
        let dmin = half(block, 2)
        for group in 0..<8 {
            let (scale, minimum) = scaleAndMinimum(block, group)
            let factor = d * Float(scale)
            let offset = dmin * Float(minimum)
            for lane in 0..<32 {
                let byte = block[low + group / 2 * 32 + lane]
                var quant = group % 2 == 0 ? byte & 15 : byte >> 4
                if let high { quant |= (block[high + lane] >> group & 1) << 4 }
                values.append(factor * Float(quant) - offset)
            }
        }
    }

    /// `get_scale_min_k4` of ggml-quants.c: twelve bytes at 4 hold eight scales and eight minima of 6 bits.
    private static func scaleAndMinimum(_ block: UnsafeRawBufferPointer, _ group: Int) -> (UInt8, UInt8) {
        if group < 4 { return (block[4 + group] & 63, block[8 + group] & 63) }
        return (
            (block[8 + group] & 15) | (block[group] >> 6) << 4,
            (block[8 + group] >> 4) | (block[4 + group] >> 6) << 4
        )
    }

    private static func half(_ block: UnsafeRawBufferPointer, _ offset: Int) -> Float {
        Float(Float16(bitPattern: block.loadUnaligned(fromByteOffset: offset, as: UInt16.self)))
    }
}
