/// A tensor of ones or of random weights: random quants, and scales that are nearly all the same.
struct SyntheticTensor: RowSource {
    enum Content: Sendable {
        /// Plain formats only.
        case ones
        /// Weights around 0 with this standard deviation, or near it.
        case random(seed: UInt64, spread: Float)
    }

    let name: String
    /// The model's name.
    let path: String
    let format: TensorFormat
    let rows: Int
    let columns: Int
    let content: Content

    /// A seed for each tensor.
    static func seed(_ seed: UInt64, _ name: String) -> UInt64 {
        var generator = RowGenerator(seed: seed, row: 0)
        for byte in name.utf8 { generator = RowGenerator(seed: generator.next(), row: Int(byte)) }
        return generator.next()
    }

    func read(_ rows: Range<Int>, into buffer: UnsafeMutableRawBufferPointer) {
        for row in rows {
            let begin = (row - rows.lowerBound) * rowBytes
            let part = UnsafeMutableRawBufferPointer(rebasing: buffer[begin..<begin + rowBytes])
            switch content {
            case .ones:
                fillPlain(part) { 1 }
            case .random(let seed, let spread):
                var generator = RowGenerator(seed: seed, row: row)
                if format.isPlain {
                    // Evenly from -√3 to √3 times the deviation.
                    let factor = spread * Float(3).squareRoot() / Float(1 << 23)
                    fillPlain(part) { Float(Int32(truncatingIfNeeded: generator.next() >> 40) - 1 << 23) * factor }
                } else {
                    fillBlocks(part, spread, &generator)
                }
            }
        }
    }

    private func fillPlain(_ row: UnsafeMutableRawBufferPointer, _ value: () -> Float) {
        for index in 0..<columns {
            let value = value()
            switch format {
            case .f16: row.storeBytes(of: Float16(value).bitPattern, toByteOffset: index * 2, as: UInt16.self)
            case .bf16:
                row.storeBytes(
                    of: UInt16(truncatingIfNeeded: value.bitPattern >> 16), toByteOffset: index * 2, as: UInt16.self)
            default: row.storeBytes(of: value, toByteOffset: index * 4, as: Float.self)
            }
        }
    }

    private func fillBlocks(_ row: UnsafeMutableRawBufferPointer, _ spread: Float, _ generator: inout RowGenerator) {
        generator.fill(row)
        for block in 0..<columns / format.blockSize {
            let begin = block * format.bytesPerBlock
            func set(_ value: Float, at offset: Int) {
                row.storeBytes(of: Float16(value).bitPattern, toByteOffset: begin + offset, as: UInt16.self)
            }
            // The deviation of n values one apart is √((n² - 1) / 12): 73.9 for 8 bits, 18.5 for 6, 9.23 for 5, 4.61 for
            // 4. Scales of groups are 28 to 35, their minima the same, so that the minimum's factor is their mean.
            switch format {
            case .q8_0: set(spread / 73.9, at: 0)
            case .q4_0: set(spread / 4.61, at: 0)
            case .q4_K, .q5_K:
                let d = spread / (format == .q4_K ? 4.61 : 9.23) / 31.5
                set(d, at: 0)
                set(d * (format == .q4_K ? 7.5 : 15.5), at: 2)
                let bits = generator.next()
                var scales = SIMD8<UInt8>()
                for group in 0..<8 { scales[group] = 28 + UInt8(truncatingIfNeeded: bits >> (8 * UInt64(group))) & 7 }
                GroupScales(scales: scales, minima: scales).store(
                    in: UnsafeMutableRawBufferPointer(rebasing: row[begin + 4..<begin + 16]))
            case .q6_K:
                for part in 192..<208 { row[begin + part] = 28 + row[begin + part] & 7 }
                set(spread / 18.5 / 31.5, at: 208)
            case .f32, .f16, .bf16: break
            }
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014), begun anew for each row, so that rows do not depend on who draws them.
private struct RowGenerator {
    private var state: UInt64

    init(seed: UInt64, row: Int) {
        state = seed
        state = next() ^ UInt64(truncatingIfNeeded: row)
        state = next()
    }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z &>> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z &>> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z &>> 31)
    }

    /// Little-endian words, the last one cut.
    mutating func fill(_ bytes: UnsafeMutableRawBufferPointer) {
        var offset = 0
        while offset &+ 8 <= bytes.count {
            bytes.storeBytes(of: next().littleEndian, toByteOffset: offset, as: UInt64.self)
            offset &+= 8
        }
        if offset < bytes.count {
            withUnsafeBytes(of: next().littleEndian) { rest in
                for index in 0..<bytes.count - offset { bytes[offset + index] = rest[index] }
            }
        }
    }
}
