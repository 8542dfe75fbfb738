/// A blob to be written.
struct ImportJob: Sendable {
    /// What is read, converted and written at once.
    struct Chunk: Sendable {
        var tensor: Int
        var rows: Range<Int>
        /// In the blob, with the padding behind it.
        var bytes: Int
    }

    /// Its place in the manifest: `layers.3.experts.5`.
    let part: String
    let sources: [any RowSource]
    /// Without its name.
    let blob: BlobReference
    /// All of the blob, in order.
    let chunks: [Chunk]

    /// Large enough for disk and system calls, small enough for a processor's own cache.
    private static let chunkBytes = 1 << 20

    init(part: String, sources: [any RowSource], blob: BlobReference) {
        self.part = part
        self.sources = sources
        self.blob = blob
        var chunks: [Chunk] = []
        for (index, tensor) in blob.tensors.enumerated() {
            let end = index + 1 < blob.tensors.count ? blob.tensors[index + 1].offset : blob.bytes
            let rowBytes = max(sources[index].rowBytes, tensor.format.rowBytes(columns: tensor.columns))
            let step = max(1, Self.chunkBytes / rowBytes / TensorFormat.panelRows) * TensorFormat.panelRows
            var offset = tensor.offset
            for first in stride(from: 0, to: tensor.rows, by: step) {
                let rows = first..<min(first + step, tensor.rows)
                let bytes = tensor.format.matrixBytes(
                    rows: rows.count, columns: tensor.columns, panels: tensor.panels)
                let next = rows.upperBound == tensor.rows ? end : offset + bytes
                chunks.append(Chunk(tensor: index, rows: rows, bytes: next - offset))
                offset = next
            }
        }
        self.chunks = chunks
    }

    var sourceBytes: Int { sources.reduce(0) { $0 + $1.bytes } }
}
