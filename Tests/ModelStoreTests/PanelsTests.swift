import ModelStore
import Testing

@Suite struct PanelsTests {
    /// Where a byte of a row lies in the panel, straight from the layout's description, one formula for each section.
    private func place(_ format: TensorFormat, row: Int, block: Int, byte: Int, columns: Int) -> Int {
        let blocks = columns / format.blockSize
        let scales = (blocks * 32 + 63) / 64 * 64
        func unit(_ byte: Int) -> Int { byte / 4 * 64 + row * 4 + byte % 4 }
        func half(_ byte: Int) -> Int { row * 2 + byte }
        switch format {
        case .f32: return block * 64 + row * 4 + byte
        case .f16, .bf16: return block * 32 + half(byte)
        case .q8_0: return byte < 2 ? block * 32 + half(byte) : scales + block * 512 + unit(byte - 2)
        case .q4_0: return byte < 2 ? block * 32 + half(byte) : scales + block * 256 + unit(byte - 2)
        case .q4_K, .q5_K:
            let begin = block * (format == .q4_K ? 2304 : 2816)
            switch byte {
            case 0..<2: return begin + half(byte)
            case 2..<4: return begin + 32 + half(byte - 2)
            case 4..<16: return begin + 64 + (byte - 4) * 16 + row
            default:
                if format == .q4_K {
                    return begin + 256 + unit(byte - 16)
                }
                return begin + 256 + (byte - 48) / 32 * 640 + 128 + unit((byte - 48) % 32)
            }
        case .q6_K:
            let begin = scales + block * 3328
            switch byte {
            case 0..<128:
                let (n, second, quad) = (byte / 64, byte / 32 % 2, byte / 4 % 8)
                return begin + 256 + (8 * n + quad) * 192 + 64 + second * 64 + unit(byte % 4)
            case 128..<192: return begin + 256 + (byte - 128) / 4 * 192 + unit(byte % 4)
            case 192..<208: return begin + (byte - 192) * 16 + row
            default: return block * 32 + half(byte - 208)
            }
        }
    }

    /// The same for a bit: those of q5_K's `qh` are spread over the bytes of the values that they belong to.
    private func place(
        _ format: TensorFormat, row: Int, block: Int, byte: Int, bit: Int, columns: Int
    ) -> (byte: Int, bit: Int) {
        guard format == .q5_K, (16..<48).contains(byte) else {
            return (place(format, row: row, block: block, byte: byte, columns: columns), bit)
        }
        // Bit `bit` of qh[l] belongs to value 32 * bit + l.
        let (chunk, nibble, unit, inUnit) = (bit / 2, bit % 2, (byte - 16) / 4, byte % 4)
        return (block * 2816 + 256 + chunk * 640 + nibble * 64 + row * 4 + inUnit, unit)
    }

    @Test(arguments: TensorFormat.allCases)
    func everyBitLiesWhereTheLayoutSays(_ format: TensorFormat) {
        let seed: UInt64 = 1
        var generator = SeededGenerator(seed: seed)
        // Three blocks: the scales' section needs its padding.
        let columns = format.blockSize * 3
        let rowBytes = format.rowBytes(columns: columns)
        for rows in [1, 5, 16] {
            let source = generator.bytes(rows * rowBytes)
            var panel = [UInt8](repeating: 0xAA, count: format.panelBytes(columns: columns))
            source.withUnsafeBytes { source in
                panel.withUnsafeMutableBytes { Panels.pack(format, rows: source, columns: columns, into: $0) }
            }
            var expected = [UInt8](repeating: 0, count: panel.count)
            for row in 0..<rows {
                for byte in 0..<rowBytes {
                    for bit in 0..<8 {
                        let target = place(
                            format, row: row, block: byte / format.bytesPerBlock, byte: byte % format.bytesPerBlock,
                            bit: bit, columns: columns)
                        expected[target.byte] |= (source[row * rowBytes + byte] >> bit & 1) << target.bit
                    }
                }
            }
            #expect(panel == expected, "seed \(seed), \(rows) rows")
        }
    }

    @Test(arguments: TensorFormat.allCases)
    func unpackingIsTheInverse(_ format: TensorFormat) {
        let seed: UInt64 = 2
        var generator = SeededGenerator(seed: seed)
        for blocks in [1, 2, 5] {
            let columns = format.blockSize * blocks
            for rows in [1, 15, 16] {
                let source = generator.bytes(rows * format.rowBytes(columns: columns))
                var panel = [UInt8](repeating: 0, count: format.panelBytes(columns: columns))
                var back = [UInt8](repeating: 0, count: source.count)
                source.withUnsafeBytes { source in
                    panel.withUnsafeMutableBytes { Panels.pack(format, rows: source, columns: columns, into: $0) }
                }
                panel.withUnsafeBytes { panel in
                    back.withUnsafeMutableBytes { Panels.unpack(format, panel: panel, columns: columns, into: $0) }
                }
                #expect(back == source, "seed \(seed), \(rows) rows of \(blocks) blocks")
            }
        }
    }

    @Test func sizes() {
        #expect(TensorFormat.q8_0.panelBytes(columns: 96) == 128 + 3 * 512)
        #expect(TensorFormat.q6_K.panelBytes(columns: 256) == 64 + 3328)
        #expect(TensorFormat.q4_K.panelBytes(columns: 512) == 2 * 2304)
        #expect(TensorFormat.q5_K.panelBytes(columns: 256) == 2816)
        #expect(TensorFormat.f32.matrixBytes(rows: 17, columns: 3, panels: true) == 2 * 16 * 3 * 4)
        #expect(TensorFormat.q4_0.matrixBytes(rows: 17, columns: 64, panels: false) == 17 * 2 * 18)
        #expect(ActivationFormat.a8_32.rowBytes(columns: 64) == 72)
        #expect(ActivationFormat.a8_256.rowBytes(columns: 512) == 520)
    }
}
