import Glibc
import NIOCore
import NIOPosix

/// Lets an event loop look at its sockets once before it goes on with the next piece of work.
///
/// A task that a task adds runs in the same turn of the loop, so a chain of `execute` would keep the loop from its sockets.
/// A byte in a pipe of the loop's own comes back only with the selector's next look, together with whatever else has
/// arrived; the work then runs after all of it has been read.
final class LoopTurn: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private var context: ChannelHandlerContext?
    private let byte = ByteBuffer(bytes: [0])
    private var isRequested = false
    /// What to do in the next turn. Set by the owner.
    var onTurn: () -> Void = {}

    /// On `eventLoop`.
    static func open(on eventLoop: any EventLoop) -> EventLoopFuture<NIOLoopBound<LoopTurn>> {
        eventLoop.flatSubmit {
            var ends: [CInt] = [-1, -1]
            guard pipe(&ends) == 0 else {
                return eventLoop.makeFailedFuture(IOError(errnoCode: errno, reason: "pipe"))
            }
            let turn = NIOLoopBound(LoopTurn(), eventLoop: eventLoop)
            return NIOPipeBootstrap(group: eventLoop)
                .channelInitializer { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try channel.pipeline.syncOperations.addHandler(turn.value)
                    }
                }
                .takingOwnershipOfDescriptors(input: ends[0], output: ends[1])
                .map { _ in turn }
        }
    }

    /// Asks for one call of `onTurn`. On the loop.
    func request() {
        guard !isRequested, let context else { return }
        isRequested = true
        context.writeAndFlush(wrapOutboundOut(byte), promise: nil)
    }

    func close() {
        context?.close(promise: nil)
    }

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        isRequested = false
        // After the reads of this turn, not between them.
        context.eventLoop.assumeIsolated().execute { self.onTurn() }
    }
}
