/// The scales and minima of the 8 groups of a q4_K or q5_K block, 6 bits each.
struct GroupScales {
    var scales: SIMD8<UInt8>
    var minima: SIMD8<UInt8>

    /// The inverse of `get_scale_min_k4` of ggml-quants.c.
    ///
    /// - Parameter bytes: the block's 12 bytes.
    func store(in bytes: UnsafeMutableRawBufferPointer) {
        for group in 0..<4 {
            bytes[group] = scales[group] | (scales[group + 4] >> 4) << 6
            bytes[group + 4] = minima[group] | (minima[group + 4] >> 4) << 6
            bytes[group + 8] = scales[group + 4] & 15 | minima[group + 4] << 4
        }
    }
}
