import Testing

@testable import Tokenizer

struct DetokenizerTests {
    /// Text with characters of every length, spaces, newlines and the names of control pieces.
    private func randomText(_ random: inout SplitMix64) -> String {
        var text = ""
        for _ in 0..<Int.random(in: 0...40, using: &random) {
            switch Int.random(in: 0..<8, using: &random) {
            case 0: text += " "
            case 1:
                text +=
                    ["\n", "\t", "\r\n", "  ", "</s>", "[INST]", "<0x0A>", "e\u{301}"].randomElement(
                        using: &random) ?? ""
            case 2, 3:
                text +=
                    ["the", "ing", " and", "Word", "3.14", "def f(x):"].randomElement(using: &random) ?? ""
            case 4: text.unicodeScalars.append(scalar(in: 0...0x7F, &random))
            case 5: text.unicodeScalars.append(scalar(in: 0x80...0x7FF, &random))
            case 6: text.unicodeScalars.append(scalar(in: 0x800...0xFFFF, &random))
            default: text.unicodeScalars.append(scalar(in: 0x10000...0x10FFFF, &random))
            }
        }
        return text
    }

    private func scalar(in range: ClosedRange<UInt32>, _ random: inout SplitMix64) -> Unicode.Scalar {
        Unicode.Scalar(UInt32.random(in: range, using: &random)) ?? "\u{FFFD}"
    }

    private func stream(_ tokenizer: Tokenizer, prompt: [Int32] = [], _ ids: [Int32]) -> [String] {
        var detokenizer = Detokenizer(tokenizer, prompt: prompt)
        return ids.map { detokenizer.append($0) } + [detokenizer.finish()]
    }

    @Test(arguments: ChatFormat.allCases, [11, 12, 13] as [UInt64])
    func anyTextComesBack(format: ChatFormat, seed: UInt64) throws {
        let tokenizer = try Models.tokenizer(format)
        var random = SplitMix64(seed: seed)
        for round in 0..<150 {
            // U+2581 is a space to SentencePiece, the one character that does not come back.
            let text = String(randomText(&random).map { $0 == "\u{2581}" ? " " : $0 })
            let ids = tokenizer.encode(text)
            #expect(Array(tokenizer.decode(ids).utf8) == Array(text.utf8), "seed \(seed), round \(round)")
            #expect(
                Array(stream(tokenizer, ids).joined().utf8) == Array(text.utf8),
                "seed \(seed), round \(round)")
            // Cut anywhere between tokens, the rest is what is missing.
            let cut = Int.random(in: 0...ids.count, using: &random)
            let prompt = Array(ids[..<cut])
            if tokenizer.decode(prompt).last != "\u{FFFD}" {
                let rest = stream(tokenizer, prompt: prompt, Array(ids[cut...])).joined()
                #expect(
                    Array((tokenizer.decode(prompt) + rest).utf8) == Array(text.utf8),
                    "seed \(seed), round \(round)")
            }
        }
    }

    /// Any tokens at all, as a model may give them: together they are decode's text, and no piece is half a character.
    @Test(arguments: ChatFormat.allCases, [21, 22, 23] as [UInt64])
    func anyTokens(format: ChatFormat, seed: UInt64) throws {
        let tokenizer = try Models.tokenizer(format)
        var random = SplitMix64(seed: seed)
        let bytes = try #require(tokenizer.vocabulary.byteTokens)
        for round in 0..<200 {
            let ids = (0..<Int.random(in: 0...30, using: &random)).map { _ in
                Bool.random(using: &random)
                    ? bytes[Int.random(in: 0..<256, using: &random)]
                    : Int32.random(in: -2..<Int32(tokenizer.vocabularySize + 2), using: &random)
            }
            let texts = stream(tokenizer, ids)
            #expect(
                Array(texts.joined().utf8) == reference(tokenizer, ids), "seed \(seed), round \(round)")
        }
    }

    /// decode as SentencePiece specifies it, written plainly: the second opinion.
    private func reference(_ tokenizer: Tokenizer, _ ids: [Int32]) -> [UInt8] {
        var output: [UInt8] = []
        var run: [UInt8] = []
        var spaceSeen = false
        func flush() {
            var index = 0
            while index < run.count {
                let length = (1...4).first {
                    index + $0 <= run.count
                        && String(validating: run[index..<index + $0], as: UTF8.self)?.unicodeScalars.count == 1
                }
                output += length.map { Array(run[index..<index + $0]) } ?? [0xEF, 0xBF, 0xBD]
                index += length ?? 1
            }
            run = []
        }
        for id in ids where (0..<Int32(tokenizer.vocabularySize)).contains(id) {
            if let byte = tokenizer.vocabulary.bytesOfTokens[id] {
                run.append(byte)
                continue
            }
            flush()
            if tokenizer.isControl(id) { continue }
            if id == tokenizer.vocabulary.unknownToken {
                output += Array(" ⁇ ".utf8)
                continue
            }
            var text = Array(tokenizer.vocabulary.piece(Int(id)))
            if output.isEmpty, !spaceSeen, text.starts(with: Normalizer.spaceSymbol) {
                text.removeFirst(3)
                spaceSeen = true
            }
            let spaced = String(decoding: text, as: UTF8.self).unicodeScalars.map {
                $0 == "\u{2581}" ? " " : String($0)
            }
            output += Array(spaced.joined().utf8)
        }
        flush()
        return output
    }

    @Test func aCharacterIsGivenWhenItIsWhole() throws {
        let tokenizer = try ModelBuilder(["▁", "a"]).tokenizer
        let squid = tokenizer.encode("🦑")
        #expect(squid.count == 5)
        #expect(stream(tokenizer, squid) == ["", "", "", "", "🦑", ""])
        #expect(
            stream(tokenizer, Array(squid.dropLast())) == ["", "", "", "", "\u{FFFD}\u{FFFD}\u{FFFD}"])
        // Any other piece ends a character.
        #expect(
            stream(tokenizer, [squid[1], tokenizer.endToken, squid[2]]) == [
                "", "\u{FFFD}", "\u{FFFD}", "",
            ])
        let a = try #require(tokenizer.encode("a").last)
        #expect(stream(tokenizer, [squid[1], squid[2], a]) == ["", "", "\u{FFFD}\u{FFFD}a", ""])
    }

    @Test func aPromptThatEndsInsideACharacter() throws {
        let tokenizer = try ModelBuilder(["▁", "a"]).tokenizer
        let squid = Array(tokenizer.encode("🦑").dropFirst())
        #expect(stream(tokenizer, prompt: Array(squid[..<2]), Array(squid[2...])) == ["", "🦑", ""])
        // decode(prompt) ends with two U+FFFD already.
        let a = try #require(tokenizer.encode("a").last)
        #expect(stream(tokenizer, prompt: Array(squid[..<2]), [a]) == ["a", ""])
    }

    @Test func theDummyPrefixBelongsToThePrompt() throws {
        let tokenizer = try ModelBuilder(["▁a", "▁", "a"]).tokenizer
        let a = try #require(tokenizer.encode("a").first)
        #expect(stream(tokenizer, [a, a]) == ["a", " a", ""])
        #expect(stream(tokenizer, [tokenizer.beginToken, a]) == ["", "a", ""])
        #expect(stream(tokenizer, prompt: [tokenizer.beginToken, a], [a]) == [" a", ""])
        #expect(tokenizer.decode([tokenizer.beginToken, a, tokenizer.endToken, a]) == "a a")
    }
}
