/// Where the rows of a tensor come from.
protocol RowSource: Sendable {
    /// For messages.
    var name: String { get }
    /// For messages: the file.
    var path: String { get }
    var format: TensorFormat { get }
    var rows: Int { get }
    var columns: Int { get }

    /// Fills a buffer with rows that follow each other in the model; their weights and scales are finite.
    ///
    /// - Parameter buffer: as long as the rows in ``format``, aligned to 64.
    func read(_ rows: Range<Int>, into buffer: UnsafeMutableRawBufferPointer) throws
}

extension RowSource {
    var rowBytes: Int { format.rowBytes(columns: columns) }

    /// All rows.
    var bytes: Int { rows * rowBytes }
}

extension SourceTensor: RowSource {
    var path: String { file.path }

    func read(_ rows: Range<Int>, into buffer: UnsafeMutableRawBufferPointer) throws {
        if interleavedHeads == nil {
            try file.read(at: offset + UInt64(rows.lowerBound * rowBytes), into: buffer)
        } else {
            for row in rows {
                let begin = (row - rows.lowerBound) * rowBytes
                try file.read(
                    at: offset + UInt64(sourceRow(row) * rowBytes),
                    into: UnsafeMutableRawBufferPointer(rebasing: buffer[begin..<begin + rowBytes]))
            }
        }
        try checkFinite(UnsafeRawBufferPointer(buffer), first: rows.lowerBound)
    }

    private func checkFinite(_ rows: UnsafeRawBufferPointer, first: Int) throws {
        guard let index = FiniteCheck.firstBad(format, rows) else { return }
        let perRow = columns / format.blockSize
        let row = sourceRow(first + index / perRow)
        let part = index % perRow
        throw ModelError(
            .notFinite, format.isPlain ? "a weight that is not finite" : "a scale that is not finite",
            file: file.path, field: "\(name), row \(row), column \(part * format.blockSize)",
            offset: offset + UInt64(row * rowBytes + part * format.bytesPerBlock))
    }
}

/// What is imported: a shape, a tokenizer, and where the rows of every tensor come from.
struct ImportModel: Sendable {
    /// Each list in the order of the blob's plan (``ModelShape/densePlan``, ``ModelShape/expertPlan``).
    struct Layer: Sendable {
        var dense: [any RowSource]
        var experts: [[any RowSource]]
    }

    /// Any text.
    var name: String
    var shape: ModelShape
    /// A SentencePiece model of exactly `shape.vocabulary` pieces.
    var tokenizer: [UInt8]
    var embedding: any RowSource
    /// `norm`, `output`
    var head: [any RowSource]
    /// The layers that are written. Where the shape has more, they are these again, in turn.
    var layers: [Layer]
}

extension ImportModel {
    init(_ source: SourceModel) {
        self.init(
            name: source.name, shape: source.shape, tokenizer: source.tokenizer, embedding: source.embedding,
            head: source.head, layers: source.layers.map { Layer(dense: $0.dense, experts: $0.experts) })
    }
}
