/// Plain weights to blocks.
///
/// Vectors of 8 are as wide as an AVX register; on any processor the same operations in the same order give the same
/// bytes.
enum Quantiser {
    typealias Lanes = SIMD8<Float>

    /// - Parameters:
    ///   - row: finite values, whole blocks.
    ///   - format: q8_0 or q4_K.
    ///   - target: `format.rowBytes(columns: row.count)` bytes.
    /// - Returns: the first block whose scale is too large for float16, if there is one.
    static func row(
        _ row: UnsafeBufferPointer<Float>, to format: TensorFormat, into target: UnsafeMutableRawBufferPointer
    ) -> Int? {
        let size = format.blockSize
        for block in 0..<row.count / size {
            let values = UnsafeBufferPointer(rebasing: row[block * size..<(block + 1) * size])
            let begin = block * format.bytesPerBlock
            let part = UnsafeMutableRawBufferPointer(rebasing: target[begin..<begin + format.bytesPerBlock])
            guard format == .q4_K ? q4_K(values, into: part) : q8_0(values, into: part) else { return block }
        }
        return nil
    }

    /// As llama.cpp's reference does (`quantize_row_q8_0_ref` in ggml-quants.c): the same bytes.
    private static func q8_0(_ values: UnsafeBufferPointer<Float>, into target: UnsafeMutableRawBufferPointer) -> Bool {
        var largest: Float = 0
        for value in values { largest = abs(value) > largest ? abs(value) : largest }
        let d = largest / 127
        let scale = Float16(d)
        guard scale.isFinite else { return false }
        // Of a scale so small that its inverse is infinite only zeros are left, in float16 too.
        let inverse = d == 0 || (1 / d).isInfinite ? 0 : 1 / d
        target.storeBytes(of: scale.bitPattern, as: UInt16.self)
        for part in 0..<4 {
            var scaled = Lanes()
            for lane in 0..<8 { scaled[lane] = values[part * 8 + lane] * inverse }
            // To the nearest; of the two that are equally near, the one away from zero.
            let even = nearest(scaled)
            let rest = scaled - even
            let away = even.replacing(with: even + 1, where: rest .== 0.5 .& scaled .> 0)
                .replacing(with: even - 1, where: rest .== -0.5 .& scaled .< 0)
            // At most 127 but for the inverse's rounding, which 127.00001 survives.
            let quants = integers(clamped(away, -127, 127))
            for lane in 0..<8 {
                target[2 + part * 8 + lane] = UInt8(truncatingIfNeeded: quants[lane])
            }
        }
        return true
    }

    /// The nearest integers, even ones of two that are equally near, of numbers up to 2²².
    @inline(__always)
    static func nearest(_ values: Lanes) -> Lanes {
        (values + 12_582_912) - 12_582_912
    }

    /// Integral numbers up to 2²² as such.
    @inline(__always)
    static func integers(_ values: Lanes) -> SIMD8<Int32> {
        unsafeBitCast(values + 12_582_912, to: SIMD8<Int32>.self) &- 0x4B40_0000
    }

    /// Written lane by lane, so that the compiler takes the instructions for minimum and maximum.
    @inline(__always)
    static func clamped(_ values: Lanes, _ low: Float, _ high: Float) -> Lanes {
        var result = Lanes()
        for lane in 0..<8 {
            let value = values[lane] < low ? low : values[lane]
            result[lane] = value > high ? high : value
        }
        return result
    }
}
