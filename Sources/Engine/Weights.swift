import ModelStore

/// The weights of one layer, as far as the shard holds them.
struct LayerWeights {
    let attentionNorm: Vector
    /// wq, wk, wv: they share their input, and their outputs lie side by side.
    let queryKeyValue: [Matrix]
    let queryKeyValueFormats: ActivationFormats
    let wo: Matrix
    let feedForwardNorm: Vector
    /// The router's matrix, float32.
    let gate: Matrix
    /// By expert; nil where another worker holds it.
    let experts: [ExpertWeights?]
}

/// One expert: w2 · (silu(w1 · x) ∘ (w3 · x)).
struct ExpertWeights {
    let w1: Matrix
    let w2: Matrix
    let w3: Matrix

    /// Whether one thread does best to compute the whole expert: its weights stay in a core's second-level cache between
    /// rows, and what other threads would save is not worth their meeting four times.
    var isSmall: Bool { w1.format == w3.format && w1.bytes + w2.bytes + w3.bytes <= 1 << 20 }

    /// silu(w1 · x) ∘ (w3 · x) of some rows.
    func gateUp(_ input: Activations, rows: Range<Int>, into out: UnsafeMutablePointer<Float>) -> GateUpProduct {
        GateUpProduct(gate: w1, up: w3, input: input, rows: rows, out: out)
    }

    /// w2 · inner of some rows.
    func down(_ inner: Activations, rows: Range<Int>, into outputs: RowBuffer) -> Product {
        Product(
            matrix: w2, input: inner, rows: rows, parts: w2.downParts, out: outputs.base, stride: outputs.width)
    }
}

/// The final norm and the output matrix.
struct HeadWeights {
    let norm: Vector
    let output: Matrix
}

/// The rows looked up by token, in the blocks of their source.
struct EmbeddingWeights {
    let format: TensorFormat
    let rowBytes: Int
    let base: UnsafeRawPointer
}

/// A shard's weights: exactly the blobs that it needs, each in memory once, however many layers share it.
struct Weights {
    private(set) var layers: [LayerWeights] = []
    private(set) var embedding: EmbeddingWeights?
    private(set) var head: HeadWeights?
    /// Everything above points into these.
    let blobs: ShardBlobs
    private var dense: [String: DenseWeights] = [:]

    /// Bytes of weights in memory: the blobs, or their widened copies.
    var bytes: Int {
        dense.isEmpty
            ? blobs.bytes : dense.values.reduce(0) { $0 + $1.memory.bytes }
    }

    /// - Parameter held: the shard's.
    /// - Throws: `EngineError` `model_shape` where a blob is another model's.
    init(manifest: Manifest, shard: ShardSpec, compute: ComputeBackend, blobs held: ShardBlobs) throws {
        self.blobs = held
        let shape = manifest.shape
        let queries = shape.heads * shape.headDimension
        let keys = shape.keyValueHeads * shape.headDimension
        for layer in shard.layers {
            let blobs = manifest.layers[layer]
            let blob = held[blobs.dense]
            var experts = [ExpertWeights?](repeating: nil, count: shape.experts)
            for expert in shard.experts {
                let blob = held[blobs.experts[expert]]
                experts[expert] = ExpertWeights(
                    w1: try matrix("w1", blob, shape.feedForward, shape.hidden, compute),
                    w2: try matrix("w2", blob, shape.hidden, shape.feedForward, compute),
                    w3: try matrix("w3", blob, shape.feedForward, shape.hidden, compute))
            }
            let queryKeyValue = [
                try matrix("wq", blob, queries, shape.hidden, compute),
                try matrix("wk", blob, keys, shape.hidden, compute),
                try matrix("wv", blob, keys, shape.hidden, compute),
            ]
            layers.append(
                LayerWeights(
                    attentionNorm: try Vector("attention_norm", of: blob, count: shape.hidden),
                    queryKeyValue: queryKeyValue,
                    queryKeyValueFormats: queryKeyValue.reduce(into: []) { $0.insert($1.activation) },
                    wo: try matrix("wo", blob, shape.hidden, queries, compute),
                    feedForwardNorm: try Vector("ffn_norm", of: blob, count: shape.hidden),
                    gate: try matrix("gate", blob, shape.experts, shape.hidden, compute),
                    experts: experts))
        }
        if shard.embedding {
            let blob = held[manifest.embedding]
            let (entry, bytes) = try blob.tensor("embedding")
            let rowBytes = entry.format.rowBytes(columns: shape.hidden)
            guard entry.rows == shape.vocabulary, entry.columns == shape.hidden, !entry.panels,
                shape.hidden.isMultiple(of: entry.format.blockSize), bytes.count == shape.vocabulary * rowBytes,
                let base = bytes.baseAddress
            else {
                throw EngineError(
                    code: "model_shape", message: "blob \(blob.reference.sha256): not the embedding of this model")
            }
            embedding = EmbeddingWeights(format: entry.format, rowBytes: rowBytes, base: base)
        }
        if shard.head {
            let blob = held[manifest.head]
            head = HeadWeights(
                norm: try Vector("norm", of: blob, count: shape.hidden),
                output: try matrix("output", blob, shape.vocabulary, shape.hidden, compute))
        }
    }

    private mutating func matrix(
        _ name: String, _ blob: MappedBlob, _ rows: Int, _ columns: Int, _ compute: ComputeBackend
    ) throws -> Matrix {
        var matrix = try Matrix(name, of: blob, rows: rows, columns: columns)
        if compute == .openblas {
            let key = blob.reference.sha256 + "/" + name
            let widened = try dense[key] ?? DenseWeights(matrix)
            dense[key] = widened
            matrix.dense = widened
        }
        return matrix
    }
}
