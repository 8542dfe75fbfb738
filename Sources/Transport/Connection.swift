package import NIOCore
import Synchronization
package import Wire

/// Takes what happens on a connection. Every call comes on the connection's event loop; none comes after `closed`.
package protocol ConnectionDelegate: AnyObject {
    /// A frame that the connection's role allows. Its payload is checked as far as the frame's own length and checksum go.
    func received(_ frame: Frame, on connection: Connection)
    /// What had arrived has been delivered: the moment to work on it together.
    func readComplete(on connection: Connection)
    /// The peer takes bytes too slowly (`false`), or has caught up (`true`). Called at the end of a loop tick.
    func writabilityChanged(_ writable: Bool, on connection: Connection)
    /// The connection is over, exactly once. The reason is nil if this side closed it without one.
    func closed(_ reason: Failure?, on connection: Connection)
}

extension ConnectionDelegate {
    package func readComplete(on connection: Connection) {}
    package func writabilityChanged(_ writable: Bool, on connection: Connection) {}
}

/// An established connection to a peer that said who it is.
package final class Connection: Sendable {
    package let eventLoop: any EventLoop
    package let peer: PeerIdentity
    package let remoteAddress: SocketAddress?
    /// Succeeds when the socket is closed. After ``close(_:)`` that is when the peer has closed its side too, and so has all
    /// that was sent, or when ``ConnectionLimits/linger`` is over.
    package let socketClosed: EventLoopFuture<Void>

    /// The socket, for looking whether something has arrived on it; nil where there is none. Another's once it is closed.
    package let descriptor: CInt?

    private let handler: NIOLoopBound<ConnectionHandler>
    private let limits: ConnectionLimits
    /// Bytes handed to ``send(_:)`` that the socket has not taken yet.
    private let outgoing = Atomic<Int>(0)
    private let counters = Mutex(ConnectionCounters())
    /// Frames from other threads on their way to the loop. Their bytes count as outgoing, and so are bounded with them.
    private let inbox = Mutex([Frame]())

    /// On the channel's loop.
    init(handler: ConnectionHandler, channel: any Channel, peer: PeerIdentity, limits: ConnectionLimits) {
        eventLoop = channel.eventLoop
        remoteAddress = channel.remoteAddress
        socketClosed = channel.closeFuture
        descriptor = StreamSocket(of: channel)?.descriptor
        self.handler = NIOLoopBound(handler, eventLoop: channel.eventLoop)
        self.peer = peer
        self.limits = limits
    }

    /// Whether there is room for more before the peer has taken what was sent. A hint: a send goes out either way, until
    /// the peer is so far behind that the connection is cut.
    package var isWritable: Bool { outgoingBytes < limits.writableBytes }

    /// Bytes sent that the socket has not taken yet.
    package var outgoingBytes: Int { outgoing.load(ordering: .relaxed) }

    /// What the connection carried so far.
    package var accounting: ConnectionCounters { counters.withLock { $0 } }

    /// Sends a frame. On the loop the frame is encoded before this returns; frames from one thread keep their order.
    /// Nothing happens once the connection is closed.
    ///
    /// Everything sent in one tick of the loop is flushed together at its end, or by ``flush()``.
    package func send(_ frame: Frame) {
        outgoing.add(frame.payload.readableBytes + FrameHeader.bytes, ordering: .relaxed)
        if eventLoop.inEventLoop {
            drainInbox()
            handler.value.send(frame)
            return
        }
        let isFirst = inbox.withLock { inbox in
            inbox.append(frame)
            return inbox.count == 1
        }
        if isFirst {
            eventLoop.execute { self.drainInbox() }
        }
    }

    /// Sends a frame whose payload `write` appends to the connection's own memory, so that none is made for it. On the loop.
    ///
    /// - Parameter body: the rest of the payload, which is not copied where the socket takes it at once.
    package func send(
        _ kind: FrameKind, correlation: UInt64 = 0, epoch: UInt64 = 0,
        body: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0),
        payload write: (inout ByteBuffer) -> Void
    ) {
        drainInbox()
        handler.value.send(kind, correlation: correlation, epoch: epoch, body: body, payload: write)
    }

    /// Reads what has arrived from the socket and delivers it, as the loop does: for the loop's own use, in a task that keeps
    /// it from looking itself.
    package func receive() {
        handler.value.receive()
    }

    /// Hands what was sent to the socket now: for the loop's own use, before a long computation.
    package func flush() {
        if eventLoop.inEventLoop {
            drainInbox()
            handler.value.flushBatch()
        } else {
            eventLoop.execute { self.flush() }
        }
    }

    /// Closes the connection after what was sent. With a failure, the peer is told why first.
    package func close(_ failure: Failure? = nil) {
        if eventLoop.inEventLoop {
            drainInbox()
            handler.value.closeLocally(failure)
        } else {
            eventLoop.execute { self.close(failure) }
        }
    }

    private func drainInbox() {
        let frames = inbox.withLock { inbox in
            guard !inbox.isEmpty else { return [Frame]() }
            defer { inbox = [] }
            return inbox
        }
        for frame in frames { handler.value.send(frame) }
    }

    func countSent(_ kind: FrameKind, payloadBytes: Int) {
        counters.withLock { $0.sent(kind, payloadBytes: payloadBytes) }
    }

    func countReceived(_ kind: FrameKind, payloadBytes: Int) {
        counters.withLock { $0.received(kind, payloadBytes: payloadBytes) }
    }

    /// Bytes that were sent otherwise than by ``send(_:)``.
    func given(bytes: Int) {
        outgoing.add(bytes, ordering: .relaxed)
    }

    func taken(bytes: Int) {
        outgoing.subtract(bytes, ordering: .relaxed)
    }
}
