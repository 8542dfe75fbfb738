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
        var aheadRows = 0
        for seed in 0..<seeds {
            var world = SchedulerWorld(seed: seed)
            for _ in 0..<150 where world.problems.isEmpty { world.act() }
            if world.problems.isEmpty { world.drain() }
            preemptions += world.scheduler.preemptions
            aheadRows += world.aheadRows
            #expect(world.problems.isEmpty, "\(world.problems.prefix(3))")
            guard world.problems.isEmpty else { return }
        }
        #expect(preemptions > 0, "the worlds are small enough to run out of pages")
        #expect(aheadRows > 0, "some lanes have one stage, and their steps are short")
    }

    // MARK: Pictures

    private func makeScheduler(
        lanes: Int = 1, stages: Int = 1, pages: UInt32 = 64, _ change: (inout Scheduler.Limits) -> Void = { _ in }
    ) -> Scheduler {
        var limits = Scheduler.Limits()
        limits.planAheadMicroseconds = 0
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
    private func answer(_ scheduler: inout Scheduler, _ step: ProtoStep, now: UInt64 = 0) -> [Scheduler.Output] {
        var result = ProtoStepResult()
        result.stepID = step.stepID
        result.lane = step.lane
        result.tokens = step.rows.filter(\.sample).map { rows in
            var token = ProtoSampledToken()
            token.sequence = rows.sequence
            token.token = 7
            return token
        }
        return scheduler.receive(result, epoch: 1, vocabulary: 10, now: now)
    }

    @Test func promptIsCutIntoChunksAndDecodesOneByOne() throws {
        var scheduler = makeScheduler { $0.stepTokens = 32 }
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

    @Test func shortStepsArePlannedAhead() throws {
        let ahead = [ProtoSequenceRows.sampledToken]
        var scheduler = makeScheduler { $0.planAheadMicroseconds = 1 }
        var work = Scheduler.Work(id: 1, prompt: [5, 5], sampling: ProtoSamplingParameters())
        work.maximumTokens = 3
        try scheduler.admit(work, now: 0)
        // How long a step takes is known when the first has come back.
        let first = scheduler.plan(now: 0).map(\.step)
        #expect(first.map { $0.rows.map(\.tokens) } == [[[5, 5]]])
        #expect(answer(&scheduler, first[0]) == [.token(id: 1, token: 7)])
        let steps = scheduler.plan(now: 0).map(\.step)
        #expect(steps.map { $0.rows.map(\.tokens) } == [[[7]], [ahead]])
        #expect(steps.map { $0.rows[0].position } == [2, 3])
        #expect(steps.allSatisfy { $0.class == .decode && $0.rows[0].sample })
        // The second one's token is the third, the step ahead of it gives the last: nothing goes ahead of that.
        #expect(answer(&scheduler, steps[0]) == [.token(id: 1, token: 7)])
        #expect(scheduler.plan(now: 0).isEmpty)
        #expect(answer(&scheduler, steps[1]) == [.token(id: 1, token: 7)])
    }

    @Test func whatWasPlannedAheadOfAnEndIsForgotten() throws {
        var scheduler = makeScheduler { $0.planAheadMicroseconds = 1 }
        try admit(&scheduler, 1, prompt: 2)
        _ = answer(&scheduler, try #require(scheduler.plan(now: 0).first).step)
        let steps = scheduler.plan(now: 0).map(\.step)
        #expect(answer(&scheduler, steps[0]) == [.token(id: 1, token: 7)])
        scheduler.finish(1)
        #expect(scheduler.lanes[0].pool.usedCount == 1)
        #expect(scheduler.plan(now: 0).isEmpty)
        #expect(answer(&scheduler, steps[1]).isEmpty)
        #expect(scheduler.lanes[0].pool.usedCount == 0)
        #expect(scheduler.runningCount == 0)
    }

    @Test func aResultAheadOfItsEldersFailsTheSequence() throws {
        var scheduler = makeScheduler { $0.planAheadMicroseconds = 1 }
        try admit(&scheduler, 1, prompt: 2)
        _ = answer(&scheduler, try #require(scheduler.plan(now: 0).first).step)
        let steps = scheduler.plan(now: 0).map(\.step)
        guard case .failed(1, let error) = answer(&scheduler, steps[1]).first else {
            Issue.record("nothing failed")
            return
        }
        #expect(error.code == "worker_protocol")
        #expect(answer(&scheduler, steps[0]).isEmpty)
        #expect(scheduler.runningCount == 0)
    }

    @Test func longStepsAndSeveralStagesAreNotPlannedAhead() throws {
        for stages in 1...2 {
            var scheduler = makeScheduler(stages: stages) { $0.planAheadMicroseconds = stages == 1 ? 10 : 1_000_000 }
            try admit(&scheduler, 1, prompt: 2)
            let step = try #require(scheduler.plan(now: 0).first).step
            _ = answer(&scheduler, step, now: 10)
            #expect(scheduler.plan(now: 10).map { $0.step.rows.map(\.tokens) } == [[[7]]])
        }
    }

    @Test func manySequencesFillAWaveForEachStage() throws {
        var scheduler = makeScheduler(stages: 2)
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

    @Test func anotherLaneIsOpenedWhenItPays() throws {
        // All rows meet all experts: a second lane reads them twice, and saves only the attention of half the rows.
        let cost = StepCost(dense: 1, experts: 100, rowExperts: 0.25, tokenKeys: 0.01, hosts: 2)
        var scheduler = makeScheduler(lanes: 2, pages: 1024) { $0.maximumSequencesPerLane = 20 }
        scheduler.open(epoch: 1, lanes: scheduler.lanes.map { .init(homes: $0.homes, pages: 0..<1024) }, cost: cost)
        for id in 1...16 { try admit(&scheduler, UInt64(id), prompt: 4) }
        _ = scheduler.plan(now: 0)
        #expect(scheduler.lanes.map(\.runningCount) == [16, 0])
        // Long contexts are read by the home alone: two homes have two memories.
        try admit(&scheduler, 17, prompt: 8_000)
        _ = scheduler.plan(now: 0)
        #expect(scheduler.lanes.map(\.runningCount) == [16, 1])
        // Where a lane is full the other one is used in any case.
        for id in 18...30 { try admit(&scheduler, UInt64(id), prompt: 4) }
        _ = scheduler.plan(now: 0)
        #expect(scheduler.lanes.map(\.runningCount) == [20, 10])
    }

    @Test func longPromptFillsTheStages() throws {
        var scheduler = makeScheduler(stages: 2) { $0.stepTokens = 32 }
        try admit(&scheduler, 1, prompt: 70)
        let steps = scheduler.plan(now: 0).map(\.step)
        #expect(steps.map { $0.rows[0].position } == [0, 32])
        #expect(steps.map { $0.rows[0].sample } == [false, false])
        // The second may be through before the first: the third follows either.
        #expect(answer(&scheduler, steps[1]).isEmpty)
        let third = try #require(scheduler.plan(now: 0).first?.step)
        #expect(third.rows[0].position == 64 && third.rows[0].sample)
        #expect(answer(&scheduler, third) == [.token(id: 1, token: 7)])
        #expect(scheduler.plan(now: 0).first?.step.rows[0].position == 70)
        #expect(answer(&scheduler, steps[0]).isEmpty)
    }

    @Test func decodeRowsComeFirst() throws {
        var scheduler = makeScheduler { $0.stepTokens = 16 }
        for id in 1...4 { try admit(&scheduler, UInt64(id), prompt: 4) }
        _ = answer(&scheduler, try #require(scheduler.plan(now: 0).first?.step))
        try admit(&scheduler, 5, prompt: 40)
        let planned = try #require(scheduler.plan(now: 0).first)
        #expect(planned.decodeRows == 4 && planned.prefillRows == 12)
        #expect(planned.step.rows.map(\.tokens.count) == [1, 1, 1, 1, 12])
    }

    @Test func promptsAreNotKeptOutByAnswers() throws {
        var scheduler = makeScheduler { $0.stepTokens = 8 }
        for id in 1...8 { try admit(&scheduler, UInt64(id), prompt: 1) }
        _ = answer(&scheduler, try #require(scheduler.plan(now: 0).first?.step))
        try admit(&scheduler, 9, prompt: 3)
        let planned = try #require(scheduler.plan(now: 0).first)
        #expect(planned.decodeRows == 7 && planned.prefillRows == 1)
    }

    // MARK: Prefixes

    private func admit(_ scheduler: inout Scheduler, _ id: UInt64, _ prompt: [Int32], tenant: String = "") throws {
        var work = Scheduler.Work(id: id, prompt: prompt, sampling: ProtoSamplingParameters())
        work.tenant = tenant
        try scheduler.admit(work, now: 0)
    }

    /// Runs to the end, with one token for each request.
    /// - Returns: the rows that were computed.
    private func serve(_ scheduler: inout Scheduler) -> Int {
        var rows = 0
        while true {
            let steps = scheduler.plan(now: 0).map(\.step)
            guard !steps.isEmpty else { return rows }
            for step in steps {
                rows += step.rows.reduce(0) { $0 + $1.tokens.count }
                for case .token(let id, _) in answer(&scheduler, step) { scheduler.finish(id) }
            }
        }
    }

    @Test func aPrefixIsComputedOnceForEachLane() throws {
        var scheduler = makeScheduler(lanes: 4, pages: 512) { $0.maximumSequencesPerLane = 16 }
        let prefix = (0..<2_000).map { Int32($0 % 9) }
        for id in 1...100 { try admit(&scheduler, UInt64(id), prefix + [Int32(id % 9), Int32(id / 9 % 9), 3]) }
        let rows = serve(&scheduler)
        // 62 full pages of the prefix; the rest of it, 16 tokens, and 3 more are each request's own.
        #expect(rows <= 4 * 62 * 32 + 100 * 19)
        #expect(rows == 100 * 2_003 - Int(scheduler.prefixHitTokens), "who waited for a page had it from another")
        #expect(rows >= 62 * 32 + 100 * 19)
    }

    @Test func aChatsNextTurnPaysForWhatIsNew() throws {
        var scheduler = makeScheduler()
        try admit(&scheduler, 1, (0..<100).map { Int32($0 % 9) })
        var history = (0..<100).map { Int32($0 % 9) }
        for _ in 0..<40 {
            _ = answer(&scheduler, try #require(scheduler.plan(now: 0).first?.step))
            history.append(7)
        }
        scheduler.finish(1)
        try admit(&scheduler, 2, history + [1, 2, 3])
        let rows = try #require(scheduler.plan(now: 0).first?.step.rows.first)
        // 139 positions were computed: 4 full pages.
        #expect(rows.position == 128 && rows.tokens.count == 15)
        #expect(scheduler.start(of: 2)?.cachedTokens == 128)
        #expect(scheduler.prefixHitTokens == 128 && scheduler.prefixQueriedTokens == 243)
    }

    @Test func theLastTokenOfAPromptIsComputed() throws {
        var scheduler = makeScheduler()
        try admit(&scheduler, 1, prompt: 64)
        _ = answer(&scheduler, try #require(scheduler.plan(now: 0).first?.step))
        try admit(&scheduler, 2, prompt: 64)
        let rows = try #require(scheduler.plan(now: 0).flatMap(\.step.rows).first { $0.sequence == 2 })
        #expect(rows.position == 32 && rows.tokens.count == 32 && rows.sample)
    }

    @Test func whoeverWaitsForAPageTakesItOver() throws {
        var scheduler = makeScheduler { $0.stepTokens = 16 }
        try admit(&scheduler, 1, prompt: 40)
        let first = try #require(scheduler.plan(now: 0).first?.step)
        try admit(&scheduler, 2, prompt: 40)
        scheduler.finish(1)
        #expect(scheduler.plan(now: 0).isEmpty, "the page is still being written")
        _ = answer(&scheduler, first)
        let rows = try #require(scheduler.plan(now: 0).first?.step.rows.first)
        #expect(rows.sequence == 2 && rows.position == 0 && rows.tokens.count == 16)
    }

    @Test func theLeastRecentlyUsedPageGoesFirst() throws {
        var scheduler = makeScheduler(pages: 8)
        let prompts = (0..<3).map { tag in [Int32](repeating: Int32(tag), count: 70) }
        for id in [0, 1, 0] {
            try admit(&scheduler, UInt64(10 + id + Int(scheduler.prefixQueriedTokens)), prompts[id])
            _ = serve(&scheduler)
        }
        #expect(scheduler.lanes[0].pool.cachedCount == 4)
        // Three pages and one for the answer: the four empty ones.
        try admit(&scheduler, 900, [Int32](repeating: 5, count: 130))
        _ = serve(&scheduler)
        try admit(&scheduler, 901, prompts[0])
        _ = scheduler.plan(now: 0)
        #expect(scheduler.start(of: 901)?.cachedTokens == 64, "used after the other one")
    }

    // MARK: Tenants

    private func start(_ scheduler: inout Scheduler) -> Set<UInt64> {
        Set(scheduler.plan(now: 0).flatMap { $0.step.rows.map(\.sequence) })
    }

    @Test func aFloodDoesNotKeepOthersOut() throws {
        var scheduler = makeScheduler { $0.maximumSequencesPerLane = 4 }
        for id in 1...50 { try admit(&scheduler, UInt64(id), [1], tenant: "flood") }
        let step = try #require(scheduler.plan(now: 0).first?.step)
        #expect(step.rows.map(\.sequence) == [1, 2, 3, 4])
        try admit(&scheduler, 51, [1], tenant: "light")
        // The step under way has rows of all of them.
        #expect(scheduler.plan(now: 0).isEmpty)
        _ = answer(&scheduler, step)
        #expect(start(&scheduler) == [1, 2, 3, 51])
        #expect(scheduler.preemptions == 1)
    }

    @Test func whoWasServedLessKeepsItsPlaces() throws {
        var scheduler = makeScheduler { $0.maximumSequencesPerLane = 4 }
        try admit(&scheduler, 1, [Int32](repeating: 1, count: 200), tenant: "long")
        for id in 2...4 { try admit(&scheduler, UInt64(id), [1], tenant: "short") }
        let step = try #require(scheduler.plan(now: 0).first?.step)
        try admit(&scheduler, 5, [1], tenant: "long")
        _ = answer(&scheduler, step)
        #expect(start(&scheduler) == [1, 2, 3, 4])
        #expect(scheduler.preemptions == 0 && scheduler.waitingCount == 1)
    }

    @Test func tenantsAreServedByTheirWeights() throws {
        var scheduler = makeScheduler {
            $0.maximumSequencesPerLane = 1
            $0.tenantWeights = ["b": 3]
        }
        for id in 1...40 { try admit(&scheduler, UInt64(id), [1], tenant: id <= 20 ? "a" : "b") }
        var served = ["a": 0, "b": 0]
        for _ in 0..<16 {
            let step = try #require(scheduler.plan(now: 0).first?.step)
            for case .token(let id, _) in answer(&scheduler, step) {
                served[id <= 20 ? "a" : "b", default: 0] += 1
                scheduler.finish(id)
            }
        }
        #expect(served == ["a": 4, "b": 12])
    }

    @Test func priorityCountsWithinATenant() throws {
        var scheduler = makeScheduler { $0.maximumSequencesPerLane = 1 }
        for (id, priority) in [(1, 0), (2, 5), (3, -5), (4, 0)] {
            var work = Scheduler.Work(id: UInt64(id), prompt: [1], sampling: ProtoSamplingParameters())
            work.priority = priority
            try scheduler.admit(work, now: 0)
        }
        var order: [UInt64] = []
        for _ in 0..<4 {
            let step = try #require(scheduler.plan(now: 0).first?.step)
            for case .token(let id, _) in answer(&scheduler, step) {
                order.append(id)
                scheduler.finish(id)
            }
        }
        #expect(order == [3, 1, 4, 2])
    }

    @Test func aFloodLeavesRoomInTheQueue() throws {
        var scheduler = makeScheduler {
            $0.queueLimit = 90
            $0.maximumSequencesPerLane = 1
        }
        var taken = 0
        for id in 1...200 {
            do { try admit(&scheduler, UInt64(id), [1], tenant: "flood") } catch { continue }
            taken += 1
        }
        #expect(taken == 80)
        try admit(&scheduler, 201, [1], tenant: "light")
    }

    @Test func theQueueIsBoundedByTokens() throws {
        var scheduler = makeScheduler {
            $0.queueTokenLimit = 100
            $0.maximumSequencesPerLane = 1
        }
        // One request is taken whatever its length, or it could never be served.
        try admit(&scheduler, 1, prompt: 500)
        #expect(throws: RequestError.self) { try admit(&scheduler, 2, prompt: 1) }
        _ = scheduler.plan(now: 0)
        try admit(&scheduler, 3, prompt: 60)
        let error = #expect(throws: RequestError.self) { try admit(&scheduler, 4, prompt: 60) }
        #expect(error?.code == "queue_full")
        try admit(&scheduler, 5, prompt: 20)
    }

    @Test func aDeadlineEndsWhatRunsAndWhatWaits() throws {
        var scheduler = makeScheduler { $0.maximumSequencesPerLane = 1 }
        for id in 1...2 {
            var work = Scheduler.Work(id: UInt64(id), prompt: [1], sampling: ProtoSamplingParameters())
            work.deadline = 6_000
            try scheduler.admit(work, now: 1_000)
        }
        let step = try #require(scheduler.plan(now: 1_000).first?.step)
        #expect(scheduler.expire(now: 5_999).isEmpty)
        #expect(
            scheduler.expire(now: 6_000)
                == [.failed(id: 1, .deadlineExceeded), .failed(id: 2, .deadlineExceeded)])
        #expect(answer(&scheduler, step).isEmpty)
        #expect(scheduler.lanes[0].pool.usedCount == 0 && scheduler.waitingCount == 0)
    }

    @Test func retryAfterIsTheTimeTheQueueTakes() throws {
        var scheduler = makeScheduler { $0.maximumSequencesPerLane = 1 }
        for id in 1...200 { try admit(&scheduler, UInt64(id), [1]) }
        #expect(scheduler.retryAfterSeconds == 1, "nothing is known yet")
        // Four in a second, for a minute: 160 wait.
        var now: UInt64 = 0
        for _ in 0..<40 {
            let step = try #require(scheduler.plan(now: now).first?.step)
            for case .token(let id, _) in answer(&scheduler, step) { scheduler.finish(id) }
            now += 250_000
        }
        #expect((50...100).contains(scheduler.retryAfterSeconds), "\(scheduler.retryAfterSeconds)")
    }

    @Test func cancellationFreesPagesWhenTheStepIsBack() throws {
        var scheduler = makeScheduler()
        try admit(&scheduler, 1, prompt: 40)
        let step = try #require(scheduler.plan(now: 0).first?.step)
        scheduler.finish(1)
        #expect(scheduler.lanes[0].pool.usedCount == 2)
        #expect(answer(&scheduler, step).isEmpty)
        #expect(scheduler.lanes[0].pool.usedCount == 0)
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
        #expect(scheduler.expire(now: 120_000_000).isEmpty)
        #expect(scheduler.expire(now: 120_000_001) == [.failed(id: 1, .queueTimeout)])
        #expect(scheduler.waitingCount == 0)
    }

    @Test func aReplayWaitsNoLongerThanARequest() throws {
        var scheduler = makeScheduler()
        try admit(&scheduler, 1, prompt: 4)
        _ = scheduler.plan(now: 1_000_000)
        scheduler.suspend()
        #expect(scheduler.expire(now: 121_000_000).isEmpty)
        #expect(scheduler.expire(now: 121_000_001) == [.failed(id: 1, .queueTimeout)])
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
        var scheduler = makeScheduler(pages: 6) { $0.stepTokens = 200 }
        try admit(&scheduler, 1, [Int32](repeating: 4, count: 31))
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
        #expect(replay.sequence == 2 && replay.hasSampling)
        // The first one took the pages from the last to the first: this one's beginning is still there.
        #expect(replay.position == 64)
        #expect(replay.tokens.allSatisfy { $0 == 7 })
    }

    @Test func gapIsHealedByWholeTables() throws {
        var scheduler = makeScheduler()
        try admit(&scheduler, 1, prompt: 40)
        let first = try #require(scheduler.plan(now: 0).first?.step)
        _ = answer(&scheduler, first)
        let second = try #require(scheduler.plan(now: 0).first?.step)
        #expect(scheduler.stepFailed(.make(second, code: "page_table_gap"), epoch: 1, now: 0).isEmpty)
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
        let outputs = scheduler.stepFailed(.make(steps[0], code: "peer_lost"), epoch: 1, now: 0)
        #expect(outputs == [.failed(id: 1, RequestError(.failed, code: "worker_lost", message: ""))])
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
        let outputs = scheduler.receive(result, epoch: 1, vocabulary: 10, now: 0)
        guard case .failed(1, let error)? = outputs.first, error.code == "worker_protocol" else {
            Issue.record("\(outputs)")
            return
        }
        #expect(scheduler.lanes[0].pool.usedCount == 0)
    }
}
