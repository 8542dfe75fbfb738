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
            tokens += entry.tokens
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

/// Whether rows of float32 hold only numbers.
enum Finite {
    private static let exponent: UInt32 = 0x7F80_0000

    /// Indices of the rows of `bytes` that hold a NaN or an infinity.
    static func rowsThatAreNot(_ bytes: UnsafeRawBufferPointer, width: Int) -> [Int] {
        var rows: [Int] = []
        let rowBytes = width * 4
        guard rowBytes > 0 else { return rows }
        for row in 0..<bytes.count / rowBytes {
            let end = (row + 1) * rowBytes
            var offset = row * rowBytes
            var found = SIMDMask<SIMD16<Int32>>(repeating: false)
            while offset + 64 <= end {
                let bits = bytes.loadUnaligned(fromByteOffset: offset, as: SIMD16<UInt32>.self)
                found = found .| ((bits & exponent) .== exponent)
                offset += 64
            }
            var isFinite = !any(found)
            while offset < end {
                let bits = bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self)
                if bits & exponent == exponent { isFinite = false }
                offset += 4
            }
            if !isFinite { rows.append(row) }
        }
        return rows
    }
}
