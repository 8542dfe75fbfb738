import Gateway
import JSONText
import Logging
import NIOCore
import NIOPosix
import Prometheus
import ServiceLifecycle
import Testing

/// An answer as it came over the socket.
struct HTTPAnswer {
    var status: Int
    var headers: [String: String]
    var body: String

    var json: JSONValue? { try? JSONValue(parsing: body) }
    var error: JSONValue? { json?["error"] }

    /// The `data` of the server-sent events.
    var events: [String] {
        body.split(separator: "\n\n").map { $0.hasPrefix("data: ") ? String($0.dropFirst(6)) : "?\($0)" }
    }

    init?(_ bytes: String) {
        guard let end = bytes.firstRange(of: "\r\n\r\n") else { return nil }
        let lines = bytes[..<end.lowerBound].split(separator: "\r\n")
        guard let first = lines.first?.split(separator: " "), first.count > 1, let status = Int(first[1]) else {
            return nil
        }
        self.status = status
        headers = [:]
        for line in lines.dropFirst() {
            guard let colon = line.firstIndex(of: ":") else { return nil }
            headers[line[..<colon].lowercased()] = line[line.index(after: colon)...].trimmingPrefix(" ").description
        }
        body = String(bytes[end.upperBound...])
        if headers["transfer-encoding"] == "chunked" { body = Self.unchunked(body) }
    }

    private static func unchunked(_ body: String) -> String {
        var rest = Substring(body).utf8
        var output: [UInt8] = []
        while let end = rest.firstRange(of: Array("\r\n".utf8)),
            let length = Int(String(rest[..<end.lowerBound]) ?? "", radix: 16), length > 0
        {
            let chunk = rest[end.upperBound...].prefix(length)
            output += chunk
            rest = rest[end.upperBound...].dropFirst(length + 2)
        }
        return String(decoding: output, as: UTF8.self)
    }
}

/// Sends its bytes as soon as the channel is connected.
private final class Greeting: ChannelInboundHandler, Sendable {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let bytes: String

    init(bytes: String) { self.bytes = bytes }

    func channelActive(context: ChannelHandlerContext) {
        context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: bytes)), promise: nil)
        context.fireChannelActive()
    }
}

/// A socket to a gateway under test.
struct HTTPClient {
    let port: Int

    /// A connection that sends `bytes` first. Its event loop does so: a task may wait for its turn longer than the gateway
    /// does for a request.
    private func connect(sending bytes: String) async throws -> NIOAsyncChannel<ByteBuffer, ByteBuffer> {
        try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .connect(host: "127.0.0.1", port: port) { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(Greeting(bytes: bytes))
                    return try NIOAsyncChannel<ByteBuffer, ByteBuffer>(wrappingChannelSynchronously: channel)
                }
            }
    }

    /// Sends bytes and reads until the gateway closes.
    func exchange(_ bytes: String) async throws -> String {
        try await connect(sending: bytes).executeThenClose { inbound, _ in
            var received = ByteBuffer()
            // The gateway may refuse and close before it has read everything.
            do {
                for try await var part in inbound { received.writeBuffer(&part) }
            } catch is IOError {}
            return String(buffer: received)
        }
    }

    /// Sends bytes, reads until the first of the answer has come, and leaves.
    func exchangeBeginning(_ bytes: String) async throws {
        try await connect(sending: bytes).executeThenClose { inbound, _ in
            for try await _ in inbound { break }
        }
    }

    /// Sends bytes and reads nothing until `done` returns.
    func exchangeWithoutReading(_ bytes: String, until done: () async -> Void) async throws {
        let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
            .channelOption(.autoRead, value: false)
            .channelInitializer { channel in channel.pipeline.addHandler(Greeting(bytes: bytes)) }
            .connect(host: "127.0.0.1", port: port).get()
        await done()
        try? await channel.close()
    }

    func get(_ path: String, method: String = "GET", header: String? = nil) async throws -> HTTPAnswer {
        let line = header.map { "\($0)\r\n" } ?? ""
        return try #require(
            HTTPAnswer(
                try await exchange("\(method) \(path) HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\(line)\r\n")))
    }

    func post(_ path: String, _ body: String, header: String? = nil) async throws -> HTTPAnswer {
        try #require(HTTPAnswer(try await exchange(Self.request(path, body, header: header))))
    }

    static func request(_ path: String, _ body: String, header: String? = nil) -> String {
        "POST \(path) HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Type: application/json\r\n"
            + (header.map { "\($0)\r\n" } ?? "") + "Content-Length: \(body.utf8.count)\r\n\r\n\(body)"
    }
}

/// Runs a gateway on a free port for the time of `body`.
func withGateway(
    _ service: ScriptedService, configuration: Gateway.Configuration = .init(port: 0),
    metrics: PrometheusRegistry = PrometheusRegistry(), _ body: @Sendable (HTTPClient) async throws -> Void
) async throws {
    let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
    let gateway = Gateway(configuration: configuration, service: service, metrics: metrics, logger: logger)
    let group = ServiceGroup(services: [gateway], logger: logger)
    try await withThrowingTaskGroup(of: Void.self) { tasks in
        tasks.addTask { try await group.run() }
        let address = try await gateway.listening()
        let port = try #require(address.split(separator: ":").last.flatMap { Int($0) })
        try await body(HTTPClient(port: port))
        await group.triggerGracefulShutdown()
    }
}
