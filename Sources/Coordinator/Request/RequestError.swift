import SwiftProtobuf
package import Wire

/// Why a request was refused or ended early. `code` is stable and meant for programs, `message` is one line for people
/// and never holds prompt text. What status a gateway makes of it follows from `kind`.
package struct RequestError: Error, Sendable, Equatable, CustomStringConvertible {
    package enum Kind: Sendable, Equatable {
        /// The request can never succeed as it is (HTTP 400).
        case invalid
        /// Nobody that is known here asks (HTTP 401).
        case unauthorized
        /// It names something that is not here (HTTP 404).
        case notFound
        /// Try again later: the queue is full (HTTP 429).
        case overloaded
        /// Nothing can serve it now (HTTP 503).
        case unavailable
        /// Its deadline has passed (HTTP 504, or an error event in a stream).
        case late
        /// It was accepted and could not be finished (HTTP 500, or an error event in a stream).
        case failed
    }

    package let kind: Kind
    package let code: String
    package let message: String
    /// The request's field at fault, in the spelling of the client protocol.
    package let parameter: String?
    /// After so long the same may succeed, as far as that can be said.
    package let retryAfterSeconds: Int?

    package init(
        _ kind: Kind, code: String, message: String, parameter: String? = nil, retryAfterSeconds: Int? = nil
    ) {
        self.kind = kind
        self.code = code
        self.message = message
        self.parameter = parameter
        self.retryAfterSeconds = retryAfterSeconds
    }

    package var description: String { "\(code): \(message)" }

    package var failure: ProtoFailure {
        .with {
            $0.code = code
            $0.message = message
            $0.retryAfterSeconds = UInt32(clamping: retryAfterSeconds ?? 0)
        }
    }
}

extension RequestError {
    /// A field with a value outside its range; the code is `invalid_` and the name of the outermost field.
    static func invalid(_ parameter: String, _ message: String) -> RequestError {
        RequestError(
            .invalid, code: "invalid_\(parameter.prefix { $0 != "[" && $0 != "." })",
            message: "\(parameter): \(message)", parameter: parameter)
    }

    static func modelNotFound(_ name: String, serving: String) -> RequestError {
        RequestError(
            .notFound, code: "model_not_found",
            message: "model \(quoted(name)) is not served here, \(quoted(serving)) is", parameter: "model")
    }

    static func promptTooLong(tokens: Int, limit: Int) -> RequestError {
        RequestError(
            .invalid, code: "prompt_too_long",
            message: "prompt: \(tokens) tokens, at most \(limit) leave room for an answer in the context",
            parameter: "prompt")
    }

    static func invalidKey(_ message: String) -> RequestError {
        RequestError(.unauthorized, code: "invalid_api_key", message: message)
    }

    static func queueFull(limit: Int) -> RequestError {
        RequestError(.overloaded, code: "queue_full", message: "\(limit) requests are waiting, which is the limit")
    }

    static func queueFull(requests: Int, tokens: Int, retryAfterSeconds: Int) -> RequestError {
        RequestError(
            .overloaded, code: "queue_full",
            message: "\(requests) requests of \(tokens) tokens are waiting, which leaves no room for another",
            retryAfterSeconds: retryAfterSeconds)
    }

    static func queueFull(bytes limit: Int) -> RequestError {
        RequestError(
            .overloaded, code: "queue_full", message: "requests of \(limit) bytes are waiting, which is the limit")
    }

    static let notReady = RequestError(
        .unavailable, code: "not_ready", message: "no lane is open: not all parts of the model are on a ready worker")
    static let shuttingDown = RequestError(
        .unavailable, code: "shutting_down", message: "the coordinator is shutting down")
    package static let queueTimeout = RequestError(
        .unavailable, code: "queue_timeout", message: "the request waited too long for a lane")
    package static let deadlineExceeded = RequestError(
        .late, code: "deadline_exceeded", message: "the answer was not complete at the request's deadline")

    static func workerLost(_ message: String) -> RequestError {
        RequestError(.failed, code: "worker_lost", message: message)
    }

    static func slowReader(limit: Int) -> RequestError {
        RequestError(
            .failed, code: "slow_reader", message: "the reader is more than \(limit) tokens behind and was cut off")
    }

    /// A name from outside, shortened, for a message. By scalars, since one character may have any number of them.
    package static func quoted(_ name: String) -> String {
        name.unicodeScalars.count > 64 ? "\"\(String(name.unicodeScalars.prefix(64)))…\"" : "\"\(name)\""
    }
}
