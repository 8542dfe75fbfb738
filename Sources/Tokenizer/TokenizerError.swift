/// Why a tokenizer model or a chat was refused.
package struct TokenizerError: Error, Equatable, CustomStringConvertible {
    /// A stable name for programs, such as `varint_overlong` or `piece_duplicate`.
    package let code: String
    /// One line for people: where, what was found, what is allowed. Never text of a prompt.
    package let message: String

    package init(_ code: String, _ message: String) {
        self.code = code
        self.message = message
    }

    package var description: String { "\(code): \(message)" }
}
