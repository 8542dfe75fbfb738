import CKernels
import ModelStore

extension Engine {
    /// Looks up the rows of tokens; `hidden` gets one row for each.
    ///
    /// - Throws: `EngineError` `token_range` or, where the shard has no embedding, `not_held`.
    package func embed(_ tokens: [Int32], into hidden: RowBuffer) throws {
        guard let embedding = weights.embedding else {
            throw EngineError(code: "not_held", message: "this shard does not hold the embedding")
        }
        try check(hidden, width: shape.hidden)
        if let stranger = tokens.first(where: { $0 < 0 || Int($0) >= shape.vocabulary }) {
            throw EngineError(code: "token_range", message: "token \(stranger) of a vocabulary of \(shape.vocabulary)")
        }
        hidden.resize(rows: tokens.count)
        for (row, token) in tokens.enumerated() {
            tk_dequantise_row(
                embedding.format.kernelFormat, embedding.base + Int(token) * embedding.rowBytes, shape.hidden,
                hidden[row])
        }
    }

    /// The logits of some rows after the last layer: final norm, then the output matrix.
    ///
    /// - Parameters:
    ///   - rows: indices of rows of `hidden`, which is not changed.
    ///   - logits: `shape.vocabulary` wide; gets a row for each of `rows`, in their order.
    /// - Throws: `EngineError` `not_held` where the shard has no head, `row_count` for a row that `hidden` does not have.
    package func logits(hidden: RowBuffer, rows: ArraySlice<Int>, into logits: RowBuffer) throws {
        guard let head = weights.head else {
            throw EngineError(code: "not_held", message: "this shard does not hold the head")
        }
        try check(hidden, width: shape.hidden)
        try check(logits, width: shape.vocabulary)
        if let stranger = rows.first(where: { $0 < 0 || $0 >= hidden.rows }) {
            throw EngineError(code: "row_count", message: "row \(stranger) of \(hidden.rows)")
        }
        logits.resize(rows: rows.count)
        input.reset(count: rows.count, columns: shape.hidden, formats: ActivationFormats(head.output.activation))
        products.eachRow(rows.count, bytes: rowCost) { [self] index in
            tk_rmsnorm(
                Kernels.isa, hidden[rows[rows.startIndex + index]], head.norm.base, shape.hidden, shape.normEpsilon,
                input.row(index))
            input.encode(row: index)
        }
        products.multiply(head.output, input: input, out: logits.base, stride: logits.width)
    }

    /// Runs rows through every layer of a shard that holds the whole model; `hidden` gets the rows after the last layer.
    ///
    /// - Parameters:
    ///   - rows: where each token stands; as many as tokens.
    ///   - ending: the rows that are wanted after the last layer, lowest first; nil for all.
    /// - Returns: the last row's route in every layer, if it is wanted.
    package func forward(
        tokens: [Int32], rows: [AttentionRow], ending: [Int]? = nil, hidden: RowBuffer
    ) throws -> [Route] {
        try embed(tokens, into: hidden)
        let batch = try batch(rows, ending: ending)
        var routes: [Route] = []
        for layer in shard.layers {
            try attention(layer: layer, batch: batch, hidden: hidden)
            let routed = try mixture(layer: layer, batch: batch, hidden: hidden)
            if routed.rows > 0, routed.isRouted(routed.rows - 1) { routes.append(routed.route(routed.rows - 1)) }
        }
        return routes
    }

    /// Bytes that norming and encoding a row of hidden state touches, for sharing rows between threads.
    var rowCost: Int { shape.hidden * 3 * MemoryLayout<Float>.size }
}
