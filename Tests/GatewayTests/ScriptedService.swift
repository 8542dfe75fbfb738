import Coordinator
import Gateway
import Synchronization

/// A coordinator's place in these tests: plays events that the test wrote and keeps what it was asked for. What is under
/// test is HTTP; the real coordinator stands behind the gateway in ClusterTests.
final class ScriptedService: GenerationService {
    typealias Events = any AsyncSequence<GenerationEvent, any Error> & Sendable

    let servedModel = ServedModel(name: "org/demo", vocabularySize: 512, contextLength: 256, fingerprint: "fp")
    let ready: Bool
    private let tenants: Tenants
    private let targets: [MetricsTarget]
    private let done: @Sendable () -> Void
    private let script: @Sendable (GenerationRequest) throws -> Events
    private let received = Mutex<[GenerationRequest]>([])

    /// - Parameter done: called when an answer is not wanted any more.
    init(
        ready: Bool = true, tenants: Tenants = Tenants(), targets: [MetricsTarget] = [],
        done: @escaping @Sendable () -> Void = {},
        script: @escaping @Sendable (GenerationRequest) throws -> Events
    ) {
        self.ready = ready
        self.tenants = tenants
        self.targets = targets
        self.done = done
        self.script = script
    }

    /// Answers everything with the same text, piece by piece.
    convenience init(_ pieces: String...) {
        self.init { request in Self.events(Self.answer(pieces, choice: request.sampling.choice)) }
    }

    convenience init(targets: [MetricsTarget]) {
        self.init(targets: targets) { _ in Self.events([]) }
    }

    func metricsTargets() async -> [MetricsTarget] { targets }

    var requests: [GenerationRequest] { received.withLock { $0 } }

    func tenant(ofKey key: String) throws -> String { try tenants.tenant(ofKey: key) }

    func generate(_ request: GenerationRequest, choices: Int, to feed: EventFeed, from first: Int) async throws {
        received.withLock { $0.append(request) }
        feed.whenCancelled(done)
        for choice in 0..<choices {
            var request = request
            request.sampling.choice += choice
            let events = try script(request)
            let task = Task { await Self.play(events, to: feed, as: first + choice) }
            feed.whenCancelled { task.cancel() }
        }
    }

    private static func play(_ events: Events, to feed: EventFeed, as answer: Int) async {
        do {
            for try await event in events {
                switch event {
                case .delta(let text, let tokens):
                    guard feed.put(text: text, tokens: tokens, answer: answer, limit: 100) else {
                        return feed.put(.failed(RequestError(.failed, code: "slow_reader", message: "slow")))
                    }
                    feed.callReader()
                    feed.wakeReader()
                case .accepted, .finished: feed.put(.event(event, answer: answer))
                }
            }
        } catch {
            if let error = error as? RequestError { feed.put(.failed(error)) }
        }
    }

    static func answer(_ pieces: [String], choice: Int = 0) -> [GenerationEvent] {
        [accepted] + pieces.map { .delta(text: choice == 0 ? $0 : "\($0)#\(choice)", tokens: [300]) }
            + [.finished(.stop, Usage(promptTokens: 5, completionTokens: pieces.count + 1, cachedTokens: 2))]
    }

    static func events(_ events: [GenerationEvent], failing error: RequestError? = nil) -> Events {
        AsyncThrowingStream { continuation in
            for event in events { continuation.yield(event) }
            continuation.finish(throwing: error)
        }
    }

    /// An answer that goes on as long as somebody takes it.
    static func endless() -> Events {
        AsyncThrowingStream { .delta(text: page, tokens: [300]) }
    }

    /// An answer that stops in the middle.
    static func unfinished() -> Events {
        AsyncThrowingStream { continuation in
            continuation.yield(accepted)
            continuation.yield(.delta(text: "half", tokens: [300]))
        }
    }

    private static let accepted = GenerationEvent.accepted(
        Acceptance(requestID: "r", model: "org/demo", seed: 7, promptTokens: 5))
    private static let page = String(repeating: "x", count: 65_536)
}
