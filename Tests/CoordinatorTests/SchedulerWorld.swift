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
    var problems: [String] = []

    init(seed: UInt64) {
        self.seed = seed
        random = SeededGenerator(seed: seed)
        var limits = Scheduler.Limits()
        limits.prefillChunkRows = .random(in: 1...40, using: &random)
        limits.maximumSequencesPerLane = .random(in: 1...8, using: &random)
        limits.sequencesPerWave = .random(in: 1...4, using: &random)
        limits.queueLimit = .random(in: 1...20, using: &random)
        limits.queueTimeoutMilliseconds = 1_000_000
        scheduler = Scheduler(limits: limits)
        stages = .random(in: 1...3, using: &random)
        laneCount = .random(in: 1...3, using: &random)
        pagesPerLane = .random(in: 2...10, using: &random)
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
        scheduler.open(epoch: epoch, lanes: lanes)
        homes = lanes.map { _ in Homes() }
    }

    mutating func act() {
        now += 1
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
        let length = Int.random(in: 1...min(100, capacity - 1), using: &random)
        let request = Request(
            prompt: (0..<length).map { _ in .random(in: 0..<Int32(Self.vocabulary), using: &random) },
            wanted: .random(in: 1...min(60, capacity - length), using: &random),
            isScore: Int.random(in: 0..<5, using: &random) == 0)
        nextID += 1
        let waiting = scheduler.waitingCount
        do {
            try scheduler.admit(
                Scheduler.Work(
                    id: nextID, prompt: request.prompt, sampling: ProtoSamplingParameters(),
                    scoreTop: request.isScore ? 0 : nil), now: now)
            requests[nextID] = request
        } catch {
            expect(error.code == "queue_full" && waiting >= scheduler.limits.queueLimit, "refused with \(error)")
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
            case .failed(let id, _, _): end(id)
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
            expect(homes[lane].queue.count <= stages, "more steps in flight than stages")
        }
    }

    mutating func check(_ step: ProtoStep, lane: Int) {
        expect(!step.rows.isEmpty, "a step without rows")
        var prefillRows = 0
        for rows in step.rows {
            let others = homes[lane].queue.filter { $0.rows.contains { $0.sequence == rows.sequence } }
            expect(others.isEmpty, "sequence \(rows.sequence) is in two steps")
            guard let request = requests[rows.sequence] else { continue }
            expect(request.terminals == 0, "rows of \(rows.sequence), which has ended")
            let tokens = request.prompt + request.output
            let end = Int(rows.position) + rows.tokens.count
            expect(end <= tokens.count, "rows of \(rows.sequence) past its end")
            if end <= tokens.count { expect(rows.tokens == Array(tokens[Int(rows.position)..<end]), "wrong input") }
            expect(rows.sample == (!request.isScore && end == tokens.count), "sample of \(rows.sequence)")
            if rows.tokens.count > 1 || rows.position == 0 {
                prefillRows += rows.tokens.count
                expect(step.class == .prefill, "prefill rows in a decode step")
            }
        }
        expect(prefillRows <= scheduler.limits.prefillChunkRows, "\(prefillRows) prefill rows")
    }

    /// A lane's oldest step comes back.
    mutating func deliver() {
        let busy = homes.indices.filter { !homes[$0].queue.isEmpty }
        guard let lane = busy.randomElement(using: &random) else { return }
        let step = homes[lane].queue.removeFirst()
        if homes[lane].isBehind, !step.wholeTables {
            take(scheduler.stepFailed(.make(step, code: "page_table_gap"), epoch: epoch))
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
            expect(scheduler.receive(result, epoch: epoch - 1, vocabulary: Self.vocabulary).isEmpty, "stale result")
        }
        take(scheduler.receive(result, epoch: epoch, vocabulary: Self.vocabulary))
        expect(scheduler.receive(result, epoch: epoch, vocabulary: Self.vocabulary).isEmpty, "repeated result")
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
        for (offset, token) in rows.tokens.enumerated() {
            let position = Int(rows.position) + offset
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
        expect(waiting == 0, "\(waiting) wait")
        for lane in scheduler.lanes where lane.isOpen {
            expect(lane.running.isEmpty, "lane \(lane.index) runs \(lane.running)")
            expect(lane.pagesUsed == 0, "lane \(lane.index) lost \(lane.pagesUsed) pages")
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
