import Testing
import Wire

@testable import tramontane

struct LetterTokensTests {
    private let letters = LetterTokens(tokens: [7, 8, 9], letters: Array("abc".utf8))

    /// A sequence that is replayed goes on as it would have.
    @Test func anAnswerFollowsFromWhatIsBeforeIt() {
        let whole = letters.text(after: [1, 5, 300], count: 50)
        #expect(Set(whole).count == 3)
        let begun = whole.prefix(20).map { letter in letters.tokens[letters.letters.firstIndex(of: letter) ?? 0] }
        #expect(letters.text(after: [1, 5, 300] + begun, count: 30) == Array(whole.dropFirst(20)))
        #expect(letters.text(after: [1, 5, 301], count: 50) != whole)
    }

    @Test func promptsNameTheirStreams() throws {
        let plan = CoordinatorBench.Plan(streams: 300, tokens: 1, promptTokens: 5)
        for stream in [0, 1, 199, 200, 599] {
            var rows = ProtoSequenceRows()
            rows.tokens = plan.prompt(stream, begin: 1)
            #expect(rows.tokens.count == 5)
            #expect(rows.tokens.allSatisfy { $0 < CoordinatorBench.Plan.vocabulary })
            #expect(plan.stream(of: rows) == stream)
            rows.position = 5
            #expect(plan.stream(of: rows) == nil)
        }
        #expect(plan.stream(of: ProtoSequenceRows()) == nil)
    }
}
