import CKernels

/// How the attention of a step's rows is cut into items for the threads, each once for every kv head.
///
/// Rows of one sequence that follow each other are computed together, so that a page is read for all of them. Where rows
/// are fewer than the threads can share, the spans of a long context are shared too, and merged when all are done. Where
/// the cuts are changes no bit (`tk_attention`).
package struct AttentionWork: Equatable {
    /// A row whose spans several items share.
    package struct LongRow: Equatable {
        package var row: Int
        package var spans: Int
        /// Spans of the long rows before it: where its partials begin.
        package var spansBefore: Int
    }

    /// A run of a long row's spans.
    package struct Run: Equatable {
        /// Index in `longRows`.
        package var longRow: Int
        package var spans: Range<Int>
    }

    package private(set) var runs: [Run] = []
    /// Rows that one item computes from their first span to their last.
    package private(set) var blocks: [Range<Int>] = []
    package private(set) var longRows: [LongRow] = []
    /// Spans of all long rows.
    package private(set) var longSpans = 0

    /// Rows of a block at most: their queries and scores stay in the second-level cache.
    package static let rowsPerBlock = 8
    /// Items for each thread, so that one that is held up does not hold up the rest.
    private static let itemsPerThread = 4

    package init() {}

    /// - Parameters:
    ///   - positions: of the rows.
    ///   - follows: whether a row comes right after the row before it in the same sequence.
    package init(positions: [Int], follows: [Bool], keyValueHeads: Int, threads: Int) {
        plan(positions: positions, follows: follows, keyValueHeads: keyValueHeads, threads: threads)
    }

    /// Cuts another step's rows, in the memory of the last one's.
    mutating func plan(positions: [Int], follows: [Bool], keyValueHeads: Int, threads: Int) {
        runs.removeAll(keepingCapacity: true)
        blocks.removeAll(keepingCapacity: true)
        longRows.removeAll(keepingCapacity: true)
        longSpans = 0
        func spans(_ row: Int) -> Int { tk_span_count(positions[row] + 1) }
        let wanted = threads * Self.itemsPerThread
        var (most, budget) = (Self.rowsPerBlock, Int.max)
        if threads > 1 {
            most = min(max(positions.count * keyValueHeads / wanted, 1), most)
            let all = positions.indices.reduce(0) { $0 + spans($1) }
            budget = (all * keyValueHeads + wanted - 1) / wanted
        }
        var row = 0
        while row < positions.count {
            var end = row + 1
            while end < positions.count, follows[end] { end += 1 }
            let cuts = (end - row + most - 1) / most
            for cut in 0..<cuts {
                let block = row + (end - row) * cut / cuts..<row + (end - row) * (cut + 1) / cuts
                if block.count == 1, spans(block.lowerBound) > budget {
                    share(row: block.lowerBound, spans: spans(block.lowerBound), budget: budget)
                } else {
                    blocks.append(block)
                }
            }
            row = end
        }
    }

    private mutating func share(row: Int, spans: Int, budget: Int) {
        let count = (spans + budget - 1) / budget
        for run in 0..<count {
            runs.append(Run(longRow: longRows.count, spans: spans * run / count..<spans * (run + 1) / count))
        }
        longRows.append(LongRow(row: row, spans: spans, spansBefore: longSpans))
        longSpans += spans
    }
}
