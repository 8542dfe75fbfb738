import NIOCore
import Wire

/// The thin shell around ``ConnectionStateMachine`` and `FrameDecoder`: reads, writes, the clock, and the delegate's calls.
final class ConnectionHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// What the owner does with peers and endings. Both are called on the loop.
    struct Owner {
        /// Takes or refuses a peer.
        var accept: (Connection) throws(Failure) -> any ConnectionDelegate
        /// The dialling side's result: a connection, or why there is none. Called at most once.
        /// Not called if the channel never became active: its bootstrap knows better why.
        var finished: (Result<Connection, Failure>) -> Void = { _ in }
    }

    private enum Phase {
        case open
        /// The last bytes are on their way; input is discarded.
        case closing
        case closed
    }

    /// Payloads up to this size are copied behind their headers, so that a tick's small frames are one write.
    private static let coalescedPayloadBytes = 4096
    /// The tail's memory is used again up to this size: the frames of a decode step.
    private static let retainedBytes = 1 << 20

    private var machine: ConnectionStateMachine
    private var decoder = FrameDecoder()
    private var owner: Owner?
    private var phase = Phase.open
    private var context: ChannelHandlerContext?
    private var connection: Connection?
    /// Of the connection; nil where the channel is no socket.
    private var socket: StreamSocket?
    private var channel: (any Channel)?
    private var isTakingFrames = false
    private var delegate: (any ConnectionDelegate)?
    private var timer: Scheduled<Void>?

    /// The tick's frames, encoded: full buffers, then the one that small frames are appended to.
    private var batch: [ByteBuffer] = []
    private var tail = ByteBuffer()
    /// Bytes of the batch that the connection counts as outgoing.
    private var batchBytes = 0
    /// Writes of the channel that have not ended. Until they have, nothing may be written around it.
    private var channelWrites = 0
    /// Frames that the owner sent before it had taken the peer.
    private var early: [Frame] = []
    private var isFlushScheduled = false
    private var saidWritable = true

    private let refusal: Failure?
    private var isStarted = false

    /// - Parameter refusal: A reason to turn away whoever dialled, before a word is heard.
    init(machine: ConnectionStateMachine, owner: Owner, refusal: Failure? = nil) {
        self.machine = machine
        self.owner = owner
        self.refusal = refusal
    }

    // MARK: Channel events

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        if context.channel.isActive { start() }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        end(Failure(code: "connection_closed", message: "the connection was closed"))
        self.context = nil
        channel = nil
    }

    func channelActive(context: ChannelHandlerContext) {
        start()
        context.fireChannelActive()
    }

    private func start() {
        guard !isStarted, phase == .open else { return }
        isStarted = true
        if let refusal {
            fail(refusal)
            return
        }
        scheduleTick()
        if let hello = machine.opening() {
            write(hello)
            flushBatch()
        }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        guard phase == .open else { return }
        decoder.feed(unwrapInboundIn(data))
        takeFrames()
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        readComplete()
        context.fireChannelReadComplete()
    }

    /// Reads around the channel. Nothing happens within a delegate's call: its frame is not over yet.
    func receive() {
        guard phase == .open, !isTakingFrames, machine.isEstablished, let socket, channel?.isActive == true else {
            return
        }
        guard decoder.receive({ socket.receive(into: $0) }) > 0 else { return }
        takeFrames()
        readComplete()
    }

    private func takeFrames() {
        isTakingFrames = true
        defer { isTakingFrames = false }
        do throws(Failure) {
            while phase == .open, let frame = try decoder.next() {
                take(frame)
            }
        } catch {
            fail(error)
        }
        machine.heard(isInsideFrame: decoder.isInsideFrame)
    }

    private func readComplete() {
        if phase == .open, machine.isEstablished, let connection {
            delegate?.readComplete(on: connection)
        }
        flushBatch()
    }

    func channelInactive(context: ChannelHandlerContext) {
        let place = decoder.isInsideFrame ? " in the middle of a frame" : ""
        end(Failure(code: "connection_closed", message: "the peer closed the connection\(place)"))
        context.fireChannelInactive()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        end(Failure(code: "connection_lost", message: "the connection broke: \(systemMessage(of: error))"))
        context.close(promise: nil)
    }

    // MARK: Frames in

    private func take(_ frame: Frame) {
        connection?.countReceived(frame.kind, payloadBytes: frame.payload.readableBytes)
        switch machine.received(frame) {
        case .none:
            break
        case .deliver(let frame):
            if let connection { delegate?.received(frame, on: connection) }
        case .reply(let frame):
            // Counted like everything else: a peer that asks and never reads must not pile up answers.
            connection?.send(frame)
        case .decide(let peer):
            decide(peer)
        case .established(let peer):
            establish(peer)
        case .fail(let failure):
            fail(failure)
        case .peerFailed(let failure):
            end(failure)
            context?.close(promise: nil)
        }
    }

    private func makeConnection(_ peer: PeerIdentity) -> Connection? {
        guard let context else { return nil }
        let connection = Connection(
            handler: self, channel: context.channel, peer: peer, limits: machine.local.limits
        )
        self.connection = connection
        socket = connection.descriptor.map(StreamSocket.init(descriptor:))
        channel = context.channel
        return connection
    }

    /// Accepting side. Frames that the owner sends while it decides follow the welcome.
    private func decide(_ peer: PeerIdentity) {
        guard let owner, let connection = makeConnection(peer) else { return }
        self.owner = nil
        do throws(Failure) {
            let delegate = try owner.accept(connection)
            guard phase == .open, let welcome = machine.accepted() else { return }
            self.delegate = delegate
            decoder.maximumPayloadBytes = machine.local.limits.acceptedPayloadBytes(from: peer.role)
            write(welcome)
            let frames = early
            early = []
            for frame in frames { send(frame) }
        } catch {
            fail(error)
        }
    }

    /// Dialling side.
    private func establish(_ peer: PeerIdentity) {
        guard let owner, let connection = makeConnection(peer) else { return }
        self.owner = nil
        decoder.maximumPayloadBytes = machine.local.limits.maximumPayloadBytes
        do throws(Failure) {
            delegate = try owner.accept(connection)
            owner.finished(.success(connection))
        } catch {
            owner.finished(.failure(error))
            fail(error)
        }
    }

    // MARK: Frames out

    /// A frame of the connection's user, whose bytes the connection has counted as outgoing.
    func send(_ frame: Frame) {
        let bytes = frame.payload.readableBytes + FrameHeader.bytes
        guard phase == .open, let connection else {
            self.connection?.taken(bytes: bytes)
            return
        }
        guard machine.isEstablished else {
            early.append(frame)
            return
        }
        guard frame.payload.readableBytes <= connection.peer.maximumPayloadBytes else {
            connection.taken(bytes: bytes)
            refuse(frame.kind, payloadBytes: frame.payload.readableBytes, connection)
            return
        }
        // What waits already counts, not the frame: however large an answer is, it may follow one that is being read.
        guard isKeepingUp(connection, waiting: connection.outgoingBytes - bytes) else {
            connection.taken(bytes: bytes)
            return
        }
        write(frame)
        batchBytes += bytes
    }

    /// A frame of the connection's user, whose payload `write` appends; `body` follows it.
    func send(
        _ kind: FrameKind, correlation: UInt64, epoch: UInt64, body: UnsafeRawBufferPointer,
        payload write: (inout ByteBuffer) -> Void
    ) {
        guard phase == .open, let connection else { return }
        guard machine.isEstablished else {
            var payload = ByteBuffer()
            write(&payload)
            payload.writeBytes(body)
            connection.given(bytes: payload.readableBytes + FrameHeader.bytes)
            early.append(Frame(kind, correlation: correlation, epoch: epoch, payload: payload))
            return
        }
        guard isKeepingUp(connection, waiting: connection.outgoingBytes) else { return }
        let start = tail.writerIndex
        let length = Frame.write(
            kind, correlation: correlation, epoch: epoch, into: &tail, body: body, payload: write)
        guard length <= connection.peer.maximumPayloadBytes else {
            tail.moveWriterIndex(to: start)
            refuse(kind, payloadBytes: length, connection)
            return
        }
        connection.given(bytes: length + FrameHeader.bytes)
        batchBytes += length + FrameHeader.bytes
        connection.countSent(kind, payloadBytes: length)
        var rest = body
        if body.count > Self.coalescedPayloadBytes, batch.isEmpty {
            rest = UnsafeRawBufferPointer(rebasing: body[writeTail(connection, body)...])
        }
        tail.writeBytes(rest)
        if tail.readableBytes > 0 { scheduleFlush() }
    }

    private func refuse(_ kind: FrameKind, payloadBytes: Int, _ connection: Connection) {
        fail(
            Failure(
                code: "frame_too_long",
                message: "frame \(kind.name) would have \(payloadBytes) payload bytes, "
                    + "the peer accepts \(connection.peer.maximumPayloadBytes)"
            )
        )
    }

    /// Whether the peer takes what it is sent; else the connection is cut.
    private func isKeepingUp(_ connection: Connection, waiting: Int) -> Bool {
        guard waiting > machine.maximumOutgoingBytes else { return true }
        end(
            Failure(
                code: "peer_too_slow",
                message: "\(waiting) bytes wait for \(connection.peer.name), at most "
                    + "\(machine.maximumOutgoingBytes) may"
            )
        )
        context?.close(promise: nil)
        return false
    }

    /// Encodes a frame into the tick's batch.
    private func write(_ frame: Frame) {
        connection?.countSent(frame.kind, payloadBytes: frame.payload.readableBytes)
        if frame.payload.readableBytes <= Self.coalescedPayloadBytes {
            frame.write(into: &tail)
        } else {
            frame.writeHeader(into: &tail)
            batch.append(tail)
            batch.append(frame.payload)
            tail = ByteBuffer()
        }
        scheduleFlush()
    }

    private func scheduleFlush() {
        guard !isFlushScheduled, let context else { return }
        isFlushScheduled = true
        context.eventLoop.assumeIsolated().execute {
            self.isFlushScheduled = false
            self.flushBatch()
        }
    }

    /// Hands the batch to the socket, and what the socket does not take at once to the channel.
    func flushBatch() {
        guard let context, phase != .closed, tail.readableBytes > 0 || !batch.isEmpty else { return }
        if let connection { writeToSocket(connection) }
        if tail.readableBytes > 0 || !batch.isEmpty {
            writeToChannel(context)
            tellWritability()
        }
    }

    /// The socket, for writing around the channel, unless that has bytes to write first.
    private var freeSocket: StreamSocket? {
        phase == .open && channelWrites == 0 && channel?.isActive == true ? socket : nil
    }

    private func writeToSocket(_ connection: Connection) {
        guard let socket = freeSocket else { return }
        while !batch.isEmpty {
            let written = socket.send(batch[0])
            wrote(written, connection)
            batch[0].moveReaderIndex(forwardBy: written)
            guard batch[0].readableBytes == 0 else { return }
            batch.removeFirst()
        }
        if tail.readableBytes > 0 { _ = writeTail(connection) }
    }

    /// Writes the tail, and bytes behind it.
    ///
    /// - Returns: how many of the bytes behind it the socket took.
    private func writeTail(
        _ connection: Connection, _ body: UnsafeRawBufferPointer = UnsafeRawBufferPointer(start: nil, count: 0)
    ) -> Int {
        guard let socket = freeSocket else { return 0 }
        let written = socket.send(tail, body)
        wrote(written, connection)
        let ofTail = min(written, tail.readableBytes)
        tail.moveReaderIndex(forwardBy: ofTail)
        if tail.readableBytes == 0 {
            if tail.capacity <= Self.retainedBytes { tail.clear() } else { tail = ByteBuffer() }
        }
        return written - ofTail
    }

    private func wrote(_ bytes: Int, _ connection: Connection) {
        // The handshake's frames and pings are not the user's, and not counted.
        let counted = min(bytes, batchBytes)
        batchBytes -= counted
        connection.taken(bytes: counted)
    }

    private func writeToChannel(_ context: ChannelHandlerContext) {
        let last = tail.readableBytes > 0 ? tail : batch.removeLast()
        let buffers = batch
        batch.removeAll(keepingCapacity: true)
        tail = ByteBuffer()
        let bytes = batchBytes
        batchBytes = 0
        for buffer in buffers {
            context.write(wrapOutboundOut(buffer), promise: nil)
        }
        channelWrites += 1
        let written = context.eventLoop.makePromise(of: Void.self)
        written.futureResult.assumeIsolated().whenComplete { [connection] _ in
            self.channelWrites -= 1
            connection?.taken(bytes: bytes)
            self.tellWritability()
        }
        context.writeAndFlush(wrapOutboundOut(last), promise: written)
    }

    /// Half of the limit is the distance that keeps a connection at its limit from flickering.
    private func tellWritability() {
        guard phase == .open, let connection, let delegate else { return }
        let outgoing = connection.outgoingBytes
        let limit = machine.local.limits.writableBytes
        if saidWritable, outgoing >= limit {
            saidWritable = false
            delegate.writabilityChanged(false, on: connection)
        } else if !saidWritable, outgoing < (limit + 1) / 2 {
            saidWritable = true
            delegate.writabilityChanged(true, on: connection)
        }
    }

    // MARK: Time

    private func scheduleTick() {
        guard let context, phase == .open else { return }
        timer = context.eventLoop.assumeIsolated().scheduleTask(in: machine.tickInterval) { self.tick() }
    }

    private func tick() {
        guard let context, phase == .open else { return }
        switch machine.tick(now: context.eventLoop.now) {
        case .none: break
        case .send(let frame): write(frame)
        case .fail(let failure): fail(failure)
        }
        scheduleTick()
    }

    // MARK: Endings

    /// Closes for this side's owner.
    func closeLocally(_ failure: Failure?) {
        if let failure {
            fail(failure)
        } else {
            beginClosing(nil)
        }
    }

    /// Tells the peer why, then closes.
    private func fail(_ failure: Failure) {
        guard phase == .open else { return }
        if failure.code == "http_request", machine.isInHandshake {
            tail.writeString(Self.httpAnswer)
        } else if failure.code != "http_response" {
            write(.error(failure))
        }
        beginClosing(failure)
    }

    /// What an HTTP client that dialled the wrong port gets.
    private static let httpAnswer: String = {
        let body =
            "This port speaks Tramontane's binary protocol, not HTTP. Use the address of the HTTP gateway (--http).\n"
        return "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
            + "Content-Length: \(body.utf8.count)\r\nConnection: close\r\n\r\n\(body)"
    }()

    /// Sends what is left, then the end of the stream, and waits a little for the peer to close too: a socket that is
    /// closed while input waits in it resets the connection, and the peer would lose the last frame.
    private func beginClosing(_ reason: Failure?) {
        guard phase == .open, let context else { return }
        flushBatch()
        phase = .closing
        finish(reason)
        let closed = context.eventLoop.makePromise(of: Void.self)
        closed.futureResult.assumeIsolated().whenFailure { _ in self.context?.close(promise: nil) }
        context.close(mode: .output, promise: closed)
        timer = context.eventLoop.assumeIsolated().scheduleTask(in: machine.local.limits.linger) {
            self.context?.close(promise: nil)
        }
    }

    /// The connection is gone, or worth nothing any more.
    private func end(_ reason: Failure) {
        if phase == .open { finish(reason) }
        phase = .closed
        timer?.cancel()
        timer = nil
        batch = []
        tail = ByteBuffer()
        early = []
    }

    /// The one place where the owner hears of the end.
    private func finish(_ reason: Failure?) {
        timer?.cancel()
        timer = nil
        machine.failed()
        if let owner {
            self.owner = nil
            if isStarted {
                owner.finished(
                    .failure(reason ?? Failure(code: "connection_closed", message: "the connection was closed"))
                )
            }
        }
        let (connection, delegate) = (connection, delegate)
        self.connection = nil
        self.delegate = nil
        if let connection { delegate?.closed(reason, on: connection) }
    }
}
