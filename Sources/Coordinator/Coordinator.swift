package import Logging
import ModelStore
import NIOCore
import NIOPosix
import ServiceLifecycle
import Synchronization
package import Tokenizer
import Transport
package import Wire

/// The daemon that admits requests, schedules steps, owns placement and membership; it holds no weights.
///
/// Inside, `Core` lives on one event loop and runs the machines (`Membership`, `Scheduler`, `RequestMachine`); this
/// class is the door to it for other threads.
package final class Coordinator: Service, Sendable {
    package static let version = "0.1.0"

    package let configuration: CoordinatorConfiguration
    package let tokenizer: Tokenizer
    package let metrics = CoordinatorMetrics()
    /// Longest sequence, prompt and answer, that is served, in tokens.
    package let contextLength: Int

    private enum Phase {
        case created
        case running(NIOLoopBound<Core>, any EventLoop)
        case ended
    }

    private let check: RequestCheck
    private let logger: Logger
    private let phase = Mutex(Phase.created)
    private let isReady = Atomic<Bool>(false)
    private let numbers = RequestNumbers()
    private let address = Latch<String>()
    private let firstReady = Latch<Void>()

    /// - Throws: `Failure` for a setting out of range or a topology that does not fit the model, `ModelError` or
    ///   `TokenizerError` when the manifest's tokenizer cannot be read.
    package convenience init(configuration: CoordinatorConfiguration, logger: Logger) throws {
        let blob = try configuration.store.map(configuration.manifest.tokenizer, verify: true)
        try self.init(configuration: configuration, tokenizer: Tokenizer(model: Array(blob.bytes)), logger: logger)
    }

    /// - Throws: `Failure` for a setting out of range or a topology that does not fit the model.
    package init(configuration: CoordinatorConfiguration, tokenizer: Tokenizer, logger: Logger) throws(Failure) {
        self.configuration = configuration
        self.tokenizer = tokenizer
        self.logger = logger
        contextLength = try configuration.checked()
        check = RequestCheck(
            modelName: configuration.modelName, tokenizer: tokenizer,
            vocabulary: configuration.manifest.shape.vocabulary, contextLength: contextLength)
    }

    /// Whether a lane is open.
    package var ready: Bool { isReady.load(ordering: .acquiring) }

    /// The address of the listener once it is bound, as HOST:PORT.
    /// - Throws: `Failure` when it cannot be bound, `CancellationError`.
    package func listening() async throws -> String { try await address.get() }

    /// Returns when a lane is open for the first time.
    /// - Throws: `Failure` when the coordinator ends before, `CancellationError`.
    package func untilReady() async throws { try await firstReady.get() }

    /// Serves until cancelled or a graceful shutdown begins.
    /// - Throws: `Failure` when the listener cannot be bound or the coordinator was run before.
    package func run() async throws {
        // A loop of the process's own group: it never shuts down, so a call that crosses the end is still answered.
        let loop = MultiThreadedEventLoopGroup.singleton.next()
        let preparation = PreparationQueue(limit: configuration.queueLimit)
        do {
            let identity = LocalIdentity(
                role: .unspecified, name: configuration.name, incarnation: UInt64.random(in: 1...UInt64.max),
                numericsVersion: configuration.numericsVersion)
            let core = try await makeCore(on: loop, identity, preparation)
            let listener = try await listen(on: loop, identity, core)
            address.set(.success(listener.address.hostAndPort))
            // It fails only when this task is cancelled, and then there are no more jobs.
            for await job in preparation.jobs.cancelOnGracefulShutdown() { try? await Self.apart(job) }
            end(Failure(code: "shutting_down", message: "the coordinator is shutting down"))
            await listener.close()
            try await loop.flatSubmit { core.value.stop() }.get()
        } catch {
            end(error)
            throw error
        }
    }

    private func makeCore(
        on loop: any EventLoop, _ identity: LocalIdentity, _ preparation: PreparationQueue
    ) async throws -> NIOLoopBound<Core> {
        try await loop.submit { [weak self, configuration, check, logger, metrics, numbers] in
            let core = Core(
                loop: loop, configuration: configuration, identity: identity, check: check, numbers: numbers,
                logger: logger, metrics: metrics, preparation: preparation,
                readyChanged: { ready in
                    self?.isReady.store(ready, ordering: .releasing)
                    if ready { self?.firstReady.set(.success(())) }
                })
            core.start()
            return NIOLoopBound(core, eventLoop: loop)
        }.get()
    }

    private func listen(
        on loop: any EventLoop, _ identity: LocalIdentity, _ core: NIOLoopBound<Core>
    ) async throws -> Listener {
        let isFirst = phase.withLock { phase in
            guard case .created = phase else { return false }
            phase = .running(core, loop)
            return true
        }
        guard isFirst else { throw Failure(code: "coordinator_reused", message: "a coordinator runs once") }
        return try await Listener.bind(
            host: configuration.host, port: configuration.port, acceptLoop: loop, childLoop: loop,
            identity: identity, roles: [.client, .workerControl],
            insecureNetwork: configuration.insecureNetwork, logger: logger
        ) { connection throws(Failure) in
            try core.value.accept(connection)
        }
    }

    private func end(_ error: any Error) {
        phase.withLock { $0 = .ended }
        isReady.store(false, ordering: .releasing)
        address.set(.failure(error))
        firstReady.set(.failure(error))
    }

    // MARK: Requests

    /// Checks, tokenises and queues a request: once, for several answers, which are numbered from the request's `choice` on.
    /// - Parameters:
    ///   - feed: where the answers' events go
    ///   - first: index of the first answer there
    /// - Throws: `RequestError` when the request is refused. Answers of it that were taken already go on until the feed is
    ///   cancelled.
    package func submit(
        _ request: GenerationRequest, choices: Int = 1, to feed: EventFeed, from first: Int = 0
    ) async throws {
        let times = RequestTimes()
        let terms = ServiceTerms(request, times)
        try await counting {
            let prepared = try await prepare(request)
            let (core, loop) = try running()
            let limit = configuration.readerTokenLimit
            let answers = (0..<max(0, choices)).map { choice in
                var sampling = prepared.sampling
                sampling.choice = UInt32(clamping: request.sampling.choice + choice)
                return (
                    id: numbers.next(), sampling: sampling,
                    sink: FeedSink(feed: feed, answer: first + choice, limit: limit)
                )
            }
            feed.whenCancelled {
                loop.execute { for answer in answers { core.value.cancel(answer.id) } }
            }
            let admission = try await Self.enter(loop) {
                Result { () throws(RequestError) in
                    // Either this sees that the reader has gone, or the cancellation comes after it.
                    guard !feed.isCancelled else { return }
                    for answer in answers {
                        try core.value.admit(
                            id: answer.id, prompt: prepared.prompt, sampling: answer.sampling, scoreTop: nil,
                            request: Core.Request(
                                generation: prepared.machine, sink: answer.sink, terms: terms, times: times))
                    }
                }
            }
            try admission.get()
        }
    }

    /// Counts the refusal of a request.
    private func counting<Value>(_ body: () async throws -> Value) async throws -> Value {
        do {
            return try await body()
        } catch let error as RequestError {
            metrics.failed(code: error.code)
            throw error
        }
    }

    private func prepare(_ request: GenerationRequest) async throws -> RequestCheck.Prepared {
        try await Self.apart { [check] in
            try check.prepare(request, drawSeed: { UInt64.random(in: 0...UInt64.max) })
        }
    }

    /// Runs a sequence through a lane and gives the scores of its rows.
    /// - Throws: `RequestError`, or `CancellationError`.
    package func score(_ request: ScoringRequest) async throws -> ProtoScoreResponse {
        let times = RequestTimes()
        let terms = ServiceTerms(request, times)
        let (prepared, (core, loop)) = try await counting {
            (try await Self.apart { [check] in try check.prepare(request) }, try running())
        }
        let id = numbers.next()
        let cancellation = Cancellation()
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                loop.execute {
                    guard !cancellation.isSet else { return continuation.resume(throwing: CancellationError()) }
                    do throws(RequestError) {
                        try core.value.admit(
                            id: id, prompt: prepared.ids, sampling: RequestCheck.scoring, scoreTop: prepared.top,
                            request: Core.Request(
                                score: ScoreMachine(ids: prepared.ids),
                                sink: ScoreSink(continuation: continuation), terms: terms, times: times))
                    } catch {
                        core.value.metrics.failed(code: error.code)
                        continuation.resume(throwing: error)
                    }
                }
            }
        } onCancel: {
            // Either the admission sees this, or it came before what follows.
            cancellation.set()
            loop.execute { core.value.cancel(id) }
        }
    }

    package func status() async -> ProtoStatusResponse {
        if let (core, loop) = try? running(), let status = try? await Self.enter(loop, { core.value.status() }) {
            return status
        }
        var status = ProtoStatusResponse()
        status.coordinator = configuration.name
        status.model = configuration.modelName
        status.version = Self.version
        status.contextLength = UInt32(clamping: contextLength)
        return status
    }

    /// Tokenising a long prompt takes a while: it has threads of its own, so that tasks and event loops go on.
    private static func apart<Value: Sendable>(
        _ work: @escaping @Sendable () throws -> Value
    ) async throws -> Value {
        try await NIOThreadPool.singleton.runIfActive(work)
    }

    private func running() throws(RequestError) -> (NIOLoopBound<Core>, any EventLoop) {
        switch phase.withLock({ $0 }) {
        case .created: throw .notReady
        case .running(let core, let loop): (core, loop)
        case .ended: throw .shuttingDown
        }
    }

    private static func enter<Value: Sendable>(
        _ loop: any EventLoop, _ body: @escaping @Sendable () -> Value
    ) async throws(RequestError) -> Value {
        do {
            return try await loop.submit(body).get()
        } catch {
            // The loop has shut down.
            throw .shuttingDown
        }
    }
}

/// Tells the loop that the task which it works for was cancelled.
private final class Cancellation: Sendable {
    private let flag = Atomic<Bool>(false)

    var isSet: Bool { flag.load(ordering: .acquiring) }
    func set() { flag.store(true, ordering: .releasing) }
}

extension SocketAddress {
    fileprivate var hostAndPort: String {
        let host = ipAddress ?? ""
        return (host.contains(":") ? "[\(host)]" : host) + ":\(port ?? 0)"
    }
}
