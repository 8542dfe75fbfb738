import ArgumentParser

/// Why a command ends, in one line for people.
struct CommandError: Error {
    let message: String
    let status: Int32

    /// The arguments are wrong. The message says what would be right.
    static func usage(_ message: String) -> CommandError {
        CommandError(message: message, status: ExitCode.validationFailure.rawValue)
    }

    /// The arguments were fine, and it could not be done.
    static func failure(_ message: String) -> CommandError {
        CommandError(message: message, status: ExitCode.failure.rawValue)
    }

    /// Everything was said already.
    static let silent = CommandError(message: "", status: ExitCode.failure.rawValue)
}
