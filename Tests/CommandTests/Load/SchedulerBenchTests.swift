import JSONText
import Testing

@testable import tramontane

struct SchedulerBenchTests {
    /// As many tokens as were asked for, however many wait, and a figure for every step.
    @Test(arguments: [0, 50], [1, 2])
    func everyTokenIsCounted(waiting: Int, stages: Int) throws {
        let plan = SchedulerBench.Plan(
            lanes: 2, sequences: 3, stages: stages, promptTokens: 4, outputTokens: 5, tokens: 60)
        var bench = SchedulerBench(plan, waiting: waiting)
        let result = try bench.run()
        #expect(result.tokens >= 60)
        #expect(!result.plans.isEmpty)
        let json = try JSONValue(parsing: JSONLine.object { result.write(to: &$0) })
        #expect(json["waiting_\(waiting)_tokens_per_second"] != nil)
        #expect(json["waiting_\(waiting)_p99_plan_us"] != nil)
    }
}
