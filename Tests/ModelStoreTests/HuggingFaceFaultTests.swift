import Foundation
@testable import ModelStore
import Testing

@Suite struct HuggingFaceFaultTests {
    typealias Fault = SourceFault<DirectoryBuilder>

    static let norm = "model.norm.weight"

    private static func header(_ text: String) -> [UInt8] { Array(text.utf8) }

    static let faults: [Fault] = [
        Fault("under 8 bytes", .fileTruncated, "found 7 bytes") { $0.file = [1, 0, 0, 0, 0, 0, 0] },
        Fault("header length 2^63", .headerInvalid, "9223372036854775808") { $0.headerLength = 1 << 63 },
        Fault("header over 100 MB", .headerInvalid, "at most 100000000") { $0.headerLength = 100_000_001 },
        Fault("header longer than the file", .fileTruncated, "a header of 99000000") { $0.headerLength = 99_000_000 },
        Fault("not an object", .headerInvalid, "not an object") { $0.header = header("[1]") },
        Fault("not JSON", .headerInvalid, "JSON: not the beginning of a value") { $0.header = header("hello") },
        Fault("an empty header", .headerInvalid, "a value is missing") { $0.header = [] },
        Fault("bad UTF-8", .headerInvalid, "not UTF-8") { $0.header = header("{\"") + [0xFF] + header("\": 1}") },
        Fault("nested 10,000 deep", .headerInvalid, "nested deeper") {
            $0.header = header("{\"a\": " + String(repeating: "[", count: 10_000))
        },
        Fault("a key twice", .duplicate, norm) {
            let tensor = "\"\(norm)\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [0, 4]}"
            $0.header = header("{\(tensor), \(tensor)}")
        },
        Fault("end before begin", .offsetInvalid, "before the beginning") {
            $0.change(norm) { $0.offsets = [128, 0] }
        },
        Fault("a negative offset", .offsetInvalid, "not offsets") {
            $0.header = header("{\"a\": {\"dtype\": \"F32\", \"shape\": [1], \"data_offsets\": [-4, 0]}}")
        },
        Fault("overlap", .offsetInvalid, "overlaps") { $0.change(norm) { $0.offsets = [0, 128] } },
        Fault("a hole", .offsetInvalid, "a hole") {
            $0.tensors[0].data += [0, 0, 0, 0]
            $0.tensors[0].offsets = [0, UInt64($0.tensors[0].data.count - 4)]
        },
        Fault("trailing bytes", .offsetInvalid, "behind the last") { $0.trailing = [0] },
        Fault("the last bytes missing", .offsetInvalid, "past the file's end") {
            $0.tensors[$0.tensors.count - 1].cut()
        },
        Fault("shape product overflows", .shapeInvalid, "overflows") {
            $0.change(norm) { $0.shape = [1 << 40, 1 << 40] }
        },
        Fault("a negative dimension", .shapeInvalid, "found -32") { $0.change(norm) { $0.shape = [-32] } },
        Fault("shape times dtype differs from bytes", .shapeInvalid, "found 128 bytes, expected 132") {
            $0.change(norm) { $0.shape = [33] }
        },
        Fault("unknown dtype", .unsupported, "\"F33\"") { $0.change(norm) { $0.dtype = "F33" } },
        Fault("a dtype that is not read", .unsupported, "found I32") { $0.change(norm) { $0.dtype = "I32" } },
        Fault("an index that names a missing file", .fileMissing, "other.safetensors") {
            $0.index = "{\"weight_map\": {\"\(norm)\": \"other.safetensors\"}}"
        },
        Fault("an index that leads elsewhere", .valueInvalid, "../tiny/model.safetensors") {
            $0.index = "{\"weight_map\": {\"\(norm)\": \"../tiny/model.safetensors\"}}"
        },
        Fault("an index of tensors that are not there", .tensorMissing, "nothing.weight") {
            $0.index = "{\"weight_map\": {\"nothing.weight\": \"model.safetensors\"}}"
        },
        Fault("an index without a map", .headerInvalid, "weight_map") { $0.index = "{}" },
        Fault("an expert's tensor missing", .tensorMissing, "experts.2.w3") {
            $0.tensors.removeAll { $0.name == "model.layers.1.block_sparse_moe.experts.2.w3.weight" }
        },
        Fault("a tensor too many", .tensorUnexpected, "q_proj.bias") {
            $0.tensors.append(
                DirectoryBuilder.Tensor(name: "model.layers.0.self_attn.q_proj.bias", shape: [1], data: [0, 0, 0, 0]))
        },
        Fault("another shape", .shapeInvalid, "found 1 x 32, expected 32") { $0.change(norm) { $0.shape = [1, 32] } },
        Fault("more experts used than there are", .valueInvalid, "num_experts_per_tok") {
            $0.configure("\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 4")
        },
        Fault("another architecture", .unsupported, "\"llama\"") {
            $0.configure("\"model_type\": \"mixtral\"", "\"model_type\": \"llama\"")
        },
        Fault("a sliding window", .unsupported, "sliding_window") {
            $0.configure("\"sliding_window\": null", "\"sliding_window\": 63")
        },
        Fault("rotary scaling, old spelling", .unsupported, "linear") {
            $0.configure("\"hidden_act\"", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}, \"hidden_act\"")
        },
        Fault("rotary scaling, new spelling", .unsupported, "yarn") {
            $0.configure("\"rope_theta\": 1000000.0", "\"rope_parameters\": {\"rope_type\": \"yarn\"}")
        },
        Fault("another activation", .unsupported, "gelu") { $0.configure("silu", "gelu") },
        Fault("weights quantised by others", .unsupported, "quantization_config") {
            $0.configure("\"hidden_act\"", "\"quantization_config\": {\"bits\": 4}, \"hidden_act\"")
        },
        Fault("a number that is text", .valueInvalid, "hidden_size") {
            $0.configure("\"hidden_size\": 32", "\"hidden_size\": \"32\"")
        },
        Fault("a number beyond all", .valueInvalid, "layers") {
            $0.configure("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 9000000000000000000")
        },
        Fault("a number missing", .valueInvalid, "num_hidden_layers") {
            $0.configure("\"num_hidden_layers\": 2, ", "")
        },
        Fault("epsilon beyond float32", .valueInvalid, "normEpsilon") { $0.configure("1e-05", "1e99") },
        Fault("a duplicate key in config.json", .duplicate, "hidden_size") {
            $0.configure("\"hidden_act\"", "\"hidden_size\": 32, \"hidden_act\"")
        },
        Fault("vocabulary differs from the embedding's rows", .tokenizerInvalid, "found 20, expected 21") {
            $0.configure("\"vocab_size\": 20", "\"vocab_size\": 21")
        },
        Fault("tokenizer: a truncated varint", .tokenizerInvalid, "truncated varint") { $0.tokenizer += [0x80] },
        Fault("tokenizer: an over-long varint", .tokenizerInvalid, "over-long") {
            $0.tokenizer += [UInt8](repeating: 0x80, count: 10) + [0]
        },
        Fault("tokenizer: a field longer than the file", .tokenizerInvalid, "longer than the rest") {
            $0.tokenizer += [0x0A, 0x7F]
        },
        Fault("tokenizer: a byte token <0xZZ>", .tokenizerInvalid, "<0xZZ>") { $0.setPiece("<0xZZ>", type: 6) },
        Fault("tokenizer: a byte token <0x-1>", .tokenizerInvalid, "<0x-1>") { $0.setPiece("<0x-1>", type: 6) },
        Fault("tokenizer: a duplicate piece", .duplicate, "<unk>") { $0.setPiece("<unk>", type: 1) },
        Fault("tokenizer: a score that is no number", .tokenizerInvalid, "score") {
            $0.setPiece("x", type: 1, score: .nan)
        },
    ]

    @Test(arguments: faults)
    func isRefused(_ fault: Fault) throws {
        try fault.check()
    }

    @Test(arguments: ["config.json", "tokenizer.model", "model.safetensors"])
    func aMissingFileIsNamed(_ name: String) throws {
        let directory = try TemporaryDirectory()
        let path = try DirectoryBuilder.tiny().write(in: directory)
        try FileManager.default.removeItem(atPath: "\(path)/\(name)")
        let error = try #require(throws: ModelError.self) { _ = try SourceModel.load(SourceFiles(path: path)) }
        #expect(error.code == "file_missing")
        #expect(error.file?.hasSuffix(name) == true)
    }

    // MARK: Spellings

    @Test func newerSpellings() throws {
        let old = try DirectoryBuilder.tiny().load().shape
        var builder = DirectoryBuilder.tiny()
        builder.configure(
            "\"rope_theta\": 1000000.0", "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 1000000.0}")
        builder.configure("\"torch_dtype\"", "\"dtype\"")
        builder.configure("\"eos_token_id\": 2", "\"eos_token_id\": [2, 3], \"head_dim\": null")
        builder.configure("\"sliding_window\": null", "\"sliding_window\": 64")
        #expect(try builder.load().shape == old)
        builder.configure("num_local_experts", "num_experts")
        #expect(try builder.load().shape == old)
    }

    @Test func aHeadDimensionOfItsOwn() throws {
        var builder = DirectoryBuilder.tiny()
        builder.configure("\"hidden_act\"", "\"head_dim\": 16, \"hidden_act\"")
        let error = try #require(throws: ModelError.self) { _ = try builder.load() }
        #expect(error.limit == "64 x 32")
    }

    @Test func tiedEmbeddingsAreStoredTwice() throws {
        var builder = DirectoryBuilder.tiny()
        builder.configure("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true")
        builder.tensors.removeAll { $0.name == "lm_head.weight" }
        let model = try builder.load()
        #expect(model.head[1].name == "model.embed_tokens.weight")

        var file = GGUFBuilder.tiny()
        file.tensors.removeAll { $0.name == "output.weight" }
        let directory = try TemporaryDirectory()
        let tied = try SourceModel.load(SourceFiles(path: directory.write(file.bytes(), "tied.gguf")))
        #expect(tied.head[1].name == "token_embd.weight")
    }

    /// Norms and router are float32 in the store whatever they were; widening keeps every bit. Other weights stay as they are.
    @Test func normsAndRouterAreWidened() throws {
        let norm = "model.layers.0.input_layernorm.weight"
        let gate = "model.layers.1.block_sparse_moe.gate.weight"
        let key = "model.layers.1.self_attn.k_proj.weight"
        var builder = DirectoryBuilder.tiny()
        let halves = TinyModel.weights(gate, 3 * 32).map { Float16($0) }
        let brains = TinyModel.weights(norm, 32).map { UInt16($0.bitPattern >> 16) }
        for name in [gate, key] {
            builder.change(name) { tensor in
                tensor.dtype = "F16"
                tensor.data = TinyModel.weights(name, tensor.data.count / 4).flatMap {
                    GGUFBuilder.little(Float16($0).bitPattern)
                }
            }
        }
        builder.change(norm) {
            $0.dtype = "BF16"
            $0.data = brains.flatMap { GGUFBuilder.little($0) }
        }
        let directory = try TemporaryDirectory()
        let store = Store(directory: "\(directory.path)/store")
        let manifest = try store.loadManifest(path: Importer.run(source: builder.write(in: directory), store: store))
        // Bytes of a tensor are valid as long as the mapping.
        let first = try store.map(manifest.layers[0].dense, verify: true)
        let dense = try store.map(manifest.layers[1].dense, verify: true)
        defer { withExtendedLifetime((first, dense)) {} }
        let (normEntry, normBytes) = try first.tensor("attention_norm")
        #expect(normEntry.format == .f32)
        #expect(Array(normBytes) == TinyModel.floats(brains.map { Float(bitPattern: UInt32($0) << 16) }))
        #expect(try dense.tensor("wk").0.format == .f16)
        let (gateEntry, gateBytes) = try dense.tensor("gate")
        #expect(gateEntry.format == .f32 && gateEntry.panels)
        for row in 0..<16 {
            for column in 0..<32 {
                let value = gateBytes.load(fromByteOffset: (column * 16 + row) * 4, as: Float.self)
                #expect(value == (row < 3 ? Float(halves[row * 32 + column]) : 0))
            }
        }
    }

    @Test func stackedExpertsOfTransformers5AreTheSameModel() throws {
        var builder = DirectoryBuilder.tiny()
        let all = Dictionary(uniqueKeysWithValues: builder.tensors.map { ($0.name, $0.data) })
        builder.tensors.removeAll { $0.name.contains(".experts.") }
        for layer in 0..<TinyModel.layers {
            let prefix = "model.layers.\(layer)."
            builder.change("\(prefix)block_sparse_moe.gate.weight") { $0.name = "\(prefix)mlp.gate.weight" }
            var (gateUp, down): ([UInt8], [UInt8]) = ([], [])
            for expert in 0..<TinyModel.experts {
                let old = "\(prefix)block_sparse_moe.experts.\(expert)"
                gateUp += (all["\(old).w1.weight"] ?? []) + (all["\(old).w3.weight"] ?? [])
                down += all["\(old).w2.weight"] ?? []
            }
            builder.tensors += [
                DirectoryBuilder.Tensor(name: "\(prefix)mlp.experts.gate_up_proj", shape: [3, 128, 32], data: gateUp),
                DirectoryBuilder.Tensor(name: "\(prefix)mlp.experts.down_proj", shape: [3, 32, 64], data: down),
            ]
        }
        let directory = try TemporaryDirectory()
        let store = Store(directory: "\(directory.path)/store")
        let stacked = try Importer.run(source: builder.write(in: directory, "stacked"), store: store)
        let separate = try Importer.run(source: DirectoryBuilder.tiny().write(in: directory, "separate"), store: store)
        #expect(try store.loadManifest(path: stacked).layers == store.loadManifest(path: separate).layers)
    }
}

extension DirectoryBuilder {
    /// Puts a piece in the place of the last.
    mutating func setPiece(_ text: String, type: UInt8, score: Float = 0) {
        tokenizer = TokenizerBlob.write(
            TinyModel.pieces.dropLast() + [TokenizerBlob.Piece(text: text, score: score, type: type)],
            TokenizerBlob.Options(unknown: 0, begin: 1, end: 2, addDummyPrefix: true, removeExtraWhitespaces: false))
    }
}

extension DirectoryBuilder.Tensor {
    /// Four bytes of the data are missing that the header announces.
    mutating func cut() {
        let begin = UInt64(TinyModel.tensors().dropLast().reduce(0) { $0 + $1.values.count * 4 })
        offsets = [begin, begin + UInt64(data.count)]
        data.removeLast(4)
    }
}
