import ArgumentParser
import Engine
import Logging
import ModelStore

/// Measures a model and the machine, each figure beside the least that it could be.
struct BenchCommand: Command {
    static let example = "tramontane bench --model cluster/demo --threads 2 --prefill 256 --batch 1 4 16 --json"
    static let configuration = commandConfiguration(
        "engine", "Measures a model in this process, and the machine.",
        """
        --prefill LENGTHS measures prompts, --batch STREAMS decoding in so many streams, --context LENGTHS decoding of one stream \
        after so many tokens (whose KV pages are copies of a short prompt's), and what that takes longer than after the \
        shortest, beside reading the further pages. Without any of them: --prefill 256 --batch 1 4 16. \
        --workers COUNT measures prompts and batches through so many workers too, which share the experts and the threads.
        Tokens, positions, logits, warm-up and medians are those of ops/bench/peer_llama.py, which measures llama.cpp.

        The floor of a step is the bytes that it must read over the read bandwidth of as many threads, or its multiply-adds \
        over their rate, whichever is longer. Both rates are measured here, between the model's figures.
        """)
    static let settings: [Setting] =
        [
            .option("model", alternatives: measured), .option("threads"), .option("compute"), .option("weights"),
            .option("isa"),
            .option("prefill", alternatives: measured), .option("batch", alternatives: measured),
            .option("context", alternatives: measured), .option("workers", alternatives: measured),
            .option("decode"), .option("repeat"), .flag("cpu"), .flag("hop"), .option("import"), .flag("json"),
        ] + ModelOptions.settings
    /// What else there is to measure: whoever asks for that alone does not want what the environment says of models.
    private static let measured = ["cpu", "hop", "import"]

    @Option(help: ArgumentHelp("A manifest, a GGUF file, a safetensors directory or a stored name.", valueName: "path"))
    var model: String?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "Threads that compute. Default: the processors that this process may use.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...ThreadPool.maximumThreads) })
    var threads: Int?

    @Option(
        parsing: .upToNextOption, help: ArgumentHelp("Lengths of prompts, in tokens.", valueName: "lengths"),
        transform: { try NumberList($0, 1...(1 << 30)) })
    var prefill: [NumberList] = []

    @Option(
        parsing: .upToNextOption, help: ArgumentHelp("Streams that decode together.", valueName: "streams"),
        transform: { try NumberList($0, 1...4096) })
    var batch: [NumberList] = []

    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp("Tokens that one stream has before it decodes.", valueName: "lengths"),
        transform: { try NumberList($0, 1...(1 << 30)) })
    var context: [NumberList] = []

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "Measure through so many workers too, in this process over loopback.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...64) })
    var workers: Int?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Decode steps that are timed. Default: 16.", valueName: "steps"),
        transform: { try NumberParsing.count($0, 1...65_536) })
    var decode = 16

    @Option(
        name: .customLong("repeat"), parsing: .unconditional,
        help: ArgumentHelp("Times that each is measured; the median counts. Default: 3.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...1_000) })
    var repeats = 3

    @Option(help: ArgumentHelp("The instruction set. Default: the fastest that the machine has.", valueName: "set"))
    var isa: InstructionSet?

    @Option(help: ComputeBackend.help)
    var compute = ComputeBackend.native

    @Option(help: WeightMemory.help)
    var weights = WeightMemory.mapped

    @Flag(help: "Measure the machine: instruction sets, caches, memory, read bandwidth and multiply-add rates.")
    var cpu = false

    @Flag(
        help: """
            Measure a round trip of 26,000 bytes over loopback: raw sockets, and frames as workers exchange them, also with \
            cold caches; with --model also what it adds to a layer that its experts are on another worker.
            """)
    var hop = false

    @Option(
        name: .customLong("import"),
        help: ArgumentHelp(
            "Measure the import of this GGUF file or directory into a store in $TMPDIR.", valueName: "source"))
    var source: String?

    @OptionGroup var models: ModelOptions
    @OptionGroup var settingsFile: SettingsFile

    @Flag(help: "Print one JSON object.")
    var json = false

    func validate() throws {
        guard model != nil || cpu || hop || source != nil else {
            throw ValidationError("nothing to measure: --model PATH, --cpu, --hop or --import SOURCE is missing")
        }
        for (name, lists) in [("prefill", prefill), ("batch", batch), ("context", context)] {
            let values = lists.flatMap(\.numbers)
            guard Set(values).count == values.count else { throw ValidationError("--\(name) names a number twice") }
            guard values.isEmpty || model != nil else {
                throw ValidationError("--\(name) measures a model; --model PATH is missing")
            }
        }
        guard workers == nil || model != nil else {
            throw ValidationError("--workers measures a model; --model PATH is missing")
        }
        guard workers == nil || context.isEmpty || !prefill.isEmpty || !batch.isEmpty else {
            throw ValidationError("--workers measures prompts and batches; --prefill or --batch is missing")
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
        let plan = plan
        if cpu { report.machine = try MachineBench(threads: threads, repeats: repeats, memoryBytes: memoryBytes) }
        let found = try model.map(resolve)
        if let found, plan.longestSequence > 0 {
            report.model = try measure(found, plan, threads: threads, memoryBytes: memoryBytes)
        }
        if hop {
            var hop = try HopBench(trips: 2_000 * repeats, sweptBytes: min(HopBench.sweptBytes, memoryBytes))
            hop.remoteExpertMicroseconds = try found.map {
                try ClusterBench.remoteExpertMicroseconds(
                    model: $0, plan: plan, threads: max(threads / 2, 1), compute: compute, weights: weights)
            }
            report.hop = hop
        }
        if let source { report.importing = try ImportBench(source: source) }
        return report
    }

    /// What is to be measured of the model: what was named; where nothing was named at all, what the peer's script measures.
    var plan: ModelBenchPlan {
        let isDefault = prefill.isEmpty && batch.isEmpty && context.isEmpty && !cpu && !hop && source == nil
        return ModelBenchPlan(
            prefill: isDefault ? [256] : prefill.flatMap(\.numbers),
            batch: isDefault ? [1, 4, 16] : batch.flatMap(\.numbers), context: context.flatMap(\.numbers),
            decode: decode, repeats: repeats)
    }

    /// The model, if its context has room for what is asked for.
    private func resolve(_ path: String) throws -> ResolvedModel {
        let found = try models.resolve(path)
        let experts = found.manifest.shape.experts
        if let workers, workers > experts {
            throw CommandError.usage(
                "--workers \(workers): each needs an expert, and the model's layers have \(experts)")
        }
        let context = found.manifest.shape.contextLength
        let longest = max(plan.longestSequence, hop ? decode + 1 : 0)
        guard longest <= context else {
            throw CommandError.usage(
                "a sequence of \(longest) tokens was asked for, the model's context has \(context)")
        }
        return found
    }

    private func measure(
        _ model: ResolvedModel, _ plan: ModelBenchPlan, threads: Int, memoryBytes: Int
    ) throws -> BenchReport.Model {
        try tellMemory(model, plan)
        let machine = try RatesDuringBench(threads: threads, bytes: memoryBytes, repeats: plan.repeats)
        guard let workers else {
            let figures = try local(model, plan, threads: threads).run(readRate: machine.read(times:))
            return report(model, machine, figures)
        }
        let each = max(threads / workers, 1)
        let worker = try RatesDuringBench(threads: each, bytes: memoryBytes, repeats: plan.repeats)
        let bench = try local(model, plan, threads: threads)
        let figures = try ClusterBench.with(
            model: model, plan: plan, workers: workers, threads: each, compute: compute, weights: weights
        ) { cluster in
            try bench.run(
                readRate: { times in
                    worker.read(times: times)
                    return machine.read(times: times)
                }, clusterSeconds: cluster.seconds)
        }
        return report(
            model, machine, figures,
            cluster: ClusterFloor(
                shares: ClusterBench.shares(of: model.manifest.shape.experts, workers: workers), one: worker.rates,
                all: machine.rates))
    }

    private func report(
        _ model: ResolvedModel, _ machine: RatesDuringBench, _ figures: [ModelFigure], cluster: ClusterFloor? = nil
    ) -> BenchReport.Model {
        BenchReport.Model(
            path: self.model ?? model.manifestPath, name: model.manifest.name, weights: weights, rates: machine.rates,
            cluster: cluster, figures: figures)
    }

    /// Says where the memory of the measurements goes: this process's, and beside it the workers'.
    ///
    /// - Throws: `EngineError` `memory_insufficient` before minutes are spent on it.
    private func tellMemory(_ model: ResolvedModel, _ plan: ModelBenchPlan) throws {
        var available = AvailableMemory(for: weights)
        let own = try MemoryPlan(
            manifest: model.manifest, shard: .whole(model.manifest.shape), pages: plan.pages, weightMemory: weights,
            compute: compute, stepRows: plan.stepRows)
        try own.tell(available)
        guard let workers else { return }
        available.bytes -= min(own.ownBytes, available.bytes)
        try ClusterBench.memory(
            model: model, plan: plan, workers: workers, compute: compute, weights: weights
        ).tell(available, of: "memory of the workers")
    }

    /// What measures in this process alone.
    private func local(_ model: ResolvedModel, _ plan: ModelBenchPlan, threads: Int) throws -> ModelBench {
        let manifest = model.manifest
        let engine = try Engine(
            manifest: manifest, store: model.store, shard: .whole(manifest.shape), pages: plan.pages, threads: threads,
            compute: compute, weightMemory: weights, logger: .notices)
        return ModelBench(runner: LocalRunner(engine: engine), plan: plan)
    }
}
