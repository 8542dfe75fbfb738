/// Where each byte of 16 rows lies in a panel (panel layout v3).
///
/// A product reads a panel from its first byte to its last: a vector holds the same few inputs of all 16 outputs, so
/// that sums need no shuffling across lanes. The layout is a permutation of the source's bytes, and of q5_K's fifth bits,
/// so nothing is lost; it is written down once, as runs, and packing and unpacking both follow it.
///
/// Rows 0…15 of a panel, `r` below; a matrix's last panel is padded with rows of zero bytes. Everything is
/// little-endian.
/// - f32, f16, bf16: for each column the 16 values.
/// - q8_0, q4_0: the 16 scales `d` of each block, zeros to a multiple of 64; then for each block its quants in units of
///   4 bytes, unit after unit, in each unit row after row.
/// - q4_K, q5_K: for each super-block the 16 `d`, the 16 `dmin`, the 12 bytes of scales (each of all rows), then for each
///   64 values their 32 bytes of `qs` in units of 4 bytes, in q5_K behind two units of their fifth bits: bit `v` of a
///   byte is that of the value in the same byte of unit `v` of `qs`, for low nibbles in the first unit.
/// - q6_K: the 16 `d` of each super-block, zeros to a multiple of 64; then for each super-block the 16 scales (each of
///   all rows) and, in units of 4 bytes, each unit of `qh` and the two of `ql` that it completes.
struct PanelLayout {
    /// `count` units of `unit` bytes that follow each other in a row's block, and lie 16 units apart in the panel.
    struct Run {
        /// From the beginning of the row's block.
        var source: Int
        /// From the beginning of the block's part in the panel.
        var panel: Int
        /// 1, 2 or 4 bytes.
        var unit: Int
        var count: Int
    }

    /// The blocks of a row; a row of plain values is taken as one block.
    let blocks: Int
    /// The bytes of a row's block in the source.
    let sourceBlockBytes: Int
    /// Where in a row's block the scale lies that is stored apart, before all blocks of the panel; nil where none is.
    let scaleSource: Int?
    /// The rest of the block.
    let runs: [Run]
    /// Where in a row's block the 32 bytes of fifth bits lie, of which a panel has the bits transposed; nil where none are.
    let fifthsSource: Int?
    /// Where the first block begins in the panel: behind the scales, at a multiple of 64.
    let blockBase: Int
    /// What a block of 16 rows takes in the panel, without the scales that are stored apart.
    let panelBlockBytes: Int

    /// - Parameter columns: whole blocks, at most ``TensorFormat/maximumDimension``.
    init(_ format: TensorFormat, columns: Int) {
        typealias Part = (source: Int, unit: Int, count: Int)
        let parts: [Part]
        switch format {
        case .f32:
            (scaleSource, parts) = (nil, [(0, 4, columns)])
        case .f16, .bf16:
            (scaleSource, parts) = (nil, [(0, 2, columns)])
        case .q8_0:
            (scaleSource, parts) = (0, [(2, 4, 8)])
        case .q4_0:
            (scaleSource, parts) = (0, [(2, 4, 4)])
        case .q4_K:
            // block_q4_K: d, dmin, scales[12], qs[128]
            (scaleSource, parts) = (nil, [(0, 2, 2), (4, 1, 12), (16, 4, 32)])
        case .q5_K:
            // block_q5_K: d, dmin, scales[12], qh[32], qs[128]
            let chunks = (0..<4).flatMap { chunk -> [Part] in [(16 + 8 * chunk, 4, 2), (48 + 32 * chunk, 4, 8)] }
            (scaleSource, parts) = (nil, [(0, 2, 2), (4, 1, 12)] + chunks)
        case .q6_K:
            // block_q6_K: ql[128], qh[64], scales[16], d
            let quads = (0..<16).flatMap { quad -> [Part] in
                let low = quad / 8 * 64 + quad % 8 * 4
                return [(128 + quad * 4, 4, 1), (low, 4, 1), (low + 32, 4, 1)]
            }
            (scaleSource, parts) = (208, [(192, 1, 16)] + quads)
        }
        var runs: [Run] = []
        var panel = 0
        for part in parts {
            runs.append(Run(source: part.source, panel: panel, unit: part.unit, count: part.count))
            panel += part.unit * part.count * TensorFormat.panelRows
        }
        self.runs = runs
        fifthsSource = format == .q5_K ? 16 : nil
        panelBlockBytes = panel
        blocks = format.isPlain ? 1 : columns / format.blockSize
        sourceBlockBytes = format.isPlain ? format.rowBytes(columns: columns) : format.bytesPerBlock
        blockBase = scaleSource == nil ? 0 : (blocks * 2 * TensorFormat.panelRows + 63) & ~63
    }

    /// Where the groups of fifth bits lie in the block's part of the panel, in the order of their units in the source.
    var fifths: [Int] {
        guard let fifthsSource else { return [] }
        return runs.filter { (fifthsSource..<fifthsSource + 32).contains($0.source) }.flatMap { run in
            (0..<run.count).map { run.panel + $0 * run.unit * TensorFormat.panelRows }
        }
    }

    /// The bytes of a panel.
    var panelBytes: Int { blockBase + blocks * panelBlockBytes }
}
