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
        var tokens: [Int32]
        let hidden: RowBuffer
        let batch: AttentionBatch
        let routed: RoutedRows

        init(rows: Range<Int>, tokens: [Int32], hidden: RowBuffer, batch: AttentionBatch, routed: RoutedRows) {
            self.rows = rows
            self.tokens = tokens
            self.hidden = hidden
            self.batch = batch
            self.routed = routed
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

    /// - Parameters:
    ///   - rows: the frame's rows of hidden state; nil where the stage begins with the embedding.
    ///   - spare: buffers to use again.
    /// - Throws: `EngineError` where the engine refuses a row.
    init(
        message: ProtoStep, entries: [LaneTables.Entry], chunkRows: Int, rows: ByteBuffer?, engine: Engine,
        spare: inout SpareRows
    ) throws {
        self.message = message
        self.entries = entries
        self.chunkRows = chunkRows
        let width = engine.shape.hidden
        let count = entries.reduce(0) { $0 + $1.count }
        var attention: [AttentionRow] = []
        var tokens: [Int32] = []
        var frameRows: [Int] = []
        attention.reserveCapacity(count)
        tokens.reserveCapacity(count)
        frameRows.reserveCapacity(rows == nil ? 0 : count)
        for entry in entries {
            for offset in 0..<entry.count {
                attention.append(AttentionRow(position: entry.position + offset, pages: entry.pages))
                if rows != nil { frameRows.append(entry.frameRow + offset) }
            }
            tokens += entry.tokens
        }
        var chunks: [Chunk] = []
        for first in stride(from: 0, to: attention.count, by: chunkRows) {
            let part = first..<min(first + chunkRows, attention.count)
            let hidden = spare.buffer(rows: part.count, width: width)
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
                    batch: try engine.batch(part.count == attention.count ? attention : Array(attention[part])),
                    routed: spare.routedRows()))
        }
        self.chunks = chunks
        outputs = spare.buffer(rows: attention.count * engine.shape.expertsUsed, width: width)
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

/// Rows for one call of the engine's experts, in memory that is used again. Confined to the data loop.
struct GatheredRows {
    private(set) var groups: [ExpertRows] = []
    private(set) var rows: [UnsafeRawPointer] = []
    /// Where each row's output goes.
    private(set) var targets: [UnsafeMutablePointer<Float>] = []
    private var expert = 0
    private var first = 0

    mutating func removeAll() {
        groups.removeAll(keepingCapacity: true)
        rows.removeAll(keepingCapacity: true)
        targets.removeAll(keepingCapacity: true)
    }

    /// The rows up to `end` are this expert's.
    mutating func begin(expert: Int) {
        self.expert = expert
        first = rows.count
    }

    mutating func add(_ row: UnsafeRawPointer, target: UnsafeMutablePointer<Float>) {
        rows.append(row)
        targets.append(target)
    }

    mutating func end() {
        groups.append(ExpertRows(expert: expert, rows: first..<rows.count))
    }
}

/// The rows of an item whose logits are wanted, in memory that is used again. Confined to the data loop.
struct WantedLogits {
    struct Row {
        /// Place of the row's entry among the step's.
        let entry: Int
        /// The row among the entry's.
        let offset: Int
    }

    private(set) var rows: [Row] = []
    /// The same rows' places in the chunk.
    private(set) var places: [Int] = []

    mutating func removeAll() {
        rows.removeAll(keepingCapacity: true)
        places.removeAll(keepingCapacity: true)
    }

    mutating func add(entry: Int, offset: Int, place: Int) {
        rows.append(Row(entry: entry, offset: offset))
        places.append(place)
    }
}

/// Buffers of steps that are over, for the next ones. Confined to the data loop.
struct SpareRows {
    /// A decode step's; larger ones are given back.
    private static let mostRows = 128
    /// As many as a few waves need.
    private static let mostBuffers = 8

    private var buffers: [RowBuffer] = []
    private var routes: [RoutedRows] = []

    mutating func buffer(rows: Int, width: Int) -> RowBuffer {
        guard rows <= Self.mostRows, let buffer = buffers.popLast() else { return RowBuffer(rows: rows, width: width) }
        buffer.resize(rows: rows)
        return buffer
    }

    mutating func routedRows() -> RoutedRows { routes.popLast() ?? RoutedRows() }

    mutating func take(_ step: StepBuffers) {
        take(step.outputs)
        for chunk in step.chunks {
            take(chunk.hidden)
            if chunk.rows.count <= Self.mostRows, routes.count < Self.mostBuffers { routes.append(chunk.routed) }
        }
    }

    private mutating func take(_ buffer: RowBuffer) {
        if buffer.rows <= Self.mostRows, buffers.count < Self.mostBuffers { buffers.append(buffer) }
    }
}
