package import Logging
package import ModelStore

/// The decoder: a shard's weights, its KV pages and the steps of the computation, one method for each.
///
/// Every method computes on the calling thread and the pool's, and returns when it is done; it never waits for anything
/// else. The engine belongs to the thread that uses it. Whatever the batch, the cut of the prompt and the threads, a row's
/// result is a function of its tokens alone, to the bit (`compute` `.native`).
///
/// Tokens, positions, page ids, layers, experts and row formats are checked and refused with an `EngineError`; rows may hold
/// any bytes, NaN included.
package final class Engine {
    /// Tokens of a KV page.
    package static let pageTokens = 32

    package let shape: ModelShape
    package let shard: ShardSpec
    package let compute: ComputeBackend
    /// Threads that compute, the calling one included.
    package let threads: Int
    /// KV pages.
    package let pages: Int
    /// Bytes of one page, over all layers of the shard.
    package let pageBytes: Int
    /// SHA-256 of the blobs in memory, sorted.
    package let mappedBlobs: [String]
    /// Bytes of weights in memory.
    package let weightBytes: Int
    /// By layer of the model: what `route` encodes rows in and `expert` takes.
    package let expertInput: [ActivationFormat]

    let weights: Weights
    let keyValues: KeyValuePages
    let rotary: RotaryTable
    let products: Products
    /// The layers' inputs, the inner rows of attention and experts, and what products return.
    let input = Activations()
    let inner = Activations()
    let outputs: RowBuffer
    let queryKeyValue: RowBuffer
    /// Partial results of attention over the spans of long contexts that threads share.
    let attentionPartials = Scratch()
    /// Scores and values of the blocks at hand, a part for each thread.
    let attentionScratch = Scratch()
    let gateLogits: RowBuffer
    let upScratch: RowBuffer
    /// What `mixture` uses again in every layer.
    let localRoutes = RoutedRows()
    var sortedRows = SortedRows()
    let expertOutputs: RowBuffer
    /// The experts at hand, by group, and what the threads take of small ones.
    var chosenExperts: [ExpertWeights] = []
    var expertItems: [ExpertItem] = []
    /// Where wq's, wk's and wv's outputs begin.
    let queryKeyValueOffsets: [Int]

    /// Maps or reads the shard's blobs and makes room for KV.
    ///
    /// - Parameters:
    ///   - pages: KV pages of 32 tokens. The system gives their memory as they are first written.
    ///   - threads: threads that compute, the calling one included; `availableThreads()` says how many make sense.
    ///   - weightMemory: where the weights are; changes no bit of any result.
    ///   - verifyBlobs: hash every blob first; one that is not what the manifest names is an error.
    ///   - logger: told once in a process what the machine lacks.
    ///   - beforeEachBlob: called before a blob is read and hashed, which takes seconds for a large one, on any of the
    ///     threads, but never on two at once; what it throws ends the loading.
    /// - Throws: `ModelError` for a manifest or blob that is broken, `EngineError` `layer_range`, `expert_range`,
    ///   `model_shape`, `page_range` or `memory`.
    package init(
        manifest: Manifest, store: Store, shard: ShardSpec, pages: Int, threads: Int,
        compute: ComputeBackend = .native, weightMemory: WeightMemory = .mapped, verifyBlobs: Bool = true,
        logger: Logger? = nil,
        beforeEachBlob: () throws -> Void = {}
    ) throws {
        try manifest.validate(file: manifest.name)
        guard manifest.numericsVersion == engineNumericsVersion else {
            throw EngineError(
                code: "numerics_mismatch",
                message:
                    "the manifest has numerics version \(manifest.numericsVersion), the kernels \(engineNumericsVersion)"
            )
        }
        let shape = manifest.shape
        try shard.validate(for: shape)
        MemorySurvey.tellOnce(logger)
        self.shape = shape
        self.shard = shard
        self.compute = compute
        let products = Products(threads: threads, compute: compute)
        self.products = products
        weights = try Weights(
            manifest: manifest, shard: shard, compute: compute,
            blobs: try ShardBlobs(
                shard.blobs(of: manifest), store: store, memory: weightMemory, verify: verifyBlobs,
                pool: products.pool, logger: logger, beforeEachBlob: beforeEachBlob))
        mappedBlobs = weights.blobs.names
        weightBytes = weights.bytes
        expertInput = manifest.layers.map { compute == .openblas ? .f32 : Self.expertInput(of: $0) }
        keyValues = try KeyValuePages(shape: shape, layers: shard.layers.count, pages: pages)
        self.pages = pages
        pageBytes = keyValues.layerPageBytes * shard.layers.count
        rotary = RotaryTable(theta: shape.ropeTheta, headDimension: shape.headDimension, positions: shape.contextLength)
        self.threads = products.pool.threads

        let queries = shape.heads * shape.headDimension
        let keys = shape.keyValueHeads * shape.headDimension
        queryKeyValueOffsets = [0, queries, queries + keys]
        queryKeyValue = RowBuffer(rows: 0, width: queries + 2 * keys)
        outputs = RowBuffer(rows: 0, width: shape.hidden)
        expertOutputs = RowBuffer(rows: 0, width: shape.hidden)
        gateLogits = RowBuffer(rows: 0, width: shape.experts)
        upScratch = RowBuffer(rows: 0, width: shape.feedForward)
    }

    /// The activation format that w1 and w3 of all experts of a layer share, or float32, which each can encode for itself.
    private static func expertInput(of layer: LayerBlobs) -> ActivationFormat {
        let formats = Set(
            layer.experts.flatMap { $0.tensors }.filter { $0.name == "w1" || $0.name == "w3" }.map(\.format.activation))
        return formats.count == 1 ? formats.first ?? .f32 : .f32
    }

    /// Whether each expert is computed by one thread (`experts`), so that a call does best with several.
    package var hasSmallExperts: Bool {
        compute == .native && weights.layers.allSatisfy { $0.experts.allSatisfy { $0?.isSmall ?? true } }
    }

    /// The weights of a layer of the model.
    func weights(ofLayer layer: Int) throws -> LayerWeights {
        guard shard.layers.contains(layer) else {
            throw EngineError(code: "not_held", message: "layer \(layer); this shard holds \(shard.layers)")
        }
        return weights.layers[layer - shard.layers.lowerBound]
    }

    /// - Throws: `EngineError` `row_count` where a buffer's rows are not as wide as `width`.
    func check(_ buffer: RowBuffer, width: Int) throws {
        guard buffer.width == width else {
            throw EngineError(code: "row_count", message: "rows of \(buffer.width) values where \(width) are due")
        }
    }
}
