import Testing
import Wire
import Worker

extension LaneTables {
    /// What a step's rows come to.
    fileprivate enum Applied {
        case repeated
        case gap(known: UInt64, found: UInt64)
        case applied(StepEntries, failures: [ProtoSequenceFailure])
    }

    fileprivate mutating func apply(_ step: ProtoStep, bounds: WorkerBounds, samples: Bool) -> Applied {
        var entries = StepEntries()
        switch apply(StepBatch(step), bounds: bounds, samples: samples, into: &entries) {
        case .repeated: return .repeated
        case .gap(let known, let found): return .gap(known: known, found: found)
        case .applied: return .applied(entries, failures: entries.failures)
        }
    }
}

extension StepEntries {
    /// By entry.
    fileprivate var tables: [[Int32]] { map { Array(pages[$0.pages]) } }
}

@Suite struct LaneTablesTests {
    private static let bounds = WorkerBounds(
        pages: 10, contextLength: 100, vocabulary: 50, expertsUsed: 2, hidden: 8, rowCredits: 8)

    private static func rows(
        _ sequence: UInt64, _ tokens: [Int32], at position: UInt32 = 0, pages: [UInt32] = [], isFirst: Bool = true
    ) -> ProtoSequenceRows {
        var rows = ProtoSequenceRows()
        rows.sequence = sequence
        rows.position = position
        rows.tokens = tokens
        rows.pages = pages
        rows.sample = true
        if isFirst { rows.sampling.topP = 1 }
        return rows
    }

    private static func step(
        _ id: UInt64, table: UInt64? = nil, whole: Bool = false, released: [UInt64] = [], _ rows: ProtoSequenceRows...
    ) -> ProtoStep {
        var step = ProtoStep()
        step.stepID = id
        step.tableSequence = table ?? id
        step.wholeTables = whole
        step.released = released
        step.rows = rows
        return step
    }

    @Test func pagesAreAppendedAndRepeatsIgnored() {
        var tables = LaneTables()
        _ = tables.apply(Self.step(1, Self.rows(7, [1, 2], pages: [3])), bounds: Self.bounds, samples: true)
        let next = Self.step(2, Self.rows(7, [3], at: 2, pages: [4], isFirst: false))
        guard case .applied(let entries, let failures) = tables.apply(next, bounds: Self.bounds, samples: true) else {
            Issue.record("not applied")
            return
        }
        #expect(failures.isEmpty)
        #expect(entries.tables == [[3, 4]])
        #expect(entries.first?.sampling?.parameters.topP == 1)
        guard case .repeated = tables.apply(next, bounds: Self.bounds, samples: true) else {
            Issue.record("a repeated step was applied")
            return
        }
        #expect(tables.tables[7]?.pages == [3, 4])
    }

    @Test func aRowMayComeBeforeItsToken() throws {
        let ahead = [ProtoSequenceRows.sampledToken]
        var tables = LaneTables()
        func apply(_ step: ProtoStep, samples: Bool = true) throws -> StepEntries {
            guard case .applied(let entries, let failures) = tables.apply(step, bounds: Self.bounds, samples: samples)
            else { throw Failure(code: "not_applied", message: "") }
            if let failure = failures.first { throw Failure(code: failure.failure.code, message: "") }
            return entries
        }
        _ = try apply(Self.step(1, Self.rows(7, [1, 2], pages: [3])))
        var entry = try #require(apply(Self.step(2, Self.rows(7, ahead, at: 2, isFirst: false))).first)
        #expect(entry.isAhead && entry.count == 1)
        // Sampled before the next step comes: it begins with the token.
        tables.sampled(8, of: 7, at: 2)
        tables.sampled(9, of: 7, at: 3)
        entry = try #require(apply(Self.step(3, Self.rows(7, ahead, at: 3, isFirst: false))).first)
        #expect(!entry.isAhead && entry.sampledToken == 9)
        // That token is used up.
        entry = try #require(apply(Self.step(4, Self.rows(7, ahead, at: 4, isFirst: false))).first)
        #expect(entry.isAhead)

        for (step, code) in [
            (Self.step(5, Self.rows(8, ahead, pages: [4])), "token_missing"),
            (Self.step(6, Self.rows(7, ahead, at: 3, isFirst: false)), "token_missing"),
        ] {
            let failure = #expect(throws: Failure.self) { _ = try apply(step) }
            #expect(failure?.code == code)
        }
        // Where the lane goes on to another home, nobody here samples.
        _ = try apply(Self.step(7, Self.rows(9, [1], pages: [5])), samples: false)
        let failure = #expect(throws: Failure.self) {
            _ = try apply(Self.step(8, Self.rows(9, ahead, at: 1, isFirst: false)), samples: false)
        }
        #expect(failure?.code == "token_range")
    }

    @Test func anOlderTableSequenceChangesNothingButItsRowsCount() {
        var tables = LaneTables()
        _ = tables.apply(Self.step(1, Self.rows(7, [1], pages: [3])), bounds: Self.bounds, samples: true)
        let step = Self.step(2, table: 1, released: [7], Self.rows(7, [2], at: 1, pages: [5], isFirst: false))
        guard case .applied(let entries, _) = tables.apply(step, bounds: Self.bounds, samples: true) else {
            Issue.record("not applied")
            return
        }
        #expect(entries.tables == [[3]])
    }

    @Test func aGapAsksForWholeTablesWhichReplaceEverything() {
        var tables = LaneTables()
        _ = tables.apply(Self.step(1, Self.rows(7, [1], pages: [3])), bounds: Self.bounds, samples: true)
        guard
            case .gap(known: 1, found: 3) = tables.apply(
                Self.step(3, Self.rows(8, [1], pages: [4])), bounds: Self.bounds, samples: true)
        else {
            Issue.record("the gap was not seen")
            return
        }
        // The same step once more is a repeat; with whole tables it is let in.
        guard
            case .repeated = tables.apply(
                Self.step(3, Self.rows(8, [1], pages: [4])), bounds: Self.bounds, samples: true)
        else {
            Issue.record("a refused step was taken anew")
            return
        }
        let whole = Self.step(3, table: 9, whole: true, Self.rows(8, [1], pages: [4]))
        guard case .applied(let entries, _) = tables.apply(whole, bounds: Self.bounds, samples: true) else {
            Issue.record("whole tables were refused")
            return
        }
        #expect(entries.count == 1)
        #expect(tables.tables.keys.sorted() == [8])
        guard case .applied = tables.apply(Self.step(4, table: 10), bounds: Self.bounds, samples: true) else {
            Issue.record("whole tables did not set the sequence")
            return
        }
    }

    @Test func releasedSequencesAreForgottenBeforeRowsAreRead() {
        var tables = LaneTables()
        _ = tables.apply(Self.step(1, Self.rows(7, [1], pages: [3])), bounds: Self.bounds, samples: true)
        let step = Self.step(2, released: [7], Self.rows(7, [9], pages: [5]))
        guard case .applied(let entries, _) = tables.apply(step, bounds: Self.bounds, samples: true) else {
            Issue.record("not applied")
            return
        }
        #expect(entries.tables == [[5]])
    }

    /// Wrong rows of sequence 1, with the code that says what is wrong.
    private static let wrongRows: [(code: String, rows: ProtoSequenceRows)] = {
        var wrong: [(code: String, rows: ProtoSequenceRows)] = [
            ("page_range", rows(1, [1], pages: [10])),
            ("page_range", rows(1, [1], pages: [.max])),
            ("page_count", rows(1, [1], pages: [0, 1, 2, 3, 4])),
            ("position_range", rows(1, [1], at: 32, pages: [0])),
            ("position_range", rows(1, [1], at: .max, pages: [0, 1, 2, 3])),
            ("position_range", rows(1, [1], at: 100, pages: [0, 1, 2, 3])),
            ("token_range", rows(1, [50], pages: [0])),
            ("token_range", rows(1, [-2], pages: [0])),
            ("token_missing", rows(1, [-1], pages: [0])),
            ("sampling_missing", rows(1, [1], pages: [0], isFirst: false)),
            ("rows_missing", rows(1, [], pages: [0])),
        ]
        func add(_ code: String, _ change: (inout ProtoSequenceRows) -> Void) {
            var bad = rows(1, [1], pages: [0])
            change(&bad)
            wrong.append((code, bad))
        }
        var bias = ProtoLogitBias()
        bias.token = 50
        add("sampling_invalid") { $0.sampling.temperature = .nan }
        add("sampling_invalid") { $0.sampling.topP = 0 }
        add("sampling_invalid") { $0.sampling.logitBias = [bias] }
        add("target_count") { $0.score.targets = [1, 2] }
        add("token_range") { $0.score.targets = [99] }
        return wrong
    }()

    @Test(arguments: wrongRows)
    func wrongRowsEndTheirSequenceAlone(code: String, bad: ProtoSequenceRows) {
        var tables = LaneTables()
        let step = Self.step(1, Self.rows(2, [1], pages: [0]), bad, Self.rows(3, [1], pages: [1]))
        guard case .applied(let entries, let failures) = tables.apply(step, bounds: Self.bounds, samples: true) else {
            Issue.record("not applied")
            return
        }
        #expect(entries.map(\.sequence) == [2, 3])
        #expect(entries.map(\.frameRow) == [0, 1 + bad.tokens.count])
        #expect(failures.map(\.sequence) == [1])
        #expect(failures.map(\.failure.code) == [code])
        // It stays failed until it is released.
        let next = Self.step(2, Self.rows(1, [1], pages: [0]))
        guard case .applied(let later, let laterFailures) = tables.apply(next, bounds: Self.bounds, samples: true)
        else {
            Issue.record("not applied")
            return
        }
        #expect(later.isEmpty)
        #expect(laterFailures.map(\.sequence) == [1])
    }

    @Test func aSequenceThatStandsTwiceFails() {
        var tables = LaneTables()
        let step = Self.step(1, Self.rows(1, [1], pages: [0]), Self.rows(1, [2], pages: [1]))
        guard case .applied(let entries, let failures) = tables.apply(step, bounds: Self.bounds, samples: true) else {
            Issue.record("not applied")
            return
        }
        #expect(entries.isEmpty)
        #expect(failures.map(\.failure.code) == ["sequence_repeated"])
    }
}
