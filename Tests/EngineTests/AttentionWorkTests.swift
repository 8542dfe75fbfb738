import Engine
import TestSupport
import Testing

/// Which rows and spans are computed together.
@Suite struct AttentionWorkTests {
    /// Every row's every span is somebody's, exactly once, in whatever way it is cut.
    @Test func coversEverything() {
        let seed: UInt64 = 71
        var random = SeededGenerator(seed: seed)
        for round in 0..<200 {
            var (positions, follows): ([Int], [Bool]) = ([], [])
            for _ in 0..<Int.random(in: 0...12, using: &random) {
                let first = Int.random(
                    in: 0..<[40, 600, 33_000][Int.random(in: 0..<3, using: &random)], using: &random)
                for row in 0..<[1, 1, 20][Int.random(in: 0..<3, using: &random)] {
                    positions.append(first + row)
                    follows.append(row > 0)
                }
            }
            let work = AttentionWork(
                positions: positions, follows: follows, keyValueHeads: Int.random(in: 1...8, using: &random),
                threads: Int.random(in: 1...64, using: &random))
            var covered = positions.map { _ in [Int]() }
            for block in work.blocks {
                #expect((1...AttentionWork.rowsPerBlock).contains(block.count))
                #expect(block.dropFirst().allSatisfy { follows[$0] }, "seed \(seed), round \(round)")
                for row in block { covered[row] += 0..<positions[row] / 512 + 1 }
            }
            for run in work.runs { covered[work.longRows[run.longRow].row] += run.spans }
            for (row, spans) in covered.enumerated() {
                #expect(spans.sorted() == Array(0...positions[row] / 512), "seed \(seed), round \(round), row \(row)")
            }
            var before = 0
            for long in work.longRows {
                #expect(long.spans == positions[long.row] / 512 + 1 && long.spansBefore == before)
                before += long.spans
            }
            #expect(work.longSpans == before)
        }
    }

    @Test func oneLongRowIsSharedByManyThreads() {
        let one = AttentionWork(positions: [32_767], follows: [false], keyValueHeads: 8, threads: 2)
        #expect(one.blocks == [0..<1] && one.runs.isEmpty)
        let many = AttentionWork(positions: [32_767], follows: [false], keyValueHeads: 8, threads: 32)
        #expect(many.blocks.isEmpty && many.runs.count == 16 && many.runs.allSatisfy { $0.spans.count == 4 })
    }

    @Test func aPromptsRowsAreComputedTogether() {
        let positions = Array(100..<356)
        let work = AttentionWork(
            positions: positions, follows: positions.map { $0 > 100 }, keyValueHeads: 8, threads: 2)
        #expect(work.blocks.count == 32 && work.blocks.allSatisfy { $0.count == 8 } && work.longRows.isEmpty)
    }
}
