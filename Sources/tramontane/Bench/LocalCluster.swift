import Engine
import Logging
import ModelStore
import NIOCore
import NIOPosix
import Transport
import Wire
import Worker

/// Workers of one stage in this process, on real loopback sockets, and as much of a coordinator as placing them and sending
/// steps down lanes takes.
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
        /// By step and stream.
        var steps: [[Rows]]
        var isPrefill = false
        /// Pages that each stream needs.
        var pagesEach: Int
    }

    private let listener: Listener
    private let tasks: [Task<Void, any Error>]
    private let group: MultiThreadedEventLoopGroup
    private let lanes: [Connection]
    private let driver: NIOLoopBound<StepDriver>

    private static let epoch: UInt64 = 1
    private static var logger: Logger { Logger(label: "tramontane.bench") { _ in SwiftLogNoOpLogHandler() } }

    /// Starts a worker for each of `experts`, which it holds, and opens a lane through every one of `homes`.
    ///
    /// - Parameter pages: KV pages of each worker.
    init(
        model: ResolvedModel, experts: [[Int]], homes: [Int], threadsEach: Int, compute: ComputeBackend,
        weights: WeightMemory, pages: Int
    ) async throws {
        let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let (events, sink) = AsyncStream.makeStream(of: ControlEvent.self)
        let listener = try await Listener.bind(
            host: "127.0.0.1", port: 0, acceptLoop: group, childLoop: group,
            identity: LocalIdentity(role: .unspecified, name: "bench", incarnation: 1), roles: [.workerControl],
            logger: Self.logger, accept: { _ throws(Failure) in ControlDelegate(sink: sink) })
        let configurations = experts.indices.map { worker in
            var configuration = WorkerConfiguration(
                name: "worker-\(worker)", coordinatorHost: "127.0.0.1", coordinatorPort: listener.port,
                manifest: model.manifest, store: model.store, threads: threadsEach, memoryBytes: .max)
            configuration.compute = compute
            configuration.weightMemory = weights
            return configuration
        }
        let tasks = configurations.map { configuration in
            Task {
                do {
                    try await WorkerDaemon(configuration: configuration, logger: Self.logger).run()
                } catch {
                    sink.yield(.failed(Failure(code: "worker", message: "\(error)")))
                    throw error
                }
            }
        }
        do {
            let workers = try await Self.registrations(events, of: configurations.map(\.name))
            try await Self.assign(
                experts, homes: homes, to: workers, layers: model.manifest.shape.layers, pages: pages, events)
            let eventLoop = group.next()
            let driver = try await eventLoop.submit {
                NIOLoopBound(StepDriver(epoch: Self.epoch), eventLoop: eventLoop)
            }.get()
            var lanes: [Connection] = []
            for home in homes {
                let address = try Address(parsing: workers[home].register.dataAddress)
                let identity = LocalIdentity(
                    role: .coordinatorData, name: "bench", incarnation: 1,
                    numericsVersion: configurations[home].numericsVersion, manifestDigest: model.manifest.digest)
                lanes.append(
                    try await Connector.connect(
                        host: address.host, port: address.port, on: eventLoop, identity: identity,
                        makeDelegate: { _ in driver.value }))
            }
            self.lanes = lanes
            self.driver = driver
        } catch {
            try? await Self.stop(tasks, listener, group)
            throw error
        }
        self.listener = listener
        self.tasks = tasks
        self.group = group
    }

    /// Does a run on each lane, from the first: the first step of every one, then the second, and so on, in an order that
    /// turns round from step to step.
    ///
    /// - Parameter runs: no more than there are lanes.
    /// - Returns: by run, the seconds of every step, from its frame's sending to its result's arrival.
    func run(_ runs: [Run]) async throws -> [[Double]] {
        let (driver, lanes) = (driver, lanes)
        let done = lanes[0].eventLoop.makePromise(of: [[Double]].self)
        done.futureResult.eventLoop.execute { driver.value.start(runs, on: lanes, done) }
        return try await done.futureResult.get()
    }

    private typealias Registered = (register: ProtoRegister, connection: Connection)

    private static func registrations(
        _ events: AsyncStream<ControlEvent>, of names: [String]
    ) async throws -> [Registered] {
        var registered: [String: Registered] = [:]
        for await event in events {
            switch event {
            case .registered(let register, let connection): registered[register.name] = (register, connection)
            case .failed(let failure): throw failure
            case .ready: continue
            }
            if registered.count == names.count { return names.compactMap { registered[$0] } }
        }
        throw CancellationError()
    }

    /// Returns when all have loaded their shards.
    private static func assign(
        _ experts: [[Int]], homes: [Int], to workers: [Registered], layers: Int, pages: Int,
        _ events: AsyncStream<ControlEvent>
    ) async throws {
        var stage = ProtoStage()
        stage.layerCount = UInt32(clamping: layers)
        stage.members = zip(workers, experts).map { worker, experts in
            var member = ProtoMember()
            member.name = worker.register.name
            member.incarnation = worker.register.incarnation
            member.dataAddress = worker.register.dataAddress
            member.experts = experts.map { UInt32(clamping: $0) }
            return member
        }
        var assign = ProtoAssign()
        assign.placement.epoch = epoch
        assign.placement.stages = [stage]
        assign.placement.lanes = homes.map { home in
            var lane = ProtoLane()
            lane.workers = [workers[home].register.name]
            return lane
        }
        assign.pages = UInt32(clamping: pages)
        for worker in workers { worker.connection.send(Frame(.assign, assign, epoch: epoch)) }
        var waiting = workers.count
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
        throw CancellationError()
    }

    /// Ends the workers.
    func stop() async throws {
        for lane in lanes { lane.close() }
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
        var step: UInt64 = 0
        var streams: [UInt64] = []
    }

    /// Runs, one on each lane, as far as they have come.
    private struct Work {
        let runs: [LocalCluster.Run]
        let connections: [Connection]
        let done: EventLoopPromise<[[Double]]>
        /// Lanes, in the order of their steps.
        var turns: ArraySlice<Int>
        var times: [[Double]]
        var begin = ContinuousClock.now
    }

    private let epoch: UInt64
    private var lanes: [Lane] = []
    private var work: Work?
    /// Why there is no worker any more.
    private var gone: Failure?

    init(epoch: UInt64) {
        self.epoch = epoch
    }

    func start(_ runs: [LocalCluster.Run], on connections: [Connection], _ done: EventLoopPromise<[[Double]]>) {
        if let gone { return done.fail(gone) }
        if lanes.isEmpty { lanes = connections.map { _ in Lane() } }
        let turns = (0..<(runs.map(\.steps.count).max() ?? 0)).flatMap { step in
            let turn = runs.indices.filter { step < runs[$0].steps.count }
            return step.isMultiple(of: 2) ? turn : turn.reversed()
        }
        work = Work(
            runs: runs, connections: connections, done: done, turns: turns[...], times: runs.map { _ in [] })
        send()
    }

    /// The step whose turn it is, or the end.
    private func send() {
        guard let work else { return }
        guard let lane = work.turns.first else {
            self.work = nil
            return work.done.succeed(work.times)
        }
        let message = message(work.runs[lane], step: work.times[lane].count, lane: lane)
        self.work?.begin = .now
        work.connections[lane].send(Frame(.step, message, epoch: epoch))
    }

    private func message(_ run: LocalCluster.Run, step: Int, lane: Int) -> ProtoStep {
        let rows = run.steps[step]
        var message = ProtoStep()
        message.lane = UInt32(clamping: lane)
        message.class = run.isPrefill ? .prefill : .decode
        lanes[lane].step += 1
        message.stepID = lanes[lane].step
        message.tableSequence = message.stepID
        if step == 0 {
            message.released = lanes[lane].streams
            let first = (lanes[lane].streams.last ?? 0) + 1
            lanes[lane].streams = rows.indices.map { first + UInt64($0) }
        }
        for (stream, row) in rows.enumerated() {
            var sequence = ProtoSequenceRows()
            sequence.sequence = lanes[lane].streams[stream]
            sequence.position = UInt32(clamping: row.position)
            sequence.tokens = row.tokens
            sequence.sample = row.sample
            if step == 0 {
                sequence.pages = (stream * run.pagesEach..<(stream + 1) * run.pagesEach).map { UInt32(clamping: $0) }
                // Temperature 0: the most likely token.
                sequence.sampling.topP = 1
            }
            message.rows.append(sequence)
        }
        return message
    }

    func received(_ frame: Frame, on connection: Connection) {
        guard let work else { return }
        let seconds = (ContinuousClock.now - work.begin) / .seconds(1)
        do throws(Failure) {
            switch frame.kind {
            case .stepResult:
                let result: ProtoStepResult = try frame.message()
                if let failed = result.failures.first { throw Failure(failed.failure) }
                guard let lane = work.turns.first else { return }
                self.work?.turns.removeFirst()
                self.work?.times[lane].append(seconds)
                send()
            case .stepFailed:
                let failed: ProtoStepFailed = try frame.message()
                throw Failure(failed.failure)
            default: break
            }
        } catch {
            fail(error)
        }
    }

    func closed(_ reason: Failure?, on connection: Connection) {
        let failure = reason ?? Failure(code: "connection_closed", message: "a worker has gone")
        gone = failure
        fail(failure)
    }

    private func fail(_ failure: Failure) {
        work?.done.fail(failure)
        work = nil
    }
}
