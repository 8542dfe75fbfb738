import NIOCore
import NIOPosix
import Testing

@testable import tramontane

/// The client against a server that says what it is told to, connection by connection.
struct LoadClientTests {
    /// What is said to a request; then the connection is closed, unless the answer says how long it is.
    private enum Answer: Sendable {
        case bytes(String)
        case nothing
    }

    private static let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    private static let chunk = chunked("data: {\"text\": \"abc\"}\n\n")
    private static let end = chunked("data: [DONE]\n\n") + chunked("")

    private static func chunked(_ data: String) -> String {
        "\(String(data.utf8.count, radix: 16))\r\n\(data)\r\n"
    }

    private final class Script: ChannelInboundHandler {
        typealias InboundIn = ByteBuffer
        typealias OutboundOut = ByteBuffer
        let answers: [Answer]
        var next = 0

        init(answers: [Answer]) { self.answers = answers }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let text = String(buffer: unwrapInboundIn(data))
            // A request's end is its body's, and that is written at once.
            guard text.hasSuffix("}}") || text.hasSuffix("}\n") else { return }
            defer { next += 1 }
            guard answers.indices.contains(next), case .bytes(let answer) = answers[next] else {
                context.close(promise: nil)
                return
            }
            context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: answer)), promise: nil)
            if next == answers.count - 1 { context.close(promise: nil) }
        }
    }

    /// Sends so many requests one after the other, and gives what became of each.
    private func run(requests: Int, answers: [Answer], port: Int? = nil) async throws -> [Exchange] {
        let group = MultiThreadedEventLoopGroup.singleton
        let server = try await ServerBootstrap(group: group).childChannelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHandler(Script(answers: answers))
            }
        }.bind(host: "127.0.0.1", port: 0).get()
        let address = try #require(server.localAddress)
        if port != nil { try await server.close() }
        let loop = group.next()
        let done = loop.makePromise(of: Void.self)
        let plan = LoadRun.Plan(
            schedule: .init(concurrency: 1, requests: requests),
            prompts: LoadPrompts(tokens: 4, sharedTokens: 0, vocabulary: 400, seed: 0), outputTokens: 2)
        let run = try await loop.submit {
            let client = LoadClient(
                target: LoadTarget(address: address, host: "127.0.0.1", path: "/v1/completions"), loop: loop)
            let run = LoadRun(plan: plan, client: client, progress: LoadRun.ProgressBox(), done: done)
            client.observer = run
            run.pump()
            return NIOLoopBound(run, eventLoop: loop)
        }.get()
        try await done.futureResult.get()
        if port == nil { try await server.close() }
        return try await loop.submit { run.value.exchanges }.get()
    }

    @Test func aStream() async throws {
        let exchanges = try await run(requests: 1, answers: [.bytes(Self.head + Self.chunk + Self.chunk + Self.end)])
        #expect(exchanges.map(\.outcome) == [.finished])
        #expect(exchanges.map(\.outputTokens) == [2])
    }

    @Test func aConnectionIsUsedAgain() async throws {
        let stream = Self.head + Self.chunk + Self.end
        let body = #"{"error": {"code": "queue_full"}}"#
        let refusal = "HTTP/1.1 429 Too Many Requests\r\ncontent-length: \(body.utf8.count)\r\n\r\n\(body)"
        let exchanges = try await run(
            requests: 4, answers: [.bytes(stream), .bytes(refusal), .bytes(stream), .nothing])
        #expect(exchanges.map(\.error) == [nil, "429 queue_full", nil, "connection closed"])
    }

    @Test func whatIsNoAnswerIsCounted() async throws {
        let broken: [(answers: [Answer], error: String?)] = [
            ([.nothing], "connection closed"),
            ([.bytes(Self.head + Self.chunk)], nil),
            (
                [.bytes("HTTP/1.1 500 Internal Server Error\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")],
                "500"
            ),
            ([.bytes("SSH-2.0-OpenSSH_9.2\r\n")], nil),
        ]
        for (answers, error) in broken {
            let exchanges = try await run(requests: 2, answers: answers)
            #expect(exchanges.count == 2)
            for exchange in exchanges {
                #expect(exchange.error != nil)
                if let error { #expect(exchange.error == error) }
            }
        }
    }

    @Test func nobodyListens() async throws {
        let exchanges = try await run(requests: 2, answers: [], port: 0)
        #expect(exchanges.map(\.error) == ["Connection refused", "Connection refused"])
    }
}
