import Crypto
import Foundation

/// A model of real dimensions and random weights, for benchmarks and long runs. Its text makes no sense.
///
/// Its layers are a few different ones, again and again, so that a model of 56 layers has the size of two on disk and
/// in memory, at the cost in time of all of them.
package struct SyntheticModel: Sendable {
    package enum Width: String, Sendable, CaseIterable {
        case mixtral8x22B = "8x22b"
        case mixtral8x7B = "8x7b"
        /// A small one, for tests and quick looks.
        case mini
    }

    package let width: Width
    package let shape: ModelShape
    package let uniqueLayers: Int
    package let format: TensorFormat
    package let seed: UInt64

    /// - Parameters:
    ///   - layers: nil takes the real model's.
    ///   - uniqueLayers: how many of them differ; the others repeat these. Nil takes 2, or the only one.
    ///   - format: of all matrices but the router.
    /// - Throws: ``ModelError`` `argument_invalid` or `value_invalid`.
    package init(
        _ width: Width, layers: Int? = nil, uniqueLayers: Int? = nil, format: TensorFormat = .q4_K, seed: UInt64 = 1
    ) throws {
        var shape = width.shape
        shape.layers = layers ?? shape.layers
        try shape.validate(file: "synthetic \(width.rawValue)")
        let uniqueLayers = uniqueLayers ?? min(2, shape.layers)
        guard (1...shape.layers).contains(uniqueLayers) else {
            throw ModelError(
                .argumentInvalid, "not a possible number", field: "unique-layers", found: "\(uniqueLayers)",
                limit: "1 to \(shape.layers), the layers")
        }
        self.width = width
        self.shape = shape
        self.uniqueLayers = uniqueLayers
        self.format = format
        self.seed = seed
    }

    /// `synthetic-8x22b-q4_K`
    var name: String { "synthetic-\(width.rawValue)-\(format.rawValue)" }

    /// For the journal: what the blobs of the layers, embedding and head depend on.
    var key: String {
        let versions = "\(Manifest.currentFormatVersion) \(Manifest.currentNumericsVersion)"
        return Store.hexadecimal(SHA256.hash(data: Array("synthetic 1 \(versions) \(name) \(seed)".utf8)))
    }

    func importModel() throws -> ImportModel {
        let tokenizer = SyntheticTokenizer.model(vocabulary: shape.vocabulary)
        try TokenizerBlob.check(tokenizer, vocabulary: shape.vocabulary, file: name)
        let layers = (0..<uniqueLayers).map { layer in
            ImportModel.Layer(
                dense: shape.densePlan.map { tensor("layers.\(layer)", $0) },
                experts: (0..<shape.experts).map { expert in
                    shape.expertPlan.map { tensor("layers.\(layer).experts.\(expert)", $0) }
                })
        }
        return ImportModel(
            name: name, shape: shape, tokenizer: tokenizer, embedding: tensor("model", shape.embeddingPlan[0]),
            head: shape.headPlan.map { tensor("model", $0) }, layers: layers)
    }

    /// Weights whose spread keeps activations near 1 from layer to layer; norms are ones.
    private func tensor(_ part: String, _ plan: TensorPlan) -> SyntheticTensor {
        let name = "\(part).\(plan.name)"
        var spread = 1 / Float(plan.columns).squareRoot()
        if plan.name == "embedding" { spread = 1 }
        // Scores of experts that differ by several: the router is sure of its choice.
        if plan.name == "gate" { spread = 0.1 }
        return SyntheticTensor(
            name: name, path: self.name, format: plan.format ?? format, rows: plan.rows, columns: plan.columns,
            content: plan.rows == 1 ? .ones : .random(seed: SyntheticTensor.seed(seed, name), spread: spread))
    }
}

extension SyntheticModel.Width {
    /// The published dimensions.
    fileprivate var shape: ModelShape {
        func shape(
            layers: Int, hidden: Int, heads: Int, keyValueHeads: Int, feedForward: Int, vocabulary: Int, context: Int
        ) -> ModelShape {
            ModelShape(
                layers: layers, hidden: hidden, heads: heads, keyValueHeads: keyValueHeads,
                headDimension: hidden / heads, feedForward: feedForward, experts: 8, expertsUsed: 2,
                vocabulary: vocabulary, contextLength: context, ropeTheta: 1e6, normEpsilon: 1e-5, beginToken: 1,
                endToken: 2)
        }
        return switch self {
        case .mixtral8x22B:
            shape(
                layers: 56, hidden: 6144, heads: 48, keyValueHeads: 8, feedForward: 16384, vocabulary: 32768,
                context: 65536)
        case .mixtral8x7B:
            shape(
                layers: 32, hidden: 4096, heads: 32, keyValueHeads: 8, feedForward: 14336, vocabulary: 32000,
                context: 32768)
        case .mini:
            shape(
                layers: 12, hidden: 1024, heads: 16, keyValueHeads: 4, feedForward: 2048, vocabulary: 4096,
                context: 8192)
        }
    }
}
