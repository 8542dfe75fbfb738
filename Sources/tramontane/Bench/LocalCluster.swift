import Engine
import Logging
import ModelStore
import NIOCore
import NIOPosix
import Transport
import Wire
import Worker

/// Workers of one stage in this process, on real loopback sockets, and as much of a coordinator as placing them and sending
/// steps down one lane takes.
final class LocalCluster: Sendable {
    /// Rows of a stream in one step.
    struct Rows: Sendable {
        var position: Int
        var tokens: [Int32]
        /// Whether the last one's logits are made and a token is chosen.
        var sample = true
    }

    /// New streams' rows, step after step.
    struct Run: Sendable {
        var lane = 0
        /// By step and stream.
        var steps: [[Rows]]
        var isPrefill = false
        /// Pages that each stream needs.
        var pagesEach: Int
    }

    private let daemons: [WorkerDaemon]
    private let listener: Listener
    private let tasks: [Task<Void, any Error>]
    private let events: AsyncStream<ControlEvent>
    private let group: MultiThreadedEventLoopGroup
    private let registered: [String: ProtoRegister]
    private let control: [String: Connection]
    private let layers: Int
    private let pages: Int

    private static var logger: Logger { Logger(label: "tramontane.bench") { _ in SwiftLogNoOpLogHandler() } }
    private static func name(_ worker: Int) -> String { "worker-\(worker)" }

    /// Starts workers and waits until they have registered.
    init(
        model: ResolvedModel, workers: Int, threadsEach: Int, compute: ComputeBackend, weights: WeightMemory, pages: Int
    ) async throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let (events, sink) = AsyncStream.makeStream(of: ControlEvent.self)
        let listener = try await Listener.bind(
            host: "127.0.0.1", port: 0, acceptLoop: group, childLoop: group,
            identity: LocalIdentity(role: .unspecified, name: "bench", incarnation: 1), roles: [.workerControl],
            logger: Self.logger, accept: { _ throws(Failure) in ControlDelegate(sink: sink) })
        let daemons = (0..<workers).map { worker in
            var configuration = WorkerConfiguration(
                name: Self.name(worker), coordinatorHost: "127.0.0.1", coordinatorPort: listener.port,
                manifest: model.manifest, store: model.store, threads: threadsEach, memoryBytes: .max)
            configuration.compute = compute
            configuration.weightMemory = weights
            return WorkerDaemon(configuration: configuration, logger: Self.logger)
        }
        let tasks = daemons.map { daemon in
            Task {
                do {
                    try await daemon.run()
                } catch {
                    sink.yield(.failed(Failure(code: "worker", message: "\(error)")))
                    throw error
                }
            }
        }
        var registered: [String: ProtoRegister] = [:]
        var control: [String: Connection] = [:]
        var failure: Failure?
        for await event in events {
            switch event {
            case .registered(let register, let connection):
                registered[register.name] = register
                control[register.name] = connection
            case .failed(let reason): failure = reason
            case .ready: continue
            }
            if registered.count == workers || failure != nil { break }
        }
        if let failure {
            try await Self.stop(tasks, listener, group)
            throw failure
        }
        self.daemons = daemons
        self.listener = listener
        self.tasks = tasks
        self.events = events
        self.group = group
        self.registered = registered
        self.control = control
        self.layers = model.manifest.shape.layers
        self.pages = pages
    }

    /// Gives the workers their experts, opens a lane through every one of `homes`, and does the runs one after the other.
    ///
    /// - Returns: by run, the seconds of every step, from its frame's sending to its result's arrival.
    func run(experts: [[Int]], homes: [Int], runs: [Run]) async throws -> [[Double]] {
        try await assign(experts: experts, homes: homes)
        let eventLoop = group.next()
        let done = eventLoop.makePromise(of: [[Double]].self)
        let driver = try await eventLoop.submit {
            NIOLoopBound(StepDriver(epoch: Self.epoch, runs: runs, done: done), eventLoop: eventLoop)
        }.get()
        var connections: [Connection] = []
        defer { for connection in connections { connection.close() } }
        do {
            for home in homes { connections.append(try await dial(home, on: eventLoop, driver)) }
            let lanes = connections
            eventLoop.execute { driver.value.start(lanes) }
        } catch {
            done.fail(error)
        }
        return try await done.futureResult.get()
    }

    /// A coordinator's data connection to a worker.
    private func dial(
        _ worker: Int, on eventLoop: any EventLoop, _ driver: NIOLoopBound<StepDriver>
    ) async throws -> Connection {
        let address = try Address(parsing: registered[Self.name(worker)]?.dataAddress ?? "")
        let configuration = daemons[worker].configuration
        let identity = LocalIdentity(
            role: .coordinatorData, name: "bench", incarnation: 1, numericsVersion: configuration.numericsVersion,
            manifestDigest: configuration.manifest.digest)
        return try await Connector.connect(
            host: address.host, port: address.port, on: eventLoop, identity: identity,
            makeDelegate: { _ in driver.value })
    }

    private static let epoch: UInt64 = 1

    private func assign(experts: [[Int]], homes: [Int]) async throws {
        var stage = ProtoStage()
        stage.layerCount = UInt32(clamping: layers)
        for (worker, experts) in experts.enumerated() {
            guard let register = registered[Self.name(worker)] else { continue }
            var member = ProtoMember()
            member.name = register.name
            member.incarnation = register.incarnation
            member.dataAddress = register.dataAddress
            member.experts = experts.map { UInt32(clamping: $0) }
            stage.members.append(member)
        }
        var assign = ProtoAssign()
        assign.placement.epoch = Self.epoch
        assign.placement.stages = [stage]
        assign.placement.lanes = homes.map { home in
            var lane = ProtoLane()
            lane.workers = [Self.name(home)]
            return lane
        }
        assign.pages = UInt32(clamping: pages)
        for connection in control.values { connection.send(Frame(.assign, assign, epoch: Self.epoch)) }
        var waiting = daemons.count
        for await event in events {
            switch event {
            case .ready(let ready):
                guard !ready.hasFailure else { throw Failure(ready.failure) }
                waiting -= 1
            case .failed(let failure): throw failure
            case .registered: continue
            }
            if waiting == 0 { return }
        }
    }

    /// Ends the workers.
    func stop() async throws {
        try await Self.stop(tasks, listener, group)
    }

    private static func stop(
        _ tasks: [Task<Void, any Error>], _ listener: Listener, _ group: MultiThreadedEventLoopGroup
    ) async throws {
        for task in tasks { task.cancel() }
        for task in tasks { _ = await task.result }
        await listener.close()
        try await group.shutdownGracefully()
    }
}

/// What a worker says of itself.
private enum ControlEvent: Sendable {
    case registered(ProtoRegister, Connection)
    case ready(ProtoShardReady)
    case failed(Failure)
}

private final class ControlDelegate: ConnectionDelegate {
    private let sink: AsyncStream<ControlEvent>.Continuation

    init(sink: AsyncStream<ControlEvent>.Continuation) {
        self.sink = sink
    }

    func received(_ frame: Frame, on connection: Connection) {
        do throws(Failure) {
            switch frame.kind {
            case .register: sink.yield(.registered(try frame.message(), connection))
            case .shardReady: sink.yield(.ready(try frame.message()))
            default: break
            }
        } catch {
            sink.yield(.failed(error))
        }
    }

    func closed(_ reason: Failure?, on connection: Connection) {
        sink.yield(.failed(reason ?? Failure(code: "connection_closed", message: "a worker has gone")))
    }
}

/// Sends one step after the other, each as soon as the last one's result is there. Confined to its event loop.
private final class StepDriver: ConnectionDelegate {
    /// What a lane's home has been told.
    private struct Lane {
        let connection: Connection
        var step: UInt64 = 0
        var streams: [UInt64] = []
    }

    private let epoch: UInt64
    private let runs: [LocalCluster.Run]
    private let done: EventLoopPromise<[[Double]]>
    private var lanes: [Lane] = []
    private var times: [[Double]] = []
    private var begin = ContinuousClock.now

    init(epoch: UInt64, runs: [LocalCluster.Run], done: EventLoopPromise<[[Double]]>) {
        self.epoch = epoch
        self.runs = runs
        self.done = done
    }

    func start(_ connections: [Connection]) {
        lanes = connections.map { Lane(connection: $0) }
        beginRun()
    }

    /// The run after those that `times` has, or the end.
    private func beginRun() {
        guard times.count < runs.count, !runs[times.count].steps.isEmpty else { return done.succeed(times) }
        times.append([])
        send(isFirst: true)
    }

    private func send(isFirst: Bool) {
        let run = runs[times.count - 1]
        let rows = run.steps[times[times.count - 1].count]
        var message = ProtoStep()
        message.lane = UInt32(clamping: run.lane)
        message.class = run.isPrefill ? .prefill : .decode
        lanes[run.lane].step += 1
        message.stepID = lanes[run.lane].step
        message.tableSequence = message.stepID
        if isFirst {
            message.released = lanes[run.lane].streams
            let first = (lanes[run.lane].streams.last ?? 0) + 1
            lanes[run.lane].streams = rows.indices.map { first + UInt64($0) }
        }
        for (stream, row) in rows.enumerated() {
            var sequence = ProtoSequenceRows()
            sequence.sequence = lanes[run.lane].streams[stream]
            sequence.position = UInt32(clamping: row.position)
            sequence.tokens = row.tokens
            sequence.sample = row.sample
            if isFirst {
                sequence.pages = (stream * run.pagesEach..<(stream + 1) * run.pagesEach).map { UInt32(clamping: $0) }
                // Temperature 0: the most likely token.
                sequence.sampling.topP = 1
            }
            message.rows.append(sequence)
        }
        begin = ContinuousClock.now
        lanes[run.lane].connection.send(Frame(.step, message, epoch: epoch))
    }

    func received(_ frame: Frame, on connection: Connection) {
        let seconds = (ContinuousClock.now - begin) / .seconds(1)
        do throws(Failure) {
            switch frame.kind {
            case .stepResult:
                let result: ProtoStepResult = try frame.message()
                if let failed = result.failures.first { throw Failure(failed.failure) }
                times[times.count - 1].append(seconds)
                if times[times.count - 1].count < runs[times.count - 1].steps.count {
                    send(isFirst: false)
                } else {
                    beginRun()
                }
            case .stepFailed:
                let failed: ProtoStepFailed = try frame.message()
                throw Failure(failed.failure)
            default: break
            }
        } catch {
            done.fail(error)
        }
    }

    func closed(_ reason: Failure?, on connection: Connection) {
        // Once the runs are done this does nothing.
        done.fail(reason ?? Failure(code: "connection_closed", message: "a worker has gone"))
    }
}
