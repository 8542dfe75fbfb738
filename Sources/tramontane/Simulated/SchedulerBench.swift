import Coordinator
import Wire

/// What planning costs: the scheduler alone, without sockets, fed with results as soon as it has planned a step. Every sequence that ends is
/// replaced by a new one, so that as many run, and as many wait, from the first step to the last.
struct SchedulerBench {
    struct Plan: Equatable {
        var lanes: Int
        /// In each lane.
        var sequences: Int
        var stages: Int
        var promptTokens: Int
        /// Of each sequence.
        var outputTokens: Int
        /// That are counted in all.
        var tokens: Int
    }

    struct Result {
        let waiting: Int
        let tokens: Int
        /// Of processor time in the scheduler: admitting, planning, taking results, ending.
        let seconds: Double
        /// Microseconds of processor time of every call of `plan` that gave a step, for each step.
        let plans: Distribution
        var tokensPerSecond: Double { Double(tokens) / seconds }
    }

    private static let epoch: UInt64 = 1
    private static let vocabulary = 32_768

    private let plan: Plan
    private let waiting: Int
    private var scheduler: Scheduler
    private var admitted: UInt64 = 0
    /// Tokens that each running sequence has.
    private var answers: [UInt64: Int] = [:]
    /// Nanoseconds in the scheduler: this thread's own, whatever else the machine does.
    private var elapsed: UInt64 = 0
    private var now: UInt64 = 0

    init(_ plan: Plan, waiting: Int) {
        self.plan = plan
        self.waiting = waiting
        var limits = Scheduler.Limits()
        limits.maximumSequencesPerLane = plan.sequences
        // Twice as many as come: one tenant alone may not fill the queue.
        limits.queueLimit = 2 * (waiting + plan.lanes * plan.sequences)
        limits.queueTokenLimit = limits.queueLimit * plan.promptTokens
        limits.queueTimeoutMilliseconds = 1 << 40
        scheduler = Scheduler(limits: limits)
        let pages = Scheduler.pages(for: plan.promptTokens + plan.outputTokens) * plan.sequences
        scheduler.open(
            epoch: Self.epoch,
            lanes: (0..<plan.lanes).map { lane in
                Scheduler.LaneSpecification(
                    homes: (0..<plan.stages).map { "\(lane)-\($0)" }, pages: 0..<UInt32(clamping: pages))
            })
    }

    mutating func run() throws -> Result {
        for _ in 0..<waiting + plan.lanes * plan.sequences { try admit() }
        var steps: [Scheduler.PlannedStep] = []
        var next = 0
        var plans: [Double] = []
        var tokens = 0
        // Each of a lane's sequences has an answer behind it before anything counts.
        let warmUp = plan.lanes * plan.sequences * plan.outputTokens
        var begin: UInt64 = 0
        while tokens < warmUp + plan.tokens {
            now += 100
            let before = elapsed
            let planned = timed { $0.plan(now: $1) }
            if !planned.isEmpty, tokens >= warmUp {
                plans.append(Double(elapsed - before) / 1e3 / Double(planned.count))
            }
            steps += planned
            guard next < steps.count else { throw CommandError.failure("the scheduler planned nothing") }
            let result = Self.result(of: steps[next].step)
            next += 1
            if next == 4096 {
                steps.removeFirst(next)
                next = 0
            }
            let outputs = timed { scheduler, now in
                scheduler.receive(result, epoch: Self.epoch, vocabulary: Self.vocabulary, now: now)
            }
            for output in outputs {
                guard case .token(let id, _) = output else {
                    throw CommandError.failure("the scheduler failed a sequence")
                }
                tokens += 1
                try took(id)
            }
            if tokens < warmUp { begin = elapsed }
        }
        return Result(
            waiting: waiting, tokens: tokens - warmUp, seconds: Double(elapsed - begin) / 1e9,
            plans: Distribution(plans))
    }

    private mutating func took(_ id: UInt64) throws {
        let count = answers[id, default: 0] + 1
        guard count == plan.outputTokens else {
            answers[id] = count
            return
        }
        answers[id] = nil
        timed { scheduler, _ in scheduler.finish(id) }
        try admit()
    }

    private mutating func admit() throws {
        admitted += 1
        // Prompts of their own: nothing is found in the cache.
        let prompt = (0..<plan.promptTokens).map { Int32(truncatingIfNeeded: (Int(admitted) &* 31 &+ $0) & 0x7FFF) }
        let work = Scheduler.Work(id: admitted, prompt: prompt, sampling: ProtoSamplingParameters())
        try timed { scheduler, now in try scheduler.admit(work, now: now) }
    }

    private mutating func timed<Value>(_ body: (inout Scheduler, UInt64) throws -> Value) rethrows -> Value {
        let start = ProcessUsage.threadNanoseconds
        defer { elapsed += ProcessUsage.threadNanoseconds - start }
        return try body(&scheduler, now)
    }

    private static func result(of step: ProtoStep) -> ProtoStepResult {
        var result = ProtoStepResult()
        result.stepID = step.stepID
        result.lane = step.lane
        for rows in step.rows where rows.sample {
            var token = ProtoSampledToken()
            token.sequence = rows.sequence
            token.token = Int32(truncatingIfNeeded: rows.sequence) & 0x7FF
            result.tokens.append(token)
        }
        return result
    }
}

extension SchedulerBench.Result {
    func write(to object: inout JSONLine.Object) {
        let name = "waiting_\(waiting)"
        object.rounded("\(name)_tokens_per_second", tokensPerSecond)
        object.rounded("\(name)_us_per_token", 1e6 / tokensPerSecond, digits: 3)
        object.rounded("\(name)_mean_plan_us", plans.mean)
        for percent in Distribution.percentiles {
            object.rounded("\(name)_p\(Int(percent))_plan_us", plans.percentile(percent))
        }
        object.rounded("\(name)_max_plan_us", plans.max)
    }

    static func table(_ results: [Self]) -> String {
        TextTable.columns(
            [["WAITING", "TOKENS/S", "PLANNING A STEP, µs: MEAN"] + Distribution.headings.dropFirst()]
                + results.map { result in
                    ["\(result.waiting)", Figure.fixed(result.tokensPerSecond, 0)] + result.plans.cells
                })
    }
}
