import Hummingbird
package import Logging
package import Prometheus
import ServiceLifecycle

/// `/metrics` of a daemon that serves nothing else over HTTP, with the gateway's limits and its rule about addresses.
package final class MetricsEndpoint: Service {
    private let server: HTTPServer
    private let registry: PrometheusRegistry
    private let logger: Logger

    package init(configuration: Gateway.Configuration, registry: PrometheusRegistry, logger: Logger) {
        server = HTTPServer(configuration: configuration, logger: logger)
        self.registry = registry
        self.logger = logger
    }

    /// The address of the listener once it is bound, as HOST:PORT.
    /// - Throws: When it cannot be bound.
    package func listening() async throws -> String {
        try await server.listening()
    }

    package func run() async throws {
        let router = Router(context: GatewayContext.self, options: .autoGenerateHeadEndpoints)
        router.add(middleware: ErrorBodies(places: "/metrics", logger: logger))
        router.add(.get, "/metrics") { [registry] _, _ in .metrics(registry) }
        try await server.run(router.buildResponder())
    }
}
