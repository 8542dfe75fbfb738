import CKernels
import ModelStore

/// The rows of a step, checked once, for all layers of a shard. Used again for another step, it needs no memory that it has not
/// got; confined to the engine's thread.
package final class AttentionBatch {
    /// Rows of the step.
    package var count: Int { positions.count }
    private(set) var positions: [Int] = []
    /// Positions that all rows together attend to.
    private(set) var tokens = 0
    /// Each row's table begins here in `tables`; rows of one sequence that follow each other share one.
    fileprivate private(set) var tableStarts: [Int] = []
    fileprivate private(set) var angles: [(cosines: UnsafePointer<Float>, sines: UnsafePointer<Float>)] = []
    fileprivate private(set) var work = AttentionWork()
    /// The rows that go on after the last layer's keys and values, lowest first; nil where all do.
    package var ending: [Int]? { endsEarly ? endingRows : nil }
    /// Those rows as a batch of their own.
    fileprivate private(set) var end: AttentionBatch?
    private var endsEarly = false
    private var endingRows: [Int] = []
    private var follows: [Bool] = []
    private var pageCount = 0
    private let memory = Scratch()

    package init() {}

    fileprivate var tables: UnsafeMutablePointer<Int32> { memory.base.assumingMemoryBound(to: Int32.self) }

    private func removeAll() {
        positions.removeAll(keepingCapacity: true)
        tableStarts.removeAll(keepingCapacity: true)
        angles.removeAll(keepingCapacity: true)
        follows.removeAll(keepingCapacity: true)
        tokens = 0
        pageCount = 0
        endsEarly = false
        endingRows.removeAll(keepingCapacity: true)
    }

    /// Takes rows that are right, and those of them that `ending` names as rows that go on to the end; nil names all.
    fileprivate func take(
        _ rows: ArraySlice<PlacedRow>, ending: [Int]?, pages: [Int32], rotary: RotaryTable, keyValueHeads: Int,
        threads: Int
    ) {
        take(rows, pages: pages, rotary: rotary, keyValueHeads: keyValueHeads, threads: threads)
        guard let ending, ending.count < rows.count else { return }
        endsEarly = true
        endingRows.append(contentsOf: ending)
        let end = end ?? AttentionBatch()
        self.end = end
        end.take(
            ending.lazy.map { rows[rows.startIndex + $0] }, pages: pages, rotary: rotary, keyValueHeads: keyValueHeads,
            threads: threads)
    }

    private func take(
        _ rows: some Collection<PlacedRow>, pages: [Int32], rotary: RotaryTable, keyValueHeads: Int, threads: Int
    ) {
        removeAll()
        var last: PlacedRow?
        for row in rows {
            if row.pages != last?.pages { pageCount += row.pages.count }
            last = row
        }
        // More than is needed, since sequences grow.
        let room = (pageCount | 1023) + 1
        let tables = memory.reserve(room * MemoryLayout<Int32>.size).bindMemory(to: Int32.self, capacity: room)
        var end = 0
        last = nil
        for row in rows {
            if row.pages == last?.pages, let start = tableStarts.last {
                tableStarts.append(start)
                follows.append(row.position == positions[positions.count - 1] + 1)
            } else {
                tableStarts.append(end)
                follows.append(false)
                for page in pages[row.pages] {
                    tables[end] = page
                    end += 1
                }
            }
            positions.append(row.position)
            angles.append(rotary.angles(position: row.position))
            tokens += row.position + 1
            last = row
        }
        work.plan(positions: positions, follows: follows, keyValueHeads: keyValueHeads, threads: threads)
    }
}

extension Engine {
    /// Checks the rows of a step.
    ///
    /// - Throws: as `fill`.
    package func batch(_ rows: [AttentionRow], ending: [Int]? = nil) throws -> AttentionBatch {
        var placed: [PlacedRow] = []
        var pages: PageTable = []
        for (index, row) in rows.enumerated() {
            // Rows of one sequence carry the same array, and comparing an array with itself looks at its address alone.
            if index > 0, rows[index - 1].pages == row.pages {
                placed.append(PlacedRow(position: row.position, pages: placed[index - 1].pages))
            } else {
                placed.append(PlacedRow(position: row.position, pages: pages.count..<pages.count + row.pages.count))
                pages += row.pages
            }
        }
        let batch = AttentionBatch()
        try fill(batch, rows: placed[...], ending: ending, pages: pages)
        return batch
    }

    /// Checks the rows of a step and puts them into a batch, in place of what it held.
    ///
    /// - Parameters:
    ///   - ending: places in `rows`, lowest first, of those whose hidden state after the model's last layer is wanted; nil for
    ///     all. Of others that layer computes keys and values alone, since nothing else will be asked of them.
    ///   - pages: the rows' tables.
    /// - Throws: `EngineError` `position_range` for a position outside the context or past its pages, `page_range` for a page
    ///   that the engine does not have, `row_count` where `ending` names rows that are not there.
    package func fill(
        _ batch: AttentionBatch, rows: ArraySlice<PlacedRow>, ending: [Int]? = nil, pages: PageTable
    ) throws {
        if let ending,
            zip(ending, ending.dropFirst()).contains(where: { $0 >= $1 }) || (ending.first ?? 0) < 0
                || (ending.last ?? -1) >= rows.count
        {
            throw EngineError(code: "row_count", message: "rows \(ending) of \(rows.count)")
        }
        var checked: Range<Int>?
        for row in rows {
            guard row.position >= 0, row.position < shape.contextLength,
                row.position / Self.pageTokens < row.pages.count
            else {
                throw EngineError(
                    code: "position_range",
                    message: "position \(row.position) with \(row.pages.count) pages of \(Self.pageTokens) tokens in a "
                        + "context of \(shape.contextLength)")
            }
            if row.pages == checked { continue }
            for page in pages[row.pages] where page < 0 || Int(page) >= self.pages {
                throw EngineError(code: "page_range", message: "page \(page) of \(self.pages)")
            }
            checked = row.pages
        }
        batch.take(
            rows, ending: ending, pages: pages, rotary: rotary, keyValueHeads: shape.keyValueHeads, threads: threads)
    }

    /// The rows that a layer computes in full; nil for all.
    func rowsInFull(layer: Int, of batch: AttentionBatch) -> [Int]? {
        layer == shape.layers - 1 ? batch.ending : nil
    }

    /// x += wo · attention(norm(x)), in place, for each row. All rows' keys and values are stored before any row attends, so
    /// the rows of a prompt see each other. In the model's last layer only the rows that the batch ends with change.
    ///
    /// - Throws: `EngineError` `not_held` for another shard's layer, `row_count` where `hidden` and the batch differ.
    package func attention(layer: Int, batch: AttentionBatch, hidden: RowBuffer) throws {
        let weights = try weights(ofLayer: layer)
        try check(hidden, width: shape.hidden)
        guard hidden.rows == batch.count else {
            throw EngineError(
                code: "row_count", message: "\(hidden.rows) rows of hidden state for a batch of \(batch.count)")
        }
        let local = layer - shard.layers.lowerBound
        guard let rows = rowsInFull(layer: layer, of: batch), let end = batch.end else {
            project(weights, 0..<3, hidden: hidden, rows: nil, count: batch.count)
            storeKeysAndValues(layer: local, batch: batch, turningQueries: true)
            attend(layer: local, batch: batch, weights: weights)
            tk_add(Kernels.isa, hidden.base, outputs.base, batch.count * shape.hidden)
            return
        }
        project(weights, 1..<3, hidden: hidden, rows: nil, count: batch.count)
        storeKeysAndValues(layer: local, batch: batch, turningQueries: false)
        guard !rows.isEmpty else { return }
        project(weights, 0..<1, hidden: hidden, rows: rows, count: rows.count)
        turnQueries(of: end)
        attend(layer: local, batch: end, weights: weights)
        for (index, row) in rows.enumerated() {
            tk_add(Kernels.isa, hidden[row], outputs[index], shape.hidden)
        }
    }

    /// Norms rows and multiplies them with some of the matrices for queries, keys and values.
    ///
    /// - Parameter rows: the rows of `hidden`; nil for all.
    private func project(_ weights: LayerWeights, _ matrices: Range<Int>, hidden: RowBuffer, rows: [Int]?, count: Int) {
        input.reset(count: count, columns: shape.hidden, formats: weights.queryKeyValueFormats)
        products.eachRow(count, bytes: rowCost) { [self] row in
            tk_rmsnorm(
                Kernels.isa, hidden[rows?[row] ?? row], weights.attentionNorm.base, shape.hidden, shape.normEpsilon,
                input.row(row))
            input.encode(row: row)
        }
        queryKeyValue.resize(rows: count)
        products.multiply(
            weights.queryKeyValue[matrices], offsets: queryKeyValueOffsets[matrices], input: input,
            out: queryKeyValue.base, stride: queryKeyValue.width)
    }

    /// Turns the rows' keys, and their queries where they were computed, and puts keys and values into the pages.
    private func storeKeysAndValues(layer: Int, batch: AttentionBatch, turningQueries: Bool) {
        let (heads, keyValueHeads, width) = (shape.heads, shape.keyValueHeads, shape.headDimension)
        products.eachRow(batch.count, bytes: queryKeyValue.width * MemoryLayout<Float>.size) { [self] row in
            let queries = queryKeyValue[row]
            let keys = queries + queryKeyValueOffsets[1]
            let angles = batch.angles[row]
            // Queries and keys lie side by side: one call turns the heads of both.
            let first = turningQueries ? queries : keys
            tk_rotary_apply(
                Kernels.isa, first, (turningQueries ? heads : 0) + keyValueHeads, width, angles.cosines, angles.sines)
            var view = keyValues.view(layer: layer, pages: batch.tables + batch.tableStarts[row])
            tk_kv_store(Kernels.isa, &view, batch.positions[row], keys, queries + queryKeyValueOffsets[2])
        }
    }

    /// Turns queries that were computed without keys.
    private func turnQueries(of batch: AttentionBatch) {
        for row in 0..<batch.count {
            let angles = batch.angles[row]
            tk_rotary_apply(
                Kernels.isa, queryKeyValue[row], shape.heads, shape.headDimension, angles.cosines, angles.sines)
        }
    }

    /// From the rows' queries to wo · attention in `outputs`.
    private func attend(layer: Int, batch: AttentionBatch, weights: LayerWeights) {
        let columns = shape.heads * shape.headDimension
        inner.reset(count: batch.count, columns: columns, formats: ActivationFormats(weights.wo.activation))
        attend(layer: layer, batch: batch)
        products.eachRow(batch.count, bytes: columns * MemoryLayout<Float>.size) { [self] row in inner.encode(row: row)
        }
        outputs.resize(rows: batch.count)
        products.multiply(weights.wo, input: inner, out: outputs.base, stride: outputs.width)
    }

    /// From the rows' queries in `queryKeyValue` to their weighted values in `inner`.
    private func attend(layer: Int, batch: AttentionBatch) {
        let (heads, keyValueHeads, width) = (shape.heads, shape.keyValueHeads, shape.headDimension)
        let work = batch.work
        let group = heads / keyValueHeads
        let partial = group * tk_partial_floats(width)
        let partialBytes = work.longSpans * keyValueHeads * partial * MemoryLayout<Float>.size
        let partials = attentionPartials.reserve(partialBytes).assumingMemoryBound(to: Float.self)
        func view(_ row: Int) -> tk_kv_view {
            keyValues.view(layer: layer, pages: batch.tables + batch.tableStarts[row])
        }
        func partialsOf(_ long: AttentionWork.LongRow, head: Int) -> UnsafeMutablePointer<Float> {
            partials + (long.spansBefore * keyValueHeads + head * long.spans) * partial
        }

        let items = (work.runs.count + work.blocks.count) * keyValueHeads
        let rows = AttentionWork.rowsPerBlock
        // A multiple of 16, so that threads share no line of the cache.
        let floats = (tk_attention_scratch_floats(rows, heads, keyValueHeads, width) + 15) / 16 * 16
        let scratches = attentionScratch.reserve(threads * floats * MemoryLayout<Float>.size)
            .assumingMemoryBound(to: Float.self)
        products.share(items, bytes: batch.tokens * keyValues.layerPageBytes / Self.pageTokens) { [self] item, thread in
            let (index, head) = item.quotientAndRemainder(dividingBy: keyValueHeads)
            let scratch = scratches + thread * floats
            if index < work.runs.count {
                let run = work.runs[index]
                let long = work.longRows[run.longRow]
                var view = view(long.row)
                for span in run.spans {
                    tk_attention_span(
                        Kernels.isa, &view, queryKeyValue[long.row], heads, batch.positions[long.row] + 1, head,
                        span, scratch, partialsOf(long, head: head) + span * partial)
                }
            } else {
                let block = work.blocks[index - work.runs.count]
                let first = block.lowerBound
                var view = view(first)
                tk_attention(
                    Kernels.isa, &view, queryKeyValue[first], queryKeyValue.width, block.count, heads,
                    batch.positions[first] + 1, head, head + 1, scratch, inner.row(first), heads * width)
            }
        }
        products.share(work.longRows.count * keyValueHeads, bytes: partialBytes) { [self] item, _ in
            let (index, head) = item.quotientAndRemainder(dividingBy: keyValueHeads)
            let long = work.longRows[index]
            tk_attention_merge(
                Kernels.isa, partialsOf(long, head: head), long.spans, group, width,
                inner.row(long.row) + head * group * width)
        }
    }
}
