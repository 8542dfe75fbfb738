import Foundation
@testable import ModelStore
import Testing

@Suite struct GGUFFaultTests {
    typealias Fault = SourceFault<GGUFBuilder>

    static let huge = UInt64.max
    static let gate = "blk.0.ffn_gate_inp.weight"

    static let faults: [Fault] = [
        Fault("wrong magic", .formatUnknown, "neither a GGUF") { $0.magic = "GGML" },
        Fault("version 0", .unsupported, "version: ") { $0.version = 0 },
        Fault("version 1", .unsupported, "found 1, expected 2 or 3") { $0.version = 1 },
        Fault("version 4", .unsupported, "(at byte 4)") { $0.version = 4 },
        Fault("tensor count 2^64-1", .headerInvalid, "tensor_count") { $0.tensorCount = huge },
        Fault("key count 2^64-1", .headerInvalid, "metadata_kv_count") { $0.keyCount = huge },
        Fault("string length 2^64-1", .fileTruncated, "18446744073709551615 bytes announced") {
            $0["general.name"] = .raw(8, GGUFBuilder.little(huge))
        },
        Fault("array of 2^64-1", .headerInvalid, "18446744073709551615") {
            $0["tokenizer.ggml.scores"] = .raw(9, GGUFBuilder.little(UInt32(6)) + GGUFBuilder.little(huge))
        },
        Fault("array of arrays", .headerInvalid, "unknown value type") {
            $0["a.b"] = .raw(9, GGUFBuilder.little(UInt32(9)) + GGUFBuilder.little(UInt64(1)))
        },
        Fault("empty key", .headerInvalid, "an empty key") { $0.keys.append(("", .uint32(1))) },
        Fault("duplicate key", .duplicate, "llama.block_count") { $0.keys.append(("llama.block_count", .uint32(2))) },
        Fault("value type 99", .headerInvalid, "found 99") { $0["a.b"] = .raw(99, [0, 0, 0, 0]) },
        Fault("text that is not UTF-8", .headerInvalid, "not UTF-8") {
            $0["general.name"] = .raw(8, GGUFBuilder.little(UInt64(2)) + [0xC3, 0x28])
        },
        Fault("alignment 13", .valueInvalid, "found 13") { $0["general.alignment"] = .uint32(13) },
        Fault("alignment 0", .valueInvalid, "general.alignment") { $0["general.alignment"] = .uint32(0) },
        Fault("5 dimensions", .shapeInvalid, "found 5") { $0.change(gate) { $0.dimensions = [1, 1, 1, 1, 1] } },
        Fault("no dimensions", .shapeInvalid, "found 0") { $0.change(gate) { $0.dimensions = [] } },
        Fault("a zero dimension", .shapeInvalid, "found 0") { $0.change(gate) { $0.dimensions = [32, 0] } },
        Fault("a negative dimension", .shapeInvalid, "found -1") { $0.change(gate) { $0.dimensions = [32, huge] } },
        Fault("product of dimensions overflows", .shapeInvalid, "overflows") {
            $0.change(gate) { $0.dimensions = [1 << 28, 1 << 28, 1 << 28, 1 << 28] }
        },
        Fault("two tensors that together overflow", .offsetInvalid, "past the file's end") {
            $0.change(gate) { $0.dimensions = [1 << 28, 1 << 28, 4] }
            $0.change("output.weight") {
                $0.dimensions = [1 << 28, 1 << 28, 4]
                $0.offset = 1 << 62
            }
        },
        Fault("offset and size overflow", .offsetInvalid, "past the file's end") {
            $0.change(gate) { $0.offset = huge - 31 }
        },
        Fault("offset past the end", .offsetInvalid, gate) { $0.change(gate) { $0.offset = 1 << 40 } },
        Fault("misaligned offset", .offsetInvalid, "a multiple of 32") { $0.change(gate) { $0.offset = 33 } },
        Fault("overlapping offset", .offsetInvalid, "overlaps") { $0.change(gate) { $0.offset = 0 } },
        Fault("row that is not whole blocks", .shapeInvalid, "a multiple of 256") { $0.change(gate) { $0.type = 12 } },
        Fault("unknown tensor type", .unsupported, "ggml type 77") { $0.change(gate) { $0.type = 77 } },
        Fault("duplicate tensor name", .duplicate, gate) { $0.change("blk.1.ffn_gate_inp.weight") { $0.name = gate } },
        Fault("empty tensor name", .headerInvalid, "impossible name") { $0.change(gate) { $0.name = "" } },
        Fault("more experts used than there are", .valueInvalid, "expert_used_count: ") {
            $0["llama.expert_used_count"] = .uint32(4)
        },
        Fault("no expert used", .valueInvalid, "expert_used_count: ") { $0["llama.expert_used_count"] = .uint32(0) },
        Fault("an expert's tensor missing", .tensorMissing, "blk.1.ffn_up.0.weight") {
            $0.tensors.removeAll { $0.name == "blk.1.ffn_up_exps.weight" }
        },
        Fault("fewer experts stacked", .shapeInvalid, "32 x 64 x 2") {
            $0.change("blk.1.ffn_up_exps.weight") {
                $0.dimensions[2] = 2
                $0.data.removeLast($0.data.count / 3)
            }
        },
        Fault("layers that are not there", .tensorMissing, "blk.2.attn_norm.weight") {
            $0["llama.block_count"] = .uint32(3)
        },
        Fault("more layers than any model", .valueInvalid, "layers") { $0["llama.block_count"] = .uint32(.max) },
        Fault("a tensor too many", .tensorUnexpected, "rope_freqs.weight") {
            $0.tensors.append(GGUFBuilder.Tensor(name: "rope_freqs.weight", dimensions: [1], data: [0, 0, 0, 0]))
        },
        Fault("another architecture", .unsupported, "\"qwen3moe\"") {
            $0["general.architecture"] = .string("qwen3moe")
        },
        Fault("a dense model", .unsupported, "dense") { $0["llama.expert_count"] = nil },
        Fault("rotary scaling", .unsupported, "\"yarn\"") { $0["llama.rope.scaling.type"] = .string("yarn") },
        Fault("a sliding window", .unsupported, "sliding_window") {
            $0["llama.attention.sliding_window"] = .uint32(32)
        },
        Fault("a key of the wrong type", .valueInvalid, "llama.block_count") {
            $0["llama.block_count"] = .string("two")
        },
        Fault("heads that keys and values do not divide", .valueInvalid, "keyValueHeads") {
            $0["llama.attention.head_count_kv"] = .uint32(3)
        },
        Fault("no heads", .valueInvalid, "head_count") { $0["llama.attention.head_count"] = .uint32(0) },
        Fault("a byte token <0x-1>", .tokenizerInvalid, "<0x-1>") { $0.setPiece(3, "<0x-1>") },
        Fault("a byte token <0xZZ>", .tokenizerInvalid, "piece 3") { $0.setPiece(3, "<0xZZ>") },
        Fault("a duplicate piece", .duplicate, "piece 6") { $0.setPiece(6, TinyModel.pieces[5].text) },
        Fault("an empty piece", .tokenizerInvalid, "piece 6") { $0.setPiece(6, "") },
        Fault("vocabulary differs from the embedding's rows", .tokenizerInvalid, "19") {
            $0["tokenizer.ggml.tokens"] = .strings(TinyModel.pieces.dropLast().map(\.text))
        },
        Fault("scores are missing", .tokenizerInvalid, "tokenizer.ggml.scores") {
            $0["tokenizer.ggml.scores"] = .floats([0])
        },
        Fault("a piece of an unknown type", .tokenizerInvalid, "piece 0") {
            $0["tokenizer.ggml.token_type"] = .ints(Array(repeating: -1, count: TinyModel.vocabulary))
        },
        Fault("a merge of an unknown piece", .tokenizerInvalid, "merges[0]") {
            $0["tokenizer.ggml.merges"] = .strings(["x y"])
        },
        Fault("another tokenizer", .unsupported, "\"gpt2\"") { $0["tokenizer.ggml.model"] = .string("gpt2") },
        Fault("a token that ends texts past the vocabulary", .valueInvalid, "endToken") {
            $0["tokenizer.ggml.eos_token_id"] = .uint32(.max)
        },
        Fault("a part of a split without its name", .valueInvalid, "split.count") {
            $0["split.count"] = .uint32(2)
            $0["split.no"] = .uint32(0)
        },
    ]

    @Test func theRightFileIsRead() throws {
        let model = try GGUFBuilder.tiny().load()
        #expect(model.shape.experts == 3)
        #expect(model.shape.headDimension == 8)
        #expect(model.name == "tiny")
    }

    @Test(arguments: faults)
    func isRefused(_ fault: Fault) throws {
        try fault.check()
    }

    private func load(_ bytes: some Sequence<UInt8>) throws -> SourceModel {
        try .load { try $0.write(Array(bytes), "tiny.gguf") }
    }

    @Test func theLastByteMissing() throws {
        let bytes = GGUFBuilder.tiny().bytes()
        let error = try #require(throws: ModelError.self) { _ = try load(bytes.dropLast()) }
        #expect(error.code == "offset_invalid")
        #expect(error.field == "output.weight")
    }

    @Test(arguments: [0, 3, 4, 8, 23, 24, 40, 300])
    func aFileThatEndsInItsHeader(_ length: Int) throws {
        let bytes = GGUFBuilder.tiny().bytes()
        #expect(throws: ModelError.self) { _ = try load(bytes.prefix(length)) }
    }

    // MARK: Split files

    private func writeSplit(_ parts: Int, missing: Int?, in directory: TemporaryDirectory) throws -> String {
        let whole = GGUFBuilder.tiny()
        let perPart = (whole.tensors.count + parts - 1) / parts
        var first = ""
        for part in 0..<parts {
            var file = GGUFBuilder()
            if part == 0 { file.keys = whole.keys }
            file["split.no"] = .raw(2, GGUFBuilder.little(UInt16(part)))
            file["split.count"] = .raw(2, GGUFBuilder.little(UInt16(parts)))
            file["split.tensors.count"] = .ints([])
            file["split.tensors.count"] = .raw(5, GGUFBuilder.little(Int32(whole.tensors.count)))
            file.tensors = Array(whole.tensors.dropFirst(part * perPart).prefix(perPart))
            let name = "tiny-0000\(part + 1)-of-0000\(parts).gguf"
            if part != missing {
                let path = try directory.write(file.bytes(), name)
                if first.isEmpty { first = path }
            }
        }
        return first
    }

    @Test func splitFilesAreOneModel() throws {
        let directory = try TemporaryDirectory()
        let store = Store(directory: "\(directory.path)/store")
        let split = try Importer.run(source: writeSplit(3, missing: nil, in: directory), store: store)
        let whole = try Importer.run(
            source: directory.write(GGUFBuilder.tiny().bytes(), "whole.gguf"), store: store)
        #expect(try store.loadManifest(path: split).layers == store.loadManifest(path: whole).layers)
        #expect(try store.loadManifest(path: split).head == store.loadManifest(path: whole).head)
    }

    @Test func aMissingPartIsNamed() throws {
        let directory = try TemporaryDirectory()
        let path = try writeSplit(3, missing: 1, in: directory)
        let error = try #require(throws: ModelError.self) { _ = try SourceModel.load(SourceFiles(path: path)) }
        #expect(error.code == "file_missing")
        #expect(error.file?.hasSuffix("tiny-00002-of-00003.gguf") == true)
    }

    @Test func aPartUnderAnothersName() throws {
        let directory = try TemporaryDirectory()
        let path = try writeSplit(2, missing: nil, in: directory)
        let second = path.replacing("00001-of", with: "00002-of")
        try FileManager.default.removeItem(atPath: second)
        try FileManager.default.copyItem(atPath: path, toPath: second)
        let error = try #require(throws: ModelError.self) { _ = try SourceModel.load(SourceFiles(path: path)) }
        #expect(error.field == "split.no")
    }
}

extension GGUFBuilder {
    mutating func setPiece(_ index: Int, _ text: String) {
        var texts = TinyModel.pieces.map(\.text)
        texts[index] = text
        self["tokenizer.ggml.tokens"] = .strings(texts)
    }
}
