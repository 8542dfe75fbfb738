import Glibc
import NIOCore
import NIOPosix

/// A request that is ready to be sent.
struct LoadRequest: Sendable {
    /// JSON.
    var body: ByteBuffer
    /// What `Authorization: Bearer` carries.
    var apiKey: String?
}

/// Where a load goes.
struct LoadTarget: Sendable {
    /// Resolved once: a name service has no part in the latency.
    let address: SocketAddress
    /// The `Host` field.
    let host: String
    let path: String
}

/// Hears of a client's exchanges, on its loop.
protocol LoadObserver: AnyObject {
    /// Text has arrived, as it is escaped in JSON.
    func received(_ text: UnsafeRawBufferPointer, of exchange: Int, at now: UInt64)
    func ended(_ exchange: Exchange)
}

/// A lean HTTP/1.1 client: a connection for each request under way, kept for the next one. Confined to its event loop.
final class LoadClient {
    /// Servers close idle connections after a minute or so; one that is about to is not used again.
    private static let longestIdle = TimeAmount.seconds(20)

    let loop: any EventLoop
    private let target: LoadTarget
    private var idle: [LoadConnection] = []
    private var open: [ObjectIdentifier: LoadConnection] = [:]
    private(set) var isClosed = false
    /// Confined like this object, and alive as long as there is something to hear.
    weak var observer: (any LoadObserver)?

    init(target: LoadTarget, loop: any EventLoop) {
        self.target = target
        self.loop = loop
    }

    static var now: UInt64 { NIODeadline.now().uptimeNanoseconds }

    func send(_ request: LoadRequest, _ exchange: Exchange) {
        while let connection = idle.popLast() {
            if connection.isActive, NIODeadline.now() - connection.idleSince < Self.longestIdle {
                return connection.send(request, exchange, to: target)
            }
            connection.close()
        }
        let client = NIOLoopBound(self, eventLoop: loop)
        ClientBootstrap(group: loop)
            .connectTimeout(.seconds(30))
            .channelOption(.tcpOption(.tcp_nodelay), value: 1)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(LoadConnection(client: client.value))
                }
            }
            .connect(to: target.address)
            .assumeIsolated()
            .whenComplete { result in self.dialled(result, request, exchange) }
    }

    private func dialled(_ result: Result<any Channel, any Error>, _ request: LoadRequest, _ exchange: Exchange) {
        do {
            let channel = try result.get()
            let connection = try channel.pipeline.syncOperations.handler(type: LoadConnection.self)
            guard !isClosed else {
                connection.close()
                throw ChannelError.ioOnClosedChannel
            }
            open[ObjectIdentifier(connection)] = connection
            connection.send(request, exchange, to: target)
        } catch {
            var exchange = exchange
            exchange.cut(Self.reason(error), at: Self.now)
            observer?.ended(exchange)
        }
    }

    /// Ends what is under way.
    func close() {
        isClosed = true
        for connection in open.values { connection.close() }
    }

    fileprivate func finished(_ connection: LoadConnection, keepsAlive: Bool) {
        if keepsAlive, !isClosed { idle.append(connection) } else { connection.close() }
    }

    fileprivate func closed(_ connection: LoadConnection) {
        open[ObjectIdentifier(connection)] = nil
        idle.removeAll { $0 === connection }
    }

    fileprivate static func reason(_ error: any Error) -> String {
        switch error {
        case let error as IOError: String(cString: strerror(error.errnoCode))
        case let error as NIOConnectionError:
            error.connectionErrors.first.map { reason($0.error) } ?? "no connection"
        case ChannelError.connectTimeout: "no connection in 30 s"
        case is ChannelError: "connection closed"
        case ResponseParser.Fault.notHTTP: "no answer in HTTP"
        default: "\(error)"
        }
    }
}

/// One connection, and the exchange that it is busy with.
private final class LoadConnection: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let client: LoadClient
    private var context: ChannelHandlerContext?
    private var exchange: Exchange?
    private var parser = ResponseParser()
    private var keepsAlive = true
    private(set) var idleSince = NIODeadline.now()

    init(client: LoadClient) {
        self.client = client
    }

    var isActive: Bool { context?.channel.isActive ?? false }

    func send(_ request: LoadRequest, _ exchange: Exchange, to target: LoadTarget) {
        guard let context else { return }
        self.exchange = exchange
        keepsAlive = true
        var bytes = ByteBuffer(
            string: "POST \(target.path) HTTP/1.1\r\nhost: \(target.host)\r\ncontent-type: application/json\r\n"
                + "content-length: \(request.body.readableBytes)\r\n")
        if let key = request.apiKey { bytes.writeString("authorization: Bearer \(key)\r\n") }
        bytes.writeString("\r\n")
        bytes.writeImmutableBuffer(request.body)
        context.writeAndFlush(wrapOutboundOut(bytes), promise: nil)
    }

    func close() { context?.close(promise: nil) }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let now = LoadClient.now
        // Taken out, so that what the bytes say may change the rest.
        var parser = parser
        self.parser = ResponseParser()
        do {
            try unwrapInboundIn(data).withUnsafeReadableBytes { bytes in
                try parser.take(bytes) { take($0, at: now) }
            }
            self.parser = parser
        } catch {
            errorCaught(context: context, error: error)
        }
    }

    private func take(_ event: ResponseParser.Event, at now: UInt64) {
        switch event {
        case .head(let head):
            keepsAlive = head.keepsAlive
            exchange?.head(status: head.status, isStream: head.contentType.hasPrefix("text/event-stream"))
        case .body(let bytes):
            guard let index = exchange?.index else { return }
            exchange?.received(bytes, at: now) { client.observer?.received($0, of: index, at: now) }
        case .end:
            idleSince = .now()
            guard var exchange = take() else { return }
            exchange.end(at: now)
            client.finished(self, keepsAlive: keepsAlive)
            client.observer?.ended(exchange)
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        if parser.finish() {
            keepsAlive = false
            take(.end, at: LoadClient.now)
        }
        cut("connection closed")
        client.closed(self)
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        cut(LoadClient.reason(error))
        context.close(promise: nil)
    }

    private func cut(_ reason: String) {
        guard var exchange = take() else { return }
        exchange.cut(reason, at: LoadClient.now)
        client.observer?.ended(exchange)
    }

    private func take() -> Exchange? {
        defer { exchange = nil }
        return exchange
    }
}

extension LoadRequest {
    /// A completion of a prompt that is given as tokens, so that its length is exact.
    init(prompt: [Int32], maxTokens: Int, model: String?, stream: Bool, apiKey: String?) {
        let json = JSONLine.object { object in
            if let model { object.string("model", model) }
            object.numbers("prompt", prompt)
            object.number("max_tokens", maxTokens)
            object.number("temperature", 0)
            object.bool("stream", stream)
            if stream { object.object("stream_options") { $0.bool("include_usage", true) } }
        }
        self.init(body: ByteBuffer(string: json), apiKey: apiKey)
    }
}
