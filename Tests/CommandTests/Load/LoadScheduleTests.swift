import Testing

@testable import tramontane

struct LoadScheduleTests {
    private static let second: UInt64 = 1_000_000_000

    /// Requests in an open loop, each looked for when the schedule says.
    private func arrivals(_ plan: LoadSchedule.Plan) -> [UInt64] {
        var schedule = LoadSchedule(plan, begin: Self.second)
        var times: [UInt64] = []
        while let wake = schedule.wakeAt { times += schedule.start(at: wake) }
        return times
    }

    @Test func anOpenLoopIsAPoissonProcess() {
        let times = arrivals(.init(rate: 50, requests: 20_000, seed: 3))
        #expect(times.count == 20_000)
        #expect(times == times.sorted())
        let gaps = zip(times, times.dropFirst()).map { Double($1 - $0) / 1e9 }
        let gap = Distribution(gaps)
        #expect(abs(gap.mean * 50 - 1) < 0.03)
        // Exponential: as wide as its mean, and the median is its mean times ln 2.
        #expect(abs(gap.standardDeviation * 50 - 1) < 0.05)
        #expect(abs(gap.percentile(50) * 50 - 0.693) < 0.03)
        #expect(times == arrivals(.init(rate: 50, requests: 20_000, seed: 3)))
        #expect(times != arrivals(.init(rate: 50, requests: 20_000, seed: 4)))
    }

    /// Whoever comes late sends all that is due, and says since when.
    @Test func anOpenLoopDoesNotWait() {
        let onTime = arrivals(.init(rate: 100, requests: 50, seed: 1))
        var schedule = LoadSchedule(.init(rate: 100, requests: 50, seed: 1), begin: Self.second)
        #expect(schedule.start(at: 100 * Self.second) == onTime)
        #expect(schedule.wakeAt == nil)
        #expect(!schedule.isOver)
        for _ in 0..<50 { schedule.ended() }
        #expect(schedule.isOver)
    }

    @Test func aClosedLoopWaitsForAnswers() {
        var schedule = LoadSchedule(.init(concurrency: 3, requests: 5), begin: 0)
        #expect(schedule.start(at: 7) == [7, 7, 7])
        #expect(schedule.wakeAt == nil)
        #expect(schedule.start(at: 8) == [])
        schedule.ended()
        #expect(schedule.start(at: 9) == [9])
        schedule.ended()
        schedule.ended()
        #expect(schedule.start(at: 10) == [10])
        #expect(schedule.start(at: 11) == [])
        schedule.ended()
        #expect(!schedule.isOver)
        schedule.ended()
        #expect(schedule.isOver)
    }

    @Test func arrivalsMayWaitForRoom() {
        var schedule = LoadSchedule(.init(rate: 1e6, concurrency: 1, requests: 2), begin: 0)
        let late = 10 * Self.second
        #expect(schedule.start(at: late) == [late])
        #expect(schedule.wakeAt == nil)
        schedule.ended()
        #expect(schedule.start(at: 2 * late) == [2 * late])
    }

    @Test func aDurationEndsIt() {
        let times = arrivals(.init(rate: 1000, durationNanoseconds: Self.second))
        #expect(times.allSatisfy { $0 < 2 * Self.second })
        #expect((900...1100).contains(times.count))

        var closed = LoadSchedule(.init(concurrency: 1, durationNanoseconds: Self.second), begin: 0)
        #expect(closed.start(at: 0) == [0])
        closed.ended()
        #expect(closed.start(at: Self.second - 1) == [Self.second - 1])
        closed.ended()
        #expect(closed.start(at: Self.second) == [])
        #expect(closed.isOver)
    }

    @Test func allAtOnceWithoutARate() {
        var schedule = LoadSchedule(.init(requests: 100), begin: 5)
        #expect(schedule.start(at: 5).count == 100)
    }

    @Test func stopping() {
        var schedule = LoadSchedule(.init(rate: 10, requests: 100), begin: 0)
        schedule.stop()
        #expect(schedule.start(at: 100 * Self.second) == [])
        #expect(schedule.isOver)
    }

    @Test func promptsShareTheirBeginningAndNothingElse() {
        let prompts = LoadPrompts(tokens: 40, sharedTokens: 30, vocabulary: 1500, seed: 5)
        let first = prompts.prompt(0), second = prompts.prompt(1)
        #expect(first.count == 40)
        #expect(first.prefix(30) == second.prefix(30))
        #expect(first.suffix(10) != second.suffix(10))
        #expect(first == LoadPrompts(tokens: 40, sharedTokens: 30, vocabulary: 1500, seed: 5).prompt(0))
        #expect(first != LoadPrompts(tokens: 40, sharedTokens: 30, vocabulary: 1500, seed: 6).prompt(0))
        #expect((first + second).allSatisfy { (300..<1500).contains($0) })
        #expect(LoadPrompts(tokens: 3, sharedTokens: 3, vocabulary: 1500, seed: 5).prompt(9).count == 3)
    }
}
