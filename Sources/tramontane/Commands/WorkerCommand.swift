import ArgumentParser
import Engine
import Gateway
import Logging
import ModelStore
import Placement
import Prometheus
import ServiceLifecycle
import Wire
import Worker

/// The daemon that holds a part of a model and computes.
struct WorkerCommand: Command {
    static let example =
        "tramontane worker --coordinator 127.0.0.1:7000 --model /srv/tramontane/manifests/mixtral.json --name worker-0"
    static let configuration = commandConfiguration(
        "worker", "Runs one worker, which joins a coordinator.",
        """
        It waits for a coordinator that is not there yet, or not any more. Where the coordinator refuses what it was started \
        with (its name, its model, its --compute) it says so and ends with status 1. SIGTERM or Ctrl-C end it.

        On a machine of several NUMA nodes a worker does best with one of them: --numa 1 runs it on node 1's processors, with \
        its memory in node 1. --numa all starts one worker for each node that has processors and memory, with the node's number \
        after its name (--name a: a-0, a-1) and ports that follow --listen's. A worker among them that a signal ends is started \
        again; one that ends by itself with an error has all end.
        """)
    static let settings: [Setting] =
        [
            .option("coordinator"), .option("model"), .option("name"), .option("listen"), .option("advertise"),
            .option("metrics"), .option("threads"), .option("memory"), .option("compute"), .option("weights"),
            .option("numa"), .flag("trust-blobs"), .flag("insecure-network"), .option("log-level"),
        ] + ModelOptions.settings

    @Option(
        help: ArgumentHelp("The coordinator's binary port.", valueName: "host:port"), transform: Address.remote)
    var coordinator: Address

    @Option(help: ArgumentHelp("A manifest, a GGUF file, a safetensors directory or a stored name.", valueName: "path"))
    var model: String

    @Option(help: ArgumentHelp("Unique in the cluster; a topology names workers by it.", valueName: "name"))
    var name: String

    @Option(
        help: ArgumentHelp(
            "Where other workers connect; port 0 picks a free one. Default: 127.0.0.1:0.", valueName: "host:port"),
        transform: Address.listening)
    var listen = Address(host: "127.0.0.1", port: 0)

    @Option(
        help: ArgumentHelp("The host by which others reach this one, where --listen is not it.", valueName: "host"),
        transform: Address.host)
    var advertise: String?

    @Option(
        help: ArgumentHelp(
            "Where Prometheus gets /metrics; port 0 picks a free one. The cluster's status says where it is. Default: nowhere.",
            valueName: "host:port"),
        transform: Address.listening)
    var metrics: Address?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "Threads that compute. Default: the processors that this process may use.", valueName: "count"),
        transform: NumberParsing.threads)
    var threads: Int?

    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("Memory for weights and KV, such as 8GiB. Default: this machine's.", valueName: "size"),
        transform: NumberParsing.bytes)
    var memory: UInt64?

    @Option(help: ArgumentHelp("native or openblas, as the coordinator's.", valueName: "backend"))
    var compute = ComputeBackend.native

    @Option(help: WeightMemory.workerHelp)
    var weights: WeightMemory?

    @Option(
        help: ArgumentHelp(
            "The NUMA node to run on, or all: a worker on each. Default: wherever the system puts it.",
            valueName: "node"),
        transform: NUMAChoice.parse)
    var numa: NUMAChoice?

    @Flag(help: "Use blobs without hashing them first.")
    var trustBlobs = false

    @Flag(help: "Allow a --listen and a --metrics that are not loopback. There is no encryption.")
    var insecureNetwork = false

    @Option(
        help: LogLevel.help, transform: LogLevel.parse)
    var logLevel = Logger.Level.info

    @OptionGroup var models: ModelOptions
    @OptionGroup var settingsFile: SettingsFile

    @Flag(help: .hidden)
    var supervised = false

    /// For the product that is being computed, or the blob that is being read.
    static let graceSeconds = 4

    func validate() throws {
        if let problem = Topology.problem(withName: name) {
            throw ValidationError("--name: a worker's name \(problem)")
        }
        guard advertise == nil else { return }
        let listeners = [("--listen", listen)] + (metrics.map { [("--metrics", $0)] } ?? [])
        for (option, address) in listeners where address.isEvery {
            throw ValidationError(
                "\(option) \(address) is every address of this machine; --advertise HOST says at which others reach it")
        }
    }

    func run() throws {
        switch numa {
        case .all: return try runOnEveryNode()
        // Before there are other threads, which then run there too.
        case .node(let number): try NUMANodes().node(number).pin()
        case nil: break
        }
        let logger = try Daemon.prepare(name, level: logLevel, supervised: supervised)
        let model = try models.resolve(model)
        var configuration = WorkerConfiguration(
            name: name, coordinatorHost: coordinator.host, coordinatorPort: coordinator.port, manifest: model.manifest,
            store: model.store, threads: threads ?? availableThreads(),
            memoryBytes: memory ?? ProcessLimits.memoryBytes)
        configuration.listenHost = listen.host
        configuration.listenPort = listen.port
        configuration.advertisedHost = advertise
        configuration.compute = compute
        configuration.weightMemory = weights
        configuration.verifyBlobs = !trustBlobs
        configuration.insecureNetwork = insecureNetwork
        guard let metrics else {
            return try run([WorkerDaemon(configuration: configuration, logger: logger)], logger)
        }
        var endpointConfiguration = Gateway.Configuration(host: metrics.host, port: metrics.port)
        endpointConfiguration.insecureNetwork = insecureNetwork
        let registry = PrometheusRegistry()
        ProcessMetrics.add(to: registry, role: "worker", model: model.manifest.name)
        let endpoint = MetricsEndpoint(configuration: endpointConfiguration, registry: registry, logger: logger)
        let advertised = metrics.isEvery ? advertise : nil
        let daemon = WorkerDaemon(configuration: configuration, registry: registry, logger: logger) {
            let address = try await endpoint.listening()
            guard let advertised else { return address }
            return "\(Address(host: advertised, port: try Address(parsing: address).port))"
        }
        // The worker says where the endpoint is, and so ends before it.
        try run([endpoint, daemon], logger)
    }

    private func run(_ services: [any Service], _ logger: Logger) throws {
        try Daemon.run(services, supervised: supervised, graceSeconds: Self.graceSeconds, logger: logger)
    }

    /// A worker process for each NUMA node, until told to stop.
    private func runOnEveryNode() throws {
        ProcessLimits.raiseDescriptors()
        ProcessLimits.ignoreBrokenPipes()
        let workers = try nodeWorkers(NUMANodes().usable, available: availableThreads())
        let model = try models.resolve(model)
        let arguments = workers.enumerated().map { index, worker in
            (worker.worker.name, self.arguments(worker.worker, worker.listen, model.manifestPath, index: index))
        }
        let supervisor = try Supervisor(
            command: "worker", workers: arguments.map(\.0), model: model.manifest.name, directory: nil,
            coordinatorArguments: nil,
            workerArguments: { name, _ in arguments.first { $0.0 == name }?.1 ?? [] })
        let status = try supervisor.run()
        if status != 0 { throw CommandError(message: "", status: status) }
    }

    /// One worker for each node, and where it listens.
    func nodeWorkers(_ nodes: [NUMANode], available: Int) throws -> [(worker: NodeWorker, listen: Address)] {
        let workers = try NodeWorker.deal(
            nodes.map { "\(name)-\($0.number)" }, over: nodes, threads: threads, available: available)
        return try workers.enumerated().map { index, worker in
            if let problem = Topology.problem(withName: worker.name) {
                throw CommandError.usage("--name \(name): \"\(worker.name)\" is too much, a worker's name \(problem)")
            }
            for (option, address) in [("listen", listen), ("metrics", metrics)] {
                guard let address, address.port + workers.count - 1 > 65_535 else { continue }
                throw CommandError.usage("--\(option) \(address): there are no \(workers.count) ports from there")
            }
            return (worker, Self.following(listen, index))
        }
    }

    /// The same host, and a port so much further; a port that the system picks stays so.
    private static func following(_ address: Address, _ index: Int) -> Address {
        Address(host: address.host, port: address.port == 0 ? 0 : address.port + index)
    }

    /// What the worker of one node is started with.
    func arguments(_ worker: NodeWorker, _ listen: Address, _ modelPath: String, index: Int) -> [String] {
        var arguments = [
            "worker", "--supervised", "--name", worker.name, "--numa", "\(worker.node)", "--threads",
            "\(worker.threads)",
            "--coordinator", "\(coordinator)", "--model", modelPath, "--listen", "\(listen)",
            "--compute", compute.rawValue, "--log-level", logLevel.rawValue,
        ]
        if let metrics { arguments += ["--metrics", "\(Self.following(metrics, index))"] }
        if let advertise { arguments += ["--advertise", advertise] }
        if let memory { arguments += ["--memory", "\(memory)"] }
        if let weights { arguments += ["--weights", weights.rawValue] }
        if trustBlobs { arguments.append("--trust-blobs") }
        if insecureNetwork { arguments.append("--insecure-network") }
        return arguments
    }
}
