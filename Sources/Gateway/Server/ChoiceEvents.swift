import Coordinator

/// The events of the choices of one answer, as they come, until all have finished, one fails, or the client leaves.
///
/// A choice is asked for its next event only when its last one has been dealt with, so a client that reads slowly holds
/// up its own choices and nothing piles up here.
struct ChoiceEvents: Sendable {
    struct ClientLeft: Error {}

    let choices: [any AsyncSequence<GenerationEvent, any Error> & Sendable]
    let presence: ClientPresence

    /// Calls `body` for every event with the index of its choice. When this returns or throws, no work goes on.
    func forEach(_ body: (GenerationEvent, Int) async throws -> Void) async throws {
        let (arrivals, arrival) = AsyncThrowingStream<(event: GenerationEvent?, choice: Int), any Error>.makeStream()
        presence.whenLeft { arrival.finish(throwing: ClientLeft()) }
        defer { presence.forget() }
        try await withThrowingTaskGroup(of: Void.self) { group in
            // Leaving the scope by an error does this too; by a return it waits for the readers.
            defer { group.cancelAll() }
            var turns: [AsyncStream<Void>.Continuation] = []
            for (choice, events) in choices.enumerated() {
                let (turn, next) = AsyncStream<Void>.makeStream()
                turns.append(next)
                group.addTask {
                    do {
                        var turns = turn.makeAsyncIterator()
                        for try await event in events {
                            arrival.yield((event, choice))
                            guard await turns.next() != nil else { return }
                        }
                        arrival.yield((nil, choice))
                    } catch {
                        arrival.finish(throwing: error)
                    }
                }
            }
            var unfinished = choices.count
            for try await (event, choice) in arrivals {
                guard let event else {
                    unfinished -= 1
                    if unfinished == 0 { return }
                    continue
                }
                try await body(event, choice)
                turns[choice].yield()
            }
            throw CancellationError()
        }
    }
}
