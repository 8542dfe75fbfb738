import ArgumentParser
import Wire

/// For `@Option(transform:)`.
extension Address {
    /// Where to listen; port 0 picks a free one.
    static func listening(_ text: String) throws -> Address {
        try argument(text, ports: 0...65_535)
    }

    /// Where somebody listens already.
    static func remote(_ text: String) throws -> Address {
        try argument(text, ports: 1...65_535)
    }

    private static func argument(_ text: String, ports: ClosedRange<Int>) throws -> Address {
        do {
            return try Address(parsing: text, ports: ports)
        } catch {
            throw ValidationError(error.message)
        }
    }
}
