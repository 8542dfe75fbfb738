import Engine
import ModelStore

/// What a benchmark of a model is told to measure.
struct ModelBenchPlan: Equatable {
    /// Lengths of prompts.
    var prefill: [Int] = []
    /// Streams that decode together.
    var batch: [Int] = []
    /// Tokens that one stream has before it decodes.
    var context: [Int] = []
    /// Steps that are timed.
    var decode = 16
    /// Times that each is measured; the median counts.
    var repeats = 3

    /// Rows of a prompt in one step: what llama.cpp has as its batch by default.
    static let prefillRows = 512

    /// The longest sequence, in tokens.
    var longestSequence: Int {
        max(prefill.max() ?? 0, batch.isEmpty ? 0 : decode + 1, (context.max() ?? -decode - 1) + decode + 1)
    }

    /// KV pages that the widest of the measurements needs, and at least what one stream's decoding does.
    var pages: Int {
        let stream = Self.pages(tokens: decode + 1)
        return max(Self.pages(tokens: longestSequence), stream * (batch.max() ?? 1))
    }

    /// The most rows of one step.
    var stepRows: Int {
        max(min(longestSequence, Self.prefillRows), batch.max() ?? 1)
    }

    /// The peer's tokens, which miss the control pieces.
    func token(_ index: Int, of vocabulary: Int) -> Int32 {
        vocabulary > 3 ? Int32(truncatingIfNeeded: 3 + index * 7919 % (vocabulary - 3)) : 0
    }

    /// A prompt's tokens, cut into the rows of its steps.
    func prompt(_ length: Int, of vocabulary: Int) -> [(position: Int, tokens: [Int32])] {
        stride(from: 0, to: length, by: Self.prefillRows).map { first in
            (first, (first..<min(first + Self.prefillRows, length)).map { token($0, of: vocabulary) })
        }
    }

    static func pages(tokens: Int) -> Int {
        (tokens + Engine.pageTokens - 1) / Engine.pageTokens
    }
}

/// What is timed, in one process and through workers.
enum BenchRun: Equatable {
    /// A prompt of so many tokens.
    case prefill(Int)
    /// So many streams that decode together.
    case batch(Int)

    /// As the peer's script calls it: `prefill_256`, `decode_batch_16`.
    var name: String {
        switch self {
        case .prefill(let length): "prefill_\(length)"
        case .batch(let width): "decode_batch_\(width)"
        }
    }
}

/// Steps that followed each other.
struct TimedRun {
    let seconds: Double
    let work: [StepWork]

    /// A step's part of the time.
    var secondsPerStep: Double { seconds / Double(max(work.count, 1)) }
    /// What a step reads of keys and values.
    var keyValueBytesPerStep: Double {
        Double(work.reduce(0) { $0 + $1.keyValueBytes }) / Double(max(work.count, 1))
    }
}

/// What a step takes longer after a long context than after the shortest: attention, and little else.
struct ContextCost: Equatable {
    /// Tokens of the shortest context.
    let shortest: Int
    /// In a step; the median of the turns.
    let seconds: Double
    /// Over the time that reading the further keys and values takes at the bandwidth of the same turn; the median of the turns.
    let ofReading: Double

    /// - Parameters:
    ///   - long: a run after the long context in each turn.
    ///   - short: a run after the shortest one in each turn.
    ///   - readBytesPerSecond: the bandwidth in each turn.
    init(over shortest: Int, long: [TimedRun], short: [TimedRun], readBytesPerSecond: [Double]) {
        let turns = zip(zip(long, short), readBytesPerSecond).map { runs, rate in
            let seconds = runs.0.secondsPerStep - runs.1.secondsPerStep
            return (seconds, seconds * rate / (runs.0.keyValueBytesPerStep - runs.1.keyValueBytesPerStep))
        }
        self.shortest = shortest
        seconds = Median.of(turns.map(\.0))
        ofReading = Median.of(turns.map(\.1))
    }
}

/// A figure through workers, whose runs took turns with those of one process.
struct ClusterFigure: Equatable {
    let run: BenchRun
    /// The median run's.
    let seconds: Double
    /// The rate over one process's in the run before; the median of the turns.
    let ofOneProcess: Double

    init(_ run: BenchRun, seconds: [Double], own: [Double]) {
        self.run = run
        self.seconds = Median.of(seconds)
        ofOneProcess = Median.of(zip(own, seconds).map { $0 / $1 })
    }
}

/// One figure of a model: how fast, and how fast at most.
struct ModelFigure {
    /// As the peer's script calls it: `prefill_256`, `decode_batch_16`, `decode_context_4096`.
    let name: String
    /// Tokens of one run.
    let tokens: Int
    /// The last run's steps.
    let work: [StepWork]
    /// The median run's.
    let seconds: Double
    /// The same through workers, where that was asked for.
    let cluster: ClusterFigure?
    /// Of a context that is not the shortest.
    var contextCost: ContextCost?

    init(name: String, tokens: Int, runs: [TimedRun], cluster: ClusterFigure? = nil) {
        self.name = name
        self.tokens = tokens
        work = runs.last?.work ?? []
        seconds = Median.of(runs.map(\.seconds))
        self.cluster = cluster
    }

    var tokensPerSecond: Double { Double(tokens) / seconds }
    var secondsPerStep: Double { seconds / Double(max(work.count, 1)) }

    func floorSeconds(_ rates: BenchRates) -> Double {
        work.reduce(0) {
            $0
                + $1.floorSeconds(
                    bytesPerSecond: rates.readBytes, integersPerSecond: rates.integers, floatsPerSecond: rates.floats)
        }
    }

    /// Through workers; nil where none is known.
    func floorSeconds(_ floor: ClusterFloor) -> Double? {
        guard case .batch = cluster?.run else { return nil }
        return work.reduce(0) { $0 + floor.seconds($1) }
    }

    /// Means over the steps.
    var bytesPerStep: Int { work.reduce(0) { $0 + $1.bytes } / max(work.count, 1) }
    var multiplyAddsPerStep: Int {
        work.reduce(0) { $0 + $1.integerMultiplyAdds + $1.floatMultiplyAdds } / max(work.count, 1)
    }
    var expertsPerStep: Double { Double(work.reduce(0) { $0 + $1.experts.count }) / Double(max(work.count, 1)) }

    /// Whether reading takes longer than computing at the machine's rates.
    func isBoundByMemory(_ rates: BenchRates) -> Bool {
        let reading = Double(work.reduce(0) { $0 + $1.bytes }) / rates.readBytes
        let computing =
            Double(work.reduce(0) { $0 + $1.integerMultiplyAdds }) / rates.integers
            + Double(work.reduce(0) { $0 + $1.floatMultiplyAdds }) / rates.floats
        return reading >= computing
    }
}

/// The machine's rates with as many threads as the model was measured with.
struct BenchRates {
    /// Bytes a second.
    var readBytes: Double
    /// Multiply-adds a second.
    var integers: Double
    var floats: Double
}

/// Drives a model as the peer's script drives llama.cpp: the same tokens at the same positions, one sequence for each stream,
/// the logits of every row in decode and of the last one in prefill, medians of repeats after a warm-up.
struct ModelBench {
    private let runner: LocalRunner
    private let plan: ModelBenchPlan
    private let vocabulary: Int

    /// - Parameter runner: of an engine with `plan.pages` pages.
    init(runner: LocalRunner, plan: ModelBenchPlan) {
        self.runner = runner
        self.plan = plan
        vocabulary = runner.engine.shape.vocabulary
    }

    /// - Parameters:
    ///   - readRate: measures the read bandwidth so many times, and returns the median in bytes a second. It is asked before
    ///     the first figure, after each turn, and before each turn of the contexts.
    ///   - clusterSeconds: does a run of a prompt or a batch through workers, in turn with this process; nil where there are
    ///     none.
    func run(
        readRate: (_ times: Int) -> Double, clusterSeconds: ((BenchRun) throws -> Double)? = nil
    ) throws -> [ModelFigure] {
        _ = try runner.step(
            tokens: [plan.token(0, of: vocabulary)], rows: [AttentionRow(position: 0, pages: table(0..<1))],
            logitRows: [0])
        _ = readRate(plan.repeats)
        var figures: [ModelFigure] = []
        func measure(_ run: BenchRun, tokens: Int, _ timed: () throws -> TimedRun) throws {
            var runs: [TimedRun] = []
            var cluster: [Double] = []
            for _ in 0..<plan.repeats {
                runs.append(try timed())
                if let clusterSeconds { cluster.append(try clusterSeconds(run)) }
                _ = readRate(1)
            }
            figures.append(
                ModelFigure(
                    name: run.name, tokens: tokens, runs: runs,
                    cluster: cluster.isEmpty
                        ? nil : ClusterFigure(run, seconds: cluster, own: runs.map(\.seconds))))
        }
        for length in plan.prefill {
            try measure(.prefill(length), tokens: length) { try timed { try prompt(length, logits: true) } }
        }
        let pages = ModelBenchPlan.pages(tokens: plan.decode + 1)
        for width in plan.batch {
            try measure(.batch(width), tokens: width * plan.decode) {
                try decode(width: width, from: 0, pagesEach: pages)
            }
        }
        return try figures + contexts(readRate)
    }

    /// Contexts of different lengths take turns, so that what the longer ones take longer is not the machine's drift. The
    /// shorter are beginnings of the longest.
    private func contexts(_ readRate: (_ times: Int) -> Double) throws -> [ModelFigure] {
        guard let longest = plan.context.max(), let shortest = plan.context.min() else { return [] }
        try fill(longest)
        var runs: [Int: [TimedRun]] = [:]
        var rates: [Double] = []
        for _ in 0..<plan.repeats {
            let before = readRate(1)
            for length in plan.context {
                let pages = ModelBenchPlan.pages(tokens: length + plan.decode + 1)
                runs[length, default: []].append(try decode(width: 1, from: length, pagesEach: pages))
            }
            rates.append((before + readRate(1)) / 2)
        }
        return plan.context.map { length in
            let own = runs[length] ?? []
            var figure = ModelFigure(name: "decode_context_\(length)", tokens: plan.decode, runs: own)
            if length > shortest {
                figure.contextCost = ContextCost(
                    over: shortest, long: own, short: runs[shortest] ?? [], readBytesPerSecond: rates)
            }
            return figure
        }
    }

    /// A first step at `position` is not timed, as the peer's is not.
    private func decode(width: Int, from position: Int, pagesEach: Int) throws -> TimedRun {
        let all = Array(0..<width)
        let tables = all.map { table($0 * pagesEach..<($0 + 1) * pagesEach) }
        func step(_ step: Int) throws -> StepWork {
            try runner.step(
                tokens: all.map { plan.token(step * 31 + $0, of: vocabulary) },
                rows: tables.map { AttentionRow(position: position + step, pages: $0) }, logitRows: all)
        }
        _ = try step(0)
        return try timed { try (1...plan.decode).map(step) }
    }

    /// Gives one sequence `length` tokens: those of a short prompt, whose pages are then copied to its other pages.
    private func fill(_ length: Int) throws {
        let short = min(length, ModelBenchPlan.prefillRows)
        try prompt(short, logits: false)
        let filled = short / Engine.pageTokens
        let pages = ModelBenchPlan.pages(tokens: length)
        guard filled > 0, filled < pages else { return }
        try runner.copyPages(from: table(0..<filled), to: table(filled..<pages))
    }

    /// The tokens of a prompt through the first sequence, some rows at a time.
    @discardableResult
    private func prompt(_ length: Int, logits: Bool) throws -> [StepWork] {
        let pages = table(0..<ModelBenchPlan.pages(tokens: length))
        return try plan.prompt(length, of: vocabulary).map { part in
            let rows = part.tokens.indices.map { AttentionRow(position: part.position + $0, pages: pages) }
            let isLast = part.position + rows.count == length
            return try runner.step(
                tokens: part.tokens, rows: rows, logitRows: logits && isLast ? [rows.count - 1] : [])
        }
    }

    private func timed(_ steps: () throws -> [StepWork]) rethrows -> TimedRun {
        let start = ContinuousClock.now
        let work = try steps()
        return TimedRun(seconds: (ContinuousClock.now - start) / .seconds(1), work: work)
    }

    private func table(_ range: Range<Int>) -> PageTable {
        range.map { Int32(truncatingIfNeeded: $0) }
    }
}

/// The value in the middle; the mean of the two where they are an even number.
enum Median {
    /// Of so many measurements.
    static func of(_ repeats: Int, _ measure: () -> Double) -> Double { of((0..<repeats).map { _ in measure() }) }

    static func of(_ values: [Double]) -> Double {
        let sorted = values.sorted()
        guard !sorted.isEmpty else { return .nan }
        return (sorted[(sorted.count - 1) / 2] + sorted[sorted.count / 2]) / 2
    }
}
