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

/// The page tables of one lane's sequences, as this home knows them. The coordinator owns them; they change with steps.
package struct LaneTables {
    package struct Table {
        package var pages: [Int32] = []
        package var sampling: ProtoSamplingParameters?
        /// Where the token belongs that the last rows are sampled to, and that token as soon as it is known.
        package var sampledPosition: Int?
        package var sampledToken: Int32?
        /// Set when rows of the sequence were not computed: whatever follows cannot be right, until it is released.
        package var failure: ProtoFailure?
    }

    /// Rows of a step that can be computed.
    package struct Entry: Equatable {
        /// Index in the step's `rows`.
        package let index: Int
        package let sequence: UInt64
        /// The first of the sequence's rows among all rows of the frame.
        package let frameRow: Int
        package let position: Int
        package let count: Int
        /// One for each row. Where `isAhead`, 0 stands for the one token, to which an earlier step is yet to be sampled.
        package let tokens: [Int32]
        package let isAhead: Bool
        /// The sequence's pages at this step: a later step may release the sequence while this one is computed.
        package let pages: [Int32]
        package let sampling: ProtoSamplingParameters?
    }

    package enum Outcome {
        /// The step was here before.
        case repeated
        /// Changes are missing between what this home knows and what the step assumes.
        case gap(known: UInt64, found: UInt64)
        case applied([Entry], failures: [ProtoSequenceFailure])
    }

    private var tableSequence: UInt64 = 0
    private var lastStep: UInt64 = 0
    /// The last step that a gap kept out: it may come again with whole tables.
    private var refusedStep: UInt64?
    package private(set) var tables: [UInt64: Table] = [:]

    package init() {}

    /// Applies the step's changes and checks its rows. What is wrong with one sequence fails that sequence alone.
    ///
    /// - Parameter samples: the lane ends where it begins, so that rows may come before their token is known.
    package mutating func apply(_ step: ProtoStep, bounds: WorkerBounds, samples: Bool) -> Outcome {
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

        var entries: [Entry] = []
        entries.reserveCapacity(step.rows.count)
        var failures: [ProtoSequenceFailure] = []
        var seen = Set<UInt64>(minimumCapacity: step.rows.count)
        var frameRow = 0
        var scored = 0
        for (index, rows) in step.rows.enumerated() {
            let failure: ProtoFailure?
            let isAhead =
                samples && rows.tokens.count == 1 && rows.tokens.first == ProtoSequenceRows.sampledToken
            let token = isAhead ? tables[rows.sequence]?.sampledToken : nil
            if !seen.insert(rows.sequence).inserted {
                failure = .init(Failure(code: "sequence_repeated", message: "a sequence stands twice in one step"))
            } else {
                failure = accept(rows, isNews: isNews, isAhead: isAhead, scored: &scored, bounds: bounds)
            }
            defer { frameRow += rows.tokens.count }
            if let failure {
                tables[rows.sequence]?.failure = failure
                failures.append(.init(sequence: rows.sequence, failure: failure))
            } else {
                let table = tables[rows.sequence]
                entries.append(
                    Entry(
                        index: index, sequence: rows.sequence, frameRow: frameRow, position: Int(rows.position),
                        count: rows.tokens.count, tokens: isAhead ? token.map { [$0] } ?? Self.unknown : rows.tokens,
                        isAhead: isAhead && token == nil, pages: table?.pages ?? [], sampling: table?.sampling))
            }
        }
        if failures.isEmpty { return .applied(entries, failures: []) }
        // A sequence that stands twice has failed as a whole.
        let failed = Set(failures.map(\.sequence))
        return .applied(entries.filter { !failed.contains($0.sequence) }, failures: failures)
    }

    private static let unknown: [Int32] = [0]

    /// Marks a sequence whose rows turned out wrong, so that its later rows are not computed either.
    package mutating func fail(_ sequence: UInt64, _ failure: ProtoFailure) {
        tables[sequence]?.failure = failure
    }

    /// What a row was sampled to, and where that token belongs.
    package mutating func sampled(_ token: Int32, of sequence: UInt64, at position: Int) {
        guard tables[sequence]?.sampledPosition == position else { return }
        tables[sequence]?.sampledToken = token
    }

    private mutating func accept(
        _ rows: ProtoSequenceRows, isNews: Bool, isAhead: Bool, scored: inout Int, bounds: WorkerBounds
    ) -> ProtoFailure? {
        func failure(_ code: String, _ message: String) -> ProtoFailure { .init(Failure(code: code, message: message)) }

        guard tables[rows.sequence] != nil || tables.count < bounds.sequencesInLane else {
            return failure(
                "too_many_sequences",
                "the lane has \(tables.count) sequences, the most are \(bounds.sequencesInLane)")
        }
        var table = tables[rows.sequence] ?? Table()
        defer { tables[rows.sequence] = table }
        if let failure = table.failure { return failure }
        if isNews {
            let most = (bounds.contextLength + WorkerBounds.tokensPerPage - 1) / WorkerBounds.tokensPerPage
            guard rows.pages.count <= most - min(table.pages.count, most) else {
                return failure("page_count", "\(table.pages.count) + \(rows.pages.count) pages, the most are \(most)")
            }
            if let page = rows.pages.first(where: { Int($0) >= bounds.pages }) {
                return failure("page_range", "page \(page) of \(bounds.pages)")
            }
            // Adding nothing to a table would copy it.
            if !rows.pages.isEmpty { table.pages += rows.pages.map { Int32(truncatingIfNeeded: $0) } }
            if rows.hasSampling {
                if let wrong = rows.sampling.problem(vocabulary: bounds.vocabulary) { return .init(wrong) }
                table.sampling = rows.sampling
            }
        }
        let end = Int(rows.position) + rows.tokens.count
        let room = min(bounds.contextLength, table.pages.count * WorkerBounds.tokensPerPage)
        guard end <= room else {
            return failure("position_range", "rows end at position \(end), pages and context end at \(room)")
        }
        if isAhead {
            guard table.sampledPosition == Int(rows.position) else {
                return failure("token_missing", "no row before position \(rows.position) is sampled")
            }
        } else if let token = rows.tokens.first(where: { $0 < 0 || Int($0) >= bounds.vocabulary }) {
            return failure("token_range", "token \(token) of \(bounds.vocabulary)")
        }
        table.sampledPosition = rows.sample ? end : nil
        table.sampledToken = nil
        if rows.sample {
            guard !rows.tokens.isEmpty else { return failure("rows_missing", "no row to sample from") }
            guard table.sampling != nil else { return failure("sampling_missing", "no sampling parameters") }
        }
        if rows.hasScore {
            let targets = rows.score.targets
            guard targets.count <= rows.tokens.count else {
                return failure("target_count", "\(targets.count) targets for \(rows.tokens.count) rows")
            }
            if let token = targets.first(where: { $0 < 0 || Int($0) >= bounds.vocabulary }) {
                return failure("token_range", "target \(token) of \(bounds.vocabulary)")
            }
            // At most 2^13 rows and 2^32 tokens each.
            let wanted = rows.tokens.count * min(Int(rows.score.top), bounds.vocabulary)
            guard wanted <= WorkerBounds.scoresInStep - scored else {
                return failure(
                    "score_too_large", "\(wanted) more top tokens, a step returns \(WorkerBounds.scoresInStep)")
            }
            scored += wanted
        }
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
