import ModelStore

extension Engine {
    /// What `expert` will do for so many rows: each weight is read once, however many rows there are.
    package func expertCost(layer: Int, rows: Int) -> Cost {
        guard shard.layers.contains(layer), rows > 0,
            let expert = weights.layers[layer - shard.layers.lowerBound].experts.lazy.compactMap({ $0 }).first
        else { return Cost(multiplyAdds: 0, bytes: 0) }
        return cost([expert.w1, expert.w2, expert.w3], rows: rows)
    }

    /// What `attention` will do for a step.
    package func attentionCost(layer: Int, batch: AttentionBatch) -> Cost {
        guard shard.layers.contains(layer), batch.count > 0 else { return Cost(multiplyAdds: 0, bytes: 0) }
        let weights = weights.layers[layer - shard.layers.lowerBound]
        let attended = Cost(
            multiplyAdds: batch.tokens * shape.heads * shape.headDimension * 2,
            bytes: batch.tokens * keyValues.layerPageBytes / Self.pageTokens)
        return cost(weights.queryKeyValue + [weights.wo], rows: batch.count) + attended
    }

    /// What `logits` will do for so many rows.
    package func logitsCost(rows: Int) -> Cost {
        guard rows > 0, let head = weights.head else { return Cost(multiplyAdds: 0, bytes: 0) }
        return cost([head.output], rows: rows)
    }

    private func cost(_ matrices: [Matrix], rows: Int) -> Cost {
        matrices.reduce(Cost(multiplyAdds: 0, bytes: 0)) {
            $0 + Cost(multiplyAdds: $1.rows * $1.columns * rows, bytes: $1.bytes)
        }
    }
}
