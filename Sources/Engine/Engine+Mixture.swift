import CKernels
package import ModelStore

extension Engine {
    /// The mixture of experts on one machine: x += Σ weight · expert(norm(x)) over each row's best experts, where rows that
    /// chose the same expert go through it together. A worker does just this with its neighbours' help.
    ///
    /// - Parameter batch: which rows of the last layer go on; nil for all.
    /// - Returns: what the router chose, valid until the next call.
    /// - Throws: `EngineError` `not_held` where the shard lacks the layer or a chosen expert.
    @discardableResult
    package func mixture(layer: Int, batch: AttentionBatch? = nil, hidden: RowBuffer) throws -> RoutedRows {
        let routed = try route(layer: layer, batch: batch, hidden: hidden, into: localRoutes)
        let used = routed.expertsUsed
        expertOutputs.resize(rows: routed.rows * used)
        sortedRows.sort(routed, experts: shape.experts)
        try experts(
            layer: layer, groups: sortedRows.groups, rows: sortedRows.rows, format: routed.format, into: expertOutputs)
        try withUnsafeTemporaryAllocation(of: UnsafePointer<Float>.self, capacity: used) { outputs in
            for row in 0..<routed.rows where routed.isRouted(row) {
                for place in 0..<used {
                    let output = sortedRows.places[row * used + place]
                    outputs.initializeElement(at: place, to: UnsafePointer(expertOutputs[output]))
                }
                try combine(hidden: hidden, row: row, routed: routed, outputs: UnsafeBufferPointer(outputs))
            }
        }
        return routed
    }

    /// Norms each row, chooses its experts, and encodes it once as all experts of the layer take it.
    ///
    /// - Parameters:
    ///   - batch: which rows of the last layer go on: others get no experts. nil for all.
    ///   - routed: used again where given; otherwise made.
    /// - Throws: `EngineError` `not_held` where the shard lacks the layer.
    package func route(
        layer: Int, batch: AttentionBatch? = nil, hidden: RowBuffer, into routed: RoutedRows = RoutedRows()
    ) throws -> RoutedRows {
        let weights = try weights(ofLayer: layer)
        try check(hidden, width: shape.hidden)
        let format = expertInput[layer]
        let rowBytes = format.rowBytes(columns: shape.hidden)
        routed.reset(rows: hidden.rows, expertsUsed: shape.expertsUsed, format: format, rowBytes: rowBytes)
        let rows = batch.flatMap { rowsInFull(layer: layer, of: $0) }
        if let rows {
            routed.leaveOut()
            guard !rows.isEmpty else { return routed }
        }
        let count = rows?.count ?? hidden.rows
        input.reset(count: count, columns: shape.hidden, formats: ActivationFormats(.f32))
        let encoded = routed.encoded
        products.eachRow(count, bytes: rowCost) { [self] index in
            let row = rows?[index] ?? index
            tk_rmsnorm(
                Kernels.isa, hidden[row], weights.feedForwardNorm.base, shape.hidden, shape.normEpsilon,
                input.row(index))
            tk_quantise(
                Kernels.isa, format.kernelActivation, input.row(index), shape.hidden, encoded + row * rowBytes)
        }
        gateLogits.resize(rows: 2 * count)
        products.multiply(weights.gate, input: input, out: gateLogits.base, stride: gateLogits.width)
        routed.withChoices { experts, chances in
            for index in 0..<count {
                let first = (rows?[index] ?? index) * shape.expertsUsed
                tk_route(
                    Kernels.isa, gateLogits[index], shape.experts, shape.expertsUsed, gateLogits[count + index],
                    experts + first, chances + first)
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
    ///   - outputs: `shape.hidden` wide; row i gets the output of `rows[i]`. It grows where it is too short.
    /// - Throws: `EngineError` `not_held`, `expert_range` or `row_format`.
    package func expert(
        layer: Int, expert: Int, rows: [UnsafeRawPointer], format: ActivationFormat, into outputs: RowBuffer
    ) throws {
        try experts(
            layer: layer, groups: [ExpertRows(expert: expert, rows: 0..<rows.count)], rows: rows, format: format,
            into: outputs)
    }

    /// The outputs of several experts of a layer, as `expert` computes them. A small expert is computed by one thread; of large
    /// ones all threads compute gate and up together, then down.
    ///
    /// - Parameter groups: whose rows are which of `rows`; each row one expert's, in any order.
    package func experts(
        layer: Int, groups: [ExpertRows], rows: [UnsafeRawPointer], format: ActivationFormat, into outputs: RowBuffer
    ) throws {
        let layerWeights = try weights(ofLayer: layer)
        try check(outputs, width: shape.hidden)
        guard format == expertInput[layer] else {
            throw EngineError(
                code: "row_format", message: "rows in \(format); experts of layer \(layer) take \(expertInput[layer])")
        }
        chosenExperts.removeAll(keepingCapacity: true)
        var innerFormats: ActivationFormats = []
        var inputFormats = ActivationFormats(format)
        var areSmall = compute == .native
        for group in groups {
            guard group.rows.lowerBound >= 0, group.rows.upperBound <= rows.count else {
                throw EngineError(code: "row_count", message: "rows \(group.rows) of \(rows.count)")
            }
            let weights = try expertWeights(layer: layer, layerWeights, expert: group.expert)
            chosenExperts.append(weights)
            innerFormats.insert(weights.w2.activation)
            if format == .f32 {
                inputFormats.insert(weights.w1.activation)
                inputFormats.insert(weights.w3.activation)
            }
            areSmall = areSmall && weights.isSmall
        }
        if outputs.rows < rows.count { outputs.resize(rows: rows.count) }
        guard !rows.isEmpty else { return }
        input.reset(count: rows.count, columns: shape.hidden, formats: inputFormats)
        inner.reset(count: rows.count, columns: shape.feedForward, formats: innerFormats)
        if areSmall {
            cut(groups, rows: rows.count)
            products.pool.run(items: expertItems.count) { [self] index in
                let item = expertItems[index]
                let weights = chosenExperts[item.group]
                for row in item.rows { input.load(row: row, from: rows[row], format: format) }
                weights.gateUp(input, rows: item.rows, into: inner.floats).multiplyAll()
                for row in item.rows { inner.encode(row: row) }
                weights.down(inner, rows: item.rows, into: outputs).multiplyAll()
            }
            return
        }
        upScratch.resize(rows: rows.count)
        products.eachRow(rows.count, bytes: rowCost) { [self] row in
            input.load(row: row, from: rows[row], format: format)
        }
        products.multiply(groups.count, scratch: upScratch.base) { [self] index in
            chosenExperts[index].gateUp(input, rows: groups[index].rows, into: inner.floats)
        }
        products.eachRow(rows.count, bytes: rowCost) { [self] row in inner.encode(row: row) }
        products.multiply(groups.count) { [self] index in
            chosenExperts[index].down(inner, rows: groups[index].rows, into: outputs)
        }
    }

    /// Cuts groups that are much larger than a thread's share, so that no thread waits long for another, and puts the
    /// larger pieces first.
    private func cut(_ groups: [ExpertRows], rows: Int) {
        let most = max(rows / (2 * products.pool.threads), 8)
        expertItems.removeAll(keepingCapacity: true)
        for (index, group) in groups.enumerated() {
            let cuts = (group.rows.count + most - 1) / most
            for cut in 0..<cuts {
                let (first, count) = (group.rows.lowerBound, group.rows.count)
                expertItems.append(
                    ExpertItem(group: index, rows: first + count * cut / cuts..<first + count * (cut + 1) / cuts))
            }
        }
        if products.pool.threads > 1 { expertItems.sort { $0.rows.count > $1.rows.count } }
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

    private func expertWeights(layer: Int, _ weights: LayerWeights, expert: Int) throws -> ExpertWeights {
        guard weights.experts.indices.contains(expert) else {
            throw EngineError(code: "expert_range", message: "expert \(expert) of \(shape.experts)")
        }
        guard let expert = weights.experts[expert] else {
            throw EngineError(code: "not_held", message: "expert \(expert) of layer \(layer)")
        }
        return expert
    }
}

/// Some rows of a product that are one expert's.
package struct ExpertRows: Sendable, Equatable {
    package let expert: Int
    package let rows: Range<Int>

    package init(expert: Int, rows: Range<Int>) {
        self.expert = expert
        self.rows = rows
    }
}

/// What a thread takes of small experts: some rows of a group.
struct ExpertItem {
    let group: Int
    let rows: Range<Int>
}

/// A step's encoded rows sorted by expert, in memory that is used again.
struct SortedRows {
    /// The experts that some row chose, with their places in `rows`.
    private(set) var groups: [ExpertRows] = []
    private(set) var rows: [UnsafeRawPointer] = []
    /// By row and choice: its place in `rows`.
    private(set) var places: [Int] = []
    private var ends: [Int] = []

    mutating func sort(_ routed: RoutedRows, experts: Int) {
        let (count, used) = (routed.rows, routed.expertsUsed)
        groups.removeAll(keepingCapacity: true)
        places.removeAll(keepingCapacity: true)
        ends.removeAll(keepingCapacity: true)
        for _ in 0..<experts { ends.append(0) }
        var routedRows = 0
        for row in 0..<count {
            let isRouted = routed.isRouted(row)
            routedRows += isRouted ? 1 : 0
            for place in 0..<used {
                guard isRouted else {
                    places.append(0)
                    continue
                }
                let expert = routed.expert(row: row, place: place)
                places.append(ends[expert])
                ends[expert] += 1
            }
        }
        var first = 0
        for expert in 0..<experts where ends[expert] > 0 {
            groups.append(ExpertRows(expert: expert, rows: first..<first + ends[expert]))
            (first, ends[expert]) = (first + ends[expert], first)
        }
        guard routedRows > 0 else { return rows.removeAll(keepingCapacity: true) }
        while rows.count < routedRows * used { rows.append(routed.encodedRow(0)) }
        rows.removeLast(rows.count - routedRows * used)
        for row in 0..<count where routed.isRouted(row) {
            for place in 0..<used {
                let index = row * used + place
                places[index] += ends[routed.expert(row: row, place: place)]
                rows[places[index]] = routed.encodedRow(row)
            }
        }
    }
}
