import CKernels
package import ModelStore

extension Engine {
    /// The mixture of experts on one machine: x += Σ weight · expert(norm(x)) over each row's best experts, where rows that
    /// chose the same expert go through it together. A worker does just this with its neighbours' help.
    ///
    /// - Returns: what the router chose, valid until the next call.
    /// - Throws: `EngineError` `not_held` where the shard lacks the layer or a chosen expert.
    @discardableResult
    package func mixture(layer: Int, hidden: RowBuffer) throws -> RoutedRows {
        let routed = try route(layer: layer, hidden: hidden, into: localRoutes)
        let used = routed.expertsUsed
        expertOutputs.resize(rows: routed.rows * used)
        var outputs = [UnsafePointer<Float>](repeating: UnsafePointer(expertOutputs.base), count: routed.rows * used)
        var done = 0
        for expert in 0..<shape.experts {
            var rows: [UnsafeRawPointer] = []
            for row in 0..<routed.rows {
                for place in 0..<used where routed.expert(row: row, place: place) == expert {
                    outputs[row * used + place] = UnsafePointer(expertOutputs[done + rows.count])
                    rows.append(routed.encodedRow(row))
                }
            }
            guard !rows.isEmpty else { continue }
            try self.expert(
                layer: layer, expert: expert, rows: rows, format: routed.format, into: expertOutputs, at: done)
            done += rows.count
        }
        try outputs.withUnsafeBufferPointer { outputs in
            for row in 0..<routed.rows {
                let chosen = UnsafeBufferPointer(rebasing: outputs[row * used..<(row + 1) * used])
                try combine(hidden: hidden, row: row, routed: routed, outputs: chosen)
            }
        }
        return routed
    }

    /// Norms each row, chooses its experts, and encodes it once as all experts of the layer take it.
    ///
    /// - Parameter routed: used again where given; otherwise made.
    /// - Throws: `EngineError` `not_held` where the shard lacks the layer.
    package func route(layer: Int, hidden: RowBuffer, into routed: RoutedRows = RoutedRows()) throws -> RoutedRows {
        let weights = try weights(ofLayer: layer)
        try check(hidden, width: shape.hidden)
        let format = expertInput[layer]
        let rowBytes = format.rowBytes(columns: shape.hidden)
        routed.reset(rows: hidden.rows, expertsUsed: shape.expertsUsed, format: format, rowBytes: rowBytes)
        input.reset(count: hidden.rows, columns: shape.hidden, formats: [])
        let encoded = routed.encoded
        products.eachRow(hidden.rows, bytes: rowCost) { [self] row in
            tk_rmsnorm(
                Kernels.isa, hidden[row], weights.feedForwardNorm.base, shape.hidden, shape.normEpsilon, input.row(row))
            tk_quantise(
                Kernels.isa, format.kernelActivation, input.row(row), shape.hidden, encoded + row * rowBytes)
        }
        gateLogits.resize(rows: 2 * hidden.rows)
        products.multiply([weights.gate], offsets: [0], input: input, out: gateLogits.base, stride: gateLogits.width)
        routed.withChoices { experts, chances in
            for row in 0..<hidden.rows {
                tk_route(
                    Kernels.isa, gateLogits[row], shape.experts, shape.expertsUsed, gateLogits[hidden.rows + row],
                    experts + row * shape.expertsUsed, chances + row * shape.expertsUsed)
            }
        }
        return routed
    }

    /// One expert's outputs, unweighted: w2 · (silu(w1 · x) ∘ (w3 · x)) for each row. Rows may come from anywhere: none
    /// changes another's bits.
    ///
    /// - Parameters:
    ///   - rows: encoded rows of `format.rowBytes(columns: shape.hidden)` bytes, at any alignment.
    ///   - format: `expertInput[layer]`.
    ///   - outputs: `shape.hidden` wide; row `first + i` gets the output of `rows[i]`. It grows where it is too short.
    /// - Throws: `EngineError` `not_held`, `expert_range` or `row_format`.
    package func expert(
        layer: Int, expert: Int, rows: [UnsafeRawPointer], format: ActivationFormat, into outputs: RowBuffer,
        at first: Int = 0
    ) throws {
        let weights = try expertWeights(layer: layer, expert: expert)
        try check(outputs, width: shape.hidden)
        guard format == expertInput[layer] else {
            throw EngineError(
                code: "row_format", message: "rows in \(format); experts of layer \(layer) take \(expertInput[layer])")
        }
        if outputs.rows < first + rows.count { outputs.resize(rows: first + rows.count) }
        guard !rows.isEmpty else { return }
        input.reset(
            count: rows.count, columns: shape.hidden,
            formats: format == .f32 ? formats([weights.w1, weights.w3]) : [format])
        products.eachRow(rows.count, bytes: rowCost) { [self] row in
            input.load(row: row, from: rows[row], format: format)
        }
        inner.reset(count: rows.count, columns: shape.feedForward, formats: [weights.w2.activation])
        upScratch.resize(rows: rows.count)
        products.multiplyGateUp(
            gate: weights.w1, up: weights.w3, input: input, scratch: upScratch.base, out: inner.floats)
        products.eachRow(rows.count, bytes: rowCost) { [self] row in inner.encode(row: row) }
        products.multiply(
            [weights.w2], offsets: [0], input: inner, parts: weights.w2.downParts, out: outputs[first],
            stride: outputs.width)
    }

    /// x += Σ weight · output of one row, in the canonical order of addition.
    ///
    /// - Parameters:
    ///   - row: of `hidden` and of `routed`.
    ///   - outputs: the chosen experts' outputs of the row, best expert first, `shape.hidden` floats each.
    /// - Throws: `EngineError` `row_count` for a row that is not there, or another number of outputs than of experts used.
    package func combine(
        hidden: RowBuffer, row: Int, routed: RoutedRows, outputs: UnsafeBufferPointer<UnsafePointer<Float>>
    ) throws {
        try check(hidden, width: shape.hidden)
        guard row >= 0, row < hidden.rows, row < routed.rows, outputs.count == routed.expertsUsed,
            let base = outputs.baseAddress
        else {
            throw EngineError(
                code: "row_count",
                message: "row \(row) of \(hidden.rows) with \(outputs.count) outputs of \(routed.expertsUsed) experts")
        }
        routed.withWeights(row: row) { weights in
            guard let weights = weights.baseAddress else { return }
            tk_combine(Kernels.isa, hidden[row], base, weights, outputs.count, shape.hidden)
        }
    }

    private func expertWeights(layer: Int, expert: Int) throws -> ExpertWeights {
        let weights = try weights(ofLayer: layer)
        guard weights.experts.indices.contains(expert) else {
            throw EngineError(code: "expert_range", message: "expert \(expert) of \(shape.experts)")
        }
        guard let expert = weights.experts[expert] else {
            throw EngineError(code: "not_held", message: "expert \(expert) of layer \(layer)")
        }
        return expert
    }
}
