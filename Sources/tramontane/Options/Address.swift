import ArgumentParser

/// HOST:PORT as users write it; `[::1]:80` for IPv6.
struct Address: Equatable, Sendable, CustomStringConvertible {
    var host: String
    /// 0 picks a free one.
    var port: Int

    var description: String {
        host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    }

    /// For `@Option(transform:)`.
    /// - Throws: `ValidationError` that says what would be right.
    static func parse(_ text: String) throws -> Address {
        guard let colon = text.lastIndex(of: ":") else {
            throw ValidationError("\"\(text)\" has no port, HOST:PORT is wanted")
        }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            throw ValidationError("\"\(text)\": an IPv6 address is written [ADDRESS]:PORT")
        }
        guard !host.isEmpty else { throw ValidationError("\"\(text)\" has no host, HOST:PORT is wanted") }
        let digits = text[text.index(after: colon)...]
        guard !digits.isEmpty, digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = Int(digits),
            port <= 65_535
        else { throw ValidationError("port \(digits), allowed are 0 to 65535") }
        return Address(host: String(host), port: port)
    }

    /// Where something listens already: port 0 is none.
    static func parseRemote(_ text: String) throws -> Address {
        let address = try parse(text)
        guard address.port > 0 else { throw ValidationError("port 0, allowed are 1 to 65535") }
        return address
    }
}
