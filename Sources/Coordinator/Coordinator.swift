package import Logging
package import ModelStore
package import ServiceLifecycle
package import Tokenizer
package import Wire

/// The daemon that admits requests, schedules steps, owns placement and membership; it holds no weights.
package final class Coordinator: Service, Sendable {
    package let configuration: CoordinatorConfiguration
    package let tokenizer: Tokenizer

    /// - Throws: `ModelError` when the manifest's tokenizer cannot be read, `RequestError` for a setting out of range.
    package convenience init(configuration: CoordinatorConfiguration, logger: Logger) throws {
        fatalError()
    }

    /// Longest sequence, prompt and answer, that is served, in tokens.
    package var contextLength: Int { 0 }

    /// Whether a lane is open.
    package var ready: Bool { false }

    /// The address of the listener once it is bound, as HOST:PORT.
    package func listening() async throws -> String { "" }

    /// Returns when a lane is open; throws when the coordinator ends before, or cancelled.
    package func untilReady() async throws {}

    /// Serves until cancelled or a graceful shutdown begins.
    package func run() async throws {}

    /// - Throws: `RequestError` when the request is refused; afterwards failures are thrown out of the stream.
    package func submit(_ request: GenerationRequest) async throws -> GenerationStream { fatalError() }

    /// - Throws: `RequestError`.
    package func score(_ request: ScoringRequest) async throws -> ProtoScoreResponse { fatalError() }

    package func status() async -> ProtoStatusResponse { ProtoStatusResponse() }
}
