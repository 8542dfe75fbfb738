import Glibc
import NIOCore
import NIOEmbedded
import TestSupport
import Testing
import Wire

@testable import Transport

/// The accepting side of a connection on an embedded channel, whose clock the test turns.
private final class Picture {
    let channel = EmbeddedChannel()
    let recorder: Recorder
    var connection: Connection?
    private var decoder = FrameDecoder(maximumPayloadBytes: Frame.maximumPayloadBytes)

    init(
        limits: ConnectionLimits = ConnectionLimits(),
        recorder: Recorder = Recorder(),
        accept: @escaping (Connection) throws(Failure) -> Void = { _ in }
    ) throws {
        self.recorder = recorder
        let machine = ConnectionStateMachine(
            side: .acceptor(roles: everyRole), local: .test(name: "here", limits: limits),
            now: channel.eventLoop.now)
        let owner = ConnectionHandler.Owner(accept: { [unowned self] (connection) throws(Failure) in
            try accept(connection)
            self.connection = connection
            return recorder
        })
        try channel.pipeline.syncOperations.addHandler(ConnectionHandler(machine: machine, owner: owner))
        try channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
    }

    func established(as role: ProtoHello.Role = .client) throws -> Self {
        try send(Handshake.hello(.test(role)))
        #expect(try answers() == [.welcome])
        return self
    }

    func send(_ frame: Frame) throws { try send(bytes: frame.bytes) }

    func send(bytes: ByteBuffer) throws { try channel.writeInbound(bytes) }

    /// Frames that went out.
    func sent() throws -> [Frame] {
        channel.embeddedEventLoop.run()
        var frames: [Frame] = []
        while let bytes = try channel.readOutbound(as: ByteBuffer.self) {
            decoder.feed(bytes)
            while let frame = try decoder.next() { frames.append(frame) }
        }
        return frames
    }

    func answers() throws -> [FrameKind] { try sent().map(\.kind) }
}

private func delta(_ id: UInt64) -> Frame {
    Frame(.delta, correlation: id, payload: ByteBuffer(string: "x"))
}

private let stop = Failure(code: "stop", message: "enough")

@Suite struct ConnectionHandlerTests {
    @Test func whatTheOwnerSendsWhileItDecidesFollowsTheWelcome() throws {
        let picture = try Picture { connection in connection.send(delta(1)) }
        try picture.send(Handshake.hello(.test()))
        #expect(try picture.answers() == [.welcome, .delta])
        #expect(picture.connection?.outgoingBytes == 0)
        #expect(picture.connection?.accounting[.delta].framesSent == 1)
    }

    @Test func aRefusedPeerIsToldWhy() throws {
        let picture = try Picture { _ throws(Failure) in throw stop }
        try picture.send(Handshake.hello(.test()))
        let sent = try picture.sent()
        #expect(sent.map(\.kind) == [.error])
        #expect(sent.first?.failureCode == "stop")
        #expect(picture.recorder.lines.isEmpty)
        #expect(!picture.channel.isActive)
    }

    @Test func framesAreDeliveredAndThenTheReadIsComplete() throws {
        let picture = try Picture().established()
        var bytes = Frame(.status, ProtoStatusRequest(), correlation: 1).bytes
        bytes.writeImmutableBuffer(Frame(.cancel, correlation: 1).bytes)
        bytes.writeImmutableBuffer(Frame(.ping, correlation: 6).bytes)
        try picture.send(bytes: bytes)
        #expect(picture.recorder.lines.suffix(3) == ["received status", "received cancel", "readComplete"])
        #expect(try picture.sent() == [Frame(.pong, correlation: 6)])
    }

    @Test func aTicksSmallFramesAreOneWrite() throws {
        let picture = try Picture().established()
        for id in 1...100 { picture.connection?.send(delta(UInt64(id))) }
        #expect(try picture.channel.readOutbound(as: ByteBuffer.self) == nil)
        picture.channel.embeddedEventLoop.run()
        #expect(try picture.channel.readOutbound(as: ByteBuffer.self)?.readableBytes == 3300)
        #expect(try picture.channel.readOutbound(as: ByteBuffer.self) == nil)
        picture.connection?.send(delta(1))
        picture.connection?.flush()
        #expect(try picture.channel.readOutbound(as: ByteBuffer.self)?.readableBytes == 33)
    }

    @Test func largePayloadsGoOutUncopiedAndInOrder() throws {
        let picture = try Picture().established()
        let large = Frame(.scored, correlation: 2, payload: ByteBuffer(repeating: 3, count: 100_000))
        let frames = [delta(1), large, delta(3), large]
        for frame in frames { picture.connection?.send(frame) }
        #expect(try picture.sent() == frames)
    }

    /// Each fault of the wire: the peer gets an error frame with the code, the delegate hears of it once, and that is all.
    @Test func everyFaultIsAnsweredByName() throws {
        func forged(kind: UInt16, length: UInt32, payload: String = "", minor: UInt8 = 0) -> ByteBuffer {
            var header = FrameHeader(kind: kind, length: length, correlation: 1, epoch: 0)
            header.minorVersion = minor
            var buffer = ByteBuffer()
            header.write(into: &buffer)
            let checksum = buffer.withUnsafeReadableBytes { header in
                Array(payload.utf8).withUnsafeBytes { FrameHeader.checksum(encodedHeader: header, payload: $0) }
            }
            buffer.setInteger(checksum, at: FrameHeader.checksumOffset, endianness: .little)
            buffer.writeString(payload)
            return buffer
        }
        var damaged = Frame(.score, payload: ByteBuffer(string: "to be")).bytes
        damaged.setInteger(UInt8(0), at: 34)
        var otherVersion = Frame(.ping).bytes
        otherVersion.setInteger(UInt8(9), at: 4)
        let faults: [(ByteBuffer, String)] = [
            (forged(kind: 64, length: .max), "frame_too_long"),
            (forged(kind: 64, length: 8 << 20 | 1), "frame_too_long"),
            (forged(kind: 77, length: 0), "frame_kind_unknown"),
            (forged(kind: 64, length: 0), "frame_too_short"),
            (forged(kind: 16, length: 1, payload: "x"), "frame_unexpected"),
            (damaged, "frame_checksum"),
            (otherVersion, "version_unsupported"),
            (ByteBuffer(string: "????"), "frame_magic"),
            (ByteBuffer(string: "GET / HTTP/1.1\r\n\r\n"), "http_request"),
        ]
        for (bytes, code) in faults {
            let picture = try Picture().established()
            try picture.send(bytes: bytes)
            #expect(try picture.sent().map(\.failureCode) == [code])
            #expect(picture.recorder.lines.filter { $0.hasPrefix("closed") } == ["closed \(code)"])
            #expect(!picture.channel.isActive)
        }
        let newer = try Picture().established()
        try newer.send(bytes: forged(kind: 777, length: 2, payload: "hi", minor: 3))
        #expect(try newer.sent() == [])
        #expect(newer.channel.isActive)
    }

    @Test func httpIsAnsweredInHTTP() throws {
        let picture = try Picture()
        try picture.send(bytes: ByteBuffer(string: "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n\r\n"))
        let answer = try #require(try picture.channel.readOutbound(as: ByteBuffer.self))
        let text = String(buffer: answer)
        #expect(text.hasPrefix("HTTP/1.1 400 Bad Request\r\n"))
        #expect(text.contains("binary protocol"))
        #expect(!picture.channel.isActive)
    }

    @Test func halfAFrameAndThenSilence() throws {
        let picture = try Picture().established()
        try picture.send(bytes: ByteBuffer(string: "TRMN"))
        picture.channel.embeddedEventLoop.advanceTime(by: .seconds(4))
        #expect(picture.channel.isActive)
        picture.channel.embeddedEventLoop.advanceTime(by: .seconds(2))
        #expect(try picture.sent().map(\.failureCode) == ["frame_timeout"])
        #expect(!picture.channel.isActive)
    }

    /// The beginning of a frame is dropped with its connection, wherever it was cut.
    @Test func aResetInTheMiddleOfAFrame() throws {
        let whole = Frame(.score, correlation: 1, payload: ByteBuffer(string: "to be")).bytes
        for end in 1..<whole.readableBytes {
            let picture = try Picture().established()
            try picture.send(bytes: whole.getSlice(at: 0, length: end) ?? whole)
            picture.channel.close(promise: nil)
            picture.channel.embeddedEventLoop.run()
            #expect(picture.recorder.frames.isEmpty)
            #expect(picture.recorder.lines.last == "closed connection_closed")
        }
    }

    /// The words go on to clients whose worker was lost: the system's, without names of calls.
    @Test func aBrokenConnectionIsToldInTheSystemsWords() throws {
        let picture = try Picture().established()
        picture.channel.pipeline.fireErrorCaught(
            IOError(errnoCode: ECONNRESET, reason: "read(descriptor:pointer:size:)"))
        #expect(picture.recorder.ending?.message == "the connection broke: Connection reset by peer")
    }

    @Test func aConnectionThatSaysNothingIsCut() throws {
        let mute = try Picture()
        mute.channel.embeddedEventLoop.advanceTime(by: .seconds(6))
        #expect(try mute.sent().map(\.failureCode) == ["handshake_timeout"])
        let silent = try Picture().established()
        silent.channel.embeddedEventLoop.advanceTime(by: .seconds(6))
        #expect(try silent.answers() == [.ping])
        silent.channel.embeddedEventLoop.advanceTime(by: .seconds(10))
        #expect(try silent.sent().map(\.failureCode) == ["keepalive_timeout"])
        #expect(silent.recorder.lines.last == "closed keepalive_timeout")
    }

    @Test func outgoingBytesAreBounded() throws {
        var limits = ConnectionLimits()
        limits.writableBytes = 1000
        limits.maximumClientOutgoingBytes = 3000
        let picture = try Picture(limits: limits).established()
        let connection = try #require(picture.connection)
        let frame = Frame(.delta, payload: ByteBuffer(repeating: 0, count: 468))
        connection.send(frame)
        #expect(connection.isWritable)
        connection.send(frame)
        #expect(!connection.isWritable)
        #expect(connection.outgoingBytes == 1000)
        #expect(try picture.answers() == [.delta, .delta])
        #expect(connection.isWritable)
        for _ in 0..<20 { connection.send(frame) }
        #expect(picture.recorder.lines.last == "closed peer_too_slow")
        #expect(!picture.channel.isActive)
        connection.send(frame)
        #expect(picture.recorder.lines.filter { $0.hasPrefix("closed") }.count == 1)
    }

    /// Whoever dials as an application can be any program; a worker is one of ours.
    @Test func aClientThatDoesNotReadIsCutSoonerThanAWorker() throws {
        let frame = Frame(.statusReport, payload: ByteBuffer(repeating: 0, count: 1 << 20))
        let client = try Picture().established(as: .client)
        let worker = try Picture().established(as: .workerControl)
        for _ in 0..<8 {
            client.connection?.send(frame)
            worker.connection?.send(frame)
        }
        #expect(client.channel.isActive)
        client.connection?.send(frame)
        client.connection?.send(frame)
        #expect(client.recorder.lines.last == "closed peer_too_slow")
        #expect(!client.channel.isActive)
        for _ in 0..<60 { worker.connection?.send(frame) }
        #expect(worker.channel.isActive)
    }

    /// An answer to a ping waits like any other frame.
    @Test func pingsOfAPeerThatDoesNotReadAreBounded() throws {
        let picture = try Picture().established()
        var pings = ByteBuffer()
        for _ in 0...(8 << 20) / FrameHeader.bytes + 1 { Frame(.ping).write(into: &pings) }
        try picture.send(bytes: pings)
        #expect(picture.recorder.lines.last == "closed peer_too_slow")
        #expect(!picture.channel.isActive)
    }

    @Test func aFrameThePeerWouldNotTakeIsNotSent() throws {
        let picture = try Picture().established()
        picture.connection?.send(Frame(.scored, payload: ByteBuffer(repeating: 0, count: 64 << 20 | 1)))
        #expect(try picture.sent().map(\.failureCode) == ["frame_too_long"])
    }

    @Test func closingSendsWhatWasSentBefore() throws {
        let picture = try Picture().established()
        picture.connection?.send(delta(4))
        picture.connection?.close(nil)
        picture.connection?.send(delta(5))
        #expect(try picture.sent() == [delta(4)])
        #expect(picture.recorder.lines.last == "closed nil")
    }

    /// Noise after a good handshake, cut anywhere: one ending, no trap.
    @Test(arguments: 0..<100 as Range<UInt64>)
    func noise(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let picture = try Picture().established(as: everyRole.sorted { $0.rawValue < $1.rawValue }[Int(seed % 4)])
        for _ in 0..<10 where picture.channel.isActive {
            var bytes = Frame(
                FrameKind.allCases.randomElement(using: &random) ?? .ping, correlation: random.next(),
                payload: ByteBuffer(
                    bytes: (0..<Int.random(in: 0...64, using: &random)).map { _ in
                        UInt8.random(in: 0...255, using: &random)
                    })
            ).bytes
            if Bool.random(using: &random) {
                bytes.setInteger(random.next(), at: Int.random(in: 0...24, using: &random))
            }
            bytes.moveWriterIndex(to: Int.random(in: 1...bytes.readableBytes, using: &random))
            try picture.send(bytes: bytes)
        }
        if picture.channel.isActive { picture.channel.close(promise: nil) }
        picture.channel.embeddedEventLoop.run()
        #expect(picture.recorder.lines.filter { $0.hasPrefix("closed") }.count == 1, "seed \(seed)")
    }
}
