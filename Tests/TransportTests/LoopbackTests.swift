import NIOCore
import NIOPosix
import Synchronization
import Testing
import Wire

@testable import Transport

/// Speaks as soon as the connection stands: a test that waits for its turn meanwhile would meet the other side's deadline.
private final class FirstWords: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let text: String

    init(_ text: String) {
        self.text = text
    }

    func channelActive(context: ChannelHandlerContext) {
        context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: text)), promise: nil)
        context.fireChannelActive()
    }
}

@Suite struct LoopbackTests {
    private let group = MultiThreadedEventLoopGroup.singleton

    private func listen(
        maximumConnections: Int = 4096,
        accept: @escaping @Sendable (Connection) throws(Failure) -> any ConnectionDelegate
    ) async throws -> Listener {
        try await Listener.bind(
            host: "127.0.0.1", port: 0, acceptLoop: group, childLoop: group, identity: .test(name: "far"),
            roles: everyRole, maximumConnections: maximumConnections, logger: quiet, accept: accept)
    }

    private func dial(
        _ listener: Listener, _ identity: LocalIdentity = .test(.workerData, name: "near"), _ delegate: Recorder
    ) async throws -> Connection {
        try await Connector.connect(
            host: "127.0.0.1", port: listener.port, on: group.next(), identity: identity,
            makeDelegate: { _ in delegate })
    }

    /// A raw socket that sends text and returns all that comes back until the other side closes.
    private func raw(_ listener: Listener, _ text: String) async throws -> String {
        let channel = try await ClientBootstrap(group: group).connect(to: listener.address) { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHandler(FirstWords(text))
                return try NIOAsyncChannel<ByteBuffer, ByteBuffer>(wrappingChannelSynchronously: channel)
            }
        }
        return try await channel.executeThenClose { inbound, _ in
            var answer = ByteBuffer()
            for try await bytes in inbound { answer.writeImmutableBuffer(bytes) }
            return String(buffer: answer)
        }
    }

    /// Also of connections that are over, and of peers past the limit under one name.
    @Test func trafficByPeer() async throws {
        let listener = try await listen { _ in Recorder() }
        let traffic = LinkTraffic(peerLimit: 1)
        for (peer, bytes) in [("a", 100), ("a", 20), ("b", 3), ("c", 4)] {
            let near = Recorder()
            let connection = try await dial(listener, .test(.workerData, name: "near"), near)
            traffic.opened(connection, peer: peer)
            connection.send(Frame(.experts, payload: ByteBuffer(repeating: 1, count: bytes + ExpertRequest.headBytes)))
            connection.close()
            try await connection.socketClosed.get()
            #expect(traffic.links.contains { $0.peer == peer && $0.kind == "experts" })
            traffic.closed(connection)
            traffic.closed(connection)
        }
        let head = Double(ExpertRequest.headBytes)
        let sent = traffic.samples(\.bytesSent).filter { $0.labels[1].1 == "experts" }
        #expect(sent.map(\.labels[0].1) == ["a", "other"])
        #expect(sent.map(\.value) == [120 + 2 * head, 7 + 2 * head])
        await listener.close()
    }

    @Test func framesOfEverySizeGoBothWays() async throws {
        let listener = try await listen { _ in
            Recorder { frame, connection in
                connection.send(Frame(.expertResults, correlation: frame.correlation, payload: frame.payload))
            }
        }
        let near = Recorder()
        let connection = try await dial(listener, .test(.workerData, name: "near"), near)
        #expect(connection.peer.name == "far")
        #expect(connection.peer.rowCredits == 512)
        let sizes = [32, 33, 4096, 4097, 26_000, 70_000, 1_000_003]
        for (index, size) in sizes.enumerated() {
            connection.send(
                Frame(.experts, correlation: UInt64(index), payload: ByteBuffer(repeating: UInt8(index), count: size)))
        }
        var answers = 0
        for await line in near.events where line == "received expertResults" {
            answers += 1
            if answers == sizes.count { break }
        }
        #expect(near.frames.map(\.payload.readableBytes) == sizes)
        #expect(near.frames.map(\.correlation) == Array(0..<UInt64(sizes.count)))
        let bytes = UInt64(sizes.reduce(0, +))
        #expect(connection.accounting[.experts].bytesSent == bytes)
        #expect(connection.accounting[.expertResults].framesReceived == UInt64(sizes.count))
        #expect(connection.accounting[.expertResults].bytesReceived == bytes)
        connection.close()
        #expect(await near.closing() == "nil")
        await listener.close()
    }

    /// Far more than a socket holds, so that the channel has to finish what was begun around it; in every way of sending.
    @Test func whatTheSocketDoesNotTakeFollowsInOrder() async throws {
        let far = Recorder()
        let listener = try await listen { _ in far }
        let connection = try await dial(listener, .test(.workerData, name: "near"), Recorder())
        let sizes = (0..<60).map { [40, 70_000, 5000, 2_000_000][$0 % 4] + $0 }
        try await connection.eventLoop.submit {
            for (number, size) in sizes.enumerated() {
                let id = UInt64(number)
                let payload = ByteBuffer(repeating: UInt8(number), count: size)
                switch number % 3 {
                case 0: connection.send(Frame(.experts, correlation: id, payload: payload))
                case 1: connection.send(.experts, correlation: id) { $0.writeImmutableBuffer(payload) }
                default:
                    payload.withUnsafeReadableBytes { bytes in
                        connection.send(
                            .experts, correlation: id, body: UnsafeRawBufferPointer(rebasing: bytes[7...])
                        ) { $0.writeBytes(UnsafeRawBufferPointer(rebasing: bytes[..<7])) }
                    }
                }
                if number % 5 == 0 { connection.flush() }
            }
        }.get()
        connection.close()
        #expect(await far.closing() == "connection_closed")
        #expect(far.frames.map(\.correlation) == Array(0..<UInt64(sizes.count)))
        #expect(far.frames.map(\.payload.readableBytes) == sizes)
        for (number, frame) in far.frames.enumerated() {
            #expect(frame.payload.readableBytesView.allSatisfy { $0 == UInt8(number) }, "frame \(number)")
        }
        #expect(connection.outgoingBytes == 0)
        #expect(connection.accounting[.experts].bytesSent == UInt64(sizes.reduce(0, +)))
        await listener.close()
    }

    /// One task of the loop, which never looks at its sockets meanwhile, asks and takes every answer.
    @Test func aTaskReadsItsSocketsItself() async throws {
        let listener = try await Listener.bind(
            host: "127.0.0.1", port: 0, acceptLoop: group, childLoop: MultiThreadedEventLoopGroup.singleton.next(),
            identity: .test(name: "far"), roles: everyRole, logger: quiet,
            accept: { _ throws(Failure) in
                Recorder { frame, connection in
                    connection.send(Frame(.expertResults, correlation: frame.correlation, payload: frame.payload))
                }
            })
        let loops = MultiThreadedEventLoopGroup(numberOfThreads: 1)
        let near = Recorder()
        let connection = try await Connector.connect(
            host: "127.0.0.1", port: listener.port, on: loops.next(), identity: .test(.workerData, name: "near"),
            makeDelegate: { _ in near })
        let sizes = [32, 5000, 26_000, 300_000, 2_000_000]
        try await connection.eventLoop.submit {
            for (number, size) in sizes.enumerated() {
                connection.send(.experts, correlation: UInt64(number)) { $0.writeRepeatingByte(9, count: size) }
                // What the socket does not take at once is the channel's.
                guard size < 60_000 else { continue }
                connection.flush()
                while near.frames.count <= number { connection.receive() }
            }
        }.get()
        for await line in near.events where line == "received expertResults" {
            if near.frames.count == sizes.count { break }
        }
        #expect(near.frames.map(\.payload.readableBytes) == sizes)
        connection.close()
        #expect(await near.closing() == "nil")
        await listener.close()
        try await loops.shutdownGracefully()
    }

    @Test func theReasonReachesTheOtherSide() async throws {
        let listener = try await listen { _ in
            Recorder { _, connection in connection.close(Failure(code: "enough", message: "no more")) }
        }
        let near = Recorder()
        let connection = try await dial(listener, .test(.workerData), near)
        connection.send(Frame(.hidden, payload: ByteBuffer(repeating: 0, count: 4)))
        #expect(await near.closing() == "enough")
        await listener.close()
    }

    @Test func aRefusalIsTheDiallersError() async throws {
        let listener = try await listen { (_) throws(Failure) in throw Failure(code: "full", message: "") }
        let failure = await #expect(throws: Failure.self) { try await dial(listener, .test(), Recorder()) }
        #expect(failure?.code == "full")
        var other = LocalIdentity.test(.workerData)
        other.numericsVersion = 2
        let mismatch = await #expect(throws: Failure.self) { try await dial(listener, other, Recorder()) }
        #expect(mismatch?.code == "numerics_mismatch")
        await listener.close()
    }

    @Test func connectionsBeyondTheLimitAreTurnedAway() async throws {
        let listener = try await listen(maximumConnections: 1) { _ in Recorder() }
        let near = Recorder()
        let connection = try await dial(listener, .test(), near)
        let failure = await #expect(throws: Failure.self) { try await dial(listener, .test(), Recorder()) }
        #expect(failure?.code == "too_many_connections")
        connection.close()
        await listener.close()
    }

    @Test func nobodyListens() async throws {
        let listener = try await listen { _ in Recorder() }
        await listener.close()
        let failure = await #expect(throws: Failure.self) { try await dial(listener, .test(), Recorder()) }
        #expect(failure?.code == "connect_failed")
    }

    @Test func httpOnTheBinaryPort() async throws {
        let listener = try await listen { _ in Recorder() }
        let answer = try await raw(listener, "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        #expect(answer.hasPrefix("HTTP/1.1 400 Bad Request\r\n"))
        #expect(answer.contains("binary protocol"))
        await listener.close()
    }

    @Test func theBinaryProtocolOnAnHTTPPort() async throws {
        let server = try await ServerBootstrap(group: group).bind(host: "127.0.0.1", port: 0) { channel in
            channel.eventLoop.makeCompletedFuture {
                channel.writeAndFlush(ByteBuffer(string: "HTTP/1.1 400 Bad Request\r\n\r\n"), promise: nil)
            }
        }
        let port = try #require(server.channel.localAddress?.port)
        let failure = await #expect(throws: Failure.self) {
            try await Connector.connect(
                host: "127.0.0.1", port: port, on: group.next(), identity: .test(), makeDelegate: { _ in Recorder() })
        }
        #expect(failure?.code == "http_response")
        server.channel.close(promise: nil)
    }

    @Test func withoutEncryptionOnlyLoopbackIsBound() async throws {
        for host in ["0.0.0.0", "::"] {
            let failure = await #expect(throws: Failure.self) {
                try await Listener.bind(
                    host: host, port: 0, acceptLoop: group, childLoop: group, identity: .test(), roles: everyRole,
                    logger: quiet, accept: { _ in Recorder() })
            }
            #expect(failure?.code == "insecure_network")
        }
        let listener = try await Listener.bind(
            host: "0.0.0.0", port: 0, acceptLoop: group, childLoop: group, identity: .test(), roles: everyRole,
            insecureNetwork: true, logger: quiet, accept: { _ in Recorder() })
        await listener.close()
        for port in [-1, 70_000] {
            let failure = await #expect(throws: Failure.self) {
                try await Listener.bind(
                    host: "127.0.0.1", port: port, acceptLoop: group, childLoop: group, identity: .test(),
                    roles: everyRole, logger: quiet, accept: { _ in Recorder() })
            }
            #expect(failure?.code == "address_invalid")
        }
    }

    /// Frames of one thread keep their order, from whichever thread they are sent.
    @Test func sendingFromManyThreads() async throws {
        let far = Recorder()
        let listener = try await listen { _ in far }
        let connection = try await dial(listener, .test(.workerData), Recorder())
        await withTaskGroup(of: Void.self) { tasks in
            for task in 0..<8 {
                tasks.addTask {
                    for number in 0..<100 {
                        let id = UInt64(task * 1000 + number)
                        connection.send(Frame(.hidden, correlation: id, payload: ByteBuffer(repeating: 0, count: 4)))
                    }
                }
            }
        }
        connection.close()
        #expect(await far.closing() == "connection_closed")
        let ids = far.frames.map(\.correlation)
        #expect(ids.count == 800)
        for task in 0..<8 {
            let own = ids.filter { $0 / 1000 == UInt64(task) }
            #expect(own == own.sorted())
        }
        await listener.close()
    }
}
