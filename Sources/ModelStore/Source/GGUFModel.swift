/// A Mixtral in one or several GGUF files, with llama.cpp's names.
struct GGUFModel {
    private let files: [GGUFFile]
    /// By name; all parts together.
    private var tensors: [String: (tensor: GGUFFile.Tensor, file: SourceFile)] = [:]
    private var used: Set<String> = []

    /// The first part has the metadata.
    private var metadata: [String: GGUFValue] { files[0].metadata }
    private var path: String { files[0].file.path }

    static func load(_ sources: [SourceFile]) throws -> SourceModel {
        var model = try GGUFModel(sources)
        return try model.model()
    }

    private init(_ sources: [SourceFile]) throws {
        files = try sources.map { try GGUFFile($0) }
        for (index, file) in files.enumerated() {
            if files.count > 1 || file.metadata["split.count"] != nil { try Self.checkSplit(file, index, files.count) }
            for tensor in file.tensors where tensors.updateValue((tensor, file.file), forKey: tensor.name) != nil {
                throw ModelError(
                    .duplicate, "a tensor of an earlier part again", file: file.file.path, field: tensor.name)
            }
        }
        if let total = files[0].metadata["split.tensors.count"], case .integer(let count) = total, files.count > 1,
            count != tensors.count
        {
            throw ModelError(
                .valueInvalid, "the parts do not have all tensors", file: path, field: "split.tensors.count",
                found: "\(tensors.count) tensors", limit: "\(count)")
        }
    }

    private static func checkSplit(_ file: GGUFFile, _ index: Int, _ count: Int) throws {
        for (key, expected) in [("split.no", index), ("split.count", count)] {
            guard case .integer(let value) = file.metadata[key], value == expected else {
                // A file of one part may say so, or that it has none.
                if count == 1, key == "split.count", case .integer(0) = file.metadata[key] { continue }
                throw ModelError(
                    .valueInvalid, "not the part that its name says", file: file.file.path, field: key,
                    found: file.metadata[key]?.summary ?? "nothing", limit: "\(expected)")
            }
        }
    }

    // MARK: Metadata

    private func failure(_ code: ModelError.Code, _ problem: String, _ key: String, limit: String?) -> ModelError {
        ModelError(
            code, problem, file: path, field: key, found: metadata[key]?.summary ?? "nothing", limit: limit)
    }

    private func integer(_ key: String) throws -> Int? {
        switch metadata[key] {
        case nil: return nil
        case .integer(let value): return Int(value)
        default: throw failure(.valueInvalid, "not an integer", key, limit: "an integer")
        }
    }

    private func required(_ key: String) throws -> Int {
        guard let value = try integer(key) else {
            throw failure(.valueInvalid, "missing", key, limit: "an integer")
        }
        return value
    }

    private func float(_ key: String) throws -> Double? {
        switch metadata[key] {
        case nil: return nil
        case .float(let value): return value
        case .integer(let value): return Double(value)
        default: throw failure(.valueInvalid, "not a number", key, limit: "a number")
        }
    }

    private func bool(_ key: String) throws -> Bool? {
        switch metadata[key] {
        case nil: return nil
        case .bool(let value): return value
        default: throw failure(.valueInvalid, "not true or false", key, limit: "a bool")
        }
    }

    private func string(_ key: String) throws -> String? {
        switch metadata[key] {
        case nil: return nil
        case .string(let value): return value
        default: throw failure(.valueInvalid, "not a string", key, limit: "a string")
        }
    }

    private func shape() throws -> ModelShape {
        guard try string("general.architecture") == "llama" else {
            throw failure(.unsupported, "an architecture that is not read", "general.architecture", limit: "\"llama\"")
        }
        let experts = try integer("llama.expert_count") ?? 0
        guard experts != 0 else {
            throw failure(.unsupported, "a dense model", "llama.expert_count", limit: "a mixture of experts")
        }
        let expertsUsed = try required("llama.expert_used_count")
        guard experts > 0, (1...experts).contains(expertsUsed) else {
            throw failure(
                .valueInvalid, "an impossible number of experts", "llama.expert_used_count", limit: "1 to \(experts)")
        }
        let context = try required("llama.context_length")
        try refuseVariants(context: context)
        let hidden = try required("llama.embedding_length")
        let heads = try required("llama.attention.head_count")
        guard (1...65_535).contains(heads) else {
            throw failure(.valueInvalid, "out of range", "llama.attention.head_count", limit: "1 to 65535")
        }
        let headDimension = try integer("llama.attention.key_length") ?? hidden / heads
        for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
            guard try integer(key) ?? headDimension == headDimension else {
                throw failure(.unsupported, "heads of several sizes", key, limit: "\(headDimension)")
            }
        }
        guard let embedding = tensors["token_embd.weight"], embedding.tensor.dimensions.count == 2 else {
            throw ModelError(.tensorMissing, "a tensor is missing", file: path, field: "token_embd.weight")
        }
        let vocabulary = embedding.tensor.dimensions[1]
        guard try integer("llama.vocab_size") ?? vocabulary == vocabulary else {
            throw failure(
                .tokenizerInvalid, "the vocabulary differs from the embedding's rows", "llama.vocab_size",
                limit: "\(vocabulary)")
        }
        let shape = ModelShape(
            layers: try required("llama.block_count"), hidden: hidden, heads: heads,
            keyValueHeads: try integer("llama.attention.head_count_kv") ?? heads, headDimension: headDimension,
            feedForward: try integer("llama.expert_feed_forward_length") ?? required("llama.feed_forward_length"),
            experts: experts, expertsUsed: expertsUsed, vocabulary: vocabulary, contextLength: context,
            ropeTheta: Float(try float("llama.rope.freq_base") ?? 10_000),
            normEpsilon: Float(try float("llama.attention.layer_norm_rms_epsilon") ?? .nan),
            beginToken: Int32(clamping: try integer("tokenizer.ggml.bos_token_id") ?? 1),
            endToken: Int32(clamping: try integer("tokenizer.ggml.eos_token_id") ?? 2))
        try shape.validate(file: path)
        return shape
    }

    /// What would compute something else than this engine does.
    private func refuseVariants(context: Int) throws {
        if let scaling = try string("llama.rope.scaling.type"), scaling != "none" {
            throw failure(.unsupported, "rotary scaling", "llama.rope.scaling.type", limit: "\"none\"")
        }
        for key in ["llama.rope.scaling.factor", "llama.rope.scale_linear", "llama.expert_weights_scale"] {
            guard try [0, 1].contains(float(key) ?? 1) else {
                throw failure(.unsupported, "scaling", key, limit: "1")
            }
        }
        if let window = try integer("llama.attention.sliding_window"), window != 0, window < context {
            throw failure(
                .unsupported, "a sliding window smaller than the context", "llama.attention.sliding_window",
                limit: "\(context) or none")
        }
        if let gating = try integer("llama.expert_gating_func"), gating > 1 {
            throw failure(.unsupported, "a router without softmax", "llama.expert_gating_func", limit: "1")
        }
        if let shared = try integer("llama.expert_shared_count"), shared != 0 {
            throw failure(.unsupported, "shared experts", "llama.expert_shared_count", limit: "0")
        }
    }

    // MARK: Tokenizer

    private func tokenizer(_ shape: ModelShape) throws -> [UInt8] {
        guard try string("tokenizer.ggml.model") == "llama" else {
            throw failure(.unsupported, "a tokenizer that is not read", "tokenizer.ggml.model", limit: "\"llama\"")
        }
        guard case .strings(let tokens) = metadata["tokenizer.ggml.tokens"] else {
            throw failure(.tokenizerInvalid, "missing", "tokenizer.ggml.tokens", limit: "strings")
        }
        guard tokens.count == shape.vocabulary else {
            throw failure(
                .tokenizerInvalid, "the vocabulary differs from the embedding's rows", "tokenizer.ggml.tokens",
                limit: "\(shape.vocabulary)")
        }
        guard case .floats(let scores) = metadata["tokenizer.ggml.scores"], scores.count == tokens.count else {
            throw failure(
                .tokenizerInvalid, "not one for each token", "tokenizer.ggml.scores", limit: "\(tokens.count) floats")
        }
        guard case .integers(let types) = metadata["tokenizer.ggml.token_type"], types.count == tokens.count else {
            throw failure(
                .tokenizerInvalid, "not one for each token", "tokenizer.ggml.token_type",
                limit: "\(tokens.count) integers")
        }
        if case .skipped(let count) = metadata["tokenizer.ggml.precompiled_charsmap"], count > 0 {
            throw failure(
                .unsupported, "a tokenizer that normalises text", "tokenizer.ggml.precompiled_charsmap", limit: "none")
        }
        try checkMerges(Set(tokens))
        let unknown = try integer("tokenizer.ggml.unknown_token_id") ?? types.firstIndex(of: 2) ?? 0
        guard tokens.indices.contains(unknown) else {
            throw failure(
                .tokenizerInvalid, "not a token", "tokenizer.ggml.unknown_token_id", limit: "below \(tokens.count)")
        }
        let pieces = zip(tokens, zip(scores, types)).map { text, rest in
            // A type out of range is refused by the check below; 0 stands for all of them.
            TokenizerBlob.Piece(text: text, score: rest.0, type: UInt8(exactly: rest.1) ?? 0)
        }
        let model = TokenizerBlob.write(
            pieces,
            TokenizerBlob.Options(
                unknown: unknown, begin: Int(shape.beginToken), end: Int(shape.endToken),
                addDummyPrefix: try bool("tokenizer.ggml.add_space_prefix") ?? true,
                removeExtraWhitespaces: try bool("tokenizer.ggml.remove_extra_whitespaces") ?? false))
        try TokenizerBlob.check(model, vocabulary: shape.vocabulary, file: "\(path) (tokenizer.ggml.tokens)")
        return model
    }

    /// SentencePiece's merges follow from the scores; where a writer lists them all the same, they must be possible.
    private func checkMerges(_ pieces: Set<String>) throws {
        guard case .strings(let merges) = metadata["tokenizer.ggml.merges"] else { return }
        for (index, merge) in merges.enumerated() {
            let parts = merge.split(separator: " ", omittingEmptySubsequences: false)
            guard parts.count == 2, parts.allSatisfy({ pieces.contains(String($0)) }), pieces.contains(parts.joined())
            else {
                throw ModelError(
                    .tokenizerInvalid, "a merge of an unknown piece", file: path,
                    field: "tokenizer.ggml.merges[\(index)]", found: merge)
            }
        }
    }

    // MARK: Tensors

    /// A tensor whose dimensions (rows last but one) are checked; experts are stacked in the outermost one.
    private mutating func tensor(_ name: String, _ plan: TensorPlan, experts: Int? = nil) throws -> SourceTensor {
        guard let (tensor, file) = tensors[name] else {
            throw ModelError(.tensorMissing, "a tensor is missing", file: path, field: name)
        }
        used.insert(name)
        let expected = [plan.columns, plan.rows, experts ?? 1]
        let found = tensor.dimensions + Array(repeating: 1, count: max(0, 3 - tensor.dimensions.count))
        guard found.prefix(3).elementsEqual(expected), found.dropFirst(3).allSatisfy({ $0 == 1 }) else {
            throw ModelError(
                .shapeInvalid, "not the shape that the configuration says", file: file.path, field: name,
                found: tensor.dimensions.map(String.init).joined(separator: " x "),
                limit: expected.map(String.init).joined(separator: " x "))
        }
        return SourceTensor(
            name: name, file: file, offset: tensor.offset, format: tensor.format,
            rows: plan.rows * (experts ?? 1), columns: plan.columns)
    }

    private mutating func layer(_ index: Int, _ shape: ModelShape) throws -> SourceLayer {
        let names = ["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate_inp"]
        var dense = try zip(names, shape.densePlan).map { try tensor("blk.\(index).\($0).weight", $1) }
        dense[1].interleavedHeads = shape.heads
        dense[2].interleavedHeads = shape.keyValueHeads
        var experts = Array(repeating: [SourceTensor](), count: shape.experts)
        for (part, plan) in zip(["ffn_gate", "ffn_down", "ffn_up"], shape.expertPlan) {
            let merged = "blk.\(index).\(part)_exps.weight"
            if tensors[merged] != nil {
                let all = try tensor(merged, plan, experts: shape.experts)
                for expert in 0..<shape.experts {
                    var slice = all.slice(expert * plan.rows..<(expert + 1) * plan.rows)
                    slice.name += "[\(expert)]"
                    experts[expert].append(slice)
                }
            } else {
                for expert in 0..<shape.experts {
                    experts[expert].append(try tensor("blk.\(index).\(part).\(expert).weight", plan))
                }
            }
        }
        return SourceLayer(dense: dense, experts: experts)
    }

    private mutating func model() throws -> SourceModel {
        let shape = try shape()
        let tokenizer = try tokenizer(shape)
        let embedding = try tensor("token_embd.weight", shape.embeddingPlan[0])
        // llama.cpp leaves the head out where it is the embedding.
        let output = tensors["output.weight"] == nil ? "token_embd.weight" : "output.weight"
        let head = [
            try tensor("output_norm.weight", shape.headPlan[0]), try tensor(output, shape.headPlan[1]),
        ]
        let layers = try (0..<shape.layers).map { try layer($0, shape) }
        if let name = tensors.keys.filter({ !used.contains($0) && !$0.hasSuffix("attn_rot_embd") }).min() {
            throw ModelError(.tensorUnexpected, "a tensor that a Mixtral does not have", file: path, field: name)
        }
        let file = path.split(separator: "/").last.map(String.init) ?? "model"
        return SourceModel(
            name: file.hasSuffix(".gguf") ? String(file.dropLast(5)) : file, shape: shape, tokenizer: tokenizer,
            embedding: embedding, head: head, layers: layers)
    }
}
