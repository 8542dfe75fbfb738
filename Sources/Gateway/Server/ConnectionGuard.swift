import HTTPTypes
import Hummingbird
import JSONText
import NIOCore
import NIOHTTP1
import NIOHTTPTypes
import Transport

/// Stands between the HTTP codec and Hummingbird on every connection and takes care of what a request handler does not
/// see: a client that leaves, one that does not read, one that never stops sending or stops half-way, heads over the
/// limits, and bytes that are not HTTP.
///
/// It lives on the connection's event loop alone. It puts `SocketSide` before the codec, since a half head is nothing
/// that comes out of it.
final class ConnectionGuard: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPRequestPart
    typealias InboundOut = HTTPRequestPart
    typealias OutboundIn = HTTPResponsePart
    typealias OutboundOut = HTTPResponsePart

    struct Limits: Sendable {
        /// A body that is refused is still read, so that the client gets to see why; up to this length.
        var bodyBytes: Int
        /// How long the connection may stay full of unread answer.
        var stall: TimeAmount
        var patience: RequestPatience.Limits
    }

    /// Longest target of a request, and what stands before and after it in its line.
    private static let targetBytes = 8 << 10
    private static let lineBytes = targetBytes + 32
    /// How long a connection that was refused is read and thrown away: one that is closed while input waits in it is
    /// reset, and the client would lose the answer.
    private static let linger = TimeAmount.seconds(2)

    /// More fields than that, or longer ones, are not decoded: several times what browsers and proxies send.
    static let headFields = 256
    static let headFieldBytes = 32 << 10
    static let headBytes = 64 << 10

    let presence = ClientPresence()

    private let socketSide = SocketSide()
    private let limits: Limits
    private var patience: RequestPatience
    private var context: ChannelHandlerContext?
    private var bodyBytes = 0
    /// Bytes of the line that the request being read begins with; nil where it has ended.
    private var openLineBytes: Int?
    private var isLineTooLong = false
    private var responseIsOpen = false
    /// After this handler answered a request itself, what still comes is thrown away.
    private var isClosing = false
    private var discardedBytes = 0
    private var stall: Scheduled<Void>?
    /// Looks at the deadline of `patience`, which may have moved on by then.
    private var timer: (deadline: NIODeadline, task: Scheduled<Void>)?

    init(limits: Limits, now: NIODeadline = .now()) {
        self.limits = limits
        patience = RequestPatience(limits: limits.patience, now: now)
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        do {
            socketSide.connection = self
            try context.pipeline.syncOperations.addHandler(socketSide, position: .first)
            schedule(context)
        } catch {
            // The pipeline is gone already.
            context.close(promise: nil)
        }
    }

    // MARK: In

    /// Bytes that the codec has not seen.
    /// - Returns: whether it is to see them.
    fileprivate func arrived(_ bytes: ByteBuffer) -> Bool {
        guard let context else { return false }
        guard !isClosing else {
            discardedBytes += bytes.readableBytes
            if discardedBytes > limits.bodyBytes { context.close(promise: nil) }
            return false
        }
        if patience.place == .between {
            // Some clients end a body with an empty line that belongs to nothing.
            guard bytes.readableBytesView.contains(where: { $0 != UInt8(ascii: "\r") && $0 != UInt8(ascii: "\n") })
            else { return true }
            // In the middle of pipelined requests nobody knows where a line begins.
            openLineBytes = patience.deadline == nil ? nil : 0
            isLineTooLong = false
        }
        patience.arrived(now: context.eventLoop.now)
        if let open = openLineBytes {
            let line = bytes.readableBytesView.prefix(Self.lineBytes + 1)
            let end = line.firstIndex(of: UInt8(ascii: "\n"))
            let length = open + (end.map { $0 - line.startIndex } ?? line.count)
            isLineTooLong = length > Self.lineBytes
            openLineBytes = end == nil ? length : nil
        }
        return true
    }

    /// The codec has seen what arrived.
    fileprivate func delivered() {
        guard let context, !isClosing else { return }
        if isLineTooLong, patience.place == .head { return refuse(context: context, .targetTooLong(Self.targetBytes)) }
        schedule(context)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !isClosing else { return }
        switch unwrapInboundIn(data) {
        case .head(let head):
            bodyBytes = 0
            openLineBytes = nil
            patience.headRead()
            if let target = head.path, target.utf8.count > Self.targetBytes {
                return refuse(context: context, .targetTooLong(Self.targetBytes))
            }
            // A proxy in front may take the other one of the two: request smuggling (RFC 9112, 6.3).
            if head.headerFields[.contentLength] != nil, head.headerFields[.transferEncoding] != nil {
                return refuse(context: context, .ambiguousLength)
            }
            if head.headerFields[.expect]?.lowercased() == "100-continue", !responseIsOpen {
                context.writeAndFlush(wrapOutboundOut(.head(HTTPResponse(status: .continue))), promise: nil)
            }
        case .body(let bytes):
            bodyBytes += bytes.readableBytes
            if bodyBytes > limits.bodyBytes {
                isClosing = true
                presence.leave()
                return context.close(promise: nil)
            }
        case .end:
            patience.requestRead()
        }
        context.fireChannelRead(data)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        guard context.channel.isActive, !isClosing else { return context.close(promise: nil) }
        guard (error as? HTTPParserError) == .headerOverflow else {
            // Anything that cannot be read as HTTP, the binary protocol for example.
            return refuse(context: context, .unreadable)
        }
        refuse(context: context, isLineTooLong ? .targetTooLong(Self.targetBytes) : .headTooLarge)
    }

    // MARK: Out

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        guard !isClosing else {
            promise?.fail(ChannelError.ioOnClosedChannel)
            return
        }
        switch unwrapOutboundIn(data) {
        case .head:
            responseIsOpen = true
            // A stream's chunks may wait for it.
            context.eventLoop.execute { [presence] in presence.becameWritable() }
        case .body: break
        case .end:
            responseIsOpen = false
            patience.answered(now: context.eventLoop.now)
            schedule(context)
        }
        context.write(data, promise: promise)
    }

    /// Sends a chunk of the streamed answer that is under way, past everybody who would take it apart and put it together
    /// again: for a stream of tokens this is most of what HTTP costs.
    func send(chunk: UnsafeRawBufferPointer) {
        guard responseIsOpen, !isClosing else { return }
        socketSide.send(chunk)
    }

    /// Whether the head of an answer was sent and there is room for more.
    var takesChunks: Bool { responseIsOpen && context?.channel.isWritable ?? false }

    private func refuse(context: ChannelHandlerContext, _ error: APIError) {
        isClosing = true
        timer?.task.cancel()
        timer = nil
        presence.leave()
        // In the middle of an answer, an error would be read as a part of it; before an older one, as that.
        guard patience.mayAnswer, !responseIsOpen else { return context.close(promise: nil) }
        let body = ByteBuffer(string: error.body.text)
        let fields: HTTPFields = [
            .contentType: "application/json", .contentLength: String(body.readableBytes), .connection: "close",
        ]
        context.write(wrapOutboundOut(.head(HTTPResponse(status: error.status, headerFields: fields))), promise: nil)
        context.write(wrapOutboundOut(.body(body)), promise: nil)
        let channel = context.channel
        context.writeAndFlush(wrapOutboundOut(.end(nil))).whenComplete { _ in
            channel.close(mode: .output, promise: nil)
        }
        context.eventLoop.scheduleTask(in: Self.linger) { channel.close(promise: nil) }
    }

    // MARK: Time

    private func schedule(_ context: ChannelHandlerContext) {
        guard let deadline = patience.deadline, !isClosing else { return }
        if let timer {
            guard deadline < timer.deadline else { return }
            timer.task.cancel()
        }
        let task = context.eventLoop.assumeIsolated().scheduleTask(deadline: deadline) { self.look() }
        timer = (deadline, task)
    }

    private func look() {
        timer = nil
        guard let context, !isClosing, let deadline = patience.deadline else { return }
        guard context.eventLoop.now >= deadline else { return schedule(context) }
        switch patience.place {
        case .between: context.close(promise: nil)
        case .head: refuse(context: context, .lateHead(patience.limits.head))
        case .body: refuse(context: context, .lateBody(patience.limits.body))
        }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        stall?.cancel()
        stall = nil
        if !context.channel.isWritable {
            let channel = context.channel
            stall = context.eventLoop.scheduleTask(in: limits.stall) { channel.close(promise: nil) }
        } else {
            // Later: a channel may say so in the middle of a delivery's write.
            context.eventLoop.execute { [presence] in presence.becameWritable() }
        }
        context.fireChannelWritabilityChanged()
    }

    // MARK: The end

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        // HTTP/1 clients keep their side open while they wait, so a closed one means that nobody does.
        if event as? ChannelEvent == .inputClosed {
            presence.leave()
            if isClosing { return context.close(promise: nil) }
        }
        context.fireUserInboundEventTriggered(event)
    }

    func channelInactive(context: ChannelHandlerContext) {
        presence.leave()
        context.fireChannelInactive()
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        stall?.cancel()
        timer?.task.cancel()
        timer = nil
        self.context = nil
        socketSide.connection = nil
        presence.leave()
    }
}

/// The socket's side of a connection's codec: shows bytes to the guard before they are decoded, and sends some that need no
/// encoding. Those go to the socket itself as long as it takes them and the channel has nothing to write, and else to the channel.
private final class SocketSide: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = IOData
    typealias OutboundOut = IOData

    var connection: ConnectionGuard?
    private var context: ChannelHandlerContext?
    private var socket: StreamSocket?
    /// Writes of the channel that have not ended. Until they have, nothing may be written around it.
    private var channelWrites = 0

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }
    func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
        socket = nil
    }

    func send(_ bytes: UnsafeRawBufferPointer) {
        guard let context else { return }
        var sent = 0
        if channelWrites == 0, context.channel.isActive {
            if socket == nil { socket = StreamSocket(of: context.channel) }
            sent = socket?.send(bytes) ?? 0
        }
        guard sent < bytes.count else { return }
        let rest = ByteBuffer(bytes: bytes[sent...])
        context.writeAndFlush(wrapOutboundOut(.byteBuffer(rest)), promise: counted(nil, context))
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        context.write(data, promise: counted(promise, context))
    }

    /// A promise for a write of the channel.
    private func counted(_ promise: EventLoopPromise<Void>?, _ context: ChannelHandlerContext) -> EventLoopPromise<Void>
    {
        let counted = promise ?? context.eventLoop.makePromise()
        channelWrites += 1
        counted.futureResult.assumeIsolated().whenComplete { _ in self.channelWrites -= 1 }
        return counted
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard let connection, connection.arrived(unwrapInboundIn(data)) else { return }
        context.fireChannelRead(data)
        connection.delivered()
    }
}
