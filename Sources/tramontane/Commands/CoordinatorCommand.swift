import ArgumentParser
import Coordinator
import Engine
import Gateway
import Logging
import ModelStore
import Placement
import ServiceLifecycle
import Wire

/// The daemon that admits requests and schedules steps, and its HTTP port.
struct CoordinatorCommand: Command {
    static let example =
        "tramontane coordinator --model /srv/tramontane/manifests/mixtral.json --workers 4 --stages 2 "
        + "--http 127.0.0.1:8080 --listen 127.0.0.1:7000"
    static let configuration = commandConfiguration(
        "coordinator", "Runs a cluster's coordinator; workers are started apart.",
        """
        Prints `listening http=HOST:PORT listen=HOST:PORT` when its ports are open and `ready http=HOST:PORT \
        listen=HOST:PORT` when the cluster serves. SIGTERM or Ctrl-C end it: requests under way end with `shutting_down`.

        A file of tenants says whose API keys are served, and what share of a busy cluster each gets:
          tenants:
            - { name: research, sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b, weight: 2 }
            - { name: nightly, key: sk-9f2c41d7, weight: 0.5 }
        """)
    static let settings = ServingOptions.settings + ModelOptions.settings

    @OptionGroup var serving: ServingOptions
    @OptionGroup var models: ModelOptions
    @OptionGroup var settingsFile: SettingsFile

    @Flag(help: .hidden)
    var supervised = false

    /// For the last bytes to clients that read slowly.
    static let graceSeconds = 3

    func validate() throws {
        try serving.requireWorkers()
    }

    func run() throws {
        let logger = try Daemon.prepare("coordinator", level: serving.logLevel, supervised: supervised)
        let model = try models.resolve(serving.model)
        let topology = try serving.placed(model)
        let cache = try serving.cacheSummary(shape: model.manifest.shape, topology: topology)
        logger.info("\(cache)")
        if let warning = try serving.warning(shape: model.manifest.shape, topology: topology) {
            logger.notice("\(warning)")
        }
        let coordinator = try Coordinator(configuration: try configuration(model, topology), logger: logger)
        ProcessMetrics.add(to: coordinator.metrics.registry, role: "coordinator", model: model.manifest.name)
        var gatewayConfiguration = Gateway.Configuration(host: serving.http.host, port: serving.http.port)
        gatewayConfiguration.insecureNetwork = serving.insecureNetwork
        let gateway = Gateway(configuration: gatewayConfiguration, coordinator: coordinator, logger: logger)
        let announcer = Announcer(coordinator: coordinator, gateway: gateway)
        // Ended from the last to the first: the coordinator gives its requests their end, and so nothing keeps the gateway,
        // which waits for the answers under way.
        try Daemon.run(
            [gateway, coordinator, announcer], supervised: supervised, graceSeconds: Self.graceSeconds, logger: logger)
    }

    private func configuration(_ model: ResolvedModel, _ topology: Topology) throws -> CoordinatorConfiguration {
        // Workers of an even layout have names of their own; a topology's are awaited.
        let layout =
            serving.topology == nil
            ? CoordinatorConfiguration.Layout.even(workers: serving.workers ?? 1, stages: serving.stages ?? 1)
            : .topology(topology)
        var configuration = CoordinatorConfiguration(manifest: model.manifest, store: model.store, layout: layout)
        configuration.host = serving.listen.host
        configuration.port = serving.listen.port
        configuration.insecureNetwork = serving.insecureNetwork
        configuration.usesOpenBLAS = serving.compute == .openblas
        configuration.contextLength = serving.contextLength
        configuration.pagesPerWorker = try serving.pagesPerWorker(shape: model.manifest.shape, topology: topology)
        if let rows = serving.stepTokens { configuration.stepTokens = rows }
        if let tokens = serving.queueTokens { configuration.queueTokenLimit = tokens }
        if let sequences = serving.sequencesPerLane { configuration.maximumSequencesPerLane = sequences }
        if let limit = serving.queueLimit { configuration.queueLimit = limit }
        if let file = serving.tenants { configuration.tenants = try TenantsFile.read(file) }
        return configuration
    }
}

/// Tells `up`, or whoever reads standard output, how far the cluster is.
private struct Announcer: Service {
    let coordinator: Coordinator
    let gateway: Gateway

    func run() async throws {
        do {
            try await cancelWhenGracefulShutdown {
                let listen = try await coordinator.listening()
                let http = try await gateway.listening()
                say(CoordinatorReport(.listening, http: http, listen: listen))
                try await coordinator.untilReady()
                say(CoordinatorReport(.ready, http: http, listen: listen))
            }
        } catch  where Task.isShuttingDownGracefully {
            // Told to end before the cluster served.
            return
        }
        try await gracefulShutdown()
    }

    /// A closed standard output is no reason to stop serving.
    private func say(_ report: CoordinatorReport) {
        try? StandardOutput.write(report.line)
    }
}
