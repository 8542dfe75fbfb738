/// Plain weights to q8_0 as llama.cpp's reference does (`quantize_row_q8_0_ref` in ggml-quants.c): the same bytes.
enum Quantiser {
    /// - Parameters:
    ///   - row: finite values, whole blocks of 32.
    ///   - target: `TensorFormat.q8_0.rowBytes(columns: row.count)` bytes.
    /// - Returns: the first block whose scale is too large for float16, if there is one.
    static func q8_0(_ row: [Float], into target: UnsafeMutableRawBufferPointer) -> Int? {
        row.withUnsafeBufferPointer { values in
            var block = 0
            while block * 32 < values.count {
                let first = block * 32
                var largest: Float = 0
                var index = 0
                while index < 32 {
                    largest = max(largest, abs(values[first + index]))
                    index += 1
                }
                let d = largest / 127
                // Of a scale so small that its inverse is infinite only zeros are left, in float16 too.
                let inverse = d == 0 || (1 / d).isInfinite ? 0 : 1 / d
                let scale = Float16(d)
                guard scale.isFinite else { return block }
                let begin = block * 34
                target.storeBytes(of: scale.bitPattern, toByteOffset: begin, as: UInt16.self)
                index = 0
                while index < 32 {
                    // At most 127 but for the inverse's rounding, which 127.00001 survives.
                    let quant = (values[first + index] * inverse).rounded(.toNearestOrAwayFromZero)
                    target[begin + 2 + index] = UInt8(bitPattern: Int8(max(-127, min(127, quant))))
                    index += 1
                }
                block += 1
            }
            return nil
        }
    }
}
