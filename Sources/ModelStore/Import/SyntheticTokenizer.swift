/// A tokenizer of any size: Mistral's control pieces, the bytes, letters, and words that can be spoken. Every piece can
/// be reached by merging two others.
enum SyntheticTokenizer {
    private static let controls = [
        "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
    ]
    /// What SentencePiece writes for a space.
    private static let space = "\u{2581}"

    /// - Parameter vocabulary: the number of pieces, at least a thousand.
    static func model(vocabulary: Int) -> [UInt8] {
        var pieces = [TokenizerBlob.Piece(text: "<unk>", score: 0, type: 2)]
        pieces += controls.map { TokenizerBlob.Piece(text: $0, score: 0, type: 3) }
        for byte in 0..<256 {
            let digits = String(byte, radix: 16, uppercase: true)
            let text = "<0x" + (digits.count == 1 ? "0" : "") + digits + ">"
            pieces.append(TokenizerBlob.Piece(text: text, score: 0, type: 6))
        }
        for text in words(vocabulary - pieces.count) {
            pieces.append(TokenizerBlob.Piece(text: text, score: -Float(pieces.count), type: 1))
        }
        return TokenizerBlob.write(
            pieces,
            TokenizerBlob.Options(unknown: 0, begin: 1, end: 2, addDummyPrefix: true, removeExtraWhitespaces: false))
    }

    /// The printable characters, then syllables, then words of two and three syllables; each first alone, then behind a
    /// space.
    private static func words(_ count: Int) -> [String] {
        var words = [space] + (33..<127).map { String(Unicode.Scalar(UInt8($0))) }
        let syllables = "bcdfghjklmnprstvwxyz".flatMap { consonant in "aeiou".map { "\(consonant)\($0)" } }
        var level = syllables
        while words.count < count {
            words += level
            words += level.map { space + $0 }
            // Only as many as are wanted: the next level has a hundred times this one.
            level = Array(level.lazy.flatMap { word in syllables.map { word + $0 } }.prefix(count))
        }
        return Array(words.prefix(count))
    }
}
