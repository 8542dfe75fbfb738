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
    private let script: @Sendable (GenerationRequest) throws -> Events
    private let received = Mutex<[GenerationRequest]>([])

    init(
        ready: Bool = true, tenants: Tenants = Tenants(), targets: [MetricsTarget] = [],
        script: @escaping @Sendable (GenerationRequest) throws -> Events
    ) {
        self.ready = ready
        self.tenants = tenants
        self.targets = targets
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

    func generate(_ request: GenerationRequest, choices: Int) async throws -> [Events] {
        received.withLock { $0.append(request) }
        return try (0..<choices).map { choice in
            var request = request
            request.sampling.choice += choice
            return try script(request)
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

    /// An answer that goes on for as long as somebody takes it, and says when it has been let go.
    static func endless(ended: @escaping @Sendable () -> Void) -> Events {
        let reader = Reader(left: ended)
        return AsyncThrowingStream { reader.isFirst() ? accepted : .delta(text: page, tokens: [300]) }
    }

    private static let accepted = GenerationEvent.accepted(
        Acceptance(requestID: "r", model: "org/demo", seed: 7, promptTokens: 5))
    private static let page = String(repeating: "x", count: 65_536)

    /// Lives as long as the events that it belongs to.
    private final class Reader: Sendable {
        private let first = Mutex(true)
        private let left: @Sendable () -> Void

        init(left: @escaping @Sendable () -> Void) {
            self.left = left
        }

        deinit {
            left()
        }

        func isFirst() -> Bool {
            first.withLock { isFirst in
                defer { isFirst = false }
                return isFirst
            }
        }
    }
}
