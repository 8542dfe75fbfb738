/// Reads a tensor's rows, checks, converts and packs them, and appends them to a blob: a few megabytes at a time,
/// whatever the tensor's size.
struct TensorWriter {
    let source: SourceTensor
    let target: TensorEntry

    /// Enough for the disk to be busy, little enough for the caches.
    private static let chunkBytes = 2 << 20

    /// - Parameter progress: told the bytes of the source that were read.
    func write(to blob: inout BlobWriter, progress: (Int) -> Void) throws {
        try blob.pad(to: target.offset)
        let panelRows = TensorFormat.panelRows
        let sourceRowBytes = source.rowBytes
        let targetRowBytes = target.format.rowBytes(columns: target.columns)
        let chunkRows = min(
            (target.rows + panelRows - 1) / panelRows * panelRows,
            max(panelRows, Self.chunkBytes / sourceRowBytes / panelRows * panelRows))
        let input = UnsafeMutableRawBufferPointer.allocate(byteCount: chunkRows * sourceRowBytes, alignment: 64)
        let converted = UnsafeMutableRawBufferPointer.allocate(byteCount: chunkRows * targetRowBytes, alignment: 64)
        let panel = UnsafeMutableRawBufferPointer.allocate(
            byteCount: target.format.panelBytes(columns: target.columns), alignment: 64)
        defer {
            input.deallocate()
            converted.deallocate()
            panel.deallocate()
        }
        var first = 0
        while first < target.rows {
            let count = min(chunkRows, target.rows - first)
            let raw = UnsafeMutableRawBufferPointer(rebasing: input[..<(count * sourceRowBytes)])
            try read(first, count, into: raw)
            try checkFinite(UnsafeRawBufferPointer(raw), first: first)
            let rows: UnsafeRawBufferPointer
            if target.format == source.format {
                rows = UnsafeRawBufferPointer(raw)
            } else {
                let part = UnsafeMutableRawBufferPointer(rebasing: converted[..<(count * targetRowBytes)])
                try convert(UnsafeRawBufferPointer(raw), first: first, count: count, into: part)
                rows = UnsafeRawBufferPointer(part)
            }
            if target.panels {
                var row = 0
                while row < count {
                    let end = min(row + panelRows, count)
                    Panels.pack(
                        target.format,
                        rows: UnsafeRawBufferPointer(rebasing: rows[row * targetRowBytes..<end * targetRowBytes]),
                        columns: target.columns, into: panel)
                    try blob.append(UnsafeRawBufferPointer(panel))
                    row = end
                }
            } else {
                try blob.append(rows)
            }
            progress(raw.count)
            first += count
        }
    }

    private func read(_ first: Int, _ count: Int, into buffer: UnsafeMutableRawBufferPointer) throws {
        let rowBytes = source.rowBytes
        guard source.interleavedHeads != nil else {
            return try source.file.read(at: source.offset + UInt64(first * rowBytes), into: buffer)
        }
        for row in 0..<count {
            try source.file.read(
                at: source.offset + UInt64(source.sourceRow(first + row) * rowBytes),
                into: UnsafeMutableRawBufferPointer(rebasing: buffer[row * rowBytes..<(row + 1) * rowBytes]))
        }
    }

    private func checkFinite(_ rows: UnsafeRawBufferPointer, first: Int) throws {
        guard let index = FiniteCheck.firstBad(source.format, rows) else { return }
        let perRow = source.columns / source.format.blockSize
        let row = first + index / perRow
        let part = index % perRow
        let offset = UInt64(source.sourceRow(row) * source.rowBytes + part * source.format.bytesPerBlock)
        throw ModelError(
            .notFinite, source.format.isPlain ? "a weight that is not finite" : "a scale that is not finite",
            file: source.file.path,
            field: "\(source.name), row \(source.sourceRow(row)), column \(part * source.format.blockSize)",
            offset: source.offset + offset)
    }

    /// Widening to float32, which is exact, or quantisation to q8_0: all that the import ever does to a weight.
    private func convert(
        _ rows: UnsafeRawBufferPointer, first: Int, count: Int, into target: UnsafeMutableRawBufferPointer
    ) throws {
        let targetRowBytes = self.target.format.rowBytes(columns: self.target.columns)
        for row in 0..<count {
            let bytes = UnsafeRawBufferPointer(rebasing: rows[row * source.rowBytes..<(row + 1) * source.rowBytes])
            let values = Dequantiser.row(source.format, bytes, columns: source.columns)
            let part = UnsafeMutableRawBufferPointer(
                rebasing: target[row * targetRowBytes..<(row + 1) * targetRowBytes])
            guard self.target.format == .q8_0 else {
                values.withUnsafeBytes { part.copyMemory(from: $0) }
                continue
            }
            if let block = Quantiser.q8_0(values, into: part) {
                throw ModelError(
                    .notFinite, "weights too large for a float16 scale", file: source.file.path,
                    field: "\(source.name), row \(first + row), column \(block * 32)")
            }
        }
    }
}
