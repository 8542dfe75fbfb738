import Foundation
import JSONText

/// A Mixtral in a Hugging Face directory: `config.json`, safetensors, `tokenizer.model`.
struct HuggingFaceModel {
    private let directory: String
    private let config: [String: JSONValue]
    private var tensors: [String: (tensor: SafetensorsFile.Tensor, file: SourceFile)] = [:]
    private var used: Set<String> = []

    private var configPath: String { "\(directory)/config.json" }

    static func load(directory: String) throws -> SourceModel {
        var model = try HuggingFaceModel(directory: directory)
        return try model.model()
    }

    private init(directory: String) throws {
        self.directory = directory
        let path = "\(directory)/config.json"
        let value = try JSONValue.parse(try SourceFile.contents(of: path, limit: 16 << 20), file: path)
        guard let members = value.object else {
            throw ModelError(.headerInvalid, "not an object", file: path, found: value.summary)
        }
        config = members
        try readTensors()
    }

    private mutating func readTensors() throws {
        let indexPath = "\(directory)/model.safetensors.index.json"
        let bytes: [UInt8]
        do {
            bytes = try SourceFile.contents(of: indexPath, limit: 256 << 20)
        } catch let error as ModelError where error.code == ModelError.Code.fileMissing.rawValue {
            let file = try SafetensorsFile(SourceFile(path: "\(directory)/model.safetensors"))
            for (name, tensor) in file.tensors { tensors[name] = (tensor, file.file) }
            return
        }
        guard let map = try JSONValue.parse(bytes, file: indexPath).object?["weight_map"]?.object else {
            throw ModelError(.headerInvalid, "no map of weights", file: indexPath, field: "weight_map")
        }
        var files: [String: SafetensorsFile] = [:]
        for (name, value) in map.sorted(by: { $0.key < $1.key }) {
            // The name comes from the file: it must not lead out of the directory.
            guard let fileName = value.string, !fileName.isEmpty, !fileName.contains("/"), !fileName.hasPrefix("."),
                !fileName.utf8.contains(0)
            else {
                throw ModelError(
                    .valueInvalid, "not a file's name", file: indexPath, field: name, found: value.summary,
                    limit: "a file of this directory")
            }
            let file: SafetensorsFile
            if let known = files[fileName] {
                file = known
            } else {
                file = try SafetensorsFile(SourceFile(path: "\(directory)/\(fileName)"))
                files[fileName] = file
            }
            guard let tensor = file.tensors[name] else {
                throw ModelError(
                    .tensorMissing, "the index says that a tensor is here", file: file.file.path, field: name)
            }
            tensors[name] = (tensor, file.file)
        }
    }

    // MARK: Configuration

    private func failure(_ code: ModelError.Code, _ problem: String, _ key: String, limit: String) -> ModelError {
        ModelError(
            code, problem, file: configPath, field: key, found: config[key]?.summary ?? "nothing", limit: limit)
    }

    /// The value of the first of the keys that is there and not null.
    private func integer(_ keys: String...) throws -> Int? {
        for key in keys {
            guard let value = config[key], value != .null else { continue }
            // Newer configurations list several tokens that end a text; the first is the tokenizer's.
            guard let number = value.integer ?? value.array?.first?.integer else {
                throw failure(.valueInvalid, "not an integer", key, limit: "an integer")
            }
            return number
        }
        return nil
    }

    private func required(_ keys: [String]) throws -> Int {
        for key in keys {
            if let value = try integer(key) { return value }
        }
        throw failure(.valueInvalid, "missing", keys[0], limit: "an integer")
    }

    private func shape() throws -> ModelShape {
        let architectures = config["architectures"]?.array?.compactMap(\.string)
        guard config["model_type"]?.string ?? "mixtral" == "mixtral",
            architectures?.contains("MixtralForCausalLM") ?? (config["model_type"] != nil)
        else {
            throw failure(
                .unsupported, "an architecture that is not read",
                config["model_type"]?.string == "mixtral" ? "architectures" : "model_type",
                limit: "mixtral, MixtralForCausalLM")
        }
        let context = try required(["max_position_embeddings"])
        try refuseVariants(context: context)
        let hidden = try required(["hidden_size"])
        let heads = try required(["num_attention_heads"])
        guard (1...65_535).contains(heads) else {
            throw failure(.valueInvalid, "out of range", "num_attention_heads", limit: "1 to 65535")
        }
        let experts = try required(["num_local_experts", "num_experts"])
        let expertsUsed = try required(["num_experts_per_tok"])
        guard experts > 0, (1...experts).contains(expertsUsed) else {
            throw failure(
                .valueInvalid, "an impossible number of experts", "num_experts_per_tok", limit: "1 to \(experts)")
        }
        guard let epsilon = config["rms_norm_eps"]?.double else {
            throw failure(.valueInvalid, "missing", "rms_norm_eps", limit: "a number")
        }
        let shape = ModelShape(
            layers: try required(["num_hidden_layers"]), hidden: hidden, heads: heads,
            keyValueHeads: try integer("num_key_value_heads") ?? heads,
            headDimension: try integer("head_dim") ?? hidden / heads,
            feedForward: try required(["intermediate_size"]), experts: experts, expertsUsed: expertsUsed,
            vocabulary: try required(["vocab_size"]), contextLength: context, ropeTheta: try ropeTheta(),
            normEpsilon: Float(epsilon), beginToken: Int32(clamping: try integer("bos_token_id") ?? 1),
            endToken: Int32(clamping: try integer("eos_token_id") ?? 2))
        try shape.validate(file: configPath)
        return shape
    }

    /// `rope_theta`, since transformers 5 in `rope_parameters`; Mixtral's default is a million.
    private func ropeTheta() throws -> Float {
        for (key, value) in [
            ("rope_parameters.rope_theta", config["rope_parameters"]?.object?["rope_theta"]),
            ("rope_theta", config["rope_theta"]),
        ] {
            guard let value, value != .null else { continue }
            guard let theta = value.double else {
                throw ModelError(
                    .valueInvalid, "not a number", file: configPath, field: key, found: value.summary)
            }
            return Float(theta)
        }
        return 1_000_000
    }

    /// What would compute something else than this engine does.
    private func refuseVariants(context: Int) throws {
        for key in ["rope_scaling", "rope_parameters"] {
            guard let value = config[key], value != .null else { continue }
            let type = value.object?["rope_type"] ?? value.object?["type"] ?? .string("default")
            guard value.object != nil, type == .string("default") else {
                throw failure(.unsupported, "rotary scaling \(type.summary)", key, limit: "\"default\"")
            }
        }
        if let window = try integer("sliding_window"), window < context {
            throw failure(
                .unsupported, "a sliding window smaller than the context", "sliding_window", limit: "\(context) or none"
            )
        }
        if let activation = config["hidden_act"], activation != .string("silu") {
            throw failure(.unsupported, "an activation that is not computed", "hidden_act", limit: "\"silu\"")
        }
        if let quantization = config["quantization_config"], quantization != .null {
            throw failure(.unsupported, "weights quantised by others", "quantization_config", limit: "none")
        }
        if config["attention_bias"] == .bool(true) {
            throw failure(.unsupported, "attention with bias", "attention_bias", limit: "false")
        }
    }

    // MARK: Tensors

    private mutating func tensor(_ name: String, _ shape: [Int]) throws -> SourceTensor {
        guard let (tensor, file) = tensors[name] else {
            throw ModelError(.tensorMissing, "a tensor is missing", file: directory, field: name)
        }
        used.insert(name)
        guard tensor.shape == shape else {
            throw ModelError(
                .shapeInvalid, "not the shape that the configuration says", file: file.path, field: name,
                found: tensor.shape.map(String.init).joined(separator: " x "),
                limit: shape.map(String.init).joined(separator: " x "))
        }
        let format: TensorFormat
        switch tensor.dtype {
        case "F32": format = .f32
        case "F16": format = .f16
        case "BF16": format = .bf16
        default:
            throw ModelError(
                .unsupported, "a dtype that is not read", file: file.path, field: name, found: tensor.dtype,
                limit: "F32, F16 or BF16")
        }
        // Experts in one tensor: their rows follow each other.
        let rows = shape.dropLast().reduce(1, *)
        return SourceTensor(
            name: name, file: file, offset: tensor.offset, format: format, rows: rows, columns: shape.last ?? 1)
    }

    private mutating func tensor(_ name: String, _ plan: TensorPlan, vector: Bool = false) throws -> SourceTensor {
        try tensor(name, vector ? [plan.columns] : [plan.rows, plan.columns])
    }

    private mutating func layer(_ index: Int, _ shape: ModelShape) throws -> SourceLayer {
        let prefix = "model.layers.\(index)."
        // transformers 5 calls the block `mlp` and stacks its experts.
        let stacked = tensors["\(prefix)mlp.experts.gate_up_proj"] != nil
        let names = [
            "input_layernorm.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
            "self_attn.o_proj.weight", "post_attention_layernorm.weight",
            stacked ? "mlp.gate.weight" : "block_sparse_moe.gate.weight",
        ]
        let dense = try zip(names, shape.densePlan).map { name, plan in
            try tensor(prefix + name, plan, vector: name.contains("layernorm"))
        }
        guard stacked else {
            let experts = try (0..<shape.experts).map { expert in
                try zip(["w1", "w2", "w3"], shape.expertPlan).map { name, plan in
                    try tensor("\(prefix)block_sparse_moe.experts.\(expert).\(name).weight", plan)
                }
            }
            return SourceLayer(dense: dense, experts: experts)
        }
        let inner = shape.feedForward
        let gateUp = try tensor("\(prefix)mlp.experts.gate_up_proj", [shape.experts, 2 * inner, shape.hidden])
        let down = try tensor("\(prefix)mlp.experts.down_proj", [shape.experts, shape.hidden, inner])
        let experts = (0..<shape.experts).map { expert in
            let first = expert * 2 * inner
            return [
                gateUp.slice(first..<first + inner),
                down.slice(expert * shape.hidden..<(expert + 1) * shape.hidden),
                gateUp.slice(first + inner..<first + 2 * inner),
            ]
        }
        return SourceLayer(dense: dense, experts: experts)
    }

    private func tokenizer(_ shape: ModelShape) throws -> [UInt8] {
        // Some of Mistral's repositories have only the file with its version.
        let names = ["tokenizer.model", "tokenizer.model.v3", "tokenizer.model.v1"]
        let name = names.first { SourceFiles.exists("\(directory)/\($0)") } ?? names[0]
        let path = "\(directory)/\(name)"
        let bytes = try SourceFile.contents(of: path, limit: TokenizerBlob.maximumBytes)
        try TokenizerBlob.check(bytes, vocabulary: shape.vocabulary, file: path)
        return bytes
    }

    private mutating func model() throws -> SourceModel {
        let shape = try shape()
        let tokenizer = try tokenizer(shape)
        let embedding = try tensor("model.embed_tokens.weight", shape.embeddingPlan[0])
        let tied = config["tie_word_embeddings"] == .bool(true)
        let head = [
            try tensor("model.norm.weight", shape.headPlan[0], vector: true),
            tied ? embedding : try tensor("lm_head.weight", shape.headPlan[1]),
        ]
        let layers = try (0..<shape.layers).map { try layer($0, shape) }
        // Files of tied models may have the head all the same, and old ones the rotary frequencies, which follow from
        // theta.
        let ignored = tensors.keys.filter { !used.contains($0) && !$0.hasSuffix("rotary_emb.inv_freq") }
        if let name = ignored.filter({ !(tied && $0 == "lm_head.weight") }).min() {
            throw ModelError(.tensorUnexpected, "a tensor that a Mixtral does not have", file: directory, field: name)
        }
        // Also of `.` and of paths that end in a slash.
        let name = URL(filePath: directory).standardizedFileURL.lastPathComponent
        return SourceModel(
            name: name, shape: shape, tokenizer: tokenizer, embedding: embedding, head: head,
            layers: layers)
    }
}
