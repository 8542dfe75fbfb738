import Engine
import ModelStore
import Testing

@Suite struct LocalRunnerTests {
    @Test func promptsThatDoNotFit() throws {
        let runner = LocalRunner(engine: try Models.demo.get().engine(pages: 2))
        let fits = [Int32](repeating: 5, count: 63)
        #expect(try runner.generate(prompt: fits, parameters: .greedy).finishReason == .length)
        #expect(try runner.generate(prompt: fits, parameters: .greedy).ids.count == 1)
        #expect(try runner.score(ids: fits + [5], top: 1).top.count == 64)
        expect("position_range") { _ = try runner.generate(prompt: fits + [5], parameters: .greedy) }
        expect("position_range") { _ = try runner.generate(prompt: [], parameters: .greedy) }
        expect("position_range") { _ = try runner.score(ids: fits + [5, 5], top: 1) }
        expect("token_range") { _ = try runner.generate(prompt: [-7], parameters: .greedy) }
    }

    @Test func theReceiverMayEndAGeneration() throws {
        let runner = try Models.demo.get().runner()
        var seen: [Int32] = []
        let output = try runner.generate(prompt: [1], parameters: SamplingParameters(seed: 3)) { token in
            seen.append(token)
            return seen.count < 3
        }
        #expect(output.finishReason == .cancelled && output.ids == seen && seen.count == 3)
        #expect(try runner.generate(prompt: [1], parameters: .greedy, maxTokens: 0).ids.isEmpty)
        #expect(try runner.generate(prompt: [1], parameters: .greedy, maxTokens: -4).ids.isEmpty)
    }

    @Test func seedsChoicesAndNothingElseChangeADraw() throws {
        let runner = try Models.demo.get().runner()
        func ids(_ seed: UInt64, _ choice: UInt32 = 0) throws -> [Int32] {
            try runner.generate(
                prompt: [1, 40], parameters: SamplingParameters(seed: seed, choice: choice), maxTokens: 24
            ).ids
        }
        #expect(try ids(7) == ids(7))
        #expect(try ids(7) != ids(8))
        #expect(try ids(7) != ids(7, 1))
    }
}
