import HTTPTypes
import Hummingbird
import JSONText
import NIOCore
import NIOHTTPTypes

/// Stands between the HTTP codec and Hummingbird on every connection and takes care of what a request handler does not
/// see: a client that leaves, one that does not read, one that never stops sending, and bytes that are not HTTP.
///
/// It lives on the connection's event loop alone.
final class ConnectionGuard: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPRequestPart
    typealias InboundOut = HTTPRequestPart
    typealias OutboundIn = HTTPResponsePart
    typealias OutboundOut = HTTPResponsePart

    let presence = ClientPresence()

    private let bodyLimitBytes: Int
    private let stallTimeout: TimeAmount
    private var bodyBytes = 0
    private var responseIsOpen = false
    /// After this handler answered a request itself, nothing more is read.
    private var isClosing = false
    private var stall: Scheduled<Void>?

    /// - Parameters:
    ///   - bodyLimitBytes: A body that is refused is still read, so that the client gets to see why; up to this length.
    ///   - stallTimeout: How long the connection may stay full of unread answer.
    init(bodyLimitBytes: Int, stallTimeout: TimeAmount) {
        self.bodyLimitBytes = bodyLimitBytes
        self.stallTimeout = stallTimeout
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard !isClosing else { return }
        switch unwrapInboundIn(data) {
        case .head(let head):
            bodyBytes = 0
            // A proxy in front may take the other one of the two: request smuggling (RFC 9112, 6.3).
            if head.headerFields[.contentLength] != nil, head.headerFields[.transferEncoding] != nil {
                return refuse(context: context, .ambiguousLength)
            }
            if head.headerFields[.expect]?.lowercased() == "100-continue", !responseIsOpen {
                context.writeAndFlush(wrapOutboundOut(.head(HTTPResponse(status: .continue))), promise: nil)
            }
        case .body(let bytes):
            bodyBytes += bytes.readableBytes
            if bodyBytes > bodyLimitBytes {
                isClosing = true
                presence.leave()
                return context.close(promise: nil)
            }
        case .end:
            break
        }
        context.fireChannelRead(data)
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        guard !isClosing else {
            promise?.fail(ChannelError.ioOnClosedChannel)
            return
        }
        switch unwrapOutboundIn(data) {
        case .head: responseIsOpen = true
        case .body: break
        case .end: responseIsOpen = false
        }
        context.write(data, promise: promise)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        // Anything that cannot be read as HTTP, the binary protocol for example, and headers over the limits.
        if context.channel.isActive, !isClosing {
            refuse(context: context, .unreadable)
        } else {
            context.close(promise: nil)
        }
    }

    private func refuse(context: ChannelHandlerContext, _ error: APIError) {
        isClosing = true
        presence.leave()
        // In the middle of an answer, an error would be read as a part of it.
        guard !responseIsOpen else { return context.close(promise: nil) }
        let body = ByteBuffer(string: error.body.text)
        let fields: HTTPFields = [
            .contentType: "application/json", .contentLength: String(body.readableBytes), .connection: "close",
        ]
        context.write(wrapOutboundOut(.head(HTTPResponse(status: error.status, headerFields: fields))), promise: nil)
        context.write(wrapOutboundOut(.body(body)), promise: nil)
        let channel = context.channel
        context.writeAndFlush(wrapOutboundOut(.end(nil))).whenComplete { _ in channel.close(promise: nil) }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        stall?.cancel()
        stall = nil
        if !context.channel.isWritable {
            let channel = context.channel
            stall = context.eventLoop.scheduleTask(in: stallTimeout) { channel.close(promise: nil) }
        }
        context.fireChannelWritabilityChanged()
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        // HTTP/1 clients keep their side open while they wait, so a closed one means that nobody does.
        if event as? ChannelEvent == .inputClosed { presence.leave() }
        context.fireUserInboundEventTriggered(event)
    }

    func channelInactive(context: ChannelHandlerContext) {
        presence.leave()
        context.fireChannelInactive()
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        stall?.cancel()
        presence.leave()
    }
}
