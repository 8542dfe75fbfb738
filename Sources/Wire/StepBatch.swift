package import NIOCore
import SwiftProtobuf

/// A `Step` message as its homes keep it: columns instead of an object for each sequence, in memory that is used again for the
/// next step. On the wire it is the same message.
package struct StepBatch: Sendable, Equatable {
    /// One sequence's rows: a `SequenceRows` message.
    package struct Rows: Sendable, Equatable {
        package var sequence: UInt64 = 0
        package var position: UInt32 = 0
        /// Places in the batch's `tokens`.
        package var tokens = 0..<0
        /// Places in the batch's `pages`.
        package var pages = 0..<0
        package var sample = false
        /// Place in the batch's `sampling`, where parameters come with the rows.
        package var sampling: Int?
        /// Place in the batch's `scores`, where the rows are scored.
        package var score: Int?

        package init() {}

        package init(sequence: UInt64, position: UInt32, tokens: Range<Int>, sample: Bool) {
            self.sequence = sequence
            self.position = position
            self.tokens = tokens
            self.sample = sample
        }
    }

    package var stepID: UInt64 = 0
    package var lane: UInt32 = 0
    package var workClass = ProtoStep.Class.decode
    package var tableSequence: UInt64 = 0
    package var wholeTables = false
    package var released: [UInt64] = []
    package var rows: [Rows] = []
    package var tokens: [Int32] = []
    package var pages: [UInt32] = []
    package var sampling: [ProtoSamplingParameters] = []
    package var scores: [ProtoScoreRows] = []
    package var scoreRoutes: [ProtoScoreRoutes] = []
    package var failures: [ProtoSequenceFailure] = []

    package init() {}

    /// Rows of the step: one for each input token.
    package var rowCount: Int { rows.reduce(0) { $0 + $1.tokens.count } }

    package func score(of rows: Rows) -> ProtoScoreRows? { rows.score.map { scores[$0] } }

    /// Sequences of a step: as many as a lane may have, with rows or without.
    package static let mostSequences = 1 << 14

    /// Whether its memory is a decode step's, to be used again.
    package var isSmall: Bool {
        let most = 256
        return max(rows.count, tokens.count, scores.count, scoreRoutes.count, failures.count) <= most
            && max(pages.count, released.count) <= 16 * most
    }

    /// The batch of nothing, with its memory.
    private mutating func clear() {
        stepID = 0
        lane = 0
        workClass = .decode
        tableSequence = 0
        wholeTables = false
        released.removeAll(keepingCapacity: true)
        rows.removeAll(keepingCapacity: true)
        tokens.removeAll(keepingCapacity: true)
        pages.removeAll(keepingCapacity: true)
        sampling.removeAll(keepingCapacity: true)
        scores.removeAll(keepingCapacity: true)
        scoreRoutes.removeAll(keepingCapacity: true)
        failures.removeAll(keepingCapacity: true)
    }
}

// MARK: Reading

extension StepBatch {
    /// Replaces the batch by a `Step` message. Fields that this version does not know are skipped, but groups, which
    /// proto3 does not have.
    ///
    /// - Throws: `message_malformed` if the bytes are not such a message.
    package mutating func read(_ payload: ByteBuffer, in kind: FrameKind) throws(Failure) {
        clear()
        let isRead = payload.withUnsafeReadableBytes { bytes in
            var fields = FieldReader(bytes)
            while let field = fields.next() {
                guard take(field) else { return false }
            }
            return fields.isAtEnd
        }
        guard isRead else {
            throw Failure(
                code: "message_malformed",
                message:
                    "payload of \(kind.name) (\(payload.readableBytes) bytes) is not a \(ProtoStep.protoMessageName)"
            )
        }
    }

    /// - Returns: whether the field makes sense.
    private mutating func take(_ field: FieldReader.Field) -> Bool {
        switch (field.number, field.value) {
        case (1, .varint(let value)): stepID = value
        case (2, .varint(let value)): lane = UInt32(truncatingIfNeeded: value)
        case (3, .varint(let value)):
            workClass = ProtoStep.Class(rawValue: Int(Int32(truncatingIfNeeded: value))) ?? .decode
        case (4, .varint(let value)): tableSequence = value
        case (5, .varint(let value)): wholeTables = value != 0
        case (6, let value): return value.eachVarint { released.append($0) }
        case (7, .bytes(let bytes)): return takeRows(bytes)
        case (8, .bytes(let bytes)): return append(bytes, to: &scoreRoutes)
        case (9, .bytes(let bytes)): return append(bytes, to: &failures)
        default: break
        }
        return true
    }

    private mutating func takeRows(_ bytes: UnsafeRawBufferPointer) -> Bool {
        // Rows without tokens are two bytes of a frame and 88 of memory.
        guard self.rows.count < Self.mostSequences else { return false }
        var rows = Rows()
        let (firstToken, firstPage) = (tokens.count, pages.count)
        var fields = FieldReader(bytes)
        while let field = fields.next() {
            switch (field.number, field.value) {
            case (1, .varint(let value)): rows.sequence = value
            case (2, .varint(let value)): rows.position = UInt32(truncatingIfNeeded: value)
            case (3, let value):
                guard value.eachVarint({ tokens.append(Int32(truncatingIfNeeded: $0)) }) else { return false }
            case (4, let value):
                guard value.eachVarint({ pages.append(UInt32(truncatingIfNeeded: $0)) }) else { return false }
            case (5, .bytes(let bytes)):
                guard merge(bytes, into: &sampling, at: &rows.sampling) else { return false }
            case (6, .varint(let value)): rows.sample = value != 0
            case (7, .bytes(let bytes)):
                guard merge(bytes, into: &scores, at: &rows.score) else { return false }
            default: break
            }
        }
        guard fields.isAtEnd else { return false }
        rows.tokens = firstToken..<tokens.count
        rows.pages = firstPage..<pages.count
        self.rows.append(rows)
        return true
    }

    private static let options: BinaryDecodingOptions = {
        var options = BinaryDecodingOptions()
        options.discardUnknownFields = true
        return options
    }()

    /// A message inside the rows. One that stands there again is added to the first, as protobuf has it.
    private func merge<M: Message>(
        _ bytes: UnsafeRawBufferPointer, into messages: inout [M], at place: inout Int?
    ) -> Bool {
        let index = place ?? messages.count
        if place == nil { messages.append(M()) }
        place = index
        do {
            try messages[index].merge(serializedBytes: Array(bytes), options: Self.options)
            return true
        } catch {
            return false
        }
    }

    private func append<M: Message>(_ bytes: UnsafeRawBufferPointer, to messages: inout [M]) -> Bool {
        var place: Int?
        return merge(bytes, into: &messages, at: &place)
    }
}

// MARK: Writing

extension StepBatch {
    /// Appends the batch as a `Step` message.
    package func write(into buffer: inout ByteBuffer) {
        // What is rare is left to the library: the fields of a message may stand anywhere in it.
        var rest = ProtoStep()
        rest.scoreRoutes = scoreRoutes
        rest.failures = failures
        let isWhole = scoreRoutes.isEmpty && failures.isEmpty
        buffer.writeFields { fields in
            fields.write(1, stepID)
            fields.write(2, UInt64(lane))
            fields.write(3, FieldWriter.bits(Int32(truncatingIfNeeded: workClass.rawValue)))
            fields.write(4, tableSequence)
            fields.write(5, wholeTables ? 1 : 0)
            fields.write(6, packed: released[...]) { $0 }
            for rows in rows { fields.write(7) { write(rows, into: &$0) } }
            if !isWhole { fields.append(rest) }
        }
    }

    private func write(_ rows: Rows, into fields: inout FieldWriter) {
        fields.write(1, rows.sequence)
        fields.write(2, UInt64(rows.position))
        fields.write(3, packed: tokens[rows.tokens], FieldWriter.bits)
        fields.write(4, packed: pages[rows.pages]) { UInt64($0) }
        if let index = rows.sampling { fields.write(5) { $0.append(sampling[index]) } }
        fields.write(6, rows.sample ? 1 : 0)
        if let index = rows.score { fields.write(7) { $0.append(scores[index]) } }
    }
}

extension ProtoStepResult {
    /// Appends the message's bytes: what every step gives without an object for each token.
    package func write(into buffer: inout ByteBuffer) {
        let isWhole = scores.isEmpty && failures.isEmpty
        buffer.writeFields { fields in
            fields.write(1, stepID)
            fields.write(2, UInt64(lane))
            for token in tokens {
                fields.write(3) { fields in
                    fields.write(1, token.sequence)
                    fields.write(2, FieldWriter.bits(token.token))
                }
            }
            guard !isWhole else { return }
            var rest = ProtoStepResult()
            rest.scores = scores
            rest.failures = failures
            fields.append(rest)
        }
    }
}
