import Coordinator
import Foundation
import HTTPTypes
import Hummingbird
import JSONText
import Logging
import NIOCore
import Prometheus

/// What a handler knows of its request besides the request.
struct GatewayContext: RequestContext {
    var coreContext: CoreRequestContextStorage
    let channel: any Channel

    init(source: ApplicationRequestContextSource) {
        coreContext = CoreRequestContextStorage(source: source)
        channel = source.channel
    }

    /// Begins to deliver an answer on the request's connection.
    /// - Throws: `ClientLeft` where that is gone.
    func deliver(_ answer: Answer, of request: AnswerRequest) async throws -> AnswerDelivery.Handle {
        let channel = channel
        return try await channel.eventLoop.submit {
            guard let connection = try? channel.pipeline.syncOperations.handler(type: ConnectionGuard.self) else {
                throw AnswerDelivery.ClientLeft()
            }
            return AnswerDelivery.start(answer, of: request, on: channel, connection: connection)
        }.get()
    }
}

/// The endpoints.
struct Routes: Sendable {
    let service: any GenerationService
    let bodyLimitBytes: Int
    let metrics: PrometheusRegistry
    let logger: Logger
    /// Asked for once: a fingerprint is a digest of all that the model consists of.
    let served: ServedModel
    private let started = Int(Date().timeIntervalSince1970)

    init(service: any GenerationService, bodyLimitBytes: Int, metrics: PrometheusRegistry, logger: Logger) {
        self.service = service
        self.bodyLimitBytes = bodyLimitBytes
        self.metrics = metrics
        self.logger = logger
        served = service.servedModel
    }

    func responder() -> some HTTPResponder<GatewayContext> {
        let router = Router(context: GatewayContext.self, options: .autoGenerateHeadEndpoints)
        router.add(middleware: AnswerCounts(registry: metrics))
        router.add(
            middleware: ErrorBodies(
                places: "/v1/models, /v1/chat/completions, /v1/completions, /health, /ready and /metrics",
                logger: logger))
        router.add(.get, "/health") { _, _ in .json(["status": "ok"]) }
        router.add(.get, "/ready") { _, _ in try ready() }
        router.add(.get, "/metrics") { _, _ in .metrics(metrics) }
        router.add(.get, "/metrics/targets") { _, _ in .json(MetricsTarget.json(await service.metricsTargets())) }
        router.add(.get, "/v1/models") { request, _ in
            _ = try tenant(of: request)
            return .json(["object": "list", "data": [model(served)]])
        }
        // A model's name may have slashes in it.
        router.add(.get, "/v1/models/**") { request, context in
            _ = try tenant(of: request)
            return try modelNamed(context.parameters.getCatchAll().joined(separator: "/"))
        }
        router.add(.post, "/v1/chat/completions") { request, context in
            try await answer(.chatCompletions, request, context)
        }
        router.add(.post, "/v1/completions") { request, context in
            try await answer(.completions, request, context)
        }
        return router.buildResponder()
    }

    private func ready() throws -> Response {
        guard service.ready else {
            throw APIError(
                .serviceUnavailable, code: "not_ready",
                message: "no lane is open: not all parts of the model are on a ready worker", retryAfterSeconds: 1)
        }
        return .json(["status": "ready"])
    }

    private func model(_ model: ServedModel) -> JSONValue {
        [
            "id": .string(model.name), "object": "model", "created": JSONValue(started), "owned_by": "tramontane",
            "context_length": JSONValue(model.contextLength),
        ]
    }

    private func modelNamed(_ name: String) throws -> Response {
        guard (name.removingPercentEncoding ?? name) == served.name else {
            throw APIError(
                .notFound, code: "model_not_found",
                message: "model \(RequestError.quoted(name)) is not served here, "
                    + "\(RequestError.quoted(served.name)) is",
                parameter: "model")
        }
        return .json(model(served))
    }
}

extension Router where Context == GatewayContext {
    /// Adds a route, and the refusal of the other methods on its path.
    func add(
        _ method: HTTPRequest.Method, _ path: RouterPath,
        _ handler: @escaping @Sendable (Request, GatewayContext) async throws -> Response
    ) {
        on(path, method: method, use: handler)
        let allowed: [HTTPRequest.Method] = method == .get ? [.get, .head] : [method]
        let others: [HTTPRequest.Method] = [.get, .head, .post, .put, .patch, .delete, .options, .trace, .connect]
        for other in others where !allowed.contains(other) {
            on(path, method: other) { _, _ -> Response in
                throw APIError(
                    .methodNotAllowed, code: "method_not_allowed",
                    message: "\(other.rawValue) is not possible here, \(method.rawValue) is", allowedMethods: allowed)
            }
        }
    }
}

/// Everything that goes wrong leaves as an OpenAI error body.
struct ErrorBodies: RouterMiddleware {
    /// The paths that there are, for whoever asks for another.
    let places: String
    let logger: Logger

    func handle(
        _ request: Request, context: GatewayContext,
        next: (Request, GatewayContext) async throws -> Response
    ) async throws -> Response {
        do {
            return try await next(request, context)
        } catch let error as APIError {
            if error.statusCode >= 500 {
                logger.warning(
                    "request failed", metadata: ["code": .string(error.code), "path": "\(request.uri.path)"])
            }
            return .error(error)
        } catch let error as HTTPError where error.status == .notFound {
            return .error(
                APIError(
                    .notFound, code: "unknown_path",
                    message: "there is nothing at \(RequestError.quoted(request.uri.path)); see \(places)"))
        } catch {
            // The type alone: what an error says may hold a part of a request.
            logger.error("unexpected error", metadata: ["type": "\(type(of: error))", "path": "\(request.uri.path)"])
            return .error(.internalError)
        }
    }
}

extension Response {
    static func json(_ json: JSONValue, status: HTTPResponse.Status = .ok, headers: HTTPFields = [:]) -> Response {
        var headers = headers
        headers[.contentType] = "application/json"
        let body = ByteBuffer(bytes: json.bytes)
        headers[.contentLength] = String(body.readableBytes)
        return Response(status: status, headers: headers, body: ResponseBody(byteBuffer: body))
    }

    static func error(_ error: APIError) -> Response {
        var headers: HTTPFields = [:]
        if let seconds = error.retryAfterSeconds { headers[.retryAfter] = String(seconds) }
        if error.status == .unauthorized { headers[.wwwAuthenticate] = "Bearer" }
        if !error.allowedMethods.isEmpty {
            headers[.allow] = error.allowedMethods.map(\.rawValue).joined(separator: ", ")
        }
        return .json(error.body, status: error.status, headers: headers)
    }
}
