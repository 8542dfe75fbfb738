import CoreMetrics
import Hummingbird
import NIOCore
import Prometheus

/// Counts answers by path and status.
struct AnswerCounts: RouterMiddleware {
    private static let answers = MetricDescription(
        .counter, "tramontane_http_requests_total", "HTTP requests that were answered, by path and status.",
        seriesLimit: 512)

    private let registry: PrometheusRegistry

    init(registry: PrometheusRegistry) {
        self.registry = registry
        registry.declare(Self.answers)
    }

    func handle(
        _ request: Request, context: GatewayContext, next: (Request, GatewayContext) async throws -> Response
    ) async throws -> Response {
        let response = try await next(request, context)
        // The path of the route, not the request's: those are without number.
        let labels = [("handler", context.endpointPath ?? "none"), ("status", "\(response.status.code)")]
        Counter(label: Self.answers.name, dimensions: labels, factory: registry).increment()
        return response
    }
}

extension Response {
    /// All metrics in Prometheus's text format.
    static func metrics(_ registry: PrometheusRegistry) -> Response {
        let body = ByteBuffer(string: registry.text)
        return Response(
            status: .ok,
            headers: [.contentType: TextFormat.contentType, .contentLength: "\(body.readableBytes)"],
            body: ResponseBody(byteBuffer: body))
    }
}
