import Wire

/// Why a call failed.
public struct TramontaneError: Error, Sendable, Hashable, CustomStringConvertible {
    /// Stable code, for programs: `queue_full`, `prompt_too_long`, `connection_closed`, …
    /// `docs/wire-protocol.md` lists them.
    public let code: String
    /// One line for people, naming what was found and what would be right.
    public let message: String

    public init(code: String, message: String) {
        self.code = code
        self.message = message
    }

    init(_ failure: Failure) {
        self.init(code: failure.code, message: failure.message)
    }

    public var description: String { "\(code): \(message)" }
}
