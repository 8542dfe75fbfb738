import Engine
import ModelStore
import NIOCore
import Wire

/// The rows of one step at its home. Confined to the data loop.
final class StepBuffers {
    /// Rows that are computed together; a layer's work is one item for each.
    final class Chunk {
        let rows: Range<Int>
        /// Input tokens where the stage begins with the embedding; else empty.
        let tokens: [Int32]
        let hidden: RowBuffer
        let batch: AttentionBatch
        let routed = RoutedRows()

        init(rows: Range<Int>, tokens: [Int32], hidden: RowBuffer, batch: AttentionBatch) {
            self.rows = rows
            self.tokens = tokens
            self.hidden = hidden
            self.batch = batch
        }
    }

    /// When the step came.
    let began = NIODeadline.now()
    let message: ProtoStep
    let entries: [LaneTables.Entry]
    let chunkRows: Int
    let chunks: [Chunk]
    /// Row `r * expertsUsed + c` is the output of row r's c-th expert.
    let outputs: RowBuffer

    /// - Parameter rows: the frame's rows of hidden state; nil where the stage begins with the embedding.
    /// - Throws: `EngineError` where the engine refuses a row.
    init(
        message: ProtoStep, entries: [LaneTables.Entry], chunkRows: Int, rows: ByteBuffer?, engine: Engine
    ) throws {
        self.message = message
        self.entries = entries
        self.chunkRows = chunkRows
        let width = engine.shape.hidden
        var attention: [AttentionRow] = []
        var tokens: [Int32] = []
        var frameRows: [Int] = []
        for entry in entries {
            for offset in 0..<entry.count {
                attention.append(AttentionRow(position: entry.position + offset, pages: entry.pages))
                frameRows.append(entry.frameRow + offset)
            }
            tokens += message.rows[entry.index].tokens
        }
        var chunks: [Chunk] = []
        for first in stride(from: 0, to: attention.count, by: chunkRows) {
            let part = first..<min(first + chunkRows, attention.count)
            let hidden = RowBuffer(rows: part.count, width: width)
            if let rows {
                rows.withUnsafeReadableBytes { bytes in
                    for (index, row) in part.enumerated() {
                        // The frame's length was checked against the step's rows.
                        let source = UnsafeRawBufferPointer(
                            rebasing: bytes[(frameRows[row] * width * 4)...].prefix(width * 4))
                        UnsafeMutableRawBufferPointer(hidden.row(index)).copyMemory(from: source)
                    }
                }
            }
            chunks.append(
                Chunk(
                    rows: part, tokens: rows == nil ? Array(tokens[part]) : [], hidden: hidden,
                    batch: try engine.batch(Array(attention[part]))))
        }
        self.chunks = chunks
        outputs = RowBuffer(rows: attention.count * engine.shape.expertsUsed, width: width)
    }

    /// The chunk of a row, and the row's place in it.
    func place(ofRow row: Int) -> (chunk: Chunk, row: Int) {
        let (index, rest) = row.quotientAndRemainder(dividingBy: chunkRows)
        return (chunks[index], rest)
    }
}

/// The rows that a home sent to this host, and their results. Confined to the data loop.
final class RequestBuffers {
    let request: ExpertRequest
    private let rowBytes: Int
    private let encoded: UnsafeMutableRawPointer
    /// A row for each assignment.
    let results: RowBuffer

    /// - Parameter request: its `rows` are copied, so that they stay where they are.
    init(_ request: ExpertRequest) {
        self.request = request
        rowBytes = request.format.rowBytes(columns: request.columns)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: max(request.rows.readableBytes, 1), alignment: 64)
        request.rows.withUnsafeReadableBytes { bytes in
            UnsafeMutableRawBufferPointer(start: memory, count: bytes.count).copyMemory(from: bytes)
        }
        encoded = memory
        results = RowBuffer(rows: request.assignments.count, width: request.columns)
    }

    deinit {
        encoded.deallocate()
    }

    /// The encoded row of an assignment. `ExpertRequest` has checked that its row is there.
    func row(ofAssignment assignment: Int) -> UnsafeRawPointer {
        UnsafeRawPointer(encoded + Int(request.assignments[assignment].row) * rowBytes)
    }
}

/// Whether rows of float32 hold only numbers.
enum Finite {
    private static let exponent: UInt32 = 0x7F80_0000

    /// Indices of the rows of `bytes` that hold a NaN or an infinity.
    static func rowsThatAreNot(_ bytes: UnsafeRawBufferPointer, width: Int) -> [Int] {
        var rows: [Int] = []
        let rowBytes = width * 4
        guard rowBytes > 0 else { return rows }
        for row in 0..<bytes.count / rowBytes {
            var isFinite = true
            for offset in stride(from: row * rowBytes, to: (row + 1) * rowBytes, by: 4) {
                let bits = bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self)
                if bits & exponent == exponent { isFinite = false }
            }
            if !isFinite { rows.append(row) }
        }
        return rows
    }
}
