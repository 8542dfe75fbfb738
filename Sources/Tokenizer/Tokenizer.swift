/// A SentencePiece BPE tokenizer with scores and byte fallback, as Mistral's models have it.
///
/// A value that copies cheaply and never changes.
package struct Tokenizer: Sendable {
    let vocabulary: Vocabulary
    let normalizer: Normalizer
    let unknownSurface: String

    /// `<s>` and `</s>`.
    package let beginToken: Int32
    package let endToken: Int32
    /// The layout of chats that the model was trained with, told by its pieces.
    package let chatFormat: ChatFormat

    /// Number of pieces; ids are `0..<vocabularySize`.
    package var vocabularySize: Int { vocabulary.count }

    /// - Parameter model: the bytes of a SentencePiece `.model` file.
    /// - Throws: ``TokenizerError`` for anything that is not a complete BPE model.
    package init(model bytes: [UInt8]) throws {
        let model = try SentencePieceModel(bytes)
        vocabulary = try Vocabulary(model)
        normalizer = Normalizer(model)
        unknownSurface = model.unknownSurface
        beginToken = model.beginToken
        endToken = model.endToken
        chatFormat = ChatPieces(vocabulary) == nil ? .v1 : .v3
    }

    /// Whether the token is one that steers and is no text, such as `<s>` or `[INST]`.
    package func isControl(_ id: Int32) -> Bool {
        type(of: id) == .control
    }

    /// The text of a whole sequence. Control pieces and ids past the vocabulary are no text.
    package func decode(_ ids: some Sequence<Int32>) -> String {
        var detokenizer = Detokenizer(self, prompt: [])
        var text = ""
        for id in ids { text += detokenizer.append(id) }
        return text + detokenizer.finish()
    }

    /// The token's type, or nil for an id that is no token.
    func type(of id: Int32) -> SentencePieceModel.PieceType? {
        let index = Int(id)
        return vocabulary.types.indices.contains(index) ? vocabulary.types[index] : nil
    }
}
