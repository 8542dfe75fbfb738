import ArgumentParser
import Engine
import Logging
import ModelStore
import Tokenizer

/// Which model, for every command that loads or serves one.
struct ModelOptions: ParsableArguments {
    @Option(
        name: .customLong("cache"),
        help: ArgumentHelp(
            "Where models that are not in a store yet are imported to.",
            discussion: "Default: $TRAMONTANE_CACHE, or ~/.cache/tramontane.", valueName: "directory"))
    var cache: String?

    static let settings: [Setting] = [.option("cache")]

    /// Finds the model, importing it first where that is necessary.
    func resolve(_ pathOrName: String) throws -> ResolvedModel {
        let bar = ProgressBar("importing")
        defer { bar.clear() }
        let found = try ModelResolver.resolve(pathOrName, cache: cache) { bar.show($0) }
        return ResolvedModel(manifest: found.manifest, manifestPath: found.manifestPath, store: found.store)
    }
}

/// A model whose manifest was read.
struct ResolvedModel {
    let manifest: Manifest
    let manifestPath: String
    let store: Store

    func tokenizer() throws -> Tokenizer {
        let blob = try store.map(manifest.tokenizer, verify: true)
        return try Tokenizer(model: Array(blob.bytes))
    }
}

/// How this process computes.
struct EngineOptions: ParsableArguments {
    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "Threads that compute. Default: the processors that this process may use.", valueName: "count"),
        transform: NumberParsing.threads)
    var threads: Int?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "Rows of the prompt computed at once; changes no bit of the result. Default: 256.", valueName: "rows"),
        transform: { try NumberParsing.count($0, 1...65_536) })
    var prefillChunk = 256

    @Option(help: ComputeBackend.help)
    var compute = ComputeBackend.native

    @Option(help: WeightMemory.help)
    var weights = WeightMemory.mapped

    static let settings: [Setting] = [
        .option("threads"), .option("prefill-chunk"), .option("compute"), .option("weights"),
    ]

    /// A whole model in this process.
    ///
    /// - Parameter tokens: as many as a sequence may have; at most the model's context.
    func runner(_ model: ResolvedModel, tokens: Int) throws -> LocalRunner {
        let length = max(1, min(tokens, model.manifest.shape.contextLength))
        let pages = (length - 1) / Engine.pageTokens + 1
        let plan = try MemoryPlan(
            manifest: model.manifest, shard: .whole(model.manifest.shape), pages: pages, weightMemory: weights,
            compute: compute, stepRows: min(prefillChunk, length))
        let available = AvailableMemory(for: weights)
        try plan.tell(available)
        let engine = try Engine(
            manifest: model.manifest, store: model.store, shard: .whole(model.manifest.shape), pages: pages,
            threads: threads ?? availableThreads(), compute: compute,
            weightMemory: weights, logger: .notices)
        return LocalRunner(engine: engine)
    }
}

extension ComputeBackend: ExpressibleByArgument {
    static let help = ArgumentHelp(
        "native, or openblas: a second implementation of matrix products, whose results are not reproducible.",
        valueName: "backend")
}

extension WeightMemory: ExpressibleByArgument {
    static let help = help(default: "mapped")
    static let workerHelp = help(
        default: "mapped; resident on one of several NUMA nodes (--numa), where they fit there")

    private static func help(default value: String) -> ArgumentHelp {
        ArgumentHelp(
            "mapped, or resident: read at the start into memory of the process's own, in huge pages and on its NUMA node, "
                + "where no change of a file reaches. Changes no bit of the result. Default: \(value).",
            valueName: "memory")
    }
}

extension MemoryPlan {
    /// Says on standard error where the memory will go.
    ///
    /// - Throws: `EngineError` `memory_insufficient` where it does not fit.
    func tell(_ available: AvailableMemory, of owner: String = "memory") throws {
        StandardError.write(table(available).map { "\(owner): \($0)\n" }.joined())
        try check(available)
    }
}

extension Logger {
    /// For commands that log only what their user should know.
    static var notices: Logger {
        var logger = Logger(label: "tramontane", factory: { StreamLogHandler.standardError(label: $0) })
        logger.logLevel = .notice
        return logger
    }
}
