import Coordinator
import Foundation
import Testing
import Wire

@Suite struct SchedulerTests {
    /// I1, I3, I5 and I6 of the scheduler, under everything that can happen to it. `TRAMONTANE_SEEDS` sets how many
    /// worlds are tried; 2,000 of them passed in 97 s.
    @Test func randomWorlds() {
        let seeds = ProcessInfo.processInfo.environment["TRAMONTANE_SEEDS"].flatMap { UInt64($0) } ?? 60
        var preemptions: UInt64 = 0
        for seed in 0..<seeds {
            var world = SchedulerWorld(seed: seed)
            for _ in 0..<150 where world.problems.isEmpty { world.act() }
            if world.problems.isEmpty { world.drain() }
            preemptions += world.scheduler.preemptions
            #expect(world.problems.isEmpty, "\(world.problems.prefix(3))")
            guard world.problems.isEmpty else { return }
        }
        #expect(preemptions > 0, "the worlds are small enough to run out of pages")
    }

    // MARK: Pictures

    private func makeScheduler(
        lanes: Int = 1, stages: Int = 1, pages: UInt32 = 64, _ change: (inout Scheduler.Limits) -> Void = { _ in }
    ) -> Scheduler {
        var limits = Scheduler.Limits()
        change(&limits)
        var scheduler = Scheduler(limits: limits)
        scheduler.open(
            epoch: 1,
            lanes: (0..<lanes).map { lane in
                .init(homes: (0..<stages).map { "w\(lane)\($0)" }, pages: 0..<pages)
            })
        return scheduler
    }

    private func admit(_ scheduler: inout Scheduler, _ id: UInt64, prompt: Int) throws {
        try scheduler.admit(
            Scheduler.Work(
                id: id, prompt: [Int32](repeating: 5, count: prompt), sampling: ProtoSamplingParameters()), now: 0)
    }

    /// The step comes back with token 7 for everybody who sampled.
    private func answer(_ scheduler: inout Scheduler, _ step: ProtoStep) -> [Scheduler.Output] {
        var result = ProtoStepResult()
        result.stepID = step.stepID
        result.lane = step.lane
        result.tokens = step.rows.filter(\.sample).map { rows in
            var token = ProtoSampledToken()
            token.sequence = rows.sequence
            token.token = 7
            return token
        }
        return scheduler.receive(result, epoch: 1, vocabulary: 10)
    }

    @Test func promptIsCutIntoChunksAndDecodesOneByOne() throws {
        var scheduler = makeScheduler { $0.prefillChunkRows = 32 }
        try admit(&scheduler, 1, prompt: 70)
        var rows: [Int] = []
        var classes: [ProtoStep.Class] = []
        for _ in 0..<5 {
            let step = try #require(scheduler.plan(now: 0).first?.step)
            rows.append(step.rows[0].tokens.count)
            classes.append(step.class)
            _ = answer(&scheduler, step)
        }
        #expect(rows == [32, 32, 6, 1, 1])
        #expect(classes == [.prefill, .prefill, .prefill, .decode, .decode])
    }

    @Test func runningSequencesShareAStep() throws {
        var scheduler = makeScheduler()
        for id in 1...5 { try admit(&scheduler, UInt64(id), prompt: 4) }
        let step = try #require(scheduler.plan(now: 0).first?.step)
        #expect(step.rows.map(\.sequence) == [1, 2, 3, 4, 5])
        _ = answer(&scheduler, step)
        let next = try #require(scheduler.plan(now: 0).first?.step)
        #expect(next.class == .decode)
        #expect(next.rows.map(\.tokens) == Array(repeating: [7], count: 5))
    }

    @Test func manySequencesFillAWaveForEachStage() throws {
        var scheduler = makeScheduler(stages: 2) { $0.sequencesPerWave = 4 }
        for id in 1...8 { try admit(&scheduler, UInt64(id), prompt: 4) }
        let steps = scheduler.plan(now: 0).map(\.step)
        #expect(steps.map { $0.rows.map(\.sequence) } == [[1, 2, 3, 4], [5, 6, 7, 8]])
        #expect(steps.map(\.tableSequence) == [1, 2])
    }

    @Test func sequencesGoToTheEmptiestLane() throws {
        var scheduler = makeScheduler(lanes: 2)
        for id in 1...4 { try admit(&scheduler, UInt64(id), prompt: 4) }
        let steps = scheduler.plan(now: 0).map(\.step)
        #expect(steps.map { $0.rows.map(\.sequence) } == [[1, 3], [2, 4]])
    }

    @Test func cancellationFreesPagesWhenTheStepIsBack() throws {
        var scheduler = makeScheduler()
        try admit(&scheduler, 1, prompt: 40)
        let step = try #require(scheduler.plan(now: 0).first?.step)
        scheduler.finish(1)
        #expect(scheduler.lanes[0].pagesUsed == 2)
        #expect(answer(&scheduler, step).isEmpty)
        #expect(scheduler.lanes[0].pagesUsed == 0)
        #expect(scheduler.plan(now: 0).isEmpty)
        try admit(&scheduler, 2, prompt: 1)
        #expect(scheduler.plan(now: 0).first?.step.released == [1])
    }

    @Test func fullQueueRefuses() throws {
        var scheduler = makeScheduler {
            $0.queueLimit = 2
            $0.maximumSequencesPerLane = 1
        }
        try admit(&scheduler, 1, prompt: 1)
        _ = scheduler.plan(now: 0)
        try admit(&scheduler, 2, prompt: 1)
        try admit(&scheduler, 3, prompt: 1)
        let error = #expect(throws: RequestError.self) { try admit(&scheduler, 4, prompt: 1) }
        #expect(error?.code == "queue_full")
        #expect(error?.kind == .overloaded)
        scheduler.finish(2)
        try admit(&scheduler, 5, prompt: 1)
    }

    @Test func waitingTooLongFails() throws {
        var scheduler = Scheduler(limits: Scheduler.Limits())
        try admit(&scheduler, 1, prompt: 1)
        #expect(scheduler.expire(now: 120_000).isEmpty)
        let outputs = scheduler.expire(now: 120_001)
        guard case .failed(1, "queue_timeout", _)? = outputs.first else {
            Issue.record("\(outputs)")
            return
        }
        #expect(scheduler.waitingCount == 0)
    }

    @Test func aReplayWaitsNoLongerThanARequest() throws {
        var scheduler = makeScheduler()
        try admit(&scheduler, 1, prompt: 4)
        _ = scheduler.plan(now: 1_000)
        scheduler.suspend()
        #expect(scheduler.expire(now: 121_000).isEmpty)
        let outputs = scheduler.expire(now: 121_001)
        guard case .failed(1, "queue_timeout", _)? = outputs.first else {
            Issue.record("\(outputs)")
            return
        }
        #expect(scheduler.waitingCount == 0)
    }

    @Test func largeScoresDoNotShareAStep() throws {
        var scheduler = makeScheduler()
        for (id, top) in [(1, 32_768), (2, 32_768), (3, 8)] {
            try scheduler.admit(
                Scheduler.Work(
                    id: UInt64(id), prompt: [Int32](repeating: 5, count: 12), sampling: ProtoSamplingParameters(),
                    scoreTop: UInt32(top)), now: 0)
        }
        let step = try #require(scheduler.plan(now: 0).first?.step)
        #expect(step.rows.map(\.sequence) == [1, 3])
    }

    @Test func youngestGivesItsPagesToTheOldest() throws {
        var scheduler = makeScheduler(pages: 6) { $0.prefillChunkRows = 200 }
        try admit(&scheduler, 1, prompt: 31)
        try admit(&scheduler, 2, prompt: 31)
        // Both grow by a token for each step; six pages are not enough for both to pass 96 tokens.
        var last: [UInt64] = []
        for _ in 0..<80 {
            guard let step = scheduler.plan(now: 0).first?.step else { break }
            last = step.rows.map(\.sequence)
            _ = answer(&scheduler, step)
        }
        #expect(scheduler.preemptions == 1)
        #expect(last == [1], "the oldest goes on alone")
        scheduler.finish(1)
        let replay = try #require(scheduler.plan(now: 0).first?.step.rows.first)
        #expect(replay.sequence == 2 && replay.position == 0 && replay.hasSampling)
        #expect(replay.tokens.prefix(31).allSatisfy { $0 == 5 } && replay.tokens.dropFirst(31).allSatisfy { $0 == 7 })
    }

    @Test func gapIsHealedByWholeTables() throws {
        var scheduler = makeScheduler()
        try admit(&scheduler, 1, prompt: 40)
        let first = try #require(scheduler.plan(now: 0).first?.step)
        _ = answer(&scheduler, first)
        let second = try #require(scheduler.plan(now: 0).first?.step)
        #expect(scheduler.stepFailed(.make(second, code: "page_table_gap"), epoch: 1).isEmpty)
        let third = try #require(scheduler.plan(now: 0).first?.step)
        #expect(third.wholeTables && third.tableSequence == 3)
        #expect(third.rows[0].pages == first.rows[0].pages)
        #expect(third.rows[0].position == 40 && third.rows[0].tokens == [7] && third.rows[0].hasSampling)
    }

    @Test func failedStepFailsItsSequencesOnly() throws {
        var scheduler = makeScheduler(lanes: 2)
        try admit(&scheduler, 1, prompt: 4)
        try admit(&scheduler, 2, prompt: 4)
        let steps = scheduler.plan(now: 0).map(\.step)
        let outputs = scheduler.stepFailed(.make(steps[0], code: "peer_lost"), epoch: 1)
        #expect(outputs == [.failed(id: 1, code: "worker_lost", message: "")])
        #expect(answer(&scheduler, steps[1]) == [.token(id: 2, token: 7)])
    }

    @Test func workersFaultsFailTheSequence() throws {
        var scheduler = makeScheduler()
        try admit(&scheduler, 1, prompt: 4)
        let step = try #require(scheduler.plan(now: 0).first?.step)
        var result = ProtoStepResult()
        result.stepID = step.stepID
        var token = ProtoSampledToken()
        token.sequence = 1
        token.token = 10
        result.tokens = [token]
        let outputs = scheduler.receive(result, epoch: 1, vocabulary: 10)
        guard case .failed(1, "worker_protocol", _)? = outputs.first else {
            Issue.record("\(outputs)")
            return
        }
        #expect(scheduler.lanes[0].pagesUsed == 0)
    }
}
