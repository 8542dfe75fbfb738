import Wire

/// Why a call failed.
public struct TramontaneError: Error, Sendable, Hashable, CustomStringConvertible {
    /// Stable code, for programs: `queue_full`, `prompt_too_long`, `connection_closed`, …
    /// `docs/wire-protocol.md` lists them.
    public let code: String
    /// One line for people, naming what was found and what would be right.
    public let message: String
    /// After so long the same may succeed, where the cluster said so.
    public let retryAfterSeconds: Int?

    public init(code: String, message: String, retryAfterSeconds: Int? = nil) {
        self.code = code
        self.message = message
        self.retryAfterSeconds = retryAfterSeconds
    }

    init(_ failure: Failure) {
        self.init(code: failure.code, message: failure.message)
    }

    init(_ failure: ProtoFailure) {
        self.init(
            code: failure.code, message: failure.message,
            retryAfterSeconds: failure.retryAfterSeconds > 0 ? Int(failure.retryAfterSeconds) : nil)
    }

    public var description: String { "\(code): \(message)" }
}
