import Coordinator
import HTTPTypes
import NIOCore
import NIOEmbedded
import NIOHTTPTypes
import Testing

@testable import Gateway

/// Says in the middle of the first chunk's write that the channel is full, and then that it has room.
private final class Flickering: ChannelOutboundHandler {
    typealias OutboundIn = Any
    private let channel: EmbeddedChannel
    private var meanwhile: (() -> Void)?

    init(channel: EmbeddedChannel, meanwhile: @escaping () -> Void) {
        self.channel = channel
        self.meanwhile = meanwhile
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        // The head of the answer comes first.
        if !(unwrapOutboundIn(data) is HTTPResponsePart), let meanwhile {
            self.meanwhile = nil
            channel.isWritable = false
            context.fireChannelWritabilityChanged()
            meanwhile()
            channel.isWritable = true
            context.fireChannelWritabilityChanged()
        }
        context.write(data, promise: promise)
    }
}

/// One answer on an embedded channel.
private final class Picture {
    let channel = EmbeddedChannel()
    let connection = ConnectionGuard(limits: .ofTests)
    let delivery: AnswerDelivery.Handle
    var presence: ClientPresence { connection.presence }
    private let ends = Ends()

    init(_ body: String = #"{"prompt": "x", "stream": true}"#) throws {
        let request = try AnswerRequest(.completions, body: body.utf8, vocabularySize: 512)
        let heading = Answer.Heading(
            endpoint: .completions, id: "id", created: 1, model: "m", fingerprint: "fp", seed: 1)
        try channel.pipeline.syncOperations.addHandler(connection)
        delivery = AnswerDelivery.start(
            Answer(request, heading: heading), of: request, on: channel, connection: connection)
        delivery.began.whenComplete { [ends] in ends.began = Self.code(of: $0) }
        delivery.done.whenComplete { [ends] in ends.done = Self.code(of: $0.map { _ in }) }
    }

    /// Nil while it goes on, "" where it went well.
    var began: String? { ends.began }
    var done: String? { ends.done }

    func put(_ texts: String..., answer: Int = 0) {
        for text in texts { _ = delivery.feed.put(text: text, tokens: [1], answer: answer, limit: 100) }
        delivery.feed.callReader()
        delivery.feed.wakeReader()
    }

    func finish(answer: Int = 0) {
        delivery.feed.put(.event(.finished(.stop, Usage(promptTokens: 1, completionTokens: 1)), answer: answer))
    }

    /// The pieces that were written since the last time, each as the texts in it.
    func written() throws -> [[String]] {
        channel.embeddedEventLoop.run()
        var pieces: [[String]] = []
        while var chunk = try channel.readOutbound(as: ByteBuffer.self) {
            pieces.append(
                try Self.content(of: &chunk).split(separator: "\n\n").map { event in
                    guard let text = event.firstRange(of: #""text": ""#), let end = event.firstRange(of: #"", "log"#)
                    else { return event.contains("error") ? "error" : String(event.dropFirst(6)) }
                    return String(event[text.upperBound..<end.lowerBound])
                })
        }
        return pieces
    }

    /// The head of a stream was written.
    func open() throws {
        delivery.open()
        #expect(try written() == [], "the head comes first")
        try channel.writeOutbound(HTTPResponsePart.head(HTTPResponse(status: .ok)))
        _ = try channel.readOutbound(as: HTTPResponsePart.self)
    }

    private static func content(of chunk: inout ByteBuffer) throws -> String {
        let text = String(buffer: chunk)
        let head = try #require(text.firstRange(of: "\r\n"))
        #expect(text.hasSuffix("\r\n"))
        let content = text[head.upperBound...].dropLast(1)
        #expect(Int(text[..<head.lowerBound], radix: 16) == content.utf8.count)
        return String(content)
    }

    private static func code(of result: Result<Void, any Error>) -> String {
        switch result {
        case .success: ""
        case .failure(let error): (error as? RequestError)?.code ?? "left"
        }
    }

    /// Set on the embedded loop, which is the test's thread.
    private final class Ends: @unchecked Sendable {
        var began: String?
        var done: String?
    }
}

extension ConnectionGuard.Limits {
    fileprivate static let ofTests = ConnectionGuard.Limits(
        bodyBytes: 1 << 20, stall: .seconds(30),
        patience: RequestPatience.Limits(idle: .seconds(75), head: .seconds(10), body: .seconds(30)))
}

@Suite struct AnswerDeliveryTests {
    private let late = RequestError(.late, code: "deadline_exceeded", message: "late")

    @Test func whatCameTogetherIsWrittenTogether() throws {
        let picture = try Picture()
        picture.put("a", "b")
        #expect(try picture.written() == [], "the head comes first")
        #expect(picture.began == "" && picture.done == nil)
        picture.put("c")
        try picture.open()
        #expect(try picture.written() == [["a", "b", "c"]])
        picture.put("d")
        #expect(try picture.written() == [["d"]])
        picture.put("e", "f")
        picture.finish()
        #expect(try picture.written() == [["e", "f", "", "[DONE]"]])
        #expect(picture.done == "" && picture.delivery.feed.isCancelled)
    }

    @Test func aFullConnectionTakesNothing() throws {
        let picture = try Picture()
        picture.put("a")
        _ = try picture.written()
        try picture.open()
        #expect(try picture.written() == [["a"]])
        picture.channel.isWritable = false
        picture.put("b")
        #expect(try picture.written() == [])
        picture.put("c")
        #expect(try picture.written() == [])
        picture.channel.isWritable = true
        picture.presence.becameWritable()
        #expect(try picture.written() == [["b", "c"]])
        picture.put("d")
        #expect(try picture.written() == [["d"]])
    }

    /// A write that overfills a channel, and that the reader makes room for at once.
    @Test func roomInTheMiddleOfAWriteIsUsedAfterIt() throws {
        let picture = try Picture()
        picture.put("a")
        _ = try picture.written()
        try picture.channel.pipeline.syncOperations.addHandler(
            Flickering(channel: picture.channel) { picture.put("c") }, position: .first)
        try picture.open()
        #expect(try picture.written() == [["a"], ["c"]])
    }

    @Test func aFailureIsTheLastEventOrTheOnlyAnswer() throws {
        let begun = try Picture()
        begun.put("a")
        begun.delivery.feed.put(.failed(late))
        #expect(try begun.written() == [] && begun.began == "")
        try begun.open()
        #expect(try begun.written() == [["a", "error"]])
        #expect(begun.done == "deadline_exceeded")
        let waiting = try Picture()
        waiting.delivery.feed.put(.failed(late))
        #expect(try waiting.written() == [])
        #expect(waiting.began == "deadline_exceeded" && waiting.done == "deadline_exceeded")
        let whole = try Picture(#"{"prompt": "x"}"#)
        whole.put("a")
        whole.delivery.feed.put(.failed(late))
        #expect(try whole.written() == [] && whole.done == "deadline_exceeded")
    }

    @Test func aWholeAnswerIsDoneWithItsLastChoice() throws {
        let picture = try Picture(#"{"prompt": "x", "n": 2}"#)
        picture.put("a")
        picture.finish()
        #expect(try picture.written() == [] && picture.done == nil)
        picture.put("b", answer: 1)
        picture.finish(answer: 1)
        #expect(try picture.written() == [] && picture.done == "")
    }

    @Test func aClientThatLeavesEndsIt() throws {
        for opens in [false, true] {
            let picture = try Picture()
            picture.put("a")
            _ = try picture.written()
            if opens { try picture.open() }
            _ = try picture.written()
            picture.presence.leave()
            #expect(picture.done == "left" && picture.delivery.feed.isCancelled)
            picture.put("b")
            try picture.open()
            #expect(try picture.written() == [])
        }
        let abandoned = try Picture()
        abandoned.delivery.abandon()
        #expect(try abandoned.written() == [] && abandoned.began == "left")
    }

    @Test func aClientThatHasLeftGetsNothing() throws {
        let request = try AnswerRequest(.completions, body: #"{"prompt": "x"}"#.utf8, vocabularySize: 512)
        let heading = Answer.Heading(
            endpoint: .completions, id: "id", created: 1, model: "m", fingerprint: "fp", seed: 1)
        let connection = ConnectionGuard(limits: .ofTests)
        connection.presence.leave()
        let delivery = AnswerDelivery.start(
            Answer(request, heading: heading), of: request, on: EmbeddedChannel(), connection: connection)
        #expect(delivery.feed.isCancelled)
    }
}
