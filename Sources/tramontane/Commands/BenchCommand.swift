import ArgumentParser
import Engine
import ModelStore

/// Measures a model and the machine, each figure beside the least that it could be.
struct BenchCommand: Command {
    static let example = "tramontane bench --model cluster/demo --threads 2 --prefill 256 --batch 1 4 16 --json"
    static let configuration = commandConfiguration(
        "bench", "Measures a model in this process, and the machine.",
        """
        --prefill LENGTHS measures prompts, --batch STREAMS decoding in so many streams, --context LENGTHS decoding of one stream \
        after so many tokens (whose KV pages are copies of a short prompt's). Without any of them: --prefill 256 --batch 1 4 16. \
        Tokens, positions, logits, warm-up and medians are those of ops/bench/peer_llama.py, which measures llama.cpp.

        The floor of a step is the bytes that it must read over the read bandwidth of as many threads, or its multiply-adds \
        over their rate, whichever is longer. Both rates are measured here, between the model's figures.
        """)
    static let settings: [Setting] =
        [
            .option("model", alternatives: ["cpu", "hop", "import"]), .option("threads"), .option("compute"),
            .option("decode"), .option("repeat"), .option("isa"), .flag("json"),
        ] + ModelOptions.settings

    @Option(help: ArgumentHelp("A manifest, a GGUF file, a safetensors directory or a stored name.", valueName: "path"))
    var model: String?

    @Option(
        help: ArgumentHelp(
            "Threads that compute. Default: the processors that this process may use.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...ThreadPool.maximumThreads) })
    var threads: Int?

    @Option(
        parsing: .upToNextOption, help: ArgumentHelp("Lengths of prompts, in tokens.", valueName: "lengths"),
        transform: NumberParsing.positive)
    var prefill: [Int] = []

    @Option(
        parsing: .upToNextOption, help: ArgumentHelp("Streams that decode together.", valueName: "streams"),
        transform: { try NumberParsing.count($0, 1...4096) })
    var batch: [Int] = []

    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp("Tokens that one stream has before it decodes.", valueName: "lengths"),
        transform: NumberParsing.positive)
    var context: [Int] = []

    @Option(
        help: ArgumentHelp("Decode steps that are timed. Default: 16.", valueName: "steps"),
        transform: { try NumberParsing.count($0, 1...65_536) })
    var decode = 16

    @Option(
        name: .customLong("repeat"),
        help: ArgumentHelp("Times that each is measured; the median counts. Default: 3.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...1_000) })
    var repeats = 3

    @Option(help: ArgumentHelp("The instruction set. Default: the fastest that the machine has.", valueName: "set"))
    var isa: InstructionSet?

    @Option(
        help: ArgumentHelp(
            "native, or openblas: a second implementation of matrix products, whose results are not reproducible.",
            valueName: "backend"))
    var compute = ComputeBackend.native

    @Flag(help: "Measure the machine: instruction sets, caches, memory, read bandwidth and multiply-add rates.")
    var cpu = false

    @Flag(help: "Measure a round trip of 26,000 bytes over loopback: raw sockets, and frames as workers exchange them.")
    var hop = false

    @Option(
        name: .customLong("import"),
        help: ArgumentHelp(
            "Measure the import of this GGUF file or directory into a store in $TMPDIR.", valueName: "source"))
    var source: String?

    @OptionGroup var models: ModelOptions

    @Flag(help: "Print one JSON object.")
    var json = false

    func validate() throws {
        guard model != nil || cpu || hop || source != nil else {
            throw ValidationError("nothing to measure: --model PATH, --cpu, --hop or --import SOURCE is missing")
        }
        for (name, values) in [("prefill", prefill), ("batch", batch), ("context", context)] {
            guard Set(values).count == values.count else { throw ValidationError("--\(name) names a number twice") }
            guard values.isEmpty || model != nil else {
                throw ValidationError("--\(name) measures a model; --model PATH is missing")
            }
        }
    }

    func run() throws {
        if let isa { try InstructionSet.choose(isa, from: "--isa") }
        let report = try report(memoryBytes: MachineBench.memoryBytes(MachineDescription()))
        try StandardOutput.write(json ? report.json : report.table)
    }

    /// - Parameter memoryBytes: of memory, whose reading shows its bandwidth.
    func report(memoryBytes: Int) throws -> BenchReport {
        let threads = threads ?? availableThreads()
        var report = BenchReport(threads: threads, instructionSet: instructionSetName())
        if cpu { report.machine = try MachineBench(threads: threads, repeats: repeats, memoryBytes: memoryBytes) }
        if let model { report.model = try measure(model, threads: threads, memoryBytes: memoryBytes) }
        if hop { report.hop = try HopBench() }
        if let source { report.importing = try ImportBench(source: source) }
        return report
    }

    /// What is to be measured: what was named, or what the peer's script measures by itself.
    var plan: ModelBenchPlan {
        let nothingNamed = prefill.isEmpty && batch.isEmpty && context.isEmpty
        return ModelBenchPlan(
            prefill: nothingNamed ? [256] : prefill, batch: nothingNamed ? [1, 4, 16] : batch, context: context,
            decode: decode, repeats: repeats)
    }

    private func measure(_ path: String, threads: Int, memoryBytes: Int) throws -> BenchReport.Model {
        let found = try models.resolve(path)
        let manifest = found.manifest
        let plan = plan
        guard plan.longestSequence <= manifest.shape.contextLength else {
            throw CommandError.usage(
                "a sequence of \(plan.longestSequence) tokens was asked for, the model's context has "
                    + "\(manifest.shape.contextLength)")
        }
        let engine = try Engine(
            manifest: manifest, store: found.store, shard: .whole(manifest.shape), pages: plan.pages, threads: threads,
            compute: compute)
        let machine = try MachineRates(threads: engine.threads, bytes: memoryBytes)
        var reads: [Double] = []
        let figures = try ModelBench(runner: LocalRunner(engine: engine), plan: plan).run {
            // The bandwidth of a shared machine drifts, so it is looked at whenever the model's figures are.
            for _ in 0..<plan.repeats { reads.append(machine.readBytesPerSecond()) }
        }
        let rates = BenchRates(
            readBytes: Median.of(reads),
            integers: Median.of((0..<plan.repeats).map { _ in machine.integersPerSecond() }),
            floats: Median.of((0..<plan.repeats).map { _ in machine.floatsPerSecond() }))
        return BenchReport.Model(path: path, name: manifest.name, rates: rates, figures: figures)
    }
}
