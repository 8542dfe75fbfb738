/// HOST:PORT, as people write it and as `register` carries it; `[::1]:80` for IPv6.
package struct Address: Hashable, Sendable, CustomStringConvertible {
    package let host: String
    /// Where somebody will listen, 0 stands for any free one.
    package let port: Int

    package init(host: String, port: Int) {
        self.host = host
        self.port = port
    }

    /// - Parameter ports: 1 and up where somebody listens already.
    /// - Throws: `address_invalid`, saying what was found and what would be right.
    package init(parsing text: String, ports: ClosedRange<Int> = 1...65_535) throws(Failure) {
        func invalid(_ problem: String) -> Failure { Failure(code: "address_invalid", message: problem) }
        // It may come from a peer: not all of it belongs into a log.
        let quoted = text.unicodeScalars.count > 64 ? "\"\(String(text.unicodeScalars.prefix(64)))…\"" : "\"\(text)\""
        guard let colon = text.lastIndex(of: ":") else { throw invalid("\(quoted) has no port, HOST:PORT is wanted") }
        var host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
        } else if host.contains(":") {
            throw invalid("\(quoted): an IPv6 address is written [ADDRESS]:PORT")
        }
        guard !host.isEmpty else { throw invalid("\(quoted) has no host, HOST:PORT is wanted") }
        let digits = text[text.index(after: colon)...]
        // Int would also take a sign.
        guard !digits.isEmpty, digits.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let port = Int(digits),
            ports.contains(port)
        else {
            throw invalid("\(quoted): the port is a number from \(ports.lowerBound) to \(ports.upperBound)")
        }
        self.init(host: String(host), port: port)
    }

    package var description: String {
        host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    }
}
