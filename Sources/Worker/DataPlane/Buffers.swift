import Engine
import ModelStore
import NIOCore
import Wire

/// The rows of one step at its home. Confined to the data loop.
final class StepBuffers {
    /// Rows that are computed together; a layer's work is one item for each.
    final class Chunk {
        private(set) var rows = 0..<0
        /// Input tokens where the stage begins with the embedding; else empty.
        var tokens: [Int32] = []
        let hidden: RowBuffer
        let batch = AttentionBatch()
        let routed = RoutedRows()

        fileprivate init(width: Int) {
            hidden = RowBuffer(rows: 0, width: width)
        }

        fileprivate func begin(_ rows: Range<Int>) {
            self.rows = rows
            tokens.removeAll(keepingCapacity: true)
            hidden.resize(rows: rows.count)
        }
    }

    /// When the step came.
    private(set) var began = NIODeadline.now()
    fileprivate(set) var batch = StepBatch()
    private(set) var entries = StepEntries()
    private var chunkRows = 1
    /// Those of the step come first.
    private var chunks: [Chunk] = []
    private var attention: [PlacedRow] = []
    private var tokens: [Int32] = []
    private var ending: [Int] = []
    private let width: Int
    /// Row `r * expertsUsed + c` is the output of row r's c-th expert.
    let outputs: RowBuffer

    fileprivate init(width: Int) {
        self.width = width
        outputs = RowBuffer(rows: 0, width: width)
    }

    /// - Parameter rows: the frame's rows of hidden state; nil where the stage begins with the embedding.
    /// - Throws: `EngineError` where the engine refuses a row.
    fileprivate func begin(
        _ batch: StepBatch, entries: StepEntries, chunkRows: Int, rows: ByteBuffer?, engine: Engine
    ) throws {
        began = .now()
        self.batch = batch
        self.entries = entries
        self.chunkRows = chunkRows
        attention.removeAll(keepingCapacity: true)
        tokens.removeAll(keepingCapacity: true)
        for entry in entries {
            for offset in 0..<entry.count {
                attention.append(PlacedRow(position: entry.position + offset, pages: entry.pages))
            }
            if rows == nil { entries.appendTokens(of: entry, in: batch, to: &tokens) }
        }
        let count = attention.count
        outputs.resize(rows: count * engine.shape.expertsUsed)
        for index in 0..<(count + chunkRows - 1) / chunkRows {
            let part = index * chunkRows..<min((index + 1) * chunkRows, count)
            if index == chunks.count { chunks.append(Chunk(width: width)) }
            chunks[index].begin(part)
            if rows == nil { chunks[index].tokens.append(contentsOf: tokens[part]) }
            try engine.fill(
                chunks[index].batch, rows: attention[part], ending: engine.shard.head ? rowsRead(in: part) : nil,
                pages: entries.pages)
        }
        if let rows { copyHidden(rows) }
    }

    /// Places in the chunk of the rows whose logits are read.
    private func rowsRead(in chunk: Range<Int>) -> [Int] {
        ending.removeAll(keepingCapacity: true)
        forEachRowRead(in: chunk) { row, _, _ in ending.append(row - chunk.lowerBound) }
        return ending
    }

    /// Calls the body with each of some rows whose logits are read, its entry, and its offset among the sequence's rows of this
    /// step.
    func forEachRowRead(in some: Range<Int>, _ body: (_ row: Int, _ entry: Int, _ offset: Int) -> Void) {
        var first = 0
        for (index, entry) in entries.enumerated() {
            let own = first..<(first + entry.count)
            first = own.upperBound
            let rows = batch.rows[entry.index]
            for row in own.clamped(to: some)
            where rows.score != nil || (rows.sample && row == own.upperBound - 1) {
                body(row, index, row - own.lowerBound)
            }
        }
    }

    /// The frame's rows, of which some may be of sequences that are not computed, go to their chunks.
    private func copyHidden(_ rows: ByteBuffer) {
        rows.withUnsafeReadableBytes { bytes in
            var row = 0
            for entry in entries {
                for frameRow in entry.frameRows {
                    let place = place(ofRow: row)
                    // The frame's length was checked against the step's rows.
                    let source = UnsafeRawBufferPointer(rebasing: bytes[(frameRow * width * 4)...].prefix(width * 4))
                    UnsafeMutableRawBufferPointer(place.chunk.hidden.row(place.row)).copyMemory(from: source)
                    row += 1
                }
            }
        }
    }

    /// The chunk of a row, and the row's place in it.
    func place(ofRow row: Int) -> (chunk: Chunk, row: Int) {
        let (index, rest) = row.quotientAndRemainder(dividingBy: chunkRows)
        return (chunks[index], rest)
    }

    /// Nothing asks for the step any more.
    fileprivate func end() {
        batch = StepBatch()
        entries = StepEntries()
    }

    fileprivate var rowCount: Int { attention.count }
}

/// The rows that a home sent to this host, and their results. Confined to the data loop.
final class RequestBuffers {
    private(set) var request: ExpertRequest
    private var rowBytes = 0
    private let encoded = Scratch()
    /// A row for each assignment.
    let results: RowBuffer

    /// - Parameter request: its `rows` are copied, so that they stay where they are.
    fileprivate init(_ request: ExpertRequest) {
        self.request = request
        results = RowBuffer(rows: request.assignments.count, width: request.columns)
        copyRows()
    }

    fileprivate func begin(_ request: ExpertRequest) {
        self.request = request
        results.resize(rows: request.assignments.count)
        copyRows()
    }

    private func copyRows() {
        rowBytes = request.format.rowBytes(columns: request.columns)
        let memory = encoded.reserve(request.rows.readableBytes)
        request.rows.withUnsafeReadableBytes { bytes in
            UnsafeMutableRawBufferPointer(start: memory, count: bytes.count).copyMemory(from: bytes)
        }
        // The read buffer that they are a part of is the connection's.
        request.rows = ByteBuffer()
    }

    /// The encoded row of an assignment. `ExpertRequest` has checked that its row is there.
    func row(ofAssignment assignment: Int) -> UnsafeRawPointer {
        UnsafeRawPointer(encoded.base + Int(request.assignments[assignment].row) * rowBytes)
    }

    /// Nothing asks for the rows any more.
    fileprivate func end() -> [ExpertRequest.Assignment] {
        defer { request.assignments = [] }
        return request.assignments
    }
}

/// The rows of an `experts` frame, each once, however many of its experts the host has, in memory that is used again. Confined to
/// the data loop.
struct SentRows {
    private(set) var rows: [Int] = []
    private(set) var assignments: [ExpertRequest.Assignment] = []
    /// By row of the step: its place in `rows`, -1 where it has none.
    private var places: [Int] = []

    /// - Parameter rows: rows of the step.
    mutating func choose(_ send: ExpertSend, rows count: Int, expertsUsed: Int) {
        rows.removeAll(keepingCapacity: true)
        assignments.removeAll(keepingCapacity: true)
        places.removeAll(keepingCapacity: true)
        for _ in 0..<count { places.append(-1) }
        for (output, expert) in zip(send.outputs, send.experts) {
            let row = output / expertsUsed
            if places[row] < 0 {
                places[row] = rows.count
                rows.append(row)
            }
            assignments.append(
                ExpertRequest.Assignment(
                    expert: UInt16(truncatingIfNeeded: expert), row: UInt16(truncatingIfNeeded: places[row])))
        }
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

/// Buffers of steps and requests that are over, for the next ones. Confined to the data loop.
struct SpareMemory {
    private var steps = Spares<StepBuffers>()
    private var batches = Spares<StepBatch>()
    private var requests = Spares<RequestBuffers>()
    private var assignmentLists = Spares<[ExpertRequest.Assignment]>()

    /// A batch to read a step into.
    mutating func batch() -> StepBatch { batches.take() ?? StepBatch() }

    /// An array to read a request's assignments into.
    mutating func assignments() -> [ExpertRequest.Assignment] { assignmentLists.take() ?? [] }

    /// - Parameter rows: the frame's rows of hidden state; nil where the stage begins with the embedding.
    /// - Throws: `EngineError` where the engine refuses a row.
    mutating func step(
        _ batch: StepBatch, entries: StepEntries, chunkRows: Int, rows: ByteBuffer?, engine: Engine
    ) throws -> StepBuffers {
        let step = steps.take() ?? StepBuffers(width: engine.shape.hidden)
        try step.begin(batch, entries: entries, chunkRows: chunkRows, rows: rows, engine: engine)
        return step
    }

    mutating func take(_ step: StepBuffers) {
        let batch = step.batch
        step.end()
        guard batch.isSmall else { return }
        batches.keep(batch, rows: step.rowCount)
        steps.keep(step, rows: step.rowCount)
    }

    mutating func request(_ request: ExpertRequest) -> RequestBuffers {
        guard let buffers = requests.take() else { return RequestBuffers(request) }
        buffers.begin(request)
        return buffers
    }

    mutating func take(_ request: RequestBuffers) {
        let rows = request.request.rowCount
        let assignments = request.end()
        let most = max(rows, assignments.count)
        assignmentLists.keep(assignments, rows: most)
        requests.keep(request, rows: most)
    }
}
