package import Foundation

/// A Mixtral of any small shape with weights out of a seed, written as a Hugging Face directory.
///
/// Its text makes no sense; it is there for shapes that the demo does not have.
package struct TinyModel: Sendable {
    package var layers = 2
    package var hidden = 48
    package var heads = 3
    package var keyValueHeads = 3
    package var headDimension = 16
    package var feedForward = 40
    package var experts = 5
    package var expertsUsed = 3
    /// At least 259: `<unk>`, `<s>`, `</s>` and the 256 bytes.
    package var vocabulary = 263
    package var contextLength = 128
    package var ropeTheta = 10_000.0
    package var normEpsilon = 1e-5
    package var seed: UInt64 = 1

    package init() {}

    /// A tensor as the checkpoint names it, row-major, rounded to float32.
    package struct Tensor: Sendable {
        package var name: String
        package var shape: [Int]
        package var values: [Float]
    }

    /// All tensors of the checkpoint.
    package var tensors: [Tensor] {
        var random = SeededGenerator(seed: seed)
        func tensor(_ name: String, _ shape: [Int], around center: Float = 0, spread: Float) -> Tensor {
            let values = (0..<shape.reduce(1, *)).map { _ in center + Float.random(in: -spread...spread, using: &random)
            }
            return Tensor(name: name, shape: shape, values: values)
        }
        func matrix(_ name: String, _ rows: Int, _ columns: Int) -> Tensor {
            tensor(name, [rows, columns], spread: 2 / Float(columns).squareRoot())
        }
        func norm(_ name: String) -> Tensor {
            tensor(name, [hidden], around: 1, spread: 0.25)
        }
        var all = [tensor("model.embed_tokens.weight", [vocabulary, hidden], spread: 1)]
        for layer in 0..<layers {
            let prefix = "model.layers.\(layer)."
            all += [
                norm(prefix + "input_layernorm.weight"),
                matrix(prefix + "self_attn.q_proj.weight", heads * headDimension, hidden),
                matrix(prefix + "self_attn.k_proj.weight", keyValueHeads * headDimension, hidden),
                matrix(prefix + "self_attn.v_proj.weight", keyValueHeads * headDimension, hidden),
                matrix(prefix + "self_attn.o_proj.weight", hidden, heads * headDimension),
                norm(prefix + "post_attention_layernorm.weight"),
                matrix(prefix + "block_sparse_moe.gate.weight", experts, hidden),
            ]
            for expert in 0..<experts {
                let prefix = prefix + "block_sparse_moe.experts.\(expert)."
                all += [
                    matrix(prefix + "w1.weight", feedForward, hidden),
                    matrix(prefix + "w2.weight", hidden, feedForward),
                    matrix(prefix + "w3.weight", feedForward, hidden),
                ]
            }
        }
        return all + [norm("model.norm.weight"), matrix("lm_head.weight", vocabulary, hidden)]
    }

    /// Writes `config.json`, `model.safetensors` (F32) and `tokenizer.model` into a directory, which is made.
    package func write(to directory: URL) throws {
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        let configuration: [String: Any] = [
            "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "hidden_size": hidden,
            "intermediate_size": feedForward, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": keyValueHeads, "head_dim": headDimension, "num_local_experts": experts,
            "num_experts_per_tok": expertsUsed, "vocab_size": vocabulary, "max_position_embeddings": contextLength,
            "rope_theta": ropeTheta, "rms_norm_eps": normEpsilon, "hidden_act": "silu", "bos_token_id": 1,
            "eos_token_id": 2, "tie_word_embeddings": false, "torch_dtype": "float32",
        ]
        try JSONSerialization.data(withJSONObject: configuration, options: [.sortedKeys])
            .write(to: directory.appending(path: "config.json"))
        try safetensors().write(to: directory.appending(path: "model.safetensors"))
        try tokenizer().write(to: directory.appending(path: "tokenizer.model"))
    }

    /// The file format of Hugging Face's safetensors: header length, JSON header, data.
    private func safetensors() throws -> Data {
        var header: [String: Any] = [:]
        var data = Data()
        for tensor in tensors {
            let begin = data.count
            for value in tensor.values {
                withUnsafeBytes(of: value.bitPattern.littleEndian) { data.append(contentsOf: $0) }
            }
            header[tensor.name] = ["dtype": "F32", "shape": tensor.shape, "data_offsets": [begin, data.count]]
        }
        var json = try JSONSerialization.data(withJSONObject: header, options: [.sortedKeys])
        json.append(contentsOf: repeatElement(UInt8(ascii: " "), count: (8 - json.count % 8) % 8))
        return withUnsafeBytes(of: UInt64(json.count).littleEndian) { Data($0) } + json + data
    }

    /// A SentencePiece model (sentencepiece_model.proto): control pieces, the bytes, then pieces "p0", "p1" and so on.
    private func tokenizer() -> Data {
        func field(_ number: UInt8, _ bytes: [UInt8]) -> [UInt8] { [number << 3 | 2, UInt8(bytes.count)] + bytes }
        func piece(_ text: String, score: Float, type: UInt8) -> [UInt8] {
            field(
                1,
                field(1, Array(text.utf8)) + [2 << 3 | 5]
                    + withUnsafeBytes(of: score.bitPattern.littleEndian, Array.init)
                    + [3 << 3, type])
        }
        var bytes =
            piece("<unk>", score: 0, type: 2) + piece("<s>", score: 0, type: 3) + piece("</s>", score: 0, type: 3)
        for byte in 0..<256 {
            let digits = String(byte, radix: 16, uppercase: true)
            bytes += piece("<0x" + String(repeating: "0", count: 2 - digits.count) + digits + ">", score: 0, type: 6)
        }
        for index in 0..<max(vocabulary - 259, 0) { bytes += piece("p\(index)", score: -Float(index), type: 1) }
        // trainer_spec { model_type: BPE, byte_fallback: true }
        return Data(bytes + field(2, [3 << 3, 2, 0x98, 0x02, 1]))
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): random numbers that a seed repeats.
package struct SeededGenerator: RandomNumberGenerator, Sendable {
    private var state: UInt64

    package init(seed: UInt64) {
        state = seed
    }

    package mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
