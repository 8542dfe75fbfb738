import Foundation

/// Packing of rows into panels, and back (``PanelLayout``).
package enum Panels {
    /// Packs rows, as they lie in a source, into one panel.
    ///
    /// - Parameters:
    ///   - rows: 1 to 16 rows, each `format.rowBytes(columns:)` long, one after the other.
    ///   - columns: the values of a row, whole blocks.
    ///   - panel: `format.panelBytes(columns:)` bytes, aligned to 4; all of them are written, missing rows and padding
    ///     as zeros.
    package static func pack(
        _ format: TensorFormat, rows: UnsafeRawBufferPointer, columns: Int, into panel: UnsafeMutableRawBufferPointer
    ) {
        let layout = PanelLayout(format, columns: columns)
        let count = rowCount(format, rows.count, columns: columns)
        precondition(panel.count == layout.panelBytes, "a panel of the wrong size")
        guard let source = rows.baseAddress, let target = panel.baseAddress else { return }
        memset(target, 0, panel.count)
        forEachUnit(layout, rowBytes: format.rowBytes(columns: columns)) { sourceOffset, rowBytes, panelOffset, unit in
            copy(
                from: source + sourceOffset, stride: rowBytes, to: target + panelOffset, stride: unit, unit: unit,
                count: count)
        }
        let fifths = layout.fifths
        guard !fifths.isEmpty else { return }
        for block in 0..<layout.blocks {
            let part = target + layout.blockBase + block * layout.panelBlockBytes
            for byte in 0..<4 * TensorFormat.panelRows {
                transposeBits(part + byte) { fifths[$0] }
            }
        }
    }

    /// The inverse of ``pack(_:rows:columns:into:)``.
    ///
    /// - Parameters:
    ///   - panel: `format.panelBytes(columns:)` bytes.
    ///   - rows: room for 1 to 16 rows; those that it has no room for are left out.
    package static func unpack(
        _ format: TensorFormat, panel: UnsafeRawBufferPointer, columns: Int, into rows: UnsafeMutableRawBufferPointer
    ) {
        let layout = PanelLayout(format, columns: columns)
        let count = rowCount(format, rows.count, columns: columns)
        precondition(panel.count == layout.panelBytes, "a panel of the wrong size")
        guard let source = panel.baseAddress, let target = rows.baseAddress else { return }
        forEachUnit(layout, rowBytes: format.rowBytes(columns: columns)) { rowOffset, rowBytes, panelOffset, unit in
            copy(
                from: source + panelOffset, stride: unit, to: target + rowOffset, stride: rowBytes, unit: unit,
                count: count)
        }
        guard let fifths = layout.fifthsSource else { return }
        for block in 0..<count * layout.blocks {
            let part = target + block * layout.sourceBlockBytes + fifths
            for byte in 0..<4 {
                transposeBits(part + byte) { 4 * $0 }
            }
        }
    }

    /// Eight bytes as a matrix of 8 x 8 bits, transposed where it lies; byte `i` is `offset(i)` behind `base`. (Warren, Hacker's
    /// Delight, 7-3.)
    @inline(__always)
    private static func transposeBits(_ base: UnsafeMutableRawPointer, offset: (Int) -> Int) {
        var bits: UInt64 = 0
        for byte in 0..<8 {
            bits |= UInt64(base.load(fromByteOffset: offset(byte), as: UInt8.self)) << (8 * UInt64(byte))
        }
        for (shift, mask) in [(7, 0x00AA_00AA_00AA_00AA), (14, 0x0000_CCCC_0000_CCCC), (28, 0x0000_0000_F0F0_F0F0)]
            as [(UInt64, UInt64)]
        {
            let moved = (bits ^ (bits >> shift)) & mask
            bits ^= moved ^ (moved << shift)
        }
        for byte in 0..<8 {
            base.storeBytes(
                of: UInt8(truncatingIfNeeded: bits >> (8 * UInt64(byte))), toByteOffset: offset(byte), as: UInt8.self)
        }
    }

    /// How many rows a buffer holds. Only a bug of the caller's can make it wrong: sizes of files are checked long
    /// before.
    private static func rowCount(_ format: TensorFormat, _ bytes: Int, columns: Int) -> Int {
        let rowBytes = format.rowBytes(columns: columns)
        precondition(rowBytes > 0 && bytes % rowBytes == 0, "not whole rows")
        precondition((1...TensorFormat.panelRows).contains(bytes / rowBytes), "a panel has 16 rows")
        return bytes / rowBytes
    }

    /// Calls the body with every unit of the layout: its offset in the first row, the distance of the same unit in the
    /// next row, the offset of the first row's unit in the panel, the unit's bytes.
    @inline(__always)
    private static func forEachUnit(_ layout: PanelLayout, rowBytes: Int, _ body: (Int, Int, Int, Int) -> Void) {
        var block = 0
        while block < layout.blocks {
            let source = block * layout.sourceBlockBytes
            if let scale = layout.scaleSource {
                body(source + scale, rowBytes, block * 2 * TensorFormat.panelRows, 2)
            }
            let panel = layout.blockBase + block * layout.panelBlockBytes
            for run in layout.runs {
                var index = 0
                while index < run.count {
                    body(
                        source + run.source + index * run.unit, rowBytes,
                        panel + run.panel + index * run.unit * TensorFormat.panelRows, run.unit)
                    index += 1
                }
            }
            block += 1
        }
    }

    /// Copies `count` units from places `stride` apart to places `stride` apart. Blocks of 18, 34 or 210 bytes leave
    /// the source's units unaligned, so they are loaded and stored as such; on every machine that matters this is one
    /// instruction.
    @inline(__always)
    private static func copy(
        from source: UnsafeRawPointer, stride sourceStride: Int, to target: UnsafeMutableRawPointer,
        stride targetStride: Int, unit: Int, count: Int
    ) {
        var row = 0
        switch unit {
        case 4:
            while row < count {
                let value = source.loadUnaligned(fromByteOffset: row &* sourceStride, as: UInt32.self)
                target.storeBytes(of: value, toByteOffset: row &* targetStride, as: UInt32.self)
                row += 1
            }
        case 2:
            while row < count {
                let value = source.loadUnaligned(fromByteOffset: row &* sourceStride, as: UInt16.self)
                target.storeBytes(of: value, toByteOffset: row &* targetStride, as: UInt16.self)
                row += 1
            }
        default:
            while row < count {
                target.storeBytes(
                    of: source.load(fromByteOffset: row &* sourceStride, as: UInt8.self),
                    toByteOffset: row &* targetStride, as: UInt8.self)
                row += 1
            }
        }
    }
}
