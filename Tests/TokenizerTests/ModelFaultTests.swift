import Testing

@testable import Tokenizer

/// Broken and hostile model files: each has an error of its own, and none traps.
struct ModelFaultTests {
    private func expect(
        _ code: String, of bytes: [UInt8], sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let error = #expect(throws: TokenizerError.self, sourceLocation: sourceLocation) {
            try Tokenizer(model: bytes)
        }
        #expect(error?.code == code, "\(error?.message ?? "")", sourceLocation: sourceLocation)
    }

    private func expect(
        _ code: String, _ change: (inout ModelBuilder) -> Void,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        var builder = ModelBuilder(["a", "b", "ab"])
        change(&builder)
        expect(code, of: builder.bytes, sourceLocation: sourceLocation)
    }

    @Test func theBuilderWritesAModel() throws {
        #expect(try ModelBuilder(["a", "b", "ab"]).tokenizer.vocabularySize == 262)
    }

    @Test(arguments: ["<0x-1>", "<0xZZ>", "<0x0a>", "<0x0>", "<0x000>", "0x00", "<0x+1>"])
    func byteTokenName(name: String) {
        expect("byte_piece") { $0.pieces[3].name = Array(name.utf8) }
    }

    @Test func byteTokens() {
        expect("byte_pieces") { $0.pieces.remove(at: 100) }
        expect("byte_pieces") { $0.byteFallback = false }
        expect("byte_pieces") { $0.pieces.removeSubrange(3..<259) }
        expect("byte_pieces") { $0.pieces[4].name = $0.pieces[3].name }
    }

    @Test func varints() {
        let good = ModelBuilder(["a"]).bytes
        // A tag, a length and a value that never end.
        expect("truncated", of: good + [0x80])
        expect("truncated", of: good + [0x0A, 0xFF])
        expect("truncated", of: good + [0x20, 0x80, 0x80])
        expect("varint_overlong", of: good + [0x20] + [UInt8](repeating: 0x80, count: 10) + [0x01])
        expect("varint_overlong", of: good + [0x20] + [UInt8](repeating: 0xFF, count: 9) + [0x02])
    }

    @Test func longestVarintAndUnknownFieldsAreSkipped() throws {
        let unknown: [UInt8] = [0x20] + [UInt8](repeating: 0xFF, count: 9) + [0x01]
        #expect(try Tokenizer(model: ModelBuilder(["a"]).bytes + unknown).vocabularySize == 260)
    }

    @Test func lengthsPastTheEnd() {
        let good = ModelBuilder(["a"]).bytes
        expect("truncated", of: good + [0x0A, 0x05, 0x0A, 0x01])
        expect("truncated", of: good + [0x0A] + [UInt8](repeating: 0xFF, count: 9) + [0x01])
        // Inside a piece: a name longer than the piece; a score of three bytes.
        expect("truncated", of: good + [0x0A, 0x03, 0x0A, 0x02, 0x61] + good)
        expect("truncated", of: good + [0x0A, 0x07, 0x0A, 0x01, 0x61, 0x15, 0x00, 0x00, 0x00])
        expect("truncated", of: good + [0x31, 0x00])
    }

    @Test func tags() {
        let good = ModelBuilder(["a"]).bytes
        expect("field_number", of: good + [0x00])
        expect("wire_type", of: good + [0x0B])
        expect("wire_type", of: good + [0x0F])
        // The pieces as a number, a piece's name as a number.
        expect("wire_type", of: good + [0x08, 0x01])
        expect("wire_type", of: good + [0x0A, 0x02, 0x08, 0x01])
    }

    @Test func pieces() {
        expect("piece_duplicate") { $0.add("ab", .normal) }
        expect("piece_duplicate") { $0.add("</s>", .normal) }
        expect("piece_empty") { $0.add("", .normal) }
        expect("piece_utf8") { $0.pieces.append(.init(name: [0xC3], score: 0, type: 1)) }
        expect("piece_type") { $0.pieces.append(.init(name: [0x63], score: 0, type: 7)) }
        expect("piece_type") { $0.pieces.append(.init(name: [0x63], score: 0, type: .max)) }
        expect("piece_score") { $0.add("c", .normal, score: .nan) }
        expect("piece_score") { $0.add("c", .normal, score: -.infinity) }
        expect("piece_unknown") { $0.add("<unk2>", .unknown) }
        expect("piece_unknown") { $0.pieces[0].type = 1 }
    }

    @Test func trainer() {
        expect("model_type") { $0.modelType = 1 }
        expect("token_id") { $0.beginToken = 262 }
        expect("token_id") { $0.endToken = .max }
        expect("token_id") { $0.beginToken = 260 }
        expect("normalizer") { $0.charsmap = [1, 2, 3] }
        expect("vocabulary_empty", of: [])
    }

    /// Cut anywhere, a model is refused or is a smaller model; it never traps.
    @Test func cutAnywhere() {
        let bytes = ModelBuilder(["a", "b", "ab"]).bytes
        for length in stride(from: 0, to: bytes.count, by: 7) { _ = try? Tokenizer(model: Array(bytes[..<length])) }
    }

    /// Flipped bytes, seeded.
    @Test(arguments: [1, 2, 3] as [UInt64])
    func flippedBytes(seed: UInt64) {
        var random = SplitMix64(seed: seed)
        let bytes = ModelBuilder(["a", "b", "ab"]).bytes
        for _ in 0..<100 {
            var broken = bytes
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                broken[Int.random(in: broken.indices, using: &random)] = UInt8.random(
                    in: 0...255, using: &random)
            }
            if let tokenizer = try? Tokenizer(model: broken) {
                _ = tokenizer.decode(tokenizer.encode("a ab <s> é"))
            }
        }
    }
}
