import Engine
import Foundation
import Logging
import ModelStore
import NIOCore
import NIOPosix
import Prometheus
import TestSupport
import Transport
import Wire
import Worker

/// Models imported once in a run, into a directory that goes when the process does.
enum TestModels {
    struct Imported: Sendable {
        let manifest: Manifest
        let store: Store

        func runner() throws -> LocalRunner {
            LocalRunner(
                engine: try Engine(
                    manifest: manifest, store: store, shard: .whole(manifest.shape),
                    pages: (manifest.shape.contextLength + Engine.pageTokens - 1) / Engine.pageTokens, threads: 1))
        }
    }

    private static let directory: URL = {
        let url = FileManager.default.temporaryDirectory.appending(path: "tramontane-worker-tests-\(getpid())")
        atexit { try? FileManager.default.removeItem(at: TestModels.directory) }
        return url
    }()

    private static func imported(_ source: URL, _ name: String) -> Result<Imported, any Error> {
        Result {
            let store = Store(directory: directory.appending(path: "store").path)
            let path = try Importer.run(source: source.path, store: store, name: name)
            return Imported(manifest: try store.loadManifest(path: path), store: store)
        }
    }

    /// The demo with 8-bit weights: rows cross the wire quantised.
    static let demo = imported(Fixtures.url("gguf/demo-q8_0.gguf"), "demo")

    /// Five experts, three of them used: outputs come back one by one.
    static let tiny = Result {
        let source = directory.appending(path: "tiny")
        try TinyModel().write(to: source)
        return try imported(source, "tiny").get()
    }
}

/// What the stub of a coordinator hears.
enum ClusterEvent: Sendable {
    case registered(ProtoRegister, Connection)
    case ready(String, ProtoShardReady)
    case heartbeat(String, ProtoHeartbeat)
    case peerLost(String, ProtoPeerLost)
    case result(ProtoStepResult)
    case failed(ProtoStepFailed)
    case closed(String, Failure?)
    /// Any other frame: what a home hears.
    case frame(Frame)
}

/// Workers in this process, on real sockets, and a stub of a coordinator that speaks to them in frames.
final class TestCluster {
    struct Member: Sendable {
        let name: String
        let experts: [Int]
    }

    let model: TestModels.Imported
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let events: AsyncStream<ClusterEvent>
    var iterator: AsyncStream<ClusterEvent>.AsyncIterator
    private let sink: AsyncStream<ClusterEvent>.Continuation
    private var listener: Listener?
    private(set) var daemons: [String: WorkerDaemon] = [:]
    private var registries: [String: PrometheusRegistry] = [:]
    private var tasks: [String: Task<Void, any Error>] = [:]
    private(set) var registered: [String: (register: ProtoRegister, control: Connection)] = [:]
    private(set) var data: [String: Connection] = [:]
    private(set) var placement = ProtoPlacement()
    private var nextStep: [UInt32: UInt64] = [:]
    /// Events that a wait skipped and another wants.
    private var skipped: [ClusterEvent] = []
    var epoch: UInt64 = 0

    init(model: TestModels.Imported) {
        self.model = model
        (events, sink) = AsyncStream.makeStream()
        iterator = events.makeAsyncIterator()
    }

    private static var logger: Logger {
        var logger = Logger(label: "test")
        logger.logLevel = .critical
        return logger
    }

    /// Starts workers, waits for their registrations, assigns and waits until they are ready.
    ///
    /// - Parameter stages: members by stage; layers are dealt evenly.
    func start(stages: [[Member]], lanes: [[String]], configure: (inout WorkerConfiguration) -> Void = { _ in })
        async throws
    {
        let sink = sink
        let listener = try await Listener.bind(
            host: "127.0.0.1", port: 0, acceptLoop: group, childLoop: group,
            identity: LocalIdentity(role: .unspecified, name: "coordinator", incarnation: 1),
            roles: [.workerControl], logger: Self.logger,
            accept: { connection throws(Failure) in StubDelegate(name: connection.peer.name, sink: sink) })
        self.listener = listener
        for member in stages.joined() {
            var configuration = WorkerConfiguration(
                name: member.name, coordinatorHost: "127.0.0.1", coordinatorPort: listener.port,
                manifest: model.manifest, store: model.store, threads: 1, memoryBytes: 1 << 34)
            configure(&configuration)
            let registry = PrometheusRegistry()
            registries[member.name] = registry
            let daemon = WorkerDaemon(configuration: configuration, registry: registry, logger: Self.logger)
            daemons[member.name] = daemon
            tasks[member.name] = Task { try await daemon.run() }
        }
        try await assign(stages: stages, lanes: lanes)
    }

    /// Waits for everybody's registration, sends the placement under a new epoch, and waits until all are ready.
    func assign(stages: [[Member]], lanes: [[String]]) async throws {
        let names = Set(stages.joined().map(\.name))
        while !names.isSubset(of: registered.keys) {
            _ = try await wait { event in
                guard case .registered(let register, let connection) = event else { return nil as Bool? }
                self.registered[register.name] = (register, connection)
                return true
            }
        }
        epoch += 1
        nextStep = [:]
        placement = ProtoPlacement()
        placement.epoch = epoch
        let layers = model.manifest.shape.layers
        for (index, members) in stages.enumerated() {
            var stage = ProtoStage()
            stage.firstLayer = UInt32(index * layers / stages.count)
            stage.layerCount = UInt32((index + 1) * layers / stages.count) - stage.firstLayer
            for member in members {
                guard let register = registered[member.name]?.register else { continue }
                var message = ProtoMember()
                message.name = member.name
                message.incarnation = register.incarnation
                message.dataAddress = register.dataAddress
                message.experts = member.experts.map { UInt32($0) }
                stage.members.append(message)
            }
            placement.stages.append(stage)
        }
        placement.lanes = lanes.map { names in
            var lane = ProtoLane()
            lane.workers = names
            return lane
        }
        var assign = ProtoAssign()
        assign.placement = placement
        assign.pages = 64
        for name in names.sorted() {
            registered[name]?.control.send(Frame(.assign, assign, epoch: epoch))
            if data[name] == nil { data[name] = try await dial(name, role: .coordinatorData, as: "coordinator") }
        }
        for _ in names {
            let ready = try await wait { event in
                guard case .ready(_, let ready) = event, ready.epoch == self.epoch else {
                    return nil as ProtoShardReady?
                }
                return ready
            }
            guard !ready.hasFailure else { throw Failure(ready.failure) }
        }
    }

    /// A data connection to a worker, whose frames become events.
    func dial(_ name: String, role: ProtoHello.Role, as ownName: String, incarnation: UInt64 = 1) async throws
        -> Connection
    {
        guard let address = registered[name].flatMap({ try? Address(parsing: $0.register.dataAddress) }) else {
            throw Failure(code: "test", message: "no worker \(name)")
        }
        let sink = sink
        let identity = LocalIdentity(
            role: role, name: ownName, incarnation: incarnation,
            numericsVersion: UInt32(model.manifest.numericsVersion), manifestDigest: model.manifest.digest)
        return try await Connector.connect(
            host: address.host, port: address.port, on: group.next(), identity: identity,
            makeDelegate: { _ in StubDelegate(name: name, sink: sink) })
    }

    /// Forgets that a worker has registered: the next `assign` waits for it to come again.
    func forget(_ name: String) {
        registered[name] = nil
    }

    func stop(_ name: String) async {
        tasks[name]?.cancel()
        _ = await tasks.removeValue(forKey: name)?.result
    }

    func stop() async throws {
        for name in tasks.keys.sorted() { await stop(name) }
        await listener?.close()
        sink.finish()
        try await group.shutdownGracefully()
    }

    // MARK: Frames

    /// The first event, of those that came and those that come, for which `match` gives something.
    func wait<Found>(for match: (ClusterEvent) -> Found?) async throws -> Found {
        for (index, event) in skipped.enumerated() {
            if let found = match(event) {
                skipped.remove(at: index)
                return found
            }
        }
        while let event = await iterator.next(isolation: #isolation) {
            if let found = match(event) { return found }
            if case .heartbeat = event { continue }
            skipped.append(event)
        }
        throw Failure(code: "test", message: "the cluster has ended")
    }

    /// Sends a step to its lane's first home; id and table sequence are filled in.
    @discardableResult
    func send(_ step: ProtoStep) -> ProtoStep {
        var step = step
        nextStep[step.lane, default: 0] += 1
        step.stepID = nextStep[step.lane] ?? 0
        step.tableSequence = step.stepID
        resend(step)
        return step
    }

    func resend(_ step: ProtoStep, epoch: UInt64? = nil) {
        let home = placement.lanes[Int(step.lane)].workers[0]
        data[home]?.send(Frame(.step, step, epoch: epoch ?? self.epoch))
    }

    func result(of step: ProtoStep) async throws -> ProtoStepResult {
        let outcome: Result<ProtoStepResult, Failure> = try await wait { event in
            switch event {
            case .result(let result) where result.lane == step.lane && result.stepID == step.stepID: .success(result)
            case .failed(let failed) where failed.lane == step.lane && failed.stepID == step.stepID:
                .failure(Failure(failed.failure))
            default: nil
            }
        }
        return try outcome.get()
    }

    /// What a worker has done so far.
    func accounting(of name: String) throws -> ProtoWorkerAccounting {
        guard let daemon = daemons[name] else { throw Failure(code: "test", message: "no worker \(name)") }
        return daemon.accounting.report
    }

    /// What a worker's `/metrics` would show.
    func metrics(of name: String) throws -> String {
        guard let registry = registries[name] else { throw Failure(code: "test", message: "no worker \(name)") }
        return registry.text
    }

    /// One sequence of a lane, as a coordinator would drive it.
    struct Driver {
        let lane: UInt32
        let sequence: UInt64
        var sampling = ProtoSamplingParameters()
        var position = 0
        var told = 0
        let pages: [UInt32]

        init(lane: UInt32, sequence: UInt64, pages: [UInt32], sampling: ProtoSamplingParameters) {
            self.lane = lane
            self.sequence = sequence
            self.pages = pages
            self.sampling = sampling
        }

        mutating func rows(_ tokens: [Int32], sample: Bool) -> ProtoSequenceRows {
            var rows = ProtoSequenceRows()
            rows.sequence = sequence
            rows.position = UInt32(position)
            rows.tokens = tokens
            if position == 0 { rows.sampling = sampling }
            position += tokens.count
            let needed = (position + Engine.pageTokens - 1) / Engine.pageTokens
            rows.pages = Array(pages[told..<max(needed, told)])
            told = max(needed, told)
            rows.sample = sample
            return rows
        }
    }

    /// Generates for several prompts at once, one sequence for each: every round is a step of each lane with a row of each
    /// of its sequences; prompts go in chunks.
    func generate(
        prompts: [(lane: UInt32, tokens: [Int32])], sampling: [ProtoSamplingParameters], count: Int, chunk: Int
    ) async throws -> [[Int32]] {
        var drivers = prompts.enumerated().map { index, prompt in
            Driver(
                lane: prompt.lane, sequence: UInt64(100 + index), pages: (0..<8).map { UInt32(index * 8 + $0) },
                sampling: sampling[index])
        }
        var waiting = prompts.map { ArraySlice($0.tokens) }
        var outputs = prompts.map { _ in [Int32]() }
        while outputs.contains(where: { $0.count < count }) {
            var steps: [ProtoStep] = []
            for lane in Set(prompts.map(\.lane)).sorted() {
                var step = ProtoStep()
                step.lane = lane
                for index in drivers.indices where drivers[index].lane == lane && outputs[index].count < count {
                    let part = Array(waiting[index].prefix(chunk))
                    waiting[index] = waiting[index].dropFirst(chunk)
                    if part.count > 1 { step.class = .prefill }
                    step.rows.append(drivers[index].rows(part, sample: waiting[index].isEmpty))
                }
                if !step.rows.isEmpty { steps.append(send(step)) }
            }
            for step in steps {
                let result = try await result(of: step)
                guard result.failures.isEmpty else { throw Failure(result.failures[0].failure) }
                for token in result.tokens {
                    let index = Int(token.sequence) - 100
                    outputs[index].append(token.token)
                    waiting[index] = [token.token]
                }
            }
        }
        return outputs
    }
}

/// Turns frames into events.
private final class StubDelegate: ConnectionDelegate {
    private let name: String
    private let sink: AsyncStream<ClusterEvent>.Continuation

    init(name: String, sink: AsyncStream<ClusterEvent>.Continuation) {
        self.name = name
        self.sink = sink
    }

    func received(_ frame: Frame, on connection: Connection) {
        do throws(Failure) {
            switch frame.kind {
            case .register: sink.yield(.registered(try frame.message(), connection))
            case .shardReady: sink.yield(.ready(name, try frame.message()))
            case .heartbeat: sink.yield(.heartbeat(name, try frame.message()))
            case .peerLost: sink.yield(.peerLost(name, try frame.message()))
            case .stepResult: sink.yield(.result(try frame.message()))
            case .stepFailed: sink.yield(.failed(try frame.message()))
            default: sink.yield(.frame(frame))
            }
        } catch {
            connection.close(error)
        }
    }

    func closed(_ reason: Failure?, on connection: Connection) {
        sink.yield(.closed(name, reason))
    }
}
