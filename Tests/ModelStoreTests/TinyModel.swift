import Foundation
@testable import ModelStore

/// A Mixtral of a few kilobytes, in the forms in which others write it, whole or broken.
enum TinyModel {
    static let layers = 2
    static let hidden = 32
    static let heads = 4
    static let keyValueHeads = 2
    static let headDimension = 8
    static let feedForward = 64
    static let experts = 3
    /// Not a multiple of 16, so that the last panel of the head is padded.
    static let vocabulary = 20
    static let context = 64

    /// Seeded weights, the same for a name in every form.
    static func weights(_ name: String, _ count: Int) -> [Float] {
        var generator = SeededGenerator(seed: name.utf8.reduce(7) { $0 &* 31 &+ UInt64($1) })
        return (0..<count).map { _ in Float(Int.random(in: -512...512, using: &generator)) / 1024 }
    }

    static func floats(_ values: [Float]) -> [UInt8] {
        values.withUnsafeBytes { Array($0) }
    }

    static let pieces: [TokenizerBlob.Piece] =
        [
            TokenizerBlob.Piece(text: "<unk>", score: 0, type: 2), TokenizerBlob.Piece(text: "<s>", score: 0, type: 3),
            TokenizerBlob.Piece(text: "</s>", score: 0, type: 3),
            TokenizerBlob.Piece(text: "<0x0A>", score: 0, type: 6),
        ]
        + (4..<vocabulary).map { TokenizerBlob.Piece(text: "\u{2581}p\($0)", score: -Float($0), type: 1) }

    static let tokenizer = TokenizerBlob.write(
        pieces,
        TokenizerBlob.Options(unknown: 0, begin: 1, end: 2, addDummyPrefix: true, removeExtraWhitespaces: false))

    /// llama.cpp's order of the rows of Q and K (`LlamaModel.permute` of its converter): pairs become neighbours.
    static func permuted(_ values: [Float], heads: Int, columns: Int) -> [Float] {
        let dimension = values.count / columns / heads
        let half = dimension / 2
        var result: [Float] = []
        for head in 0..<heads {
            for pair in 0..<half {
                for part in 0..<2 {
                    let row = head * dimension + part * half + pair
                    result += values[row * columns..<(row + 1) * columns]
                }
            }
        }
        return result
    }

    /// Hugging Face's names, shapes (outermost first) and values.
    static func tensors() -> [(name: String, shape: [Int], values: [Float])] {
        var result: [(name: String, shape: [Int], values: [Float])] = []
        func add(_ name: String, _ shape: Int...) {
            result.append((name, shape, weights(name, shape.reduce(1, *))))
        }
        add("model.embed_tokens.weight", vocabulary, hidden)
        for layer in 0..<layers {
            let prefix = "model.layers.\(layer)."
            add(prefix + "input_layernorm.weight", hidden)
            add(prefix + "self_attn.q_proj.weight", heads * headDimension, hidden)
            add(prefix + "self_attn.k_proj.weight", keyValueHeads * headDimension, hidden)
            add(prefix + "self_attn.v_proj.weight", keyValueHeads * headDimension, hidden)
            add(prefix + "self_attn.o_proj.weight", hidden, heads * headDimension)
            add(prefix + "post_attention_layernorm.weight", hidden)
            add(prefix + "block_sparse_moe.gate.weight", experts, hidden)
            for expert in 0..<experts {
                add(prefix + "block_sparse_moe.experts.\(expert).w1.weight", feedForward, hidden)
                add(prefix + "block_sparse_moe.experts.\(expert).w2.weight", hidden, feedForward)
                add(prefix + "block_sparse_moe.experts.\(expert).w3.weight", feedForward, hidden)
            }
        }
        add("model.norm.weight", hidden)
        add("lm_head.weight", vocabulary, hidden)
        return result
    }
}

// MARK: GGUF

/// Writes GGUF files, right ones and wrong ones.
struct GGUFBuilder: Sendable {
    enum Value: Sendable {
        case uint32(UInt32)
        case float(Float)
        case string(String)
        case strings([String])
        case floats([Float])
        case ints([Int32])
        /// A type's number and the bytes behind it.
        case raw(UInt32, [UInt8])
    }

    struct Tensor: Sendable {
        var name: String
        var dimensions: [UInt64]
        var type: UInt32 = 0
        var data: [UInt8]
        /// Other than where the data lies.
        var offset: UInt64?
    }

    var magic = "GGUF"
    var version: UInt32 = 3
    var keys: [(String, Value)] = []
    var tensors: [Tensor] = []
    var keyCount: UInt64?
    var tensorCount: UInt64?

    subscript(key: String) -> Value? {
        get { keys.first { $0.0 == key }?.1 }
        set {
            keys.removeAll { $0.0 == key }
            if let newValue { keys.append((key, newValue)) }
        }
    }

    mutating func change(_ name: String, _ body: (inout Tensor) -> Void) {
        for index in tensors.indices where tensors[index].name == name { body(&tensors[index]) }
    }

    static func little(_ value: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: value.littleEndian) { Array($0) }
    }

    static func string(_ text: String) -> [UInt8] {
        little(UInt64(text.utf8.count)) + Array(text.utf8)
    }

    private static func encode(_ value: Value) -> [UInt8] {
        switch value {
        case .uint32(let value): little(UInt32(4)) + little(value)
        case .float(let value): little(UInt32(6)) + little(value.bitPattern)
        case .string(let text): little(UInt32(8)) + string(text)
        case .strings(let texts):
            little(UInt32(9)) + little(UInt32(8)) + little(UInt64(texts.count)) + texts.flatMap { string($0) }
        case .floats(let values):
            little(UInt32(9)) + little(UInt32(6)) + little(UInt64(values.count))
                + values.flatMap { little($0.bitPattern) }
        case .ints(let values):
            little(UInt32(9)) + little(UInt32(5)) + little(UInt64(values.count)) + values.flatMap { little($0) }
        case .raw(let type, let bytes): little(type) + bytes
        }
    }

    func bytes() -> [UInt8] {
        var header = Array(magic.utf8) + Self.little(version)
        header += Self.little(tensorCount ?? UInt64(tensors.count)) + Self.little(keyCount ?? UInt64(keys.count))
        for (key, value) in keys { header += Self.string(key) + Self.encode(value) }
        var data: [UInt8] = []
        for tensor in tensors {
            data += [UInt8](repeating: 0, count: -data.count & 31)
            header += Self.string(tensor.name) + Self.little(UInt32(tensor.dimensions.count))
            for dimension in tensor.dimensions { header += Self.little(dimension) }
            header += Self.little(tensor.type) + Self.little(tensor.offset ?? UInt64(data.count))
            data += tensor.data
        }
        return header + [UInt8](repeating: 0, count: -header.count & 31) + data
    }

    /// The tiny model as llama.cpp's converter writes it.
    static func tiny(perExpert: Bool) -> GGUFBuilder {
        var file = GGUFBuilder()
        let pieces = TinyModel.pieces
        file.keys = [
            ("general.architecture", .string("llama")), ("llama.block_count", .uint32(UInt32(TinyModel.layers))),
            ("llama.context_length", .uint32(UInt32(TinyModel.context))),
            ("llama.embedding_length", .uint32(UInt32(TinyModel.hidden))),
            ("llama.feed_forward_length", .uint32(UInt32(TinyModel.feedForward))),
            ("llama.attention.head_count", .uint32(UInt32(TinyModel.heads))),
            ("llama.attention.head_count_kv", .uint32(UInt32(TinyModel.keyValueHeads))),
            ("llama.attention.layer_norm_rms_epsilon", .float(1e-5)), ("llama.rope.freq_base", .float(1e6)),
            ("llama.expert_count", .uint32(UInt32(TinyModel.experts))), ("llama.expert_used_count", .uint32(2)),
            ("tokenizer.ggml.model", .string("llama")), ("tokenizer.ggml.tokens", .strings(pieces.map(\.text))),
            ("tokenizer.ggml.scores", .floats(pieces.map(\.score))),
            ("tokenizer.ggml.token_type", .ints(pieces.map { Int32($0.type) })),
            ("tokenizer.ggml.bos_token_id", .uint32(1)), ("tokenizer.ggml.eos_token_id", .uint32(2)),
        ]
        var merged: [String: [UInt8]] = [:]
        for (name, shape, values) in TinyModel.tensors() {
            var values = values
            if name.contains("q_proj") {
                values = TinyModel.permuted(values, heads: TinyModel.heads, columns: TinyModel.hidden)
            } else if name.contains("k_proj") {
                values = TinyModel.permuted(values, heads: TinyModel.keyValueHeads, columns: TinyModel.hidden)
            }
            var dimensions = shape.reversed().map { UInt64($0) }
            var target = Self.name(name)
            if !perExpert, let place = target.firstRange(of: #/ffn_(gate|down|up)\.[0-9]+/#) {
                // Experts are stacked in the order of their numbers, in which they come.
                target = target[..<place.lowerBound] + target[place].prefix { $0 != "." } + "_exps.weight"
                merged[target, default: []] += TinyModel.floats(values)
                guard target.isEmpty || name.contains("experts.\(TinyModel.experts - 1).") else { continue }
                dimensions.append(UInt64(TinyModel.experts))
                file.tensors.append(Tensor(name: target, dimensions: dimensions, data: merged[target] ?? []))
            } else {
                file.tensors.append(Tensor(name: target, dimensions: dimensions, data: TinyModel.floats(values)))
            }
        }
        return file
    }

    private static func name(_ name: String) -> String {
        var result = name
        for (old, new) in [
            ("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output"),
            ("model.layers.", "blk."), ("input_layernorm", "attn_norm"), ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"), ("self_attn.o_proj", "attn_output"),
            ("post_attention_layernorm", "ffn_norm"), ("block_sparse_moe.gate", "ffn_gate_inp"),
        ] {
            result = result.replacing(old, with: new)
        }
        return result.replacing(#/block_sparse_moe\.experts\.([0-9]+)\.w([123])/#) { match in
            let part = ["1": "gate", "2": "down", "3": "up"][String(match.2)] ?? ""
            return "ffn_\(part).\(match.1)"
        }
    }
}

// MARK: Hugging Face

/// Writes Hugging Face directories, right ones and wrong ones.
struct DirectoryBuilder: Sendable {
    struct Tensor: Sendable {
        var name: String
        var dtype = "F32"
        var shape: [Int]
        var data: [UInt8]
        /// Other than where the data lies.
        var offsets: [UInt64]?
    }

    var config = """
        {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 3,
        "num_experts_per_tok": 2, "vocab_size": 20, "rope_theta": 1000000.0, "rms_norm_eps": 1e-05,
        "hidden_act": "silu", "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
        "tie_word_embeddings": false, "torch_dtype": "float32", "sliding_window": null}
        """
    var tokenizer = TinyModel.tokenizer
    var tensors: [Tensor] = []
    /// In place of the header that follows from the tensors.
    var header: [UInt8]?
    var headerLength: UInt64?
    /// In place of the whole file.
    var file: [UInt8]?
    var trailing: [UInt8] = []
    var index: String?

    static func tiny() -> DirectoryBuilder {
        var result = DirectoryBuilder()
        result.tensors = TinyModel.tensors().map {
            Tensor(name: $0.name, shape: $0.shape, data: TinyModel.floats($0.values))
        }
        return result
    }

    mutating func change(_ name: String, _ body: (inout Tensor) -> Void) {
        for index in tensors.indices where tensors[index].name == name { body(&tensors[index]) }
    }

    mutating func configure(_ old: String, _ new: String) {
        config = config.replacing(old, with: new)
    }

    func safetensors() -> [UInt8] {
        if let file { return file }
        var data: [UInt8] = []
        var entries: [String] = []
        for tensor in tensors {
            let end = data.count + tensor.data.count
            let offsets = tensor.offsets ?? [UInt64(data.count), UInt64(end)]
            entries.append(
                "\"\(tensor.name)\": {\"dtype\": \"\(tensor.dtype)\", \"shape\": \(tensor.shape), "
                    + "\"data_offsets\": \(offsets)}")
            data += tensor.data
        }
        let header = header ?? Array(("{" + entries.joined(separator: ", ") + "}").utf8)
        return GGUFBuilder.little(headerLength ?? UInt64(header.count)) + header + data + trailing
    }

    /// Writes the directory.
    ///
    /// - Returns: its path.
    func write(in directory: TemporaryDirectory, _ name: String) throws -> String {
        let path = "\(directory.path)/\(name)"
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        _ = try directory.write(Array(config.utf8), "\(name)/config.json")
        _ = try directory.write(tokenizer, "\(name)/tokenizer.model")
        _ = try directory.write(safetensors(), "\(name)/model.safetensors")
        if let index { _ = try directory.write(Array(index.utf8), "\(name)/model.safetensors.index.json") }
        return path
    }
}
