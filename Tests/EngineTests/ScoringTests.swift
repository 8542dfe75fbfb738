import Engine
import Testing

@Suite struct ScoringTests {
    @Test func bestFirstAndLowerIdOfEquals() throws {
        let row = try #require([1, 3, -2, 3, 0].withUnsafeBufferPointer { scoreRow(logits: $0, top: 3, target: nil) })
        #expect(row.top.map(\.0) == [1, 3, 0])
        #expect(row.top.map(\.1) == [3, 3, 1])
        #expect(row.nll == nil)
    }

    @Test func negativeLogLikelihood() throws {
        let logits = [Float](repeating: 7, count: 8)
        let row = try #require(logits.withUnsafeBufferPointer { scoreRow(logits: $0, top: 0, target: 5) })
        #expect(abs(try #require(row.nll) - 2.0794415416798357) < 1e-12)
        #expect(row.top.isEmpty)
    }

    @Test func oddArguments() {
        let logits: [Float] = [1, 2]
        logits.withUnsafeBufferPointer { logits in
            #expect(scoreRow(logits: logits, top: 99, target: 7)?.top.count == 2)
            #expect(scoreRow(logits: logits, top: -1, target: -7)?.nll == nil)
        }
        [1, Float.nan].withUnsafeBufferPointer { #expect(scoreRow(logits: $0, top: 1, target: 0) == nil) }
        [-Float.infinity, -Float.infinity].withUnsafeBufferPointer {
            #expect(scoreRow(logits: $0, top: 1, target: 0) == nil)
        }
        [1, Float.infinity].withUnsafeBufferPointer { #expect(scoreRow(logits: $0, top: 1, target: 0) == nil) }
    }
}
