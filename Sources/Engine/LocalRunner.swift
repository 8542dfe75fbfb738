import CKernels
import ModelStore

/// A whole model in one process, without sockets: what `generate` and `score` run, and the oracle of the cluster's tests.
package final class LocalRunner {
    package let engine: Engine
    private let hidden: RowBuffer
    private let logits: RowBuffer
    private let pages: PageTable

    /// Rows of logits made at once: bounds their memory (8 MiB at a vocabulary of 32,768).
    static let logitRows = 64

    /// - Parameters:
    ///   - engine: one that holds the whole model.
    ///   - pages: the pages to use, in order; all of the engine's by default. They bound the context.
    package init(engine: Engine, pages: PageTable? = nil) {
        self.engine = engine
        self.hidden = RowBuffer(rows: 0, width: engine.shape.hidden)
        self.logits = RowBuffer(rows: 0, width: engine.shape.vocabulary)
        self.pages = pages ?? PageTable(0..<Int32(clamping: engine.pages))
    }

    /// Positions that a sequence may have.
    package var contextLength: Int {
        min(engine.shape.contextLength, pages.count * Engine.pageTokens)
    }

    /// Why a generation ended.
    package enum FinishReason: String, Sendable {
        /// The model said `</s>`.
        case stop
        /// The limit of tokens or the context's end.
        case length
        /// `onToken` said so.
        case cancelled
    }

    /// The tokens that a prompt led to.
    package struct Generation: Sendable {
        /// With the `</s>` that ended them, where one did.
        package var ids: [Int32]
        package var finishReason: FinishReason
    }

    /// Continues a prompt.
    ///
    /// - Parameters:
    ///   - prompt: at least one token, with `<s>` where one is wanted.
    ///   - maxTokens: nil goes on to the context's end.
    ///   - prefillChunk: rows of the prompt in one step; changes no bit of the result.
    ///   - onToken: called with each token; false ends the generation.
    /// - Throws: `EngineError`: `token_range`, `position_range` for a prompt that does not fit, `not_finite` where the
    ///   model's numbers fail.
    package func generate(
        prompt: [Int32], parameters: SamplingParameters, maxTokens: Int? = nil, prefillChunk: Int = 256,
        onToken: (Int32) -> Bool = { _ in true }
    ) throws -> Generation {
        try checkFits(prompt, below: contextLength)
        let limit = min(maxTokens ?? Int.max, contextLength - prompt.count)
        var output = Generation(ids: [], finishReason: .length)
        var sampler = Sampler()
        guard limit > 0 else { return output }
        var position = 0
        var next = ArraySlice(prompt)
        while true {
            try forward(next, at: position, chunk: prefillChunk, onlyLast: true)
            position += next.count
            try engine.logits(hidden: hidden, rows: [hidden.rows - 1], into: logits)
            guard let token = sampler.sample(logits: logits.row(0), parameters: parameters, position: position) else {
                throw EngineError(code: "not_finite", message: "the logits at position \(position - 1) are not numbers")
            }
            output.ids.append(token)
            if !onToken(token) { output.finishReason = .cancelled }
            if token == engine.shape.endToken { output.finishReason = .stop }
            guard output.finishReason == .length, output.ids.count < limit else { return output }
            next = [token]
        }
    }

    /// What `score` says of a text.
    package struct Score: Sendable {
        package var ids: [Int32]
        /// At every position the best (id, logit), best first.
        package var top: [[(Int32, Float)]]
        package var lastLogits: [Float]
        /// Mean over the tokens after the first of -ln p(token | tokens before), in nats; 0 for one token.
        package var meanNLL: Double
        /// Each layer's route at the last position.
        package var routesLast: [Route]
    }

    /// The model's opinion of every token of `ids`.
    ///
    /// - Throws: as `generate`.
    package func score(ids: [Int32], top: Int, prefillChunk: Int = 256) throws -> Score {
        try checkFits(ids, below: contextLength + 1)
        var score = Score(ids: ids, top: [], lastLogits: [], meanNLL: 0, routesLast: [])
        var sum = 0.0
        var done = 0
        while done < ids.count {
            let chunk = ids[done..<min(done + max(prefillChunk, 1), ids.count)]
            let routes = try forward(chunk, at: done, chunk: chunk.count, onlyLast: false)
            for first in stride(from: 0, to: chunk.count, by: Self.logitRows) {
                let rows = Array(first..<min(first + Self.logitRows, chunk.count))
                try engine.logits(hidden: hidden, rows: rows[...], into: logits)
                for (index, row) in rows.enumerated() {
                    let next = done + row + 1
                    let target = next < ids.count ? ids[next] : nil
                    guard
                        let scored = scoreRow(logits: UnsafeBufferPointer(logits.row(index)), top: top, target: target)
                    else {
                        throw EngineError(
                            code: "not_finite", message: "the logits at position \(next - 1) are not numbers")
                    }
                    score.top.append(scored.top)
                    sum += scored.nll ?? 0
                    if next == ids.count { score.lastLogits = Array(logits.row(index)) }
                }
            }
            done += chunk.count
            score.routesLast = routes
        }
        score.meanNLL = ids.count > 1 ? sum / Double(ids.count - 1) : 0
        return score
    }

    /// Runs one step: rows of any sequences through all layers together, and the logits of some of them.
    ///
    /// - Parameters:
    ///   - rows: where each token stands; as many as tokens. The page tables are the caller's.
    ///   - logitRows: the rows whose logits are made, lowest first.
    /// - Returns: what the step read and computed.
    /// - Throws: `EngineError`: `token_range`, `position_range`, `page_range` or `row_count`.
    package func step(tokens: [Int32], rows: [AttentionRow], logitRows: [Int]) throws -> StepWork {
        guard tokens.count == rows.count else {
            throw EngineError(code: "row_count", message: "\(tokens.count) tokens for \(rows.count) rows")
        }
        try engine.embed(tokens, into: hidden)
        let batch = try engine.batch(rows, ending: logitRows)
        var work = StepWork(engine: engine, rows: rows, logitRows: logitRows)
        for layer in engine.shard.layers {
            try engine.attention(layer: layer, batch: batch, hidden: hidden)
            work.add(try engine.mixture(layer: layer, batch: batch, hidden: hidden), layer: layer, of: engine)
        }
        if !logitRows.isEmpty { try engine.logits(hidden: hidden, rows: logitRows[...], into: logits) }
        return work
    }

    /// Fills pages with copies of pages that a step has filled, in every layer: a long context for a benchmark in the time
    /// of a short one's prefill. The keys keep the rotation of their first position, which changes no count of bytes or of
    /// operations.
    ///
    /// - Throws: `EngineError` `page_range`.
    package func copyPages(from source: PageTable, to target: PageTable) throws {
        for page in source + target where page < 0 || Int(page) >= engine.pages {
            throw EngineError(code: "page_range", message: "page \(page) of \(engine.pages)")
        }
        guard !source.isEmpty else { return }
        let bytes = engine.keyValues.layerPageBytes
        for local in 0..<engine.shard.layers.count {
            target.withUnsafeBufferPointer { table in
                guard let first = table.baseAddress else { return }
                let base = engine.keyValues.view(layer: local, pages: first).base
                for (index, page) in target.enumerated() {
                    (base + Int(page) * bytes).copyMemory(
                        from: base + Int(source[index % source.count]) * bytes, byteCount: bytes)
                }
            }
        }
    }

    /// Runs tokens through all layers, `chunk` rows at a time; `hidden` then holds the last chunk. The routes are the last
    /// row's.
    ///
    /// - Parameter onlyLast: whether of all rows the last one is wanted.
    @discardableResult
    private func forward(
        _ tokens: ArraySlice<Int32>, at position: Int, chunk: Int, onlyLast: Bool
    ) throws -> [Route] {
        var routes: [Route] = []
        for first in stride(from: tokens.startIndex, to: tokens.endIndex, by: max(chunk, 1)) {
            let part = tokens[first..<min(first + max(chunk, 1), tokens.endIndex)]
            let start = position + first - tokens.startIndex
            let rows = part.indices.map { AttentionRow(position: start + $0 - first, pages: pages) }
            let ending = part.endIndex == tokens.endIndex ? [rows.count - 1] : []
            routes = try engine.forward(
                tokens: Array(part), rows: rows, ending: onlyLast ? ending : nil, hidden: hidden)
        }
        return routes
    }

    private func checkFits(_ ids: [Int32], below limit: Int) throws {
        guard !ids.isEmpty, ids.count < limit else {
            throw EngineError(
                code: "position_range", message: "\(ids.count) tokens; 1 to \(limit - 1) fit into the context")
        }
    }
}
