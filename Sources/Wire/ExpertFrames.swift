package import NIOCore

/// How rows of activations are encoded. Raw values and layouts are those of ModelStore's `ActivationFormat`.
package enum RowFormat: UInt8, Sendable, CaseIterable {
    /// `columns` float32.
    case f32 = 0
    /// `columns` int8, then a float32 scale for each 32 of them.
    case a8_32 = 1
    /// `columns` int8, then a float32 scale for each 256 of them.
    case a8_256 = 2

    /// Values that share a scale.
    package var block: Int {
        switch self {
        case .f32: 1
        case .a8_32: 32
        case .a8_256: 256
        }
    }

    /// Bytes of one row; always a multiple of 4. `columns` is a multiple of ``block`` and at most
    /// ``ExpertRequest/maximumColumns``.
    package func rowBytes(columns: Int) -> Int {
        switch self {
        case .f32: columns * 4
        case .a8_32, .a8_256: columns + columns / block * 4
        }
    }
}

/// Rows from a home to an expert host: the payload of an `experts` frame.
///
/// Head of 32 bytes: u64 step, u32 lane, u32 layer, u8 class, u8 format, u16 zero, u32 rows N, u32 assignments M,
/// u32 columns. Then M pairs (u16 expert, u16 row). Then N rows in the format's encoding. Little-endian.
package struct ExpertRequest: Sendable, Equatable {
    package static let headBytes = 32
    /// Rows are named by 16 bits; assignments are bounded alike, since each gives a result row.
    package static let maximumRows = 65_535
    /// Far above any model's hidden size, and small enough that no product of counts can overflow.
    package static let maximumColumns = 1 << 20

    /// One (row, expert) product that is wanted.
    package struct Assignment: Sendable, Hashable {
        package var expert: UInt16
        package var row: UInt16

        package init(expert: UInt16, row: UInt16) {
            self.expert = expert
            self.row = row
        }
    }

    package var step: UInt64
    package var lane: UInt32
    package var layer: UInt32
    /// Prefill rows wait for decode rows.
    package var isPrefill: Bool
    package var format: RowFormat
    package var rowCount: Int
    package var columns: Int
    package var assignments: [Assignment]
    /// `rowCount` encoded rows without gaps.
    package var rows: ByteBuffer

    package init(
        step: UInt64, lane: UInt32, layer: UInt32, isPrefill: Bool, format: RowFormat, rowCount: Int, columns: Int,
        assignments: [Assignment], rows: ByteBuffer
    ) {
        self.step = step
        self.lane = lane
        self.layer = layer
        self.isPrefill = isPrefill
        self.format = format
        self.rowCount = rowCount
        self.columns = columns
        self.assignments = assignments
        self.rows = rows
    }

    /// Appends a payload, with the rows written in place by `writeRows`, which gets exactly
    /// `rowCount * format.rowBytes(columns:)` bytes.
    package static func write(
        step: UInt64, lane: UInt32, layer: UInt32, isPrefill: Bool, format: RowFormat, rowCount: Int, columns: Int,
        assignments: [Assignment], into buffer: inout ByteBuffer, writeRows: (UnsafeMutableRawBufferPointer) -> Void
    ) {
        assert(rowCount <= maximumRows && assignments.count <= maximumRows && columns <= maximumColumns)
        let rowBytes = rowCount * format.rowBytes(columns: columns)
        buffer.reserveCapacity(minimumWritableBytes: headBytes + assignments.count * 4 + rowBytes)
        buffer.writeMultipleIntegers(
            step, lane, layer, UInt8(isPrefill ? 1 : 0), format.rawValue, UInt16(0), UInt32(rowCount),
            UInt32(assignments.count), UInt32(columns), endianness: .little
        )
        for assignment in assignments {
            buffer.writeMultipleIntegers(assignment.expert, assignment.row, endianness: .little)
        }
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: rowBytes) { space in
            writeRows(UnsafeMutableRawBufferPointer(rebasing: space.prefix(rowBytes)))
            return rowBytes
        }
    }

    package func payload() -> ByteBuffer {
        var buffer = ByteBuffer()
        Self.write(
            step: step, lane: lane, layer: layer, isPrefill: isPrefill, format: format, rowCount: rowCount,
            columns: columns, assignments: assignments, into: &buffer,
            writeRows: { space in rows.withUnsafeReadableBytes { space.copyMemory(from: $0) } }
        )
        return buffer
    }

    /// Reads a payload from a peer.
    ///
    /// - Parameters:
    ///   - columns: The model's hidden size; another one is refused.
    ///   - experts: Experts of a layer of the model; every assignment names a lower one.
    ///   - spare: An array whose memory the assignments may use.
    /// - Throws: `rows_malformed`, naming the field.
    package init(
        payload: ByteBuffer, columns expectedColumns: Int, experts: Int, spare: consuming [Assignment] = []
    ) throws(Failure) {
        var buffer = payload
        guard
            let (step, lane, layer, rawClass, rawFormat, zero, rows, assignmentCount, columns) =
                buffer.readMultipleIntegers(
                    endianness: .little,
                    as: (UInt64, UInt32, UInt32, UInt8, UInt8, UInt16, UInt32, UInt32, UInt32).self
                )
        else { throw .rows("payload", payload.readableBytes, "at least \(Self.headBytes) bytes") }
        guard rawClass <= 1 else { throw .rows("class", Int(rawClass), "0 or 1") }
        guard let format = RowFormat(rawValue: rawFormat) else { throw .rows("format", Int(rawFormat), "0, 1 or 2") }
        guard zero == 0 else { throw .rows("reserved", Int(zero), "0") }
        let rowBytes = try Self.checkRows(
            rows: rows, columns: columns, expectedColumns: expectedColumns, format: format
        )
        guard (1...Self.maximumRows).contains(Int(assignmentCount)) else {
            throw .rows("assignments", Int(assignmentCount), "1 to \(Self.maximumRows)")
        }
        // At most 4 * 65,535 + 65,535 * 4 MiB, so the sum cannot overflow.
        let due = Int(assignmentCount) * 4 + Int(rows) * rowBytes
        guard buffer.readableBytes == due else {
            throw .rows("payload after the head", buffer.readableBytes, "\(due) bytes for its rows and assignments")
        }
        var assignments = spare
        assignments.removeAll(keepingCapacity: true)
        assignments.reserveCapacity(Int(assignmentCount))
        for _ in 0..<assignmentCount {
            guard let (expert, row) = buffer.readMultipleIntegers(endianness: .little, as: (UInt16, UInt16).self)
            else { throw .rows("assignments", assignments.count, "\(assignmentCount)") }
            guard Int(expert) < experts else { throw .rows("expert", Int(expert), "below \(experts)") }
            guard UInt32(row) < rows else { throw .rows("row", Int(row), "below \(rows)") }
            assignments.append(Assignment(expert: expert, row: row))
        }
        self.init(
            step: step, lane: lane, layer: layer, isPrefill: rawClass == 1, format: format, rowCount: Int(rows),
            columns: Int(columns), assignments: assignments, rows: buffer)
    }

    private static func checkRows(
        rows: UInt32, columns: UInt32, expectedColumns: Int, format: RowFormat
    ) throws(Failure) -> Int {
        guard (1...maximumRows).contains(Int(rows)) else { throw .rows("rows", Int(rows), "1 to \(maximumRows)") }
        guard Int(columns) == expectedColumns, Int(columns) <= maximumColumns else {
            throw .rows("columns", Int(columns), "\(expectedColumns)")
        }
        guard Int(columns) % format.block == 0 else {
            throw .rows("columns", Int(columns), "a multiple of \(format.block)")
        }
        return format.rowBytes(columns: Int(columns))
    }
}

/// Results from an expert host to a home: the payload of an `expertResults` frame, with its request's correlation id.
///
/// Head of 32 bytes: u64 step, u32 lane, u32 layer, u32 assignments M, u32 columns, u64 status. Then, if the status is
/// ``Status/done``, M rows of `columns` float32 in the order of the request's assignments. Little-endian.
package struct ExpertReply: Sendable, Equatable {
    package static let headBytes = 32

    /// Why there are no rows. A refusal has no assignments and no rows. 2 and 3 are reserved.
    package enum Status: UInt64, Sendable, CaseIterable {
        case done = 0
        /// The host does not hold this layer or one of these experts.
        case notHeld = 1
        /// The product could not be computed.
        case failed = 4
    }

    package var step: UInt64
    package var lane: UInt32
    package var layer: UInt32
    package var status: Status
    package var rowCount: Int
    package var columns: Int
    /// `rowCount` rows of `columns` float32 without gaps.
    package var rows: ByteBuffer

    package init(
        step: UInt64, lane: UInt32, layer: UInt32, status: Status = .done, rowCount: Int, columns: Int,
        rows: ByteBuffer = ByteBuffer()
    ) {
        self.step = step
        self.lane = lane
        self.layer = layer
        self.status = status
        self.rowCount = rowCount
        self.columns = columns
        self.rows = rows
    }

    /// Appends the head of a payload whose `rowCount * columns` float32 follow it.
    package static func writeHead(
        step: UInt64, lane: UInt32, layer: UInt32, status: Status = .done, rowCount: Int, columns: Int,
        into buffer: inout ByteBuffer
    ) {
        assert(rowCount <= ExpertRequest.maximumRows && columns <= ExpertRequest.maximumColumns)
        buffer.writeMultipleIntegers(
            step, lane, layer, UInt32(rowCount), UInt32(columns), status.rawValue, endianness: .little
        )
    }

    package func payload() -> ByteBuffer {
        var buffer = ByteBuffer()
        Self.writeHead(
            step: step, lane: lane, layer: layer, status: status, rowCount: rowCount, columns: columns, into: &buffer)
        buffer.writeImmutableBuffer(rows)
        return buffer
    }

    /// Reads a payload from a peer.
    ///
    /// - Parameter columns: The model's hidden size; another one is refused.
    /// - Throws: `rows_malformed`, naming the field.
    package init(payload: ByteBuffer, columns expectedColumns: Int) throws(Failure) {
        var buffer = payload
        guard
            let (step, lane, layer, rows, columns, rawStatus) = buffer.readMultipleIntegers(
                endianness: .little, as: (UInt64, UInt32, UInt32, UInt32, UInt32, UInt64).self
            )
        else { throw .rows("payload", payload.readableBytes, "at least \(Self.headBytes) bytes") }
        guard let status = Status(rawValue: rawStatus) else {
            let known = Status.allCases.map { "\($0.rawValue)" }.joined(separator: ", ")
            throw .rows("status", Int(clamping: rawStatus), "one of \(known)")
        }
        guard Int(columns) == expectedColumns, Int(columns) <= ExpertRequest.maximumColumns else {
            throw .rows("columns", Int(columns), "\(expectedColumns)")
        }
        let allowedRows = status == .done ? 1...ExpertRequest.maximumRows : 0...0
        guard allowedRows.contains(Int(rows)) else {
            throw .rows("assignments", Int(rows), "\(allowedRows.lowerBound) to \(allowedRows.upperBound)")
        }
        let due = Int(rows) * Int(columns) * 4
        guard buffer.readableBytes == due else {
            throw .rows("payload after the head", buffer.readableBytes, "\(due) bytes for its rows")
        }
        self.init(
            step: step, lane: lane, layer: layer, status: status, rowCount: Int(rows), columns: Int(columns),
            rows: buffer
        )
    }
}

/// A step and the hidden state of its rows on the way to the next stage: the payload of a `hidden` frame.
///
/// u32 length of the `Step` message, the message, zero bytes up to a multiple of 4 (counted from the payload's start),
/// then a row of `columns` float32 for each token of the step, in its order. Little-endian.
package struct HiddenState: Sendable, Equatable {
    package var step: StepBatch
    package var rowCount: Int
    /// `rowCount` rows of float32 without gaps.
    package var rows: ByteBuffer

    /// Appends a payload, with the rows written in place by `writeRows`, which gets exactly `rowCount * columns * 4`
    /// bytes; `rowCount` is the number of tokens in `step`.
    package static func write(
        step: StepBatch, columns: Int, into buffer: inout ByteBuffer, writeRows: (UnsafeMutableRawBufferPointer) -> Void
    ) {
        let start = buffer.writerIndex
        buffer.writeInteger(UInt32(0), endianness: .little)
        step.write(into: &buffer)
        let length = buffer.writerIndex - start - 4
        buffer.setInteger(UInt32(length), at: start, endianness: .little)
        buffer.writeRepeatingByte(0, count: (4 - length % 4) % 4)
        let rowBytes = step.rowCount * columns * 4
        buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: rowBytes) { space in
            writeRows(UnsafeMutableRawBufferPointer(rebasing: space.prefix(rowBytes)))
            return rowBytes
        }
    }

    /// Reads a payload from a peer.
    ///
    /// - Parameters:
    ///   - columns: The model's hidden size.
    ///   - spare: A batch whose memory the step may use.
    /// - Throws: `message_malformed` or `rows_malformed`, naming the field.
    package init(payload: ByteBuffer, columns: Int, spare: consuming StepBatch = StepBatch()) throws(Failure) {
        var buffer = payload
        guard let length = buffer.readInteger(endianness: .little, as: UInt32.self) else {
            throw .rows("payload", payload.readableBytes, "at least 4 bytes")
        }
        guard let message = buffer.readSlice(length: Int(length)) else {
            throw .rows("length of the step", Int(length), "at most \(buffer.readableBytes)")
        }
        var step = spare
        try step.read(message, in: .hidden)
        let padding = (4 - Int(length) % 4) % 4
        for _ in 0..<padding {
            guard buffer.readInteger(as: UInt8.self) == 0 else {
                throw .rows("padding", padding, "\(padding) zero bytes")
            }
        }
        // Each token took at least a byte of the message, so the count is below 64 Mi.
        let rowCount = step.rowCount
        guard rowCount <= ExpertRequest.maximumRows, (1...ExpertRequest.maximumColumns).contains(columns) else {
            throw .rows("rows", rowCount, "at most \(ExpertRequest.maximumRows)")
        }
        guard buffer.readableBytes == rowCount * columns * 4 else {
            throw .rows(
                "payload after the step", buffer.readableBytes, "\(rowCount * columns * 4) bytes for its rows"
            )
        }
        self.step = step
        self.rowCount = rowCount
        self.rows = buffer
    }
}

extension ProtoSequenceRows {
    /// Stands for the one token of rows that were planned ahead: what the sequence's row before is sampled to.
    package static let sampledToken: Int32 = -1
}

extension Failure {
    /// A tensor frame whose fields do not fit each other or the model.
    fileprivate static func rows(_ field: String, _ found: Int, _ due: String) -> Failure {
        Failure(code: "rows_malformed", message: "\(field) is \(found), expected \(due)")
    }
}
