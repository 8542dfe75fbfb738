import Engine
package import Logging
import ModelStore
import NIOCore
import NIOPosix
package import Prometheus
import ServiceLifecycle
import Synchronization
import Transport
import Wire

/// A worker process's service: joins a coordinator, loads the shard it is given, and computes until it is told to stop.
///
/// Two event loops: one owns the engine and all data connections and computes on its own thread; the other speaks to the
/// coordinator and stays responsive meanwhile. When the coordinator goes away the worker keeps its weights and dials again;
/// it ends by graceful shutdown or cancellation, because its files or its memory do not let it hold its shard, or because
/// the coordinator refuses what it was started with.
package final class WorkerDaemon: Service {
    package let configuration: WorkerConfiguration
    /// Drawn when the process started.
    package let incarnation: UInt64
    package let accounting: WorkerAccounting
    /// Where this worker's `/metrics` is, as HOST:PORT, once that is known.
    private let metricsAddress: @Sendable () async throws -> String
    private let logger: Logger
    private let control = Mutex(Control())

    private struct Control {
        var connection: Connection?
        /// The shard was ready once on this connection.
        var wasReady = false
        /// Why this worker cannot go on.
        var unable: Failure?
    }

    /// - Parameters:
    ///   - registry: where its metrics are kept
    ///   - metricsAddress: HOST:PORT at which they are served, which the coordinator tells who asks for it; empty where they
    ///     are not
    package init(
        configuration: WorkerConfiguration, registry: PrometheusRegistry = PrometheusRegistry(), logger: Logger,
        metricsAddress: @escaping @Sendable () async throws -> String = { "" }
    ) {
        self.metricsAddress = metricsAddress
        accounting = WorkerAccounting(registry: registry)
        self.configuration = configuration
        self.incarnation = UInt64.random(in: 1...UInt64.max)
        var logger = logger
        logger[metadataKey: "worker"] = "\(configuration.name)"
        self.logger = logger
    }

    /// Runs until graceful shutdown.
    ///
    /// - Throws: `Failure` where the data listener cannot be bound, the shard cannot be loaded (a blob that is missing, cut
    ///   or altered is named), or the coordinator refuses this worker's name, model, numerics, memory or address. Nothing
    ///   that another worker does ends it.
    package func run() async throws {
        let dataGroup = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let controlGroup = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let loader = ShardLoader(configuration: configuration, logger: logger)
        let result: Result<Void, any Error>
        do {
            try await serve(dataLoop: dataGroup.next(), controlLoop: controlGroup.next(), loader: loader)
            result = .success(())
        } catch {
            result = .failure(error)
        }
        await loader.shutDown()
        try await controlGroup.shutdownGracefully()
        try await dataGroup.shutdownGracefully()
        try result.get()
    }

    private func serve(dataLoop: any EventLoop, controlLoop: any EventLoop, loader: ShardLoader) async throws {
        let loop = try await DataLoop.open(on: dataLoop).get()
        let own = PeerID(name: configuration.name, incarnation: incarnation)
        let plane = try await dataLoop.submit { [self] in
            NIOLoopBound(
                DataPlane(
                    loop: loop.value, configuration: configuration, own: own, accounting: accounting, logger: logger,
                    report: { [weak self] in self?.send($0) }),
                eventLoop: dataLoop)
        }.get()
        let listener = try await Listener.bind(
            host: configuration.listenHost, port: configuration.listenPort, acceptLoop: controlLoop,
            childLoop: dataLoop, identity: identity, roles: [.coordinatorData, .workerData],
            insecureNetwork: configuration.insecureNetwork, logger: logger,
            accept: { connection throws(Failure) in plane.value.accept(connection) })
        let register = registration(
            port: listener.port, host: listener.address.ipAddress ?? configuration.listenHost,
            metricsAddress: try await metricsAddress())
        logger.info("worker listens", metadata: ["address": "\(register.dataAddress)"])

        let unable: Failure? = await cancelWhenGracefulShutdown { [self] in
            var rejoining = Rejoining(
                coordinator: "\(configuration.coordinatorHost):\(configuration.coordinatorPort)")
            var generator = SystemRandomNumberGenerator()
            while !Task.isCancelled {
                let end = await session(on: controlLoop, register: register) { assign in
                    dataLoop.execute { plane.value.assign(assign, loader: loader) }
                }
                guard !Task.isCancelled else { break }
                let state = control.withLock { $0 }
                if let unable = state.unable { return unable }
                let reason = end.reason ?? Failure(code: "connection_closed", message: "the connection was closed")
                switch rejoining.ended(reason, wasReady: state.wasReady, using: &generator) {
                case .giveUp(let failure):
                    return failure
                case .dial(let milliseconds, let message, let level):
                    logger.log(level: level, "\(message)", metadata: ["reason": "\(reason)"])
                    // Ends early when the task is cancelled, which the loop then sees.
                    try? await Task.sleep(for: .milliseconds(milliseconds))
                }
            }
            return nil
        }
        await listener.close()
        try await dataLoop.submit { plane.value.close() }.get()
        if let unable { throw unable }
    }

    /// One connection to the coordinator, from dialling to its end.
    private func session(
        on controlLoop: any EventLoop, register: ProtoRegister, onAssign: @escaping @Sendable (ProtoAssign) -> Void
    ) async -> ControlSession.End {
        let ended = controlLoop.makePromise(of: ControlSession.End.self)
        var identity = identity
        identity.role = .workerControl
        Connector.dial(
            host: configuration.coordinatorHost, port: configuration.coordinatorPort, on: controlLoop,
            identity: identity,
            makeDelegate: { [self] connection in
                let session = ControlSession(accounting: accounting, ended: ended, onAssign: onAssign)
                control.withLock {
                    $0.connection = connection
                    $0.wasReady = false
                }
                session.begin(
                    on: connection, register: register, heartbeatMilliseconds: configuration.heartbeatMilliseconds)
                return session
            }
        ).whenFailure { error in
            let failure = error as? Failure ?? Failure(code: "connect_failed", message: "\(error)")
            ended.succeed(ControlSession.End(reason: failure))
        }
        return await withTaskCancellationHandler {
            // The promise is only ever fulfilled.
            let end = try? await ended.futureResult.get()
            control.withLock { $0.connection = nil }
            return end ?? ControlSession.End(reason: nil)
        } onCancel: {
            control.withLock { $0.connection }?.close()
            // While it still dials there is nothing to close; the answer is no longer waited for.
            ended.succeed(ControlSession.End(reason: nil))
        }
    }

    private func send(_ report: WorkerReport) {
        let connection = control.withLock { control in
            switch report {
            case .shardReady: control.wasReady = true
            case .shardRefused(_, let failure, .worker): control.unable = failure
            case .shardRefused, .peerLost: break
            }
            return control.connection
        }
        switch report {
        case .shardReady(let ready):
            connection?.send(Frame(.shardReady, ready, epoch: ready.epoch))
        case .shardRefused(let epoch, let failure, let blame):
            var refusal = ProtoShardReady()
            refusal.epoch = epoch
            refusal.failure = ProtoFailure(failure)
            connection?.send(Frame(.shardReady, refusal, epoch: epoch))
            if case .worker = blame { connection?.close() }
        case .peerLost(let lost):
            connection?.send(Frame(.peerLost, lost))
        }
    }

    private var identity: LocalIdentity {
        LocalIdentity(
            role: .workerData, name: configuration.name, incarnation: incarnation,
            numericsVersion: configuration.numericsVersion,
            manifestDigest: configuration.manifest.digest, rowCredits: UInt32(clamping: configuration.rowCredits))
    }

    private func registration(port: Int, host: String, metricsAddress: String) -> ProtoRegister {
        let host = configuration.advertisedHost ?? host
        var register = ProtoRegister()
        register.metricsAddress = metricsAddress
        register.name = configuration.name
        register.incarnation = incarnation
        register.dataAddress = host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        register.threads = UInt32(clamping: configuration.threads)
        register.memoryBytes = configuration.memoryBytes
        register.numericsVersion = configuration.numericsVersion
        register.manifestDigest = .init(configuration.manifest.digest)
        register.processID = UInt32(truncatingIfNeeded: getpid())
        register.instructionSet = instructionSetName()
        return register
    }
}
