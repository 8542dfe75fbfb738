import Coordinator
import Foundation
import Logging
import ModelStore
import NIOCore
import NIOPosix
import Placement
import Synchronization
import TestSupport
import Tokenizer
import Transport
import Wire

/// A model without weights: what a coordinator has to know of one.
enum FakeModel {
    static let vocabulary = 32_768

    /// The token that comes at a position: the worker's whole computation.
    static func token(at position: Int) -> Int32 { Int32(1000 + position % 500) }

    static func tokenizer() throws -> Tokenizer {
        try Tokenizer(model: [UInt8](Data(contentsOf: Fixtures.url("tokenizer/mistral-v3.model"))))
    }

    static func manifest(experts: Int = 2) throws -> Manifest {
        let blob = #"{"sha256": "00", "bytes": 1, "tensors": []}"#
        let layer =
            #"{"dense": \#(blob), "experts": [\#(Array(repeating: blob, count: experts).joined(separator: ","))]}"#
        let json = #"""
            {"formatVersion": 1, "numericsVersion": 1, "name": "fake", "tokenizer": \#(blob), "embedding": \#(blob),
            "head": \#(blob), "layers": [\#(layer), \#(layer)], "shape": {"layers": 2, "hidden": 64, "heads": 4,
            "keyValueHeads": 2, "headDimension": 16, "feedForward": 64, "experts": \#(experts), "expertsUsed": 2,
            "vocabulary": \#(vocabulary), "contextLength": 1024, "ropeTheta": 1000000, "normEpsilon": 1e-5,
            "beginToken": 1, "endToken": 2}}
            """#
        return try JSONDecoder().decode(Manifest.self, from: Data(json.utf8))
    }

    static let silent = Logger(label: "test", factory: { _ in SwiftLogNoOpLogHandler() })
}

/// A worker of real frames that computes nothing: registers, loads at once, and answers steps, unless it is told to
/// hold them back.
final class FakeWorker: Sendable {
    private struct State {
        var listener: Listener?
        var control: Connection?
        var data: Connection?
        var held: [Frame] = []
        var isHolding = false
        var refusal: Failure?
        var steps = 0
        var largestBatch = 0
        var choices: [UInt32] = []
    }

    let name: String
    private let manifest: Manifest
    private let state = Mutex(State())
    private let loop: any EventLoop = MultiThreadedEventLoopGroup.singleton.next()

    init(name: String, manifest: Manifest) {
        self.name = name
        self.manifest = manifest
    }

    var steps: Int { state.withLock { $0.steps } }
    var largestBatch: Int { state.withLock { $0.largestBatch } }
    /// Of the sequences that were introduced.
    var choices: [UInt32] { state.withLock { $0.choices } }
    /// Why a connection of this worker was closed.
    var refusal: Failure? { state.withLock { $0.refusal } }

    /// - Parameter dataAddress: what it says of its data port, where that is not the truth
    func join(_ address: String, numericsVersion: UInt32 = 1, dataAddress: String? = nil) async throws {
        var identity = LocalIdentity(
            role: .workerControl, name: name, incarnation: .random(in: 1...UInt64.max),
            numericsVersion: numericsVersion, manifestDigest: manifest.digest)
        let listener = try await Listener.bind(
            host: "127.0.0.1", port: 0, acceptLoop: loop, childLoop: loop, identity: identity,
            roles: [.coordinatorData], logger: FakeModel.silent
        ) { connection in
            self.state.withLock { $0.data = connection }
            return FakeWorkerEnd(worker: self)
        }
        identity.manifestDigest = []
        let port = Int(address.split(separator: ":").last ?? "") ?? 0
        let control = try await Connector.connect(host: "127.0.0.1", port: port, on: loop, identity: identity) { _ in
            FakeWorkerEnd(worker: self)
        }
        state.withLock { $0.control = control }
        var register = ProtoRegister()
        register.name = name
        register.incarnation = identity.incarnation
        register.dataAddress = dataAddress ?? "127.0.0.1:\(listener.port)"
        register.numericsVersion = numericsVersion
        register.manifestDigest = Data(manifest.digest)
        register.metricsAddress = "127.0.0.1:9100"
        control.send(Frame(.register, register))
        state.withLock { $0.listener = listener }
    }

    /// As if the process had been killed.
    func die() {
        let (control, data) = state.withLock { ($0.control, $0.data) }
        control?.close(nil)
        data?.close(nil)
    }

    func hold() { state.withLock { $0.isHolding = true } }

    func goOn() {
        let (held, data) = state.withLock { state in
            state.isHolding = false
            defer { state.held = [] }
            return (state.held, state.data)
        }
        if let data { for frame in held { answer(frame, on: data) } }
    }

    fileprivate func closed(_ reason: Failure?) {
        state.withLock { $0.refusal = reason }
    }

    fileprivate func received(_ frame: Frame, on connection: Connection) {
        switch frame.kind {
        case .assign:
            var ready = ProtoShardReady()
            ready.epoch = frame.epoch
            ready.pages = 7
            connection.send(Frame(.shardReady, ready, epoch: frame.epoch))
        case .step:
            let step = try? frame.message(ProtoStep.self)
            let isHeld = state.withLock { state in
                state.steps += 1
                state.choices += step?.rows.filter(\.hasSampling).map(\.sampling.choice) ?? []
                if state.isHolding { state.held.append(frame) }
                return state.isHolding
            }
            if !isHeld { answer(frame, on: connection) }
        default: break
        }
    }

    private func answer(_ frame: Frame, on connection: Connection) {
        guard let step = try? frame.message(ProtoStep.self) else { return }
        state.withLock { $0.largestBatch = max($0.largestBatch, step.rows.count) }
        var result = ProtoStepResult()
        result.stepID = step.stepID
        result.lane = step.lane
        for rows in step.rows {
            let end = Int(rows.position) + rows.tokens.count
            if rows.sample {
                var token = ProtoSampledToken()
                token.sequence = rows.sequence
                token.token = FakeModel.token(at: end)
                result.tokens.append(token)
            }
            if rows.hasScore {
                var scored = ProtoScoredRows()
                scored.sequence = rows.sequence
                scored.position = rows.position
                scored.top = rows.tokens.map { _ in ProtoTopTokens() }
                scored.nll = rows.score.targets.map { Double($0) }
                if rows.score.last { scored.lastLogits = [1, 2, 3] }
                result.scores.append(scored)
            }
        }
        connection.send(Frame(.stepResult, result, epoch: frame.epoch))
    }
}

private final class FakeWorkerEnd: ConnectionDelegate {
    private let worker: FakeWorker

    init(worker: FakeWorker) { self.worker = worker }

    func received(_ frame: Frame, on connection: Connection) { worker.received(frame, on: connection) }
    func closed(_ reason: Failure?, on connection: Connection) { worker.closed(reason) }
}

/// A client of real frames; what it receives comes out of `frames`.
final class FakeClient: Sendable {
    let frames: AsyncStream<Frame>
    private let source: AsyncStream<Frame>.Continuation
    let connection: Connection

    init(_ address: String) async throws {
        let (frames, source) = AsyncStream.makeStream(of: Frame.self)
        self.frames = frames
        self.source = source
        let port = Int(address.split(separator: ":").last ?? "") ?? 0
        connection = try await Connector.connect(
            host: "127.0.0.1", port: port, on: MultiThreadedEventLoopGroup.singleton.next(),
            identity: LocalIdentity(role: .client, name: "test", incarnation: 1)
        ) { _ in ClientEnd(source: source) }
    }

    private final class ClientEnd: ConnectionDelegate {
        private let source: AsyncStream<Frame>.Continuation

        init(source: AsyncStream<Frame>.Continuation) { self.source = source }

        func received(_ frame: Frame, on connection: Connection) { source.yield(frame) }

        func closed(_ reason: Failure?, on connection: Connection) {
            if let reason { source.yield(Frame(.error, ProtoFailure(reason))) }
            source.finish()
        }
    }

    func generate(_ stream: UInt64, text: String, maxTokens: UInt32, credit: UInt32, apiKey: String = "") {
        var request = ProtoGenerateRequest()
        request.text = text
        request.maxTokens = maxTokens
        request.seed = 1
        request.credit = credit
        request.apiKey = apiKey
        connection.send(Frame(.generate, request, correlation: stream))
    }

    /// Frames until one of these kinds has come.
    func until(_ kinds: FrameKind...) async -> [Frame] {
        var seen: [Frame] = []
        for await frame in frames {
            seen.append(frame)
            if kinds.contains(frame.kind) { break }
        }
        return seen
    }
}

/// Starts a coordinator and workers, each of which holds every expert of both layers, so that each is a lane of its
/// own.
func withFakeCluster(
    workers names: [String] = ["a"], change: (inout CoordinatorConfiguration) -> Void = { _ in },
    _ body: (Coordinator, [FakeWorker], String) async throws -> Void
) async throws {
    let manifest = try FakeModel.manifest()
    let topology = Topology(stages: [
        .init(layers: 0..<2, members: names.map { .init(name: $0, experts: [0, 1]) })
    ])
    var configuration = CoordinatorConfiguration(
        manifest: manifest, store: Store(directory: "/nowhere"), layout: .topology(topology))
    // The fake workers send no heartbeats.
    configuration.heartbeatTimeoutMilliseconds = 3_600_000
    change(&configuration)
    let coordinator = try Coordinator(
        configuration: configuration, tokenizer: FakeModel.tokenizer(), logger: FakeModel.silent)
    try await withThrowingTaskGroup(of: Void.self) { group in
        group.addTask { try await coordinator.run() }
        let address = try await coordinator.listening()
        let workers = names.map { FakeWorker(name: $0, manifest: manifest) }
        for worker in workers { try await worker.join(address) }
        try await coordinator.untilReady()
        try await body(coordinator, workers, address)
        group.cancelAll()
        try await group.waitForAll()
    }
}
