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
            let tokens = plan.prompt(stream, begin: 1)
            #expect(tokens.count == 5)
            #expect(tokens.allSatisfy { $0 < CoordinatorBench.Plan.vocabulary })
            #expect(plan.stream(at: 0, tokens: tokens[...]) == stream)
            #expect(plan.stream(at: 5, tokens: tokens[...]) == nil)
        }
        #expect(plan.stream(at: 0, tokens: []) == nil)
    }

    /// What is computed a second time, after a sequence lost its pages, was sent the first time.
    @Test func tokensAreKnownByTheirPositions() {
        let plan = CoordinatorBench.Plan(streams: 1, tokens: 4, promptTokens: 5)
        let times = StepTimes(plan: plan)
        let prompt = plan.prompt(1, begin: 1)
        func send(_ step: UInt64, position: UInt32, _ tokens: [Int32], at now: UInt64) {
            var batch = StepBatch()
            batch.stepID = step
            batch.tokens = tokens
            batch.rows = [StepBatch.Rows(sequence: 9, position: position, tokens: tokens.indices, sample: true)]
            times.arrived(batch, at: now - 50)
            var result = ProtoStepResult()
            result.stepID = step
            times.sending(result, at: now)
        }
        send(1, position: 0, prompt, at: 100)
        send(2, position: 5, [7], at: 200)
        send(3, position: 6, [8], at: 300)
        send(4, position: 0, prompt + [7], at: 400)
        send(5, position: 6, [8, 9], at: 500)
        #expect(times.sent == [[], [100, 200, 300, 500]])
        #expect(times.turns.count == 3)
    }
}
