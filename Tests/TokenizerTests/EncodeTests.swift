import Testing

@testable import Tokenizer

struct EncodeTests {
    /// The pieces' names, for pictures.
    private func pieces(_ tokenizer: Tokenizer, _ text: String) -> [String] {
        tokenizer.encode(text).map {
            String(decoding: tokenizer.vocabulary.piece(Int($0)), as: UTF8.self)
        }
    }

    @Test func theBestScoreIsMergedFirstAndTheLeftmostAmongEquals() throws {
        var builder = ModelBuilder(["ab", "bc", "a", "b", "c", "▁"])
        builder.addDummyPrefix = false
        #expect(pieces(try builder.tokenizer, "abc") == ["ab", "c"])
        builder.pieces[260].score = 5
        #expect(pieces(try builder.tokenizer, "abc") == ["a", "bc"])
        var aaa = ModelBuilder(["aa", "a"])
        aaa.addDummyPrefix = false
        #expect(pieces(try aaa.tokenizer, "aaaaa") == ["aa", "aa", "a"])
    }

    @Test func aMergeNeedsNoPieceForItsParts() throws {
        var builder = ModelBuilder(["xy"])
        builder.addDummyPrefix = false
        #expect(pieces(try builder.tokenizer, "xyx") == ["xy", "<0x78>"])
    }

    @Test func unknownCharacters() throws {
        #expect(pieces(try ModelBuilder(["▁"]).tokenizer, "é") == ["▁", "<0xC3>", "<0xA9>"])
        let plain = try ModelBuilder(["▁", "a"], byteFallback: false).tokenizer
        #expect(pieces(plain, "éüa") == ["▁", "<unk>", "a"])
        #expect(plain.decode(plain.encode("éüa")) == " ⁇ a")
    }

    @Test func whitespace() throws {
        var builder = ModelBuilder(["▁", "a"])
        #expect(pieces(try builder.tokenizer, " a  ") == ["▁", "▁", "a", "▁", "▁"])
        #expect(pieces(try builder.tokenizer, "") == [])
        builder.removeExtraWhitespaces = true
        #expect(pieces(try builder.tokenizer, "  a   a ") == ["▁", "a", "▁", "a"])
        #expect(pieces(try builder.tokenizer, "   ") == [])
        builder.treatWhitespaceAsSuffix = true
        #expect(pieces(try builder.tokenizer, "a") == ["a", "▁"])
        builder.addDummyPrefix = false
        #expect(pieces(try builder.tokenizer, "a") == ["a"])
    }

    @Test func unusedPiecesAreTakenApart() throws {
        var builder = ModelBuilder(["a", "b", "c"])
        builder.addDummyPrefix = false
        builder.add("ab", .unused, score: 9)
        builder.add("abc", .unused, score: 8)
        #expect(pieces(try builder.tokenizer, "abcab") == ["a", "b", "c", "a", "b"])
    }

    @Test func userDefinedPiecesAreFoundWholeAndLongestFirst() throws {
        var builder = ModelBuilder(["a", "<x", "a<", "▁"])
        builder.add("<x>", .userDefined)
        builder.add("<x>y", .userDefined)
        #expect(pieces(try builder.tokenizer, "a<x>a<x>y<x") == ["▁", "a", "<x>", "a", "<x>y", "<x"])
    }

    /// Whatever a user writes, no token that steers the model comes out.
    @Test(arguments: ChatFormat.allCases)
    func controlPiecesAreNeverText(format: ChatFormat) throws {
        let tokenizer = try Models.tokenizer(format)
        for id in 0..<tokenizer.vocabularySize where tokenizer.isControl(Int32(id)) {
            let name = String(decoding: tokenizer.vocabulary.piece(id), as: UTF8.self)
            for text in [name, "a\(name)b", "\(name)\(name)", " \(name) "] {
                #expect(!tokenizer.encode(text).contains(where: tokenizer.isControl), "\(name)")
            }
        }
    }

    /// Texts that make a naive merge quadratic. What is checked is the result; the time shows in the test's own.
    @Test(arguments: ["a", "é", "the "])
    func hundredThousandBytesOfOnePattern(pattern: String) throws {
        let tokenizer = try Models.tokenizer(.v3)
        let text = String(repeating: pattern, count: 100_000 / pattern.utf8.count)
        #expect(tokenizer.decode(tokenizer.encode(text)) == text)
    }
}
