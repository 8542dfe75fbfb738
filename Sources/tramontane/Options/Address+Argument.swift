import ArgumentParser
import Glibc
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

    /// A host alone, where the port is known: a name or an IP address, an IPv6 address without brackets.
    static func host(_ text: String) throws -> String {
        guard !text.isEmpty else { throw ValidationError("it is empty, a host's name or address is wanted") }
        var address = in6_addr()
        let isIPv6 = inet_pton(AF_INET6, text, &address) == 1
        let isName = text.unicodeScalars.allSatisfy {
            $0.value > 0x20 && $0.value != 0x7F && !":/[]".unicodeScalars.contains($0)
        }
        guard isIPv6 || isName else {
            throw ValidationError("\"\(text)\" is no host's name or address; the port is --listen's")
        }
        return text
    }

    /// Whether it stands for all addresses of the machine that listens.
    var isEvery: Bool { ["0.0.0.0", "::"].contains(host) }

    private static func argument(_ text: String, ports: ClosedRange<Int>) throws -> Address {
        do {
            return try Address(parsing: text, ports: ports)
        } catch {
            throw ValidationError(error.message)
        }
    }
}
