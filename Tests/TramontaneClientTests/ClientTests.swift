import Logging
import NIOCore
import NIOPosix
import Synchronization
import Testing
import Transport
import Wire

@testable import TramontaneClient

/// A coordinator that answers a text of N words with the text's own words, one delta each, as credit allows.
///
/// "terms" is answered with how the request wants to be served; "endless" never ends; "refused" and "broken" fail before and after being accepted; "vanish" closes the connection.
final class EchoServer: Sendable {
    let listener: Listener
    let log: AsyncStream<String>

    private init(listener: Listener, log: AsyncStream<String>) {
        self.listener = listener
        self.log = log
    }

    static func start() async throws -> EchoServer {
        let (log, continuation) = AsyncStream<String>.makeStream()
        let listener = try await Listener.bind(
            host: "127.0.0.1", port: 0, acceptLoop: MultiThreadedEventLoopGroup.singleton,
            childLoop: MultiThreadedEventLoopGroup.singleton,
            identity: LocalIdentity(role: .unspecified, name: "echo", incarnation: 1), roles: [.client],
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
            accept: { _ in Session { continuation.yield($0) } })
        return EchoServer(listener: listener, log: log)
    }

    func connect(apiKey: String = "") async throws -> TramontaneClient {
        try await TramontaneClient.connect(host: "127.0.0.1", port: listener.port, apiKey: apiKey)
    }

    func logged(_ line: String) async -> Bool {
        for await logged in log where logged == line { return true }
        return false
    }

    private final class Session: ConnectionDelegate {
        private struct Stream {
            var words: [String]
            var isEndless: Bool
            var credit: UInt32
            var sent: UInt32 = 0
        }

        private var streams: [UInt64: Stream] = [:]
        private let log: (String) -> Void

        init(log: @escaping (String) -> Void) {
            self.log = log
        }

        func received(_ frame: Frame, on connection: Connection) {
            let id = frame.correlation
            switch frame.kind {
            case .generate:
                guard let request = try? frame.message(ProtoGenerateRequest.self) else { return }
                generate(request, id, connection)
            case .credit:
                streams[id]?.credit += (try? frame.message(ProtoCredit.self))?.frames ?? 0
                pump(id, connection)
            case .cancel:
                log("cancel")
                guard streams.removeValue(forKey: id) != nil else { return }
                finish(id, .cancelled, 0, connection)
            case .score:
                let key = (try? frame.message(ProtoScoreRequest.self))?.apiKey ?? ""
                connection.send(.failed(id, key.isEmpty ? "prompt_too_long" : "key_\(key)"))
            case .status:
                var status = ProtoStatusResponse()
                status.model = "echo"
                status.ready = true
                connection.send(Frame(.statusReport, status, correlation: id))
            default: break
            }
        }

        func closed(_ reason: Failure?, on connection: Connection) {
            log("closed")
        }

        private func generate(_ request: ProtoGenerateRequest, _ id: UInt64, _ connection: Connection) {
            let text = request.chat.messages.last?.content ?? request.text
            switch text {
            case "refused": return connection.send(.failed(id, "queue_full"))
            case "vanish": return connection.close(Failure(code: "shutting_down", message: ""))
            default: break
            }
            var accepted = ProtoAccepted()
            accepted.requestID = "r\(id)"
            accepted.seed = request.hasSeed ? request.seed : 99
            accepted.promptTokens = 3
            connection.send(Frame(.accepted, accepted, correlation: id))
            if text == "broken" { return connection.send(.failed(id, "worker_lost")) }
            let terms = "\(request.apiKey) \(request.priority) \(request.hasDeadlineMs ? request.deadlineMs : 0)"
            streams[id] = Stream(
                words: (text == "terms" ? terms : text).split(separator: " ").map(String.init),
                isEndless: text == "endless", credit: request.credit)
            pump(id, connection)
        }

        private func pump(_ id: UInt64, _ connection: Connection) {
            while var stream = streams[id], stream.credit > 0 {
                guard stream.isEndless || stream.sent < stream.words.count else {
                    streams[id] = nil
                    return finish(id, .stop, stream.sent, connection)
                }
                var delta = ProtoDelta()
                delta.text = stream.isEndless ? "again " : stream.words[Int(stream.sent)] + " "
                delta.tokens = [Int32(stream.sent)]
                stream.credit -= 1
                stream.sent += 1
                streams[id] = stream
                connection.send(Frame(.delta, delta, correlation: id))
            }
        }

        private func finish(_ id: UInt64, _ reason: ProtoFinished.Reason, _ tokens: UInt32, _ connection: Connection) {
            var finished = ProtoFinished()
            finished.reason = reason
            finished.completionTokens = tokens
            finished.cachedTokens = 2
            connection.send(Frame(.finished, finished, correlation: id))
        }
    }
}

extension Frame {
    fileprivate static func failed(_ id: UInt64, _ code: String) -> Frame {
        var failure = ProtoFailure(Failure(code: code, message: "as asked"))
        failure.retryAfterSeconds = code == "queue_full" ? 17 : 0
        return Frame(.failed, failure, correlation: id)
    }
}

@Suite struct ClientTests {
    @Test func aChatStreams() async throws {
        let server = try await EchoServer.start()
        let client = try await server.connect()
        let answer = client.chat([.system("Echo."), .user("to be or not")])
        #expect(answer.acceptance == nil)
        var words: [String] = []
        for try await token in answer { words.append(token.text) }
        #expect(words == ["to ", "be ", "or ", "not "])
        #expect(answer.acceptance?.seed == 99)
        #expect(answer.outcome?.finishReason == .stop)
        #expect(answer.outcome?.completionTokens == 4)
        #expect(answer.outcome?.cachedTokens == 2)
        await client.close()
        #expect(await server.logged("closed"))
        await server.listener.close()
    }

    @Test func howARequestIsServedAmongOthers() async throws {
        let server = try await EchoServer.start()
        let client = try await server.connect(apiKey: "sk-1")
        var options = GenerationOptions()
        options.priority = -3
        options.deadlineMilliseconds = 500
        #expect(try await client.complete("terms", options: options).collect().text == "sk-1 -3 500 ")
        #expect(try await client.chat([.user("terms")]).collect().text == "sk-1 0 0 ")
        let score = await #expect(throws: TramontaneError.self) { try await client.score("x") }
        #expect(score?.code == "key_sk-1")
        let refused = await #expect(throws: TramontaneError.self) { try await client.complete("refused").collect() }
        #expect(refused?.retryAfterSeconds == 17)
        await client.close()
        await server.listener.close()
    }

    @Test func aStreamIsReadOnce() async throws {
        let server = try await EchoServer.start()
        let client = try await server.connect()
        let answer = client.complete("once")
        #expect(try await answer.collect().text == "once ")
        let error = await #expect(throws: TramontaneError.self) { try await answer.collect() }
        #expect(error?.code == "stream_consumed")
        var again = answer.makeAsyncIterator()
        await #expect(throws: TramontaneError.self) { try await again.next() }
        await client.close()
        await server.listener.close()
    }

    @Test func manyLongAnswersOverOneConnection() async throws {
        let server = try await EchoServer.start()
        let client = try await server.connect()
        try await withThrowingTaskGroup(of: Void.self) { tasks in
            for task in 0..<20 {
                tasks.addTask {
                    let text = (0..<500).map { "\(task).\($0) " }.joined()
                    let answer = try await client.complete(text, options: .init(seed: UInt64(task))).collect()
                    #expect(answer.text == text)
                    #expect(answer.ids == Array(0..<500))
                    #expect(answer.acceptance.seed == UInt64(task))
                }
            }
            try await tasks.waitForAll()
        }
        await client.close()
        await server.listener.close()
    }

    @Test func leavingTheLoopCancels() async throws {
        let server = try await EchoServer.start()
        let client = try await server.connect()
        var read = 0
        for try await _ in client.complete("endless") {
            read += 1
            if read == 300 { break }
        }
        #expect(await server.logged("cancel"))
        // The connection goes on.
        #expect(try await client.complete("still here").collect().text == "still here ")
        await client.close()
        await server.listener.close()
    }

    @Test func cancellingTheTaskCancels() async throws {
        let server = try await EchoServer.start()
        let client = try await server.connect()
        let (started, start) = AsyncStream<Void>.makeStream()
        let task = Task {
            for try await _ in client.complete("endless") { start.finish() }
        }
        for await _ in started {}
        task.cancel()
        await #expect(throws: CancellationError.self) { try await task.value }
        #expect(await server.logged("cancel"))
        await client.close()
        await server.listener.close()
    }

    @Test func aReaderThatStandsStillHoldsUpNobody() async throws {
        let server = try await EchoServer.start()
        let client = try await server.connect()
        var slow = client.complete("endless").makeAsyncIterator()
        _ = try await slow.next()
        let text = (0..<500).map { "\($0) " }.joined()
        #expect(try await client.complete(text).collect().text == text)
        #expect(try await slow.next()?.text == "again ")
        await client.close()
        await server.listener.close()
    }

    @Test func failuresHaveCodes() async throws {
        let server = try await EchoServer.start()
        let client = try await server.connect()
        func code(_ body: () async throws -> Void) async -> String? {
            do {
                try await body()
                return nil
            } catch {
                return (error as? TramontaneError)?.code
            }
        }
        #expect(await code { _ = try await client.complete("refused").collect() } == "queue_full")
        #expect(await code { _ = try await client.complete("broken").collect() } == "worker_lost")
        #expect(await code { _ = try await client.score("x") } == "prompt_too_long")
        #expect(try await client.status().model == "echo")
        #expect(await code { _ = try await client.complete("vanish").collect() } == "shutting_down")
        #expect(await code { _ = try await client.complete("x").collect() } == "shutting_down")
        #expect(await code { _ = try await client.status() } == "shutting_down")
        await server.listener.close()
        #expect(await code { _ = try await server.connect() } == "connect_failed")
    }

    @Test func theConnectionClosesWithItsLastUser() async throws {
        let server = try await EchoServer.start()
        do {
            let text = try await server.connect().complete("one use").collect().text
            #expect(text == "one use ")
        }
        #expect(await server.logged("closed"))
        await server.listener.close()
    }
}
