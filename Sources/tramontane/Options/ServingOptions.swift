import ArgumentParser
import Coordinator
import Engine
import Logging
import ModelStore
import Placement
import Wire

/// What `up` and `coordinator` are told alike.
struct ServingOptions: ParsableArguments {
    private static let maximumPages = 1 << 24

    @Option(help: ArgumentHelp("A manifest, a GGUF file, a safetensors directory or a stored name.", valueName: "path"))
    var model: String

    @Option(
        help: ArgumentHelp(
            "Where the OpenAI API is served; port 0 picks a free one. Default: 127.0.0.1:8080.", valueName: "host:port"),
        transform: Address.listening)
    var http = Address(host: "127.0.0.1", port: 8080)

    @Option(
        help: ArgumentHelp(
            "Where workers and SDK clients connect; port 0 picks a free one. Default: 127.0.0.1:7000.",
            valueName: "host:port"),
        transform: Address.listening)
    var listen = Address(host: "127.0.0.1", port: 7000)

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Workers that share the model evenly.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...4096) })
    var workers: Int?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Runs of layers that the workers are split over. Default: 1.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...4096) })
    var stages: Int?

    @Option(
        help: ArgumentHelp("Who holds what, as YAML; in place of --workers and --stages.", valueName: "file"))
    var topology: String?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Longest sequence served, in tokens. Default: the model's.", valueName: "tokens"),
        transform: { try NumberParsing.count($0, 2...(1 << 30)) })
    var contextLength: Int?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("KV pages of 32 tokens of every worker.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...Self.maximumPages) })
    var pages: Int?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "Memory for the KV pages of every worker, such as 2GiB; in place of --pages.", valueName: "size"),
        transform: NumberParsing.bytes)
    var kvMemory: UInt64?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "Most rows in one step: those of answers first, then those of prompts. Changes no bit of the results. "
                + "Default: 256.", valueName: "rows"),
        transform: { try NumberParsing.count($0, 2...8192) })
    var stepTokens: Int?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Most requests that wait; one more is refused.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...1_048_576) })
    var queueLimit: Int?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "Most tokens in the prompts of requests that wait. Default: 1048576.", valueName: "tokens"),
        transform: { try NumberParsing.count($0, 1...(1 << 40)) })
    var queueTokens: Int?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Most requests that run in a lane at once. Default: 64.", valueName: "count"),
        transform: { try NumberParsing.count($0, 1...4096) })
    var sequencesPerLane: Int?

    @Option(
        help: ArgumentHelp(
            "Who is served, by API keys, as YAML. Without it every key is a tenant, and so is none.", valueName: "file")
    )
    var tenants: String?

    @Option(
        help: ArgumentHelp(
            "Every worker's backend: native, or openblas, whose results are not reproducible.", valueName: "backend"))
    var compute = ComputeBackend.native

    @Flag(
        help: "Allow addresses that are not loopback. There is no encryption: whoever reaches the ports is served.")
    var insecureNetwork = false

    @Option(
        help: LogLevel.help, transform: LogLevel.parse)
    var logLevel = Logger.Level.info

    static let settings: [Setting] = [
        .option("model"), .option("http"), .option("listen"), .option("workers", alternatives: ["topology"]),
        .option("stages", alternatives: ["topology"]), .option("topology", alternatives: ["workers", "stages"]),
        .option("context-length"), .option("pages", alternatives: ["kv-memory"]),
        .option("kv-memory", alternatives: ["pages"]), .option("step-tokens"), .option("queue-limit"),
        .option("queue-tokens"), .option("sequences-per-lane"),
        .option("tenants"),
        .option("compute"), .flag("insecure-network"), .option("log-level"),
    ]

    func validate() throws {
        if topology != nil {
            guard workers == nil, stages == nil else {
                throw ValidationError("--topology says who holds what; leave --workers and --stages out")
            }
        }
        guard pages == nil || kvMemory == nil else {
            throw ValidationError("--pages and --kv-memory both say how much KV cache a worker has; leave one out")
        }
    }

    /// For commands that nothing else tells how many workers there are.
    func requireWorkers() throws {
        guard workers != nil || topology != nil else {
            throw ValidationError("--workers COUNT or --topology FILE is missing")
        }
    }

    /// KV pages of every worker: as many as --kv-memory has room for in the worker with most layers, or what --pages says.
    ///
    /// - Throws: `CommandError` where not one page fits, or more than a worker can have.
    func pagesPerWorker(shape: ModelShape, topology: Topology) throws -> Int {
        guard let kvMemory else { return pages ?? CoordinatorConfiguration.defaultPagesPerWorker }
        let layers = topology.stages.map(\.layers.count).max() ?? 0
        let fitting = Engine.pages(within: kvMemory, layers: layers, shape: shape)
        guard fitting.pages > 0 else {
            throw CommandError.usage(
                "--kv-memory: \(kvMemory) bytes; a page of \(Engine.pageTokens) tokens takes \(fitting.pageBytes) in a worker "
                    + "of \(layers) layers")
        }
        guard fitting.pages <= UInt64(Self.maximumPages) else {
            throw CommandError.usage(
                "--kv-memory: \(kvMemory) bytes are \(fitting.pages) pages of \(Engine.pageTokens) tokens; a worker has "
                    + "\(Self.maximumPages) at most")
        }
        return Int(fitting.pages)
    }

    /// Checks that all workers fit into this machine.
    ///
    /// - Parameter weights: where they have their weights, if something says so.
    /// - Throws: `TopologyError` `memory_insufficient`, and `CommandError` as `pagesPerWorker` does.
    func checkMemory(_ manifest: Manifest, topology: Topology, weights: WeightMemory?, available: UInt64) throws {
        try Capacity(manifest: manifest).checkTogether(
            topology, pages: pagesPerWorker(shape: manifest.shape, topology: topology),
            weightsAreResident: weights == .resident, available: available)
    }

    /// How much KV cache there will be.
    func cacheSummary(shape: ModelShape, topology: Topology) throws -> String {
        let pages = try pagesPerWorker(shape: shape, topology: topology)
        let tokens = LanePages.tokens(pages: pages, lanes: topology.lanes)
        let lanes = topology.lanes.count
        return
            "KV cache: \(pages) page\(pages == 1 ? "" : "s") of \(Engine.pageTokens) tokens in each worker, room for "
            + "\(tokens) tokens\(lanes == 1 ? "" : " in each of \(lanes) lanes")"
    }

    /// What `up` hands on to its coordinator.
    func arguments(modelPath: String) -> [String] {
        var arguments = ["--model", modelPath, "--http", "\(http)", "--listen", "\(listen)"]
        func add(_ name: String, _ value: (some Any)?) {
            if let value { arguments += ["--\(name)", "\(value)"] }
        }
        add("workers", workers)
        add("stages", stages)
        add("topology", topology)
        add("context-length", contextLength)
        add("pages", pages)
        add("kv-memory", kvMemory)
        add("step-tokens", stepTokens)
        add("queue-limit", queueLimit)
        add("queue-tokens", queueTokens)
        add("sequences-per-lane", sequencesPerLane)
        add("tenants", tenants)
        add("compute", compute.rawValue)
        add("log-level", logLevel.rawValue)
        if insecureNetwork { arguments.append("--insecure-network") }
        return arguments
    }
}

/// For `@Option(transform:)`.
enum LogLevel {
    static let help = ArgumentHelp(
        "trace, debug, info, notice, warning, error or critical. Default: info.", valueName: "level")

    static func parse(_ text: String) throws -> Logger.Level {
        guard let level = Logger.Level(rawValue: text.lowercased()) else {
            let names = Logger.Level.allCases.map(\.rawValue)
            throw ValidationError("\"\(text)\" is no log level\(Suggestion.text(for: text, among: names))")
        }
        return level
    }
}
