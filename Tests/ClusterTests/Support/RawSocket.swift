import Foundation
import Glibc
import Testing

/// A blocking TCP connection to this machine. Gives up after a minute of silence, so that a test never hangs.
final class RawSocket: Sendable {
    private let descriptor: Int32

    init(port: Int) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = try UInt16(exactly: port).map(\.bigEndian) ?? { throw POSIXError(.EINVAL) }()
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let connected = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard connected == 0 else {
            close(descriptor)
            throw POSIXError(.ECONNREFUSED)
        }
        var limit = timeval(tv_sec: 60, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit {
        close(descriptor)
    }

    /// Sends as much as the other side takes.
    func send(_ bytes: [UInt8]) {
        var sent = 0
        while sent < bytes.count {
            let count = bytes[sent...].withUnsafeBytes {
                Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { return }
            sent += count
        }
    }

    /// The next bytes; nil at the end, or when nothing comes.
    func receive() -> [UInt8]? {
        var buffer = [UInt8](repeating: 0, count: 65_536)
        let count = recv(descriptor, &buffer, buffer.count, 0)
        return count > 0 ? Array(buffer.prefix(count)) : nil
    }

    func receiveAll() -> [UInt8] {
        var received: [UInt8] = []
        while let bytes = receive() { received += bytes }
        return received
    }

    /// Sends bytes to a port and returns what comes back until the other side closes.
    static func exchange(port: Int, _ bytes: [UInt8]) async throws -> String {
        try await offCooperativeThreads {
            let socket = try RawSocket(port: port)
            socket.send(bytes)
            return String(decoding: socket.receiveAll(), as: UTF8.self)
        }
    }
}
