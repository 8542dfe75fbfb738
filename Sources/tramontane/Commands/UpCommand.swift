import ArgumentParser
import Engine
import Logging
import ModelStore
import Placement
import Wire

/// Starts a whole cluster on this machine.
struct UpCommand: Command {
    static let example =
        "tramontane up --model cluster/demo --workers 4 --stages 2 --http 127.0.0.1:8080 --listen 127.0.0.1:7000 "
        + "--state /tmp/demo"
    static let configuration = commandConfiguration(
        "up", "Starts a coordinator and workers on this machine.",
        """
        Imports the model if that is necessary, starts the processes, and prints `ready http=HOST:PORT listen=HOST:PORT` when \
        the cluster serves. Prometheus's metrics are at /metrics of the HTTP port; /metrics/targets there, and `status`, say where \
        those of the workers are. A worker that ends after that, however it does, is started again, after 1 to 30 seconds. Ctrl-C or SIGTERM end \
        requests under way with `shutting_down`, and every process it started; none outlives it.

        A topology file says who holds what:
          stages:
            - layers: 0-2
              workers:
                - { name: a, experts: 0-3 }
                - { name: b, experts: "3,4-7" }

        `tramontane help coordinator` shows a file of tenants.

        --numa all runs every worker on one NUMA node, with that node's processors and memory: one for each node, or as many \
        as --workers or the topology say, dealt out to the nodes one after the other.
        """)
    static let settings: [Setting] =
        [
            .option("state"), .option("threads"), .option("memory"), .option("weights"), .option("numa"),
            .option("worker-metrics"),
        ]
        + ServingOptions.settings
        + ModelOptions.settings

    @OptionGroup var serving: ServingOptions
    @OptionGroup var models: ModelOptions
    @OptionGroup var settingsFile: SettingsFile

    @Option(
        help: ArgumentHelp(
            "Where logs and cluster.json go. Default: a new directory in the temporary one.", valueName: "directory"))
    var state: String?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "Threads that compute in each worker. Default: this machine's, shared out.", valueName: "count"),
        transform: NumberParsing.threads)
    var threads: Int?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "Memory that each worker may use, such as 8GiB. Default: this machine's.", valueName: "size"),
        transform: NumberParsing.bytes)
    var memory: UInt64?

    @Option(help: WeightMemory.workerHelp)
    var weights: WeightMemory?

    @Option(
        help: ArgumentHelp("all: a worker on each NUMA node of this machine.", valueName: "nodes"),
        transform: NUMAChoice.parse)
    var numa: NUMAChoice?

    func validate() throws {
        guard !workerMetrics.isEvery else {
            throw ValidationError(
                "--worker-metrics \(workerMetrics) is every address of this machine; name the one that Prometheus reaches"
            )
        }
        guard let numa else { return try serving.requireWorkers() }
        guard numa == .all else {
            throw ValidationError("--numa: up takes \"all\"; a single node is for `tramontane worker`")
        }
    }

    @Option(
        help: ArgumentHelp(
            "Where the first worker's /metrics is; the next ones' are at the ports after it. Port 0 picks free ones. "
                + "Default: 127.0.0.1:0.",
            valueName: "host:port"),
        transform: Address.listening)
    var workerMetrics = Address(host: "127.0.0.1", port: 0)

    func run() throws {
        ProcessLimits.raiseDescriptors()
        ProcessLimits.ignoreBrokenPipes()
        let nodes = numa == nil ? nil : NUMANodes().usable
        let serving = options(on: nodes)
        let model = try models.resolve(serving.model)
        let topology = try serving.placed(model)
        // A mistake shows before anything is started.
        if let file = serving.tenants { _ = try TenantsFile.read(file) }
        if serving.kvMemory != nil {
            let summary = try serving.cacheSummary(shape: model.manifest.shape, topology: topology)
            StandardError.write("tramontane up: \(summary)\n")
        }
        try serving.checkMemory(
            model.manifest, topology: topology, weights: weights, available: ProcessLimits.memoryBytes)
        if let warning = try serving.warning(shape: model.manifest.shape, topology: topology) {
            StandardError.write("tramontane up: \(warning)\n")
        }
        let names = topology.workers
        guard workerMetrics.port + names.count - 1 <= 65_535 else {
            throw CommandError.usage(
                "--worker-metrics \(workerMetrics): \(names.count) ports from there are not to be had")
        }
        let places = try nodes.map {
            try NodeWorker.deal(names, over: $0, threads: threads, available: availableThreads())
        }
        let directory = try StateDirectory(state)
        if state == nil { StandardError.write("tramontane up: logs and cluster.json are in \(directory.path)\n") }
        let supervisor = try Supervisor(
            command: "up", workers: names, model: model.manifest.name, directory: directory,
            coordinatorArguments: ["coordinator", "--supervised"] + serving.arguments(modelPath: model.manifestPath),
            workerArguments: { name, coordinator in
                workerArguments(
                    name: name, coordinator: coordinator, modelPath: model.manifestPath, workers: names,
                    place: places?.first { $0.name == name })
            })
        let status = try supervisor.run()
        if status != 0 { throw CommandError(message: "", status: status) }
    }

    /// With a worker for each node, where nothing else says how many there are.
    func options(on nodes: [NUMANode]?) -> ServingOptions {
        var serving = serving
        if let nodes, serving.workers == nil, serving.topology == nil { serving.workers = nodes.count }
        return serving
    }

    /// What one of its workers is started with.
    ///
    /// - Parameters:
    ///   - workers: all of them
    ///   - place: the worker's NUMA node, where it has one
    func workerArguments(
        name: String, coordinator: String, modelPath: String, workers: [String], place: NodeWorker? = nil
    ) -> [String] {
        let index = workers.firstIndex(of: name) ?? 0
        let port = workerMetrics.port == 0 ? 0 : workerMetrics.port + index
        let threads = place?.threads ?? threads ?? max(1, availableThreads() / workers.count)
        var arguments = [
            "worker", "--supervised", "--name", name, "--coordinator", coordinator, "--model", modelPath,
            "--threads", "\(threads)", "--compute", serving.compute.rawValue, "--log-level", serving.logLevel.rawValue,
            "--metrics", "\(Address(host: workerMetrics.host, port: port))",
        ]
        if serving.insecureNetwork { arguments.append("--insecure-network") }
        if let place { arguments += ["--numa", "\(place.node)"] }
        if let weights { arguments += ["--weights", weights.rawValue] }
        if let memory { arguments += ["--memory", "\(memory)"] }
        return arguments
    }
}
