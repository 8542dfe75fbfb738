import ModelStore

/// What a step of a whole model has to read and to compute, however it is done: the floor of its time is the bytes over the
/// memory's bandwidth, or the multiply-adds over the processor's rate, whichever takes longer.
package struct StepWork: Sendable, Equatable {
    /// Weights, each once: the layers' dense parts, the experts that some row chose, the output head where there are
    /// logits, and a row of the embedding for each token.
    package var weightBytes = 0
    /// Keys and values of the sequences, each once, however many rows of a sequence attend to them.
    package var keyValueBytes = 0
    /// Products with quantised weights, which integer instructions compute.
    package var integerMultiplyAdds = 0
    /// Products with other weights, and attention's.
    package var floatMultiplyAdds = 0
    /// What the experts have of that, layer by layer, each expert that was read once.
    package var experts: [ExpertWork] = []

    package init() {}

    package var bytes: Int { weightBytes + keyValueBytes }

    /// Seconds that the step takes at least on a machine of these rates.
    package func floorSeconds(
        bytesPerSecond: Double, integersPerSecond: Double, floatsPerSecond: Double
    ) -> Double {
        max(
            Double(bytes) / bytesPerSecond,
            Double(integerMultiplyAdds) / integersPerSecond + Double(floatMultiplyAdds) / floatsPerSecond)
    }
}

/// What a step has to read and to compute of one expert of one layer.
package struct ExpertWork: Sendable, Equatable {
    package var layer: Int
    package var expert: Int
    package var weightBytes = 0
    package var integerMultiplyAdds = 0
    package var floatMultiplyAdds = 0

    package init(layer: Int, expert: Int) {
        self.layer = layer
        self.expert = expert
    }
}

extension StepWork {
    /// All but the experts, which `add` counts as the router chooses them.
    ///
    /// - Parameter logitRows: of the others the last layer computes keys and values alone.
    init(engine: Engine, rows: [AttentionRow], logitRows: [Int]) {
        let shape = engine.shape
        // Sequences share no page, so a sequence is known by its first.
        var lengths: [Int32: Int] = [:]
        var attended = 0
        for row in rows {
            attended += row.position + 1
            guard let first = row.pages.first else { continue }
            lengths[first] = max(lengths[first] ?? 0, row.position + 1)
        }
        let layers = engine.weights.layers
        keyValueBytes =
            lengths.values.reduce(0, +) * engine.keyValues.layerPageBytes / Engine.pageTokens * layers.count
        let attendedAtEnd = logitRows.reduce(0) { $0 + rows[$1].position + 1 }
        floatMultiplyAdds =
            (attended * (layers.count - 1) + attendedAtEnd) * shape.heads * shape.headDimension * 2
        for (index, layer) in layers.enumerated() {
            let inFull = index == layers.count - 1 ? logitRows.count : rows.count
            for matrix in layer.queryKeyValue.dropFirst() { count(matrix, rows: rows.count) }
            for matrix in [layer.queryKeyValue[0], layer.wo, layer.gate] where inFull > 0 {
                count(matrix, rows: inFull)
            }
            weightBytes += (layer.attentionNorm.count + layer.feedForwardNorm.count) * MemoryLayout<Float>.size
        }
        if let embedding = engine.weights.embedding { weightBytes += rows.count * embedding.rowBytes }
        if let head = engine.weights.head, !logitRows.isEmpty {
            count(head.output, rows: logitRows.count)
            weightBytes += head.norm.count * MemoryLayout<Float>.size
        }
    }

    /// The experts that a layer's rows chose.
    mutating func add(_ routed: RoutedRows, layer: Int, of engine: Engine) {
        var rows = [Int](repeating: 0, count: engine.shape.experts)
        for row in 0..<routed.rows where routed.isRouted(row) {
            for place in 0..<routed.expertsUsed { rows[routed.expert(row: row, place: place)] += 1 }
        }
        let held = engine.weights.layers[layer - engine.shard.layers.lowerBound].experts
        for (expert, (weights, rows)) in zip(held, rows).enumerated() where rows > 0 {
            guard let weights else { continue }
            var part = StepWork()
            for matrix in [weights.w1, weights.w2, weights.w3] { part.count(matrix, rows: rows) }
            var work = ExpertWork(layer: layer, expert: expert)
            work.weightBytes = part.weightBytes
            work.integerMultiplyAdds = part.integerMultiplyAdds
            work.floatMultiplyAdds = part.floatMultiplyAdds
            weightBytes += part.weightBytes
            integerMultiplyAdds += part.integerMultiplyAdds
            floatMultiplyAdds += part.floatMultiplyAdds
            experts.append(work)
        }
    }

    private mutating func count(_ matrix: Matrix, rows: Int) {
        weightBytes += matrix.dense?.memory.bytes ?? matrix.panelCount * matrix.panelBytes
        let products = matrix.rows * matrix.columns * rows
        if matrix.activation == .f32 {
            floatMultiplyAdds += products
        } else {
            integerMultiplyAdds += products
        }
    }
}
