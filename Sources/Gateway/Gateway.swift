package import Coordinator
package import Logging
package import Prometheus
import ServiceLifecycle

/// HTTP in front of the coordinator: OpenAI's API, `/health`, `/ready` and `/metrics`.
package final class Gateway: Service {
    package struct Configuration: Sendable {
        package var host: String
        /// 0 picks a free one.
        package var port: Int
        /// Allows an address that is not loopback. There is no TLS and no authentication: whoever reaches the port is
        /// served.
        package var insecureNetwork = false
        /// Longest request body. A prompt of a full context of 64 Ki tokens is well below 1 MiB.
        package var bodyLimitBytes = 4 << 20
        /// Connections at once; more wait in the kernel's backlog.
        package var maximumConnections = 1024
        /// A connection without another request for so long is closed.
        package var idleTimeoutSeconds: Int64 = 75
        /// A request whose head makes no progress for so long is answered with 408 and its connection closed. So is a
        /// connection that has sent nothing yet, without a word.
        package var headTimeoutSeconds: Int64 = 10
        /// The same of a body.
        package var bodyTimeoutSeconds: Int64 = 30
        /// A client that reads so little that its connection stays full for so long is cut off.
        package var stallTimeoutSeconds: Int64 = 30

        package init(host: String = "127.0.0.1", port: Int = 8080) {
            self.host = host
            self.port = port
        }
    }

    /// Why the gateway cannot listen.
    package struct AddressError: Error, CustomStringConvertible {
        package let description: String
    }

    private let server: HTTPServer
    private let service: any GenerationService
    private let metrics: PrometheusRegistry
    private let logger: Logger

    /// - Parameter metrics: what `/metrics` shows; the gateway's own are added.
    package init(
        configuration: Configuration, service: any GenerationService,
        metrics: PrometheusRegistry = PrometheusRegistry(),
        logger: Logger
    ) {
        server = HTTPServer(configuration: configuration, logger: logger)
        self.service = service
        self.metrics = metrics
        self.logger = logger
    }

    package convenience init(configuration: Configuration, coordinator: Coordinator, logger: Logger) {
        self.init(
            configuration: configuration, service: coordinator, metrics: coordinator.metrics.registry, logger: logger)
    }

    /// The address of the listener once it is bound, as HOST:PORT.
    /// - Throws: When it cannot be bound.
    package func listening() async throws -> String {
        try await server.listening()
    }

    /// Serves until cancelled or a graceful shutdown begins, which lets the requests under way finish.
    package func run() async throws {
        let routes = Routes(
            service: service, bodyLimitBytes: server.configuration.bodyLimitBytes, metrics: metrics, logger: logger)
        try await server.run(routes.responder())
    }
}
