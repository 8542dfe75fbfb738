import Coordinator
import TestSupport
import Testing
import Wire

/// Homes and clients that do to a scheduler what real ones may do, in random order, and that look at every step: a
/// page holds what its sequence put there, positions follow each other, tables change without gaps, and every request
/// that was accepted ends exactly once, with the tokens that it would have alone.
struct SchedulerWorld {
    struct Request {
        var prompt: [Int32]
        /// Tokens wanted.
        var wanted: Int
        var isScore: Bool
        var output: [Int32] = []
        var scored = 0
        var terminals = 0
    }

    /// What a lane's homes know.
    struct Homes {
        var tables: [UInt64: [UInt32]] = [:]
        var tableSequence: UInt64 = 0
        /// Missed a change: everything is refused until whole tables come.
        var isBehind = false
        /// What lies in a page, by place.
        var pages: [UInt32: [Int32?]] = [:]
        var queue: [ProtoStep] = []
        /// Each sequence's last token.
        var sampled: [UInt64: Int32] = [:]
        /// The tables when all that was sent has come.
        var planned: [UInt64: [UInt32]] = [:]
    }

    static let vocabulary = 997

    let seed: UInt64
    var random: SeededGenerator
    var scheduler: Scheduler
    var homes: [Homes] = []
    var requests: [UInt64: Request] = [:]
    var nextID: UInt64 = 0
    var now: UInt64 = 0
    var epoch: UInt64 = 0
    let stages: Int
    let laneCount: Int
    let pagesPerLane: Int
    let hasCost: Bool
    /// Prompts begin alike, so that pages are shared.
    var stems: [[Int32]] = []
    var problems: [String] = []
    /// Rows that were sent before their token was known.
    var aheadRows = 0

    init(seed: UInt64) {
        self.seed = seed
        random = SeededGenerator(seed: seed)
        var limits = Scheduler.Limits()
        limits.stepTokens = .random(in: 2...80, using: &random)
        limits.maximumSequencesPerLane = .random(in: 1...8, using: &random)
        limits.queueLimit = .random(in: 1...20, using: &random)
        limits.queueTokenLimit = .random(in: 50...2000, using: &random)
        limits.queueTimeoutMilliseconds = 1_000_000
        limits.tenantWeights = ["b": 2, "c": 0.5]
        limits.planAheadMicroseconds = .random(in: 0...10_000, using: &random)
        scheduler = Scheduler(limits: limits)
        stages = .random(in: 1...3, using: &random)
        laneCount = .random(in: 1...3, using: &random)
        pagesPerLane = .random(in: 2...10, using: &random)
        hasCost = .random(using: &random)
        for _ in 0..<3 { stems.append((0..<150).map { _ in .random(in: 0..<Int32(Self.vocabulary), using: &random) }) }
        open()
    }

    /// What any model would do: a function of all tokens so far.
    static func next(after tokens: [Int32]) -> Int32 {
        var hash: UInt32 = 17
        for token in tokens { hash = (hash &* 31) &+ UInt32(bitPattern: token) }
        return Int32(hash % UInt32(vocabulary))
    }

    mutating func expect(_ condition: Bool, _ problem: @autoclosure () -> String) {
        if !condition { problems.append("seed \(seed): \(problem())") }
    }

    // MARK: What happens

    mutating func open() {
        epoch += 1
        let lanes = (0..<laneCount).map { lane in
            Scheduler.LaneSpecification(
                homes: (0..<stages).map { "w\(lane)-\($0)" }, pages: 100..<100 + UInt32(pagesPerLane))
        }
        let cost = StepCost(dense: 1, experts: 20, rowExperts: 0.25, tokenKeys: 0.01, hosts: 2)
        scheduler.open(epoch: epoch, lanes: lanes, cost: hasCost ? cost : nil)
        homes = lanes.map { _ in Homes() }
    }

    mutating func act() {
        now += 1_000
        take(scheduler.expire(now: now))
        switch Int.random(in: 0..<100, using: &random) {
        case ..<25: submit()
        case ..<32: cancel()
        case ..<33: closeLane()
        case ..<34:
            scheduler.suspend()
            homes = []
            if Bool.random(using: &random) { plan() }
            open()
        case ..<35:
            if let lane = homes.indices.randomElement(using: &random) { homes[lane].isBehind = true }
        default: deliver()
        }
        if Int.random(in: 0..<3, using: &random) > 0 { plan() }
    }

    mutating func submit() {
        let capacity = pagesPerLane * Scheduler.pageTokens
        let length = Int.random(in: 1...min(140, capacity - 1), using: &random)
        let common = Int.random(in: 0...length, using: &random)
        let stem = stems.randomElement(using: &random) ?? []
        let request = Request(
            prompt: stem.prefix(common)
                + (common..<length).map { _ in .random(in: 0..<Int32(Self.vocabulary), using: &random) },
            wanted: .random(in: 1...min(60, capacity - length), using: &random),
            isScore: Int.random(in: 0..<5, using: &random) == 0)
        nextID += 1
        let waiting = scheduler.waitingCount
        do {
            var work = Scheduler.Work(
                id: nextID, prompt: request.prompt, sampling: ProtoSamplingParameters(),
                scoreTop: request.isScore ? 0 : nil)
            work.tenant = ["", "a", "b", "c"].randomElement(using: &random) ?? ""
            work.priority = .random(in: -1...1, using: &random)
            work.maximumTokens = Int.random(in: 0..<4, using: &random) == 0 ? .max : request.wanted
            if Int.random(in: 0..<20, using: &random) == 0 {
                work.deadline = now + .random(in: 0...40_000, using: &random)
            }
            try scheduler.admit(work, now: now)
            requests[nextID] = request
        } catch {
            expect(error.code == "queue_full" && waiting > 0, "refused with \(error)")
            expect(error.retryAfterSeconds ?? 0 > 0, "refused without a time")
        }
    }

    mutating func cancel() {
        guard let id = requests.keys.sorted().randomElement(using: &random) else { return }
        if requests[id]?.terminals == 0 { end(id) }
        // Also after the end, and twice.
        scheduler.finish(id)
    }

    mutating func closeLane() {
        guard let lane = homes.indices.randomElement(using: &random) else { return }
        homes[lane].queue = []
        take(scheduler.close(lane: lane, code: "worker_lost", message: ""))
        if !scheduler.hasOpenLane { open() }
    }

    mutating func end(_ id: UInt64) {
        requests[id]?.terminals += 1
        expect(requests[id]?.terminals == 1, "request \(id) ended twice")
    }

    mutating func take(_ outputs: [Scheduler.Output]) {
        for output in outputs {
            switch output {
            case .failed(let id, _): end(id)
            case .token(let id, let token):
                guard var request = requests[id] else { continue }
                expect(request.terminals == 0, "token after the end of \(id)")
                expect(token == Self.next(after: request.prompt + request.output), "wrong token for \(id)")
                request.output.append(token)
                requests[id] = request
                if request.output.count == request.wanted {
                    end(id)
                    scheduler.finish(id)
                }
            case .scored(let id, let rows):
                guard let request = requests[id] else { continue }
                expect(request.terminals == 0, "scores after the end of \(id)")
                expect(Int(rows.position) <= request.scored, "rows of \(id) are missing")
                let end = Int(rows.position) + rows.top.count
                requests[id]?.scored = max(request.scored, end)
                if end == request.prompt.count {
                    self.end(id)
                    scheduler.finish(id)
                }
            }
        }
    }

    // MARK: Homes

    mutating func plan() {
        for planned in scheduler.plan(now: now) {
            let lane = Int(planned.step.lane)
            expect(planned.epoch == epoch, "step of epoch \(planned.epoch)")
            expect(planned.home == "w\(lane)-0", "step for \(planned.home)")
            check(planned.step, lane: lane)
            homes[lane].queue.append(planned.step)
            expect(homes[lane].queue.count <= max(2, stages), "more steps in flight than stages")
        }
    }

    mutating func check(_ step: ProtoStep, lane: Int) {
        expect(!step.rows.isEmpty, "a step without rows")
        if step.wholeTables { homes[lane].planned = [:] }
        for id in step.released { homes[lane].planned[id] = nil }
        for rows in step.rows {
            homes[lane].planned[rows.sequence, default: []] += rows.pages
            let flying = homes[lane].queue.flatMap { $0.rows.filter { $0.sequence == rows.sequence } }
            guard let request = requests[rows.sequence] else { continue }
            expect(request.terminals == 0, "rows of \(rows.sequence), which has ended")
            let tokens = request.prompt + request.output
            let start = Int(rows.position)
            let end = start + rows.tokens.count
            let isAhead = rows.tokens == [ProtoSequenceRows.sampledToken]
            if isAhead {
                expect(stages == 1 && flying.last?.sample == true, "\(rows.sequence) goes ahead of nothing")
                expect(start == tokens.count && rows.sample, "\(rows.sequence) goes too far ahead")
            } else {
                expect(end <= tokens.count, "rows of \(rows.sequence) past its end")
                guard end <= tokens.count else { continue }
                expect(rows.tokens == Array(tokens[start..<end]), "wrong input")
                expect(rows.sample == (!request.isScore && end == tokens.count), "sample of \(rows.sequence)")
                expect(flying.allSatisfy { !$0.sample && !$0.hasScore }, "rows after those that are not known yet")
            }
            if rows.tokens.count > 1 || start == 0 {
                expect(step.class == .prefill, "prefill rows in a decode step")
            }
            // Whatever the rows attend to has come back, or is on its way before them.
            let table = homes[lane].planned[rows.sequence] ?? []
            let under = flying.flatMap { Array(Int($0.position)..<Int($0.position) + $0.tokens.count) }
            for position in Set(0..<start).subtracting(under) where position / 32 < table.count {
                expect(
                    homes[lane].pages[table[position / 32]]?[position % 32] == tokens[position],
                    "\(rows.sequence) attends to position \(position), which nobody has computed")
            }
        }
        let count = step.rows.reduce(0) { $0 + $1.tokens.count }
        expect(count <= scheduler.limits.stepTokens, "\(count) rows")
        for rows in step.rows where rows.tokens == [ProtoSequenceRows.sampledToken] { aheadRows += 1 }
    }

    /// A lane's oldest step comes back.
    mutating func deliver() {
        let busy = homes.indices.filter { !homes[$0].queue.isEmpty }
        guard let lane = busy.randomElement(using: &random) else { return }
        let step = homes[lane].queue.removeFirst()
        if homes[lane].isBehind, !step.wholeTables {
            take(scheduler.stepFailed(.make(step, code: "page_table_gap"), epoch: epoch, now: now))
            return
        }
        if step.wholeTables {
            homes[lane].tables = [:]
            homes[lane].isBehind = false
        } else {
            expect(step.tableSequence == homes[lane].tableSequence + 1, "table sequence \(step.tableSequence)")
        }
        homes[lane].tableSequence = step.tableSequence
        for id in step.released { homes[lane].tables[id] = nil }
        var result = ProtoStepResult()
        result.stepID = step.stepID
        result.lane = step.lane
        for rows in step.rows { compute(rows, lane: lane, into: &result) }
        if Int.random(in: 0..<20, using: &random) == 0 {
            expect(receive(result, epoch: epoch - 1).isEmpty, "stale result")
        }
        take(receive(result, epoch: epoch))
        expect(receive(result, epoch: epoch).isEmpty, "repeated result")
    }

    private mutating func receive(_ result: ProtoStepResult, epoch: UInt64) -> [Scheduler.Output] {
        scheduler.receive(result, epoch: epoch, vocabulary: Self.vocabulary, now: now)
    }

    mutating func compute(_ rows: ProtoSequenceRows, lane: Int, into result: inout ProtoStepResult) {
        let id = rows.sequence
        if homes[lane].tables[id] == nil { expect(rows.hasSampling, "\(id) came without sampling parameters") }
        homes[lane].tables[id, default: []] += rows.pages
        let table = homes[lane].tables[id] ?? []
        let end = Int(rows.position) + rows.tokens.count
        guard end <= table.count * 32 else {
            expect(false, "no page for position \(end - 1) of \(id)")
            return
        }
        let isAhead = rows.tokens == [ProtoSequenceRows.sampledToken]
        for (offset, token) in (isAhead ? [homes[lane].sampled[id] ?? -1] : rows.tokens).enumerated() {
            let position = Int(rows.position) + offset
            let held = homes[lane].pages[table[position / 32]]?[position % 32]
            let sharers = homes[lane].tables.filter { $0.key != id && $0.value.contains(table[position / 32]) }
            expect(sharers.isEmpty || held == nil || held == token, "\(id) writes into a page of \(sharers.keys)")
            homes[lane].pages[table[position / 32], default: Array(repeating: nil, count: 32)][position % 32] = token
        }
        var known: [Int32] = []
        for position in 0..<end {
            if let token = homes[lane].pages[table[position / 32]]?[position % 32] { known.append(token) }
        }
        expect(known.count == end, "\(id) attends to \(known.count) of \(end) positions")
        if let request = requests[id], request.terminals == 0 {
            expect(known == Array((request.prompt + request.output).prefix(end)), "\(id) sees somebody else's tokens")
        }
        if rows.sample {
            var sampled = ProtoSampledToken()
            sampled.sequence = id
            sampled.token = Self.next(after: known)
            homes[lane].sampled[id] = sampled.token
            result.tokens.append(sampled)
        }
        if rows.hasScore {
            var scored = ProtoScoredRows()
            scored.sequence = id
            scored.position = rows.position
            scored.top = rows.tokens.map { _ in ProtoTopTokens() }
            result.scores.append(scored)
        }
    }

    // MARK: The end

    /// No more requests come: everybody must come to an end, in a bounded number of steps.
    mutating func drain() {
        for _ in 0..<100_000 {
            plan()
            if homes.allSatisfy({ $0.queue.isEmpty }) { break }
            deliver()
        }
        for (id, request) in requests.sorted(by: { $0.key < $1.key }) {
            expect(request.terminals == 1, "request \(id) has \(request.terminals) ends")
        }
        let waiting = scheduler.waitingCount
        expect(waiting == 0 && scheduler.waitingTokens == 0, "\(waiting) wait")
        for lane in scheduler.lanes where lane.isOpen {
            expect(lane.runningCount == 0, "lane \(lane.index) runs \(lane.runningCount)")
            expect(lane.pool.usedCount == 0, "lane \(lane.index) lost \(lane.pool.usedCount) pages")
        }
    }
}

extension ProtoStepFailed {
    static func make(_ step: ProtoStep, code: String) -> ProtoStepFailed {
        var failed = ProtoStepFailed()
        failed.stepID = step.stepID
        failed.lane = step.lane
        failed.failure.code = code
        return failed
    }
}
