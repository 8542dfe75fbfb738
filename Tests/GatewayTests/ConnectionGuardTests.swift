import HTTPTypes
import JSONText
import NIOCore
import NIOEmbedded
import NIOHTTP1
import NIOHTTPTypes
import NIOHTTPTypesHTTP1
import Testing

@testable import Gateway

/// A connection on an embedded channel, whose clock the test turns.
private final class Picture {
    private let channel = EmbeddedChannel()

    init() throws {
        let limits = ConnectionGuard.Limits(
            bodyBytes: 1 << 20, stall: .seconds(30),
            patience: RequestPatience.Limits(idle: .seconds(75), head: .seconds(10), body: .seconds(30)))
        let pipeline = channel.pipeline.syncOperations
        try pipeline.configureHTTPServerPipeline(withPipeliningAssistance: false, withErrorHandling: false)
        try pipeline.addHandler(HTTP1ToHTTPServerCodec(secure: false))
        try pipeline.addHandler(ConnectionGuard(limits: limits, now: channel.eventLoop.now))
        try channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
    }

    var isOpen: Bool { channel.isActive }

    func send(_ text: String) throws { try channel.writeInbound(ByteBuffer(string: text)) }

    func wait(_ seconds: Int64) { channel.embeddedEventLoop.advanceTime(by: .seconds(seconds)) }

    /// The server answers the oldest request.
    func answer() throws {
        let head = HTTPResponse(status: .ok, headerFields: [.contentLength: "0"])
        try channel.writeOutbound(HTTPResponsePart.head(head))
        try channel.writeOutbound(HTTPResponsePart.end(nil))
    }

    /// What went out since the last time.
    func sent() throws -> String {
        channel.embeddedEventLoop.run()
        var text = ""
        while let part = try channel.readOutbound(as: IOData.self) {
            if case .byteBuffer(let bytes) = part { text += String(buffer: bytes) }
        }
        return text
    }
}

@Suite struct ConnectionGuardTests {
    private static let whole = "GET /health HTTP/1.1\r\nHost: t\r\n\r\n"
    private static let halfBody = "POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 20\r\n\r\n{\"prom"

    private func expectTimeout(_ picture: Picture, of part: String) throws {
        let answer = try #require(HTTPAnswer(try picture.sent()))
        #expect(answer.status == 408)
        #expect(answer.error?["code"]?.string == "request_timeout")
        #expect(answer.error?["message"]?.string?.contains("the request's \(part)") == true)
        #expect(answer.headers["connection"] == "close")
        #expect(!picture.isOpen)
    }

    @Test func halfAHeadIsAnsweredAfterTenSeconds() throws {
        for head in ["G", "GET /health HTTP/1.1\r\n", "GET /health HTTP/1.1\r\nHost: t\r\n"] {
            let picture = try Picture()
            picture.wait(9)
            try picture.send(head)
            picture.wait(9)
            #expect(picture.isOpen)
            picture.wait(2)
            try expectTimeout(picture, of: "head")
        }
    }

    @Test func aHeadThatDripsEndsToo() throws {
        let picture = try Picture()
        try picture.send("GET /health HTTP/1.1\r\n")
        for _ in 0..<6 {
            picture.wait(9)
            try picture.send("a: b\r\n")
            #expect(picture.isOpen)
        }
        picture.wait(7)
        try expectTimeout(picture, of: "head")
    }

    @Test func halfABodyIsAnsweredAfterThirtySeconds() throws {
        let picture = try Picture()
        try picture.send(Self.halfBody)
        picture.wait(29)
        try picture.send("pt")
        picture.wait(29)
        #expect(picture.isOpen)
        picture.wait(2)
        try expectTimeout(picture, of: "body")
    }

    @Test func noBodyAtAll() throws {
        let picture = try Picture()
        try picture.send("POST /v1/completions HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
        picture.wait(31)
        try expectTimeout(picture, of: "body")
    }

    @Test func anIdleConnectionIsClosedWithoutAWord() throws {
        let silent = try Picture()
        silent.wait(9)
        #expect(silent.isOpen)
        silent.wait(2)
        #expect(!silent.isOpen)
        #expect(try silent.sent() == "")

        let kept = try Picture()
        for _ in 0..<3 {
            try kept.send(Self.whole)
            try kept.answer()
            #expect(try kept.sent().hasPrefix("HTTP/1.1 200"))
            kept.wait(70)
        }
        // Belongs to no request, so none is late.
        try kept.send("\r\n")
        kept.wait(4)
        #expect(kept.isOpen)
        kept.wait(2)
        #expect(!kept.isOpen)
        #expect(try kept.sent() == "")
    }

    @Test func aClientMayWaitForItsAnswer() throws {
        let picture = try Picture()
        // The next request has begun, and nobody reads on before the answer.
        try picture.send(Self.whole)
        try picture.send("GET /he")
        picture.wait(3600)
        #expect(picture.isOpen)
        try picture.answer()
        #expect(try picture.sent().hasPrefix("HTTP/1.1 200"))
        picture.wait(9)
        #expect(picture.isOpen)
        picture.wait(2)
        try expectTimeout(picture, of: "head")
    }

    /// A request that was answered before its end cannot be answered once more.
    @Test func theRestOfAnAnsweredRequest() throws {
        let picture = try Picture()
        try picture.send(Self.halfBody)
        try picture.answer()
        #expect(try picture.sent().hasPrefix("HTTP/1.1 200"))
        picture.wait(31)
        #expect(!picture.isOpen)
        #expect(try picture.sent() == "")
    }

    /// The line is measured before the decoder has the whole of it, however it is cut.
    @Test func aTargetWithoutEnd() throws {
        for piece in [100, 5000, 20_000] {
            let picture = try Picture()
            try picture.send("GET /")
            for _ in 0..<(10_000 / piece + 1) where picture.isOpen {
                try picture.send(String(repeating: "x", count: piece))
            }
            let answer = try #require(HTTPAnswer(try picture.sent()))
            #expect(answer.status == 414)
            #expect(answer.error?["code"]?.string == "uri_too_long")
            #expect(!picture.isOpen)
        }
    }

    @Test func fieldsWithoutEnd() throws {
        let picture = try Picture()
        try picture.send("GET / HTTP/1.1\r\n")
        for _ in 0..<300 where picture.isOpen { try picture.send("a: b\r\n") }
        let answer = try #require(HTTPAnswer(try picture.sent()))
        #expect(answer.status == 431)
        #expect(!picture.isOpen)
    }
}
