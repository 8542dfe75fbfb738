import ArgumentParser

/// Measures the scheduler alone.
struct BenchSchedulerCommand: Command {
    static let example = "tramontane bench scheduler --lanes 8 --sequences 64 --waiting 0 100000"
    static let configuration = commandConfiguration(
        "scheduler", "Measures the scheduler alone: tokens a second on one core, and what planning a step takes.",
        """
        No sockets, no tokenizer, no workers: each step is answered at once, each sequence that ends is replaced, and only what \
        the scheduler itself does is timed, as processor time of its thread. --waiting COUNTS does it with so many more requests waiting.
        """)
    static let settings: [Setting] = [
        .option("lanes"), .option("sequences"), .option("stages"), .option("prompt-tokens"), .option("output-tokens"),
        .option("tokens"), .option("waiting"), .flag("json"),
    ]

    @Option(
        parsing: .unconditional, help: ArgumentHelp("Lanes. Default: 8.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...4096) })
    var lanes = 8

    @Option(
        parsing: .unconditional, help: ArgumentHelp("Sequences in each lane. Default: 64.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...4096) })
    var sequences = 64

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Stages, and so steps under way, of a lane. Default: 1.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...64) })
    var stages = 1

    @Option(
        parsing: .unconditional, help: ArgumentHelp("Tokens of each prompt. Default: 8.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...65_536) })
    var promptTokens = 8

    @Option(
        parsing: .unconditional, help: ArgumentHelp("Tokens of each answer. Default: 128.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...65_536) })
    var outputTokens = 128

    @Option(
        parsing: .unconditional, help: ArgumentHelp("Tokens that are counted. Default: 1000000.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...1_000_000_000) })
    var tokens = 1_000_000

    @Option(
        parsing: .upToNextOption, help: ArgumentHelp("Requests that wait. Default: 0 100000.", valueName: "counts"),
        transform: { try NumberList($0, 0...1_000_000) })
    var waiting: [NumberList] = []

    @OptionGroup var settingsFile: SettingsFile

    @Flag(help: "Print one JSON object.")
    var json = false

    var plan: SchedulerBench.Plan {
        SchedulerBench.Plan(
            lanes: lanes, sequences: sequences, stages: stages, promptTokens: promptTokens, outputTokens: outputTokens,
            tokens: tokens)
    }

    func run() throws {
        let counts = waiting.isEmpty ? [0, 100_000] : waiting.flatMap(\.numbers)
        let results = try counts.map { count in
            var bench = SchedulerBench(plan, waiting: count)
            return try bench.run()
        }
        try StandardOutput.write(
            json
                ? JSONLine.object { object in
                    object.number("lanes", lanes)
                    object.number("sequences_per_lane", sequences)
                    object.number("stages", stages)
                    for result in results { result.write(to: &object) }
                } : SchedulerBench.Result.table(results))
    }
}
