import Tokenizer

/// The answers of workers that compute nothing: each token is a letter that follows from the token before it and its position alone. So a
/// sequence that is replayed goes on as it would have, text has a byte for each token, and whoever reads it can tell a wrong one.
struct LetterTokens: Sendable {
    let tokens: [Int32]
    /// Their letters.
    let letters: [UInt8]

    /// - Throws: `CommandError` where the vocabulary has no letters that stand alone.
    init(_ tokenizer: Tokenizer) throws {
        var tokens: [Int32] = []
        var letters: [UInt8] = []
        for token in 0..<Int32(clamping: tokenizer.vocabularySize) {
            // Twice, since a space before the first one is not text.
            let text = Array(tokenizer.decode([token, token]).utf8)
            guard text.count == 2, text[0] == text[1], UInt8(ascii: "a")...UInt8(ascii: "z") ~= text[0],
                !letters.contains(text[0])
            else { continue }
            tokens.append(token)
            letters.append(text[0])
        }
        guard letters.count > 1 else {
            throw CommandError.failure("the model's vocabulary has no single letters for workers to answer with")
        }
        self.tokens = tokens
        self.letters = letters
    }

    init(tokens: [Int32], letters: [UInt8]) {
        self.tokens = tokens
        self.letters = letters
    }

    /// Which letter comes at a position.
    func index(after token: Int32, at position: Int) -> Int {
        var random = SeededRandom(seed: UInt64(UInt32(bitPattern: token)) << 32 | UInt64(truncatingIfNeeded: position))
        return Int(random.next() % UInt64(tokens.count))
    }

    /// The letters that follow a prompt.
    func text(after prompt: [Int32], count: Int) -> [UInt8] {
        var last = prompt.last ?? 0
        return (prompt.count..<prompt.count + count).map { position in
            let index = index(after: last, at: position)
            last = tokens[index]
            return letters[index]
        }
    }
}
