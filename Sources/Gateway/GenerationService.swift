package import Coordinator
import ModelStore
import Tokenizer
import Wire

/// What the gateway needs from a coordinator.
package protocol GenerationService: Sendable {
    var servedModel: ServedModel { get }
    /// Whether a lane is open.
    var ready: Bool { get }
    /// The tenant that an API key names; the key is empty where the request has none.
    /// - Throws: `RequestError`
    func tenant(ofKey key: String) throws -> String
    /// Takes a request, for `choices` answers, which are numbered from the request's own choice on. Their events go to the
    /// feed, as those of the answers from `first` on.
    /// - Throws: `RequestError`; later failures go to the feed.
    func generate(_ request: GenerationRequest, choices: Int, to feed: EventFeed, from first: Int) async throws
    /// Where the workers' metrics are.
    func metricsTargets() async -> [MetricsTarget]
}

/// The model behind the endpoints.
package struct ServedModel: Sendable {
    package var name: String
    package var vocabularySize: Int
    package var contextLength: Int
    /// Changes when anything changes that could change an answer's tokens: the weights and the numerics version.
    /// It ends in `-openblas` where equal requests may have unequal answers.
    package var fingerprint: String

    package init(name: String, vocabularySize: Int, contextLength: Int, fingerprint: String) {
        self.name = name
        self.vocabularySize = vocabularySize
        self.contextLength = contextLength
        self.fingerprint = fingerprint
    }
}

extension Coordinator: GenerationService {
    package var servedModel: ServedModel {
        let manifest = configuration.manifest
        let digest = manifest.digest.prefix(6).map { $0 < 16 ? "0" + String($0, radix: 16) : String($0, radix: 16) }
        let backend = configuration.usesOpenBLAS ? "-openblas" : ""
        return ServedModel(
            name: configuration.modelName, vocabularySize: tokenizer.vocabularySize, contextLength: contextLength,
            fingerprint: "tramontane-n\(manifest.numericsVersion)-\(digest.joined())\(backend)")
    }

    package func tenant(ofKey key: String) throws -> String {
        try configuration.tenants.tenant(ofKey: key)
    }

    package func generate(
        _ request: GenerationRequest, choices: Int, to feed: EventFeed, from first: Int
    ) async throws {
        try await submit(request, choices: choices, to: feed, from: first)
    }
}

extension Coordinator {
    package func metricsTargets() async -> [MetricsTarget] {
        await status().workers.filter { !$0.metricsAddress.isEmpty && $0.state != Membership.State.lost.rawValue }
            .map { MetricsTarget(worker: $0.name, address: $0.metricsAddress) }
    }
}
