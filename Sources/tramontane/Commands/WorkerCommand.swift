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
        """)
    static let settings: [Setting] =
        [
            .option("coordinator"), .option("model"), .option("name"), .option("listen"), .option("advertise"),
            .option("metrics"),
            .option("threads"), .option("memory"), .option("compute"), .option("weights"), .flag("trust-blobs"),
            .flag("insecure-network"), .option("log-level"),
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

    @Option(help: WeightMemory.help)
    var weights = WeightMemory.mapped

    @Flag(help: "Use blobs without hashing them first.")
    var trustBlobs = false

    @Flag(help: "Allow a --listen and a --metrics that are not loopback. There is no encryption.")
    var insecureNetwork = false

    @Option(
        help: ArgumentHelp("trace, debug, info, notice, warning or error.", valueName: "level"),
        transform: LogLevel.parse)
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
}
