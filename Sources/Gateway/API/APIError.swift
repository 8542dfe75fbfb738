import Coordinator
import HTTPTypes
package import JSONText
import NIOCore

/// A refusal as OpenAI's clients read it: a status and the body `{"error": {"message", "type", "param", "code"}}`.
///
/// The message names field, found value and limit; it never holds text of a prompt.
package struct APIError: Error, Sendable, Equatable {
    let status: HTTPResponse.Status
    package let code: String
    package let message: String
    package let parameter: String?
    /// Seconds after which the same request may succeed.
    let retryAfterSeconds: Int?
    /// The methods that a path takes, for 405.
    let allowedMethods: [HTTPRequest.Method]

    init(
        _ status: HTTPResponse.Status, code: String, message: String, parameter: String? = nil,
        retryAfterSeconds: Int? = nil, allowedMethods: [HTTPRequest.Method] = []
    ) {
        self.status = status
        self.code = code
        self.message = message
        self.parameter = parameter
        self.retryAfterSeconds = retryAfterSeconds
        self.allowedMethods = allowedMethods
    }

    package var statusCode: Int { status.code }

    /// OpenAI's coarse classes.
    private var type: String {
        switch status.code {
        case 429: "rate_limit_error"
        case 500...: "server_error"
        default: "invalid_request_error"
        }
    }

    package var body: JSONValue {
        [
            "error": [
                "message": .string(message), "type": .string(type),
                "param": parameter.map(JSONValue.string) ?? .null, "code": .string(code),
            ]
        ]
    }
}

extension APIError {
    /// A field whose value cannot be served; the code is `invalid_` and the field's name.
    static func invalid(_ parameter: String, _ message: String) -> APIError {
        APIError(
            .badRequest, code: "invalid_\(parameter.prefix { $0 != "[" && $0 != "." })",
            message: "\(parameter): \(message)", parameter: parameter)
    }

    static func unsupported(_ parameter: String, _ message: String) -> APIError {
        APIError(
            .badRequest, code: "unsupported_parameter", message: "\(parameter): \(message)", parameter: parameter)
    }

    static func malformedJSON(_ message: String) -> APIError {
        APIError(.badRequest, code: "invalid_json", message: "the body is not valid JSON: \(message)")
    }

    static func bodyTooLarge(limit: Int) -> APIError {
        APIError(.contentTooLarge, code: "body_too_large", message: "the body is longer than \(limit) bytes")
    }

    static let unreadable = APIError(.badRequest, code: "invalid_http", message: "this is not a valid HTTP/1.1 request")

    static let headTooLarge = APIError(
        .requestHeaderFieldsTooLarge, code: "headers_too_large",
        message: "the request's head is over a limit: \(ConnectionGuard.headFields) fields, "
            + "\(ConnectionGuard.headFieldBytes) bytes each, \(ConnectionGuard.headBytes) bytes together")

    static func targetTooLong(_ limit: Int) -> APIError {
        APIError(.uriTooLong, code: "uri_too_long", message: "the request's target is longer than \(limit) bytes")
    }

    static func lateHead(_ limit: TimeAmount) -> APIError {
        APIError(
            .requestTimeout, code: "request_timeout",
            message: "the request's head did not come in time: \(limit.wholeSeconds) s may pass without more of it, "
                + "\((limit * 6).wholeSeconds) s in all")
    }

    static func lateBody(_ limit: TimeAmount) -> APIError {
        APIError(
            .requestTimeout, code: "request_timeout",
            message: "the request's body did not come in time: \(limit.wholeSeconds) s may pass without more of it")
    }

    static let ambiguousLength = APIError(
        .badRequest, code: "invalid_http", message: "a request has Content-Length or Transfer-Encoding, not both")

    static let internalError = APIError(
        .internalServerError, code: "internal_error", message: "the gateway failed; its log says why")

    /// Where the coordinator's refusals get their HTTP status.
    /// - Parameter promptParameter: What this endpoint calls the field that the coordinator calls `prompt`.
    init(_ error: RequestError, promptParameter: String) {
        let status: HTTPResponse.Status
        var retryAfterSeconds: Int?
        switch error.kind {
        case .invalid: status = .badRequest
        case .unauthorized: status = .unauthorized
        case .notFound: status = .notFound
        case .overloaded:
            status = .tooManyRequests
            retryAfterSeconds = error.retryAfterSeconds ?? 1
        case .unavailable:
            status = .serviceUnavailable
            retryAfterSeconds = error.retryAfterSeconds ?? 1
        case .late: status = .gatewayTimeout
        case .failed: status = .internalServerError
        }
        self.init(
            // The one code that applications written for OpenAI look for, to shorten a conversation.
            status, code: error.code == "prompt_too_long" ? "context_length_exceeded" : error.code,
            message: error.message, parameter: error.parameter == "prompt" ? promptParameter : error.parameter,
            retryAfterSeconds: retryAfterSeconds)
    }
}

extension TimeAmount {
    fileprivate var wholeSeconds: Int64 { nanoseconds / 1_000_000_000 }
}
