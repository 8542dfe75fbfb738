import Coordinator

/// The events of one answer, for tests that read them one by one. A failure is thrown. Letting go of it cancels the work.
final class GenerationStream: AsyncSequence, Sendable {
    typealias Element = GenerationEvent

    let feed = EventFeed()

    deinit {
        feed.cancel()
    }

    struct AsyncIterator: AsyncIteratorProtocol {
        fileprivate let stream: GenerationStream
        private var items: ArraySlice<EventFeed.Item> = []
        private var isOver = false

        fileprivate init(_ stream: GenerationStream) {
            self.stream = stream
        }

        mutating func next() async throws -> GenerationEvent? {
            if isOver { return nil }
            while items.isEmpty {
                let (filled, fill) = AsyncStream<Void>.makeStream()
                stream.feed.whenFilled { fill.finish() }
                for await _ in filled {}
                var taken: [EventFeed.Item] = []
                stream.feed.take(into: &taken)
                items = taken[...]
            }
            switch items.removeFirst() {
            case .event(let event, _):
                if case .finished = event { isOver = true }
                return event
            case .failed(let error):
                isOver = true
                throw error
            }
        }
    }

    func makeAsyncIterator() -> AsyncIterator { AsyncIterator(self) }
}

extension Coordinator {
    func submit(_ request: GenerationRequest) async throws -> GenerationStream {
        let stream = GenerationStream()
        try await submit(request, to: stream.feed)
        return stream
    }
}
