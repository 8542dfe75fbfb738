import Coordinator
import JSONText
import Logging
import NIOCore

/// An answer on its way from the coordinator to its client.
///
/// It lives on the connection's loop. When the feed says that something has come, it takes all that waits, lays it out and
/// writes it in one piece; no task runs for a token. A stream whose connection is full takes nothing: events wait in the
/// feed, which has a bound.
final class AnswerDelivery {
    /// Nobody reads the answer.
    struct ClientLeft: Error {}

    private enum Phase {
        /// Nothing but acceptances has come. An answer that fails now has a status of its own.
        case waiting
        /// Somebody sends the head of a stream.
        case beginning
        /// The stream goes out.
        case open
        case ended
    }

    private let feed: EventFeed
    private let connection: ConnectionGuard
    private let promptParameter: String
    private let isStreamed: Bool
    private var answer: Answer
    private var phase = Phase.waiting
    private var items: [EventFeed.Item] = []
    /// Laid out and not sent.
    private var chunk = ChunkedBytes()
    private var failure: RequestError?
    private let began: EventLoopPromise<Void>
    private let done: EventLoopPromise<Answer>

    private init(_ answer: Answer, of request: AnswerRequest, channel: any Channel, connection: ConnectionGuard) {
        self.answer = answer
        self.connection = connection
        feed = EventFeed(answers: request.answers)
        promptParameter = request.endpoint.promptParameter
        isStreamed = request.stream
        began = channel.eventLoop.makePromise()
        done = channel.eventLoop.makePromise()
    }

    /// An answer as the tasks of its request see it.
    struct Handle: Sendable {
        /// Where the answer's events belong.
        let feed: EventFeed
        /// Succeeds when a stream has something to say, and its head is due.
        let began: EventLoopFuture<Void>
        /// Succeeds when the answer is complete, and all of a stream was handed to the connection. Fails with `RequestError`,
        /// which a stream that has begun was told, or `ClientLeft`.
        let done: EventLoopFuture<Answer>
        fileprivate let delivery: NIOLoopBound<AnswerDelivery>

        /// The head of the stream was written.
        func open() {
            done.eventLoop.execute { delivery.value.open() }
        }

        /// Nobody waits for the answer.
        func abandon() {
            done.eventLoop.execute { delivery.value.end(.failure(ClientLeft())) }
        }
    }

    /// Called on the channel's loop.
    ///
    /// - Parameter connection: the channel's.
    static func start(
        _ answer: Answer, of request: AnswerRequest, on channel: any Channel, connection: ConnectionGuard
    ) -> Handle {
        let new = AnswerDelivery(answer, of: request, channel: channel, connection: connection)
        let delivery = NIOLoopBound(new, eventLoop: channel.eventLoop)
        // These let go of it at its end, which comes with the connection's at the latest.
        connection.presence.begin(
            ClientPresence.Watch(
                left: { delivery.value.end(.failure(ClientLeft())) }, writable: { delivery.value.deliver() }))
        let queue = DeliveryQueue.of(channel.eventLoop)
        new.feed.whenFilled({ queue.add(delivery) }, thenWake: { queue.wake() })
        return Handle(
            feed: new.feed, began: new.began.futureResult, done: new.done.futureResult, delivery: delivery)
    }

    private func open() {
        guard case .beginning = phase else { return }
        phase = .open
        deliver()
    }

    /// Something has come, or there is room for it.
    func deliver() {
        switch phase {
        case .waiting: break
        case .open where connection.takesChunks: break
        case .open, .beginning, .ended: return
        }
        feed.take(into: &items)
        var hasMore = false
        for item in items {
            switch item {
            case .event(let event, let choice):
                chunk.append { answer.take(event, choice: choice, into: &$0) }
                if case .accepted = event {} else { hasMore = true }
            case .failed(let error):
                failure = error
            }
        }
        if case .open = phase { return send() }
        if let failure, !isStreamed || !hasMore { return end(.failure(failure)) }
        if !isStreamed {
            if answer.isFinished { end(.success(answer)) }
        } else if hasMore {
            phase = .beginning
            began.succeed()
        }
    }

    /// Sends what is laid out, and what ends the stream if this is its end.
    private func send() {
        if let failure {
            chunk.append { Answer.append(APIError(failure, promptParameter: promptParameter).body, to: &$0) }
        } else if answer.isFinished {
            chunk.append { $0 += "data: [DONE]\n\n".utf8 }
        }
        if !chunk.isEmpty { chunk.take { connection.send(chunk: $0) } }
        if let failure {
            end(.failure(failure))
        } else if answer.isFinished {
            end(.success(answer))
        }
    }

    /// Whatever goes on for the answer ends.
    private func end(_ result: Result<Answer, any Error>) {
        switch phase {
        case .waiting: began.completeWith(result.map { _ in })
        case .beginning, .open: break
        case .ended: return
        }
        phase = .ended
        connection.presence.end()
        feed.cancel()
        done.completeWith(result)
    }
}
