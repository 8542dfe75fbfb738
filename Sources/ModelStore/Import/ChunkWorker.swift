/// A thread's part of an import: reads rows, converts and packs them. It keeps the memory that this takes.
struct ChunkWorker {
    /// Memory for one purpose, as large as was ever asked for.
    private final class Scratch {
        private var memory = UnsafeMutableRawBufferPointer(start: nil, count: 0)

        deinit { memory.deallocate() }

        func callAsFunction(_ bytes: Int) -> UnsafeMutableRawBufferPointer {
            if memory.count < bytes {
                memory.deallocate()
                memory = .allocate(byteCount: bytes, alignment: 64)
            }
            return UnsafeMutableRawBufferPointer(rebasing: memory[..<bytes])
        }
    }

    private let input = Scratch()
    private let converted = Scratch()
    private let widened = Scratch()

    /// Writes the rows as they lie in the blob.
    ///
    /// - Parameters:
    ///   - rows: whole panels, but for the tensor's last one.
    ///   - output: their bytes; what is behind them is filled with zeros.
    func prepare(
        _ rows: Range<Int>, of source: any RowSource, as target: TensorEntry,
        into output: UnsafeMutableRawBufferPointer
    ) throws {
        let raw = input(rows.count * source.rowBytes)
        try source.read(rows, into: raw)
        let whole: UnsafeRawBufferPointer
        if target.format == source.format {
            whole = UnsafeRawBufferPointer(raw)
        } else {
            let part = converted(rows.count * target.format.rowBytes(columns: target.columns))
            try convert(UnsafeRawBufferPointer(raw), rows, of: source, to: target.format, into: part)
            whole = UnsafeRawBufferPointer(part)
        }
        let end = Self.copy(whole, as: target, into: output)
        UnsafeMutableRawBufferPointer(rebasing: output[end...]).initializeMemory(as: UInt8.self, repeating: 0)
    }

    /// - Returns: the bytes that were written.
    private static func copy(
        _ rows: UnsafeRawBufferPointer, as target: TensorEntry, into output: UnsafeMutableRawBufferPointer
    ) -> Int {
        guard target.panels else {
            output.copyMemory(from: rows)
            return rows.count
        }
        let panelBytes = target.format.panelBytes(columns: target.columns)
        let rowsBytes = TensorFormat.panelRows * target.format.rowBytes(columns: target.columns)
        var read = 0
        var written = 0
        while read < rows.count {
            Panels.pack(
                target.format,
                rows: UnsafeRawBufferPointer(rebasing: rows[read..<min(read + rowsBytes, rows.count)]),
                columns: target.columns,
                into: UnsafeMutableRawBufferPointer(rebasing: output[written..<written + panelBytes]))
            read += rowsBytes
            written += panelBytes
        }
        return written
    }

    /// Widening to float32, which is exact, or quantisation: all that the import ever does to a weight.
    private func convert(
        _ bytes: UnsafeRawBufferPointer, _ rows: Range<Int>, of source: any RowSource, to format: TensorFormat,
        into target: UnsafeMutableRawBufferPointer
    ) throws {
        let targetRowBytes = format.rowBytes(columns: source.columns)
        for (index, row) in rows.enumerated() {
            let begin = index * source.rowBytes
            let bytes = UnsafeRawBufferPointer(rebasing: bytes[begin..<begin + source.rowBytes])
            let part = UnsafeMutableRawBufferPointer(
                rebasing: target[index * targetRowBytes..<(index + 1) * targetRowBytes])
            if format == .f32 {
                Widening.row(source.format, bytes, into: part.bindMemory(to: Float.self))
                continue
            }
            let values = widened(source.columns * 4).bindMemory(to: Float.self)
            Widening.row(source.format, bytes, into: values)
            if let block = Quantiser.row(UnsafeBufferPointer(values), to: format, into: part) {
                throw ModelError(
                    .notFinite, "weights too large for a float16 scale", file: source.path,
                    field: "\(source.name), row \(row), column \(block * format.blockSize)")
            }
        }
    }
}
