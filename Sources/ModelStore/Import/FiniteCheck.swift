/// Looks for weights and scales that are infinite or not a number.
enum FiniteCheck {
    /// The first such place in rows that follow each other: the index of the value or, with blocks, of the block.
    ///
    /// - Parameter bytes: aligned to 8.
    static func firstBad(_ format: TensorFormat, _ bytes: UnsafeRawBufferPointer) -> Int? {
        switch format {
        case .f32: firstBad(bytes, exponent: 0x7F80_0000, lane: UInt32.self)
        case .f16: firstBad(bytes, exponent: 0x7C00, lane: UInt16.self)
        case .bf16: firstBad(bytes, exponent: 0x7F80, lane: UInt16.self)
        case .q8_0, .q4_0: firstBadBlock(bytes, format.bytesPerBlock, scales: [0])
        case .q4_K, .q5_K: firstBadBlock(bytes, format.bytesPerBlock, scales: [0, 2])
        case .q6_K: firstBadBlock(bytes, format.bytesPerBlock, scales: [208])
        }
    }

    /// Eight bytes at a time: adding the exponent's lowest bit to an exponent of all ones, and to no other, carries
    /// into the sign's place, which was masked out before.
    private static func firstBad<Lane: FixedWidthInteger>(
        _ bytes: UnsafeRawBufferPointer, exponent: Lane, lane: Lane.Type
    ) -> Int? {
        let lowest = exponent & (~exponent &+ 1)
        var mask: UInt64 = 0
        var one: UInt64 = 0
        var sign: UInt64 = 0
        for _ in 0..<(64 / Lane.bitWidth) {
            mask = mask << UInt64(Lane.bitWidth) | UInt64(truncatingIfNeeded: exponent)
            one = one << UInt64(Lane.bitWidth) | UInt64(truncatingIfNeeded: lowest)
            sign = sign << UInt64(Lane.bitWidth) | 1 << UInt64(Lane.bitWidth - 1)
        }
        var offset = 0
        while offset + 8 <= bytes.count {
            let word = bytes.load(fromByteOffset: offset, as: UInt64.self)
            if ((word & mask) &+ one) & sign != 0 { break }
            offset += 8
        }
        let width = Lane.bitWidth / 8
        while offset + width <= bytes.count {
            if bytes.load(fromByteOffset: offset, as: Lane.self) & exponent == exponent { return offset / width }
            offset += width
        }
        return nil
    }

    private static func firstBadBlock(_ bytes: UnsafeRawBufferPointer, _ blockBytes: Int, scales: [Int]) -> Int? {
        var block = 0
        while (block + 1) * blockBytes <= bytes.count {
            for scale in scales {
                let bits = bytes.loadUnaligned(fromByteOffset: block * blockBytes + scale, as: UInt16.self)
                if bits & 0x7C00 == 0x7C00 { return block }
            }
            block += 1
        }
        return nil
    }
}
