package import Wire

/// What a worker can compute, for checking what comes from outside.
package struct WorkerBounds: Sendable, Equatable {
    /// Positions in a page.
    package static let tokensPerPage = 32
    /// Most (token, logit) pairs that a step returns: 16 bytes each fit the result's frame several times.
    package static let scoresInStep = 1 << 20

    /// KV pages of the engine.
    package var pages: Int
    package var contextLength: Int
    package var vocabulary: Int
    /// Experts that the router chooses for a row.
    package var expertsUsed: Int
    /// Most rows in a step: what a frame of hidden state holds.
    package var rowsInStep: Int
    /// Most (row, expert) pairs in a request to a host: what a frame of results holds.
    package var assignmentsInFrame: Int
    /// Most steps of a lane in progress here. A coordinator keeps about one for each stage; more is its fault.
    package var stepsInLane = 64
    /// Most sequences of a lane: their tables are small, but their number comes from outside.
    package var sequencesInLane = 16_384
    /// (row, expert) pairs that one home may have under way here.
    package var rowCredits: Int

    package init(
        pages: Int, contextLength: Int, vocabulary: Int, expertsUsed: Int, hidden: Int, rowCredits: Int
    ) {
        self.pages = pages
        self.contextLength = contextLength
        self.vocabulary = vocabulary
        self.expertsUsed = expertsUsed
        self.rowCredits = rowCredits
        // A quarter of a mebibyte is left for heads and for the step's message.
        let rows = (Frame.maximumPayloadBytes - (1 << 18)) / (max(hidden, 1) * 4)
        self.rowsInStep = min(rows, 8_192)
        self.assignmentsInFrame = min(rows, ExpertRequest.maximumRows)
    }
}

/// Rows of a step that can be computed, in memory that is used again for the next step.
package struct StepEntries: Equatable, RandomAccessCollection {
    package struct Entry: Equatable {
        /// Place in the step's `rows`.
        package let index: Int
        package let sequence: UInt64
        /// The first of the sequence's rows among all rows of the frame.
        package let frameRow: Int
        package let position: Int
        package let count: Int
        /// The one token that was planned ahead and is not known yet.
        package let isAhead: Bool
        /// The one token that was planned ahead, and was known when its row came.
        package let sampledToken: Int32?
        /// Places in `pages`: the sequence's table at this step, since a later step may release the sequence meanwhile.
        package let pages: Range<Int>
        package let sampling: Sampling?

        var frameRows: Range<Int> { frameRow..<(frameRow + count) }
    }

    var entries: [Entry] = []
    /// The entries' page tables, one after the other.
    package internal(set) var pages: [Int32] = []
    /// Sequences whose rows cannot be computed.
    package internal(set) var failures: [ProtoSequenceFailure] = []

    package init() {}

    package var startIndex: Int { 0 }
    package var endIndex: Int { entries.count }
    package subscript(index: Int) -> Entry { entries[index] }

    package var rowCount: Int { entries.reduce(0) { $0 + $1.count } }

    mutating func removeAll() {
        entries.removeAll(keepingCapacity: true)
        pages.removeAll(keepingCapacity: true)
        failures.removeAll(keepingCapacity: true)
    }

    /// Appends the input tokens of an entry; 0 stands for one that is not known yet.
    package func appendTokens(of entry: Entry, in step: StepBatch, to tokens: inout [Int32]) {
        if let token = entry.sampledToken {
            tokens.append(token)
        } else if entry.isAhead {
            tokens.append(0)
        } else {
            tokens.append(contentsOf: step.tokens[step.rows[entry.index].tokens])
        }
    }
}

/// How a sequence is sampled, shared by its steps.
package final class Sampling: Sendable, Equatable {
    package let parameters: ProtoSamplingParameters

    init(_ parameters: ProtoSamplingParameters) {
        self.parameters = parameters
    }

    package static func == (left: Sampling, right: Sampling) -> Bool {
        left === right || left.parameters == right.parameters
    }
}

/// The page tables of one lane's sequences, as this home knows them. The coordinator owns them; they change with steps.
package struct LaneTables: ~Copyable {
    /// Changed in its place, which a value in a dictionary is not.
    package final class Table {
        package fileprivate(set) var pages: [Int32] = []
        fileprivate var sampling: Sampling?
        /// Where the token belongs that the last rows are sampled to, and that token as soon as it is known.
        fileprivate var sampledPosition: Int?
        fileprivate var sampledToken: Int32?
        /// Set when rows of the sequence were not computed: whatever follows cannot be right, until it is released.
        fileprivate var failure: ProtoFailure?
        /// The last step with rows of the sequence.
        fileprivate var step: UInt64 = 0
    }

    package enum Outcome: Equatable {
        /// The step was here before.
        case repeated
        /// Changes are missing between what this home knows and what the step assumes.
        case gap(known: UInt64, found: UInt64)
        case applied
    }

    private var tableSequence: UInt64 = 0
    private var lastStep: UInt64 = 0
    /// The last step that a gap kept out: it may come again with whole tables.
    private var refusedStep: UInt64?
    package private(set) var tables: [UInt64: Table] = [:]

    package init() {}

    /// Applies the step's changes and checks its rows. What is wrong with one sequence fails that sequence alone.
    ///
    /// - Parameters:
    ///   - samples: the lane ends where it begins, so that rows may come before their token is known.
    ///   - result: becomes the step's rows, where the outcome is `applied`.
    package mutating func apply(
        _ step: borrowing StepBatch, bounds: WorkerBounds, samples: Bool, into result: inout StepEntries
    ) -> Outcome {
        let isSecondTry = step.wholeTables && step.stepID == refusedStep
        guard step.stepID > lastStep || isSecondTry else { return .repeated }
        let isNews: Bool
        if step.wholeTables {
            isNews = true
            tables.removeAll()
        } else if step.tableSequence <= tableSequence {
            isNews = false
        } else if step.tableSequence - 1 == tableSequence {
            isNews = true
        } else {
            lastStep = step.stepID
            refusedStep = step.stepID
            return .gap(known: tableSequence, found: step.tableSequence)
        }
        lastStep = step.stepID
        refusedStep = nil
        tableSequence = step.wholeTables ? step.tableSequence : max(tableSequence, step.tableSequence)
        if isNews {
            for sequence in step.released { tables[sequence] = nil }
        }

        result.removeAll()
        var frameRow = 0
        var scored = 0
        for (index, rows) in step.rows.enumerated() {
            defer { frameRow += rows.tokens.count }
            guard let table = table(of: rows.sequence, bounds: bounds) else {
                let failure = Failure(
                    code: "too_many_sequences",
                    message: "the lane has \(tables.count) sequences, the most are \(bounds.sequencesInLane)")
                result.failures.append(.init(sequence: rows.sequence, failure: .init(failure)))
                continue
            }
            let isRepeated = table.step == step.stepID
            table.step = step.stepID
            let isAhead =
                samples && rows.tokens.count == 1
                && step.tokens[rows.tokens.lowerBound] == ProtoSequenceRows.sampledToken
            let token = isAhead ? table.sampledToken : nil
            let failure =
                isRepeated
                ? ProtoFailure(Failure(code: "sequence_repeated", message: "a sequence stands twice in one step"))
                : table.accept(rows, of: step, isNews: isNews, isAhead: isAhead, scored: &scored, bounds: bounds)
            if let failure {
                table.failure = failure
                result.failures.append(.init(sequence: rows.sequence, failure: failure))
            } else {
                let firstPage = result.pages.count
                result.pages.append(contentsOf: table.pages)
                result.entries.append(
                    StepEntries.Entry(
                        index: index, sequence: rows.sequence, frameRow: frameRow, position: Int(rows.position),
                        count: rows.tokens.count, isAhead: isAhead && token == nil, sampledToken: token,
                        pages: firstPage..<result.pages.count, sampling: table.sampling))
            }
        }
        if !result.failures.isEmpty {
            // A sequence that stands twice has failed as a whole.
            let failed = Set(result.failures.map(\.sequence))
            result.entries.removeAll { failed.contains($0.sequence) }
        }
        return .applied
    }

    /// Marks a sequence whose rows turned out wrong, so that its later rows are not computed either.
    package mutating func fail(_ sequence: UInt64, _ failure: ProtoFailure) {
        tables[sequence]?.failure = failure
    }

    /// What a row was sampled to, and where that token belongs.
    package func sampled(_ token: Int32, of sequence: UInt64, at position: Int) {
        guard let table = tables[sequence], table.sampledPosition == position else { return }
        table.sampledToken = token
    }

    /// The table of a sequence, a new one where it has none; nil where there are too many.
    private mutating func table(of sequence: UInt64, bounds: WorkerBounds) -> Table? {
        if let table = tables[sequence] { return table }
        guard tables.count < bounds.sequencesInLane else { return nil }
        let table = Table()
        // Grown seldom while the sequence does: 2,048 tokens.
        table.pages.reserveCapacity(64)
        tables[sequence] = table
        return table
    }
}

extension LaneTables.Table {
    /// Takes the rows' pages and parameters.
    ///
    /// - Returns: what is wrong with the rows, nil if nothing is.
    fileprivate func accept(
        _ rows: StepBatch.Rows, of step: borrowing StepBatch, isNews: Bool, isAhead: Bool, scored: inout Int,
        bounds: WorkerBounds
    ) -> ProtoFailure? {
        func failure(_ code: String, _ message: String) -> ProtoFailure { .init(Failure(code: code, message: message)) }

        if let failure = self.failure { return failure }
        if isNews {
            let most = (bounds.contextLength + WorkerBounds.tokensPerPage - 1) / WorkerBounds.tokensPerPage
            guard rows.pages.count <= most - min(pages.count, most) else {
                return failure("page_count", "\(pages.count) + \(rows.pages.count) pages, the most are \(most)")
            }
            for page in step.pages[rows.pages] where Int(page) >= bounds.pages {
                return failure("page_range", "page \(page) of \(bounds.pages)")
            }
            for page in step.pages[rows.pages] { pages.append(Int32(truncatingIfNeeded: page)) }
            if let index = rows.sampling {
                if let wrong = step.sampling[index].problem(vocabulary: bounds.vocabulary) { return .init(wrong) }
                sampling = Sampling(step.sampling[index])
            }
        }
        let end = Int(rows.position) + rows.tokens.count
        let room = min(bounds.contextLength, pages.count * WorkerBounds.tokensPerPage)
        guard end <= room else {
            return failure("position_range", "rows end at position \(end), pages and context end at \(room)")
        }
        if isAhead {
            guard sampledPosition == Int(rows.position) else {
                return failure("token_missing", "no row before position \(rows.position) is sampled")
            }
        } else {
            for token in step.tokens[rows.tokens] where token < 0 || Int(token) >= bounds.vocabulary {
                return failure("token_range", "token \(token) of \(bounds.vocabulary)")
            }
        }
        sampledPosition = rows.sample ? end : nil
        sampledToken = nil
        if rows.sample {
            guard !rows.tokens.isEmpty else { return failure("rows_missing", "no row to sample from") }
            guard sampling != nil else { return failure("sampling_missing", "no sampling parameters") }
        }
        guard let index = rows.score else { return nil }
        let targets = step.scores[index].targets
        guard targets.count <= rows.tokens.count else {
            return failure("target_count", "\(targets.count) targets for \(rows.tokens.count) rows")
        }
        if let token = targets.first(where: { $0 < 0 || Int($0) >= bounds.vocabulary }) {
            return failure("token_range", "target \(token) of \(bounds.vocabulary)")
        }
        // At most 2^13 rows and 2^32 tokens each.
        let wanted = rows.tokens.count * min(Int(step.scores[index].top), bounds.vocabulary)
        guard wanted <= WorkerBounds.scoresInStep - scored else {
            return failure("score_too_large", "\(wanted) more top tokens, a step returns \(WorkerBounds.scoresInStep)")
        }
        scored += wanted
        return nil
    }
}

extension ProtoSequenceFailure {
    package init(sequence: UInt64, failure: ProtoFailure) {
        self.init()
        self.sequence = sequence
        self.failure = failure
    }
}

extension ProtoSamplingParameters {
    /// What is wrong with the parameters, nil if nothing is.
    fileprivate func problem(vocabulary: Int) -> Failure? {
        func invalid(_ message: String) -> Failure { Failure(code: "sampling_invalid", message: message) }
        guard temperature.isFinite, temperature >= 0 else { return invalid("temperature \(temperature), 0 or more") }
        guard topP > 0, topP <= 1 else { return invalid("top_p \(topP), above 0 up to 1") }
        guard minP >= 0, minP <= 1 else { return invalid("min_p \(minP), 0 to 1") }
        for entry in logitBias {
            guard entry.token >= 0, Int(entry.token) < vocabulary else {
                return invalid("logit_bias: token \(entry.token) of \(vocabulary)")
            }
            guard entry.bias.isFinite else { return invalid("logit_bias: \(entry.bias) is not finite") }
        }
        return nil
    }
}
