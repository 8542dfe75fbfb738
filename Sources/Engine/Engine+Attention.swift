import CKernels
import ModelStore

/// The rows of a step, checked once, for all layers of a shard.
package final class AttentionBatch {
    /// Rows of the step.
    package let count: Int
    let positions: [Int]
    /// Positions that all rows together attend to.
    let tokens: Int
    /// Each row's table begins here in `tables`; rows of one sequence that follow each other share one.
    fileprivate let tableStarts: [Int]
    fileprivate let tables: UnsafeMutablePointer<Int32>
    fileprivate let angles: [(cosines: UnsafePointer<Float>, sines: UnsafePointer<Float>)]
    fileprivate let work: AttentionWork

    fileprivate init(rows: [AttentionRow], rotary: RotaryTable, keyValueHeads: Int, threads: Int) {
        count = rows.count
        positions = rows.map(\.position)
        tokens = rows.reduce(0) { $0 + $1.position + 1 }
        angles = rows.map { rotary.angles(position: $0.position) }
        var starts: [Int] = []
        starts.reserveCapacity(rows.count)
        var flat: PageTable = []
        flat.reserveCapacity(rows.count)
        for (index, row) in rows.enumerated() {
            if index > 0, rows[index - 1].pages == row.pages, let last = starts.last {
                starts.append(last)
            } else {
                starts.append(flat.count)
                flat.append(contentsOf: row.pages)
            }
        }
        tableStarts = starts
        work = AttentionWork(
            positions: positions,
            follows: rows.indices.map {
                $0 > 0 && starts[$0] == starts[$0 - 1] && rows[$0].position == rows[$0 - 1].position + 1
            }, keyValueHeads: keyValueHeads, threads: threads)
        tables = .allocate(capacity: max(flat.count, 1))
        tables.initialize(from: flat, count: flat.count)
    }

    deinit {
        tables.deallocate()
    }
}

extension Engine {
    /// Checks the rows of a step.
    ///
    /// - Throws: `EngineError` `position_range` for a position outside the context or past its pages, `page_range` for a page
    ///   that the engine does not have.
    package func batch(_ rows: [AttentionRow]) throws -> AttentionBatch {
        for (index, row) in rows.enumerated() {
            guard row.position >= 0, row.position < shape.contextLength,
                row.position / Self.pageTokens < row.pages.count
            else {
                throw EngineError(
                    code: "position_range",
                    message: "position \(row.position) with \(row.pages.count) pages of \(Self.pageTokens) tokens in a "
                        + "context of \(shape.contextLength)")
            }
            // Rows of one sequence carry the same array, and comparing an array with itself looks at its address alone.
            if index > 0, rows[index - 1].pages == row.pages { continue }
            if let stranger = row.pages.first(where: { $0 < 0 || Int($0) >= pages }) {
                throw EngineError(code: "page_range", message: "page \(stranger) of \(pages)")
            }
        }
        return AttentionBatch(rows: rows, rotary: rotary, keyValueHeads: shape.keyValueHeads, threads: threads)
    }

    /// x += wo · attention(norm(x)), in place, for each row. All rows' keys and values are stored before any row attends, so
    /// the rows of a prompt see each other.
    ///
    /// - Throws: `EngineError` `not_held` for another shard's layer, `row_count` where `hidden` and the batch differ.
    package func attention(layer: Int, batch: AttentionBatch, hidden: RowBuffer) throws {
        let weights = try weights(ofLayer: layer)
        try check(hidden, width: shape.hidden)
        guard hidden.rows == batch.count else {
            throw EngineError(
                code: "row_count", message: "\(hidden.rows) rows of hidden state for a batch of \(batch.count)")
        }
        let count = batch.count
        let (heads, keyValueHeads, width) = (shape.heads, shape.keyValueHeads, shape.headDimension)
        let local = layer - shard.layers.lowerBound

        input.reset(count: count, columns: shape.hidden, formats: weights.queryKeyValueFormats)
        products.eachRow(count, bytes: rowCost) { [self] row in
            tk_rmsnorm(
                Kernels.isa, hidden[row], weights.attentionNorm.base, shape.hidden, shape.normEpsilon, input.row(row))
            input.encode(row: row)
        }
        queryKeyValue.resize(rows: count)
        products.multiply(
            weights.queryKeyValue, offsets: queryKeyValueOffsets, input: input, out: queryKeyValue.base,
            stride: queryKeyValue.width)

        products.eachRow(count, bytes: queryKeyValue.width * MemoryLayout<Float>.size) { [self] row in
            let queries = queryKeyValue[row]
            let keys = queries + queryKeyValueOffsets[1]
            let angles = batch.angles[row]
            // Queries and keys lie side by side: one call turns the heads of both.
            tk_rotary_apply(Kernels.isa, queries, heads + keyValueHeads, width, angles.cosines, angles.sines)
            var view = keyValues.view(layer: local, pages: batch.tables + batch.tableStarts[row])
            tk_kv_store(Kernels.isa, &view, batch.positions[row], keys, queries + queryKeyValueOffsets[2])
        }

        inner.reset(count: count, columns: heads * width, formats: ActivationFormats(weights.wo.activation))
        attend(layer: local, batch: batch)
        products.eachRow(count, bytes: heads * width * MemoryLayout<Float>.size) { [self] row in inner.encode(row: row)
        }
        outputs.resize(rows: count)
        products.multiply(weights.wo, input: inner, out: outputs.base, stride: outputs.width)
        tk_add(Kernels.isa, hidden.base, outputs.base, count * shape.hidden)
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
