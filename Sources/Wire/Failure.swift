/// Why something failed, in a form that crosses processes.
///
/// `code` is stable and for programs; `message` is one line for people that names the field, the found value and the
/// limit, and never contains prompt text. `docs/wire-protocol.md` lists the codes.
package struct Failure: Error, Sendable, Hashable, CustomStringConvertible {
    /// Stable code, for example `frame_checksum`.
    package var code: String
    /// One line for people.
    package var message: String

    package init(code: String, message: String) {
        self.code = code
        self.message = message
    }

    package init(_ message: ProtoFailure) {
        self.init(code: message.code, message: message.message)
    }

    package var description: String { "\(code): \(message)" }
}

extension ProtoFailure {
    package init(_ failure: Failure) {
        self.init()
        code = failure.code
        message = failure.message
    }
}
