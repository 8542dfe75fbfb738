package import ModelStore

/// The part of a model that an engine holds: a range of layers, some experts of each of them, and the two ends.
///
/// Every layer of the range comes with its dense part (attention, norms, router).
package struct ShardSpec: Sendable, Equatable {
    package var layers: Range<Int>
    /// Indices of the experts held, the same in every layer of the range.
    package var experts: Set<Int>
    package var embedding: Bool
    package var head: Bool

    package init(layers: Range<Int>, experts: Set<Int>, embedding: Bool, head: Bool) {
        self.layers = layers
        self.experts = experts
        self.embedding = embedding
        self.head = head
    }

    /// The whole model.
    package static func whole(_ shape: ModelShape) -> ShardSpec {
        ShardSpec(
            layers: 0..<max(shape.layers, 0), experts: Set(0..<max(shape.experts, 0)), embedding: true, head: true)
    }

    /// - Throws: `EngineError` where the model has no such layer or expert.
    func validate(for shape: ModelShape) throws {
        guard layers.lowerBound >= 0, layers.upperBound <= shape.layers else {
            throw EngineError(
                code: "layer_range", message: "shard: layers \(layers) of a model of \(shape.layers) layers")
        }
        if let stranger = experts.first(where: { $0 < 0 || $0 >= shape.experts }) {
            throw EngineError(
                code: "expert_range", message: "shard: expert \(stranger) of a model of \(shape.experts) experts")
        }
    }
}
