import Synchronization

/// The events of one or several answers on their way from the coordinator to one reader.
///
/// The coordinator's loop puts them in and calls the reader once; the reader then takes together whatever has come until
/// it looks. No task waits for the next token, and a reader that is slow has fewer and larger pieces to take. What waits
/// is bounded by `CoordinatorConfiguration.readerTokenLimit` for each answer: beyond it the answer fails with
/// `slow_reader`, after what waits.
package final class EventFeed: Sendable {
    package enum Item: Sendable, Equatable {
        /// Of the answer with this index.
        case event(GenerationEvent, answer: Int)
        /// An answer failed, and nothing comes any more.
        case failed(RequestError)
    }

    private enum Phase {
        case open(cancellations: [@Sendable () -> Void])
        /// The reader wants nothing more.
        case cancelled
    }

    private struct State {
        var phase = Phase.open(cancellations: [])
        var items: [Item] = []
        /// Tokens among them, by answer.
        var tokens: [Int]
        var hasFailed = false
        var reader: (@Sendable () -> Void)?
        /// The reader was called and has not looked yet.
        var isCalled = false

        /// - Returns: the reader, where it is to be called.
        mutating func put(_ item: Item) -> (@Sendable () -> Void)? {
            guard case .open = phase, !hasFailed else { return nil }
            if case .failed = item { hasFailed = true }
            items.append(item)
            guard let reader, !isCalled else { return nil }
            isCalled = true
            return reader
        }
    }

    private let state: Mutex<State>

    /// - Parameter answers: how many; their indices are below.
    package init(answers: Int = 1) {
        state = Mutex(State(tokens: Array(repeating: 0, count: answers)))
    }

    // MARK: The reader

    /// Calls the reader, from any thread, when something has come: once, until it takes.
    package func whenFilled(_ reader: @escaping @Sendable () -> Void) {
        let isFilled = state.withLock { state in
            guard case .open = state.phase else { return false }
            state.reader = reader
            state.isCalled = !state.items.isEmpty
            return state.isCalled
        }
        if isFilled { reader() }
    }

    /// - Parameter items: emptied, and filled with what has come.
    package func take(into items: inout [Item]) {
        items.removeAll(keepingCapacity: true)
        state.withLock { state in
            swap(&state.items, &items)
            for answer in state.tokens.indices { state.tokens[answer] = 0 }
            state.isCalled = false
        }
    }

    /// The reader has what it wanted, or has gone: work that goes on for it ends.
    package func cancel() {
        let cancellations = state.withLock { state -> [@Sendable () -> Void] in
            guard case .open(let cancellations) = state.phase else { return [] }
            state.phase = .cancelled
            state.items = []
            state.reader = nil
            return cancellations
        }
        for cancel in cancellations { cancel() }
    }

    // MARK: The coordinator

    package var isCancelled: Bool {
        state.withLock { state in
            if case .cancelled = state.phase { true } else { false }
        }
    }

    /// Calls `cancel` when the reader is done, at once if it is.
    package func whenCancelled(_ cancel: @escaping @Sendable () -> Void) {
        let isCancelled = state.withLock { state in
            guard case .open(let cancellations) = state.phase else { return true }
            state.phase = .open(cancellations: cancellations + [cancel])
            return false
        }
        if isCancelled { cancel() }
    }

    package func put(_ item: Item) {
        state.withLock { $0.put(item) }?()
    }

    /// - Returns: false where more than `limit` tokens of the answer would wait: it is to be failed.
    package func put(text: String, tokens: [Int32], answer: Int, limit: Int) -> Bool {
        let (isWithin, reader) = state.withLock { state -> (Bool, (@Sendable () -> Void)?) in
            guard state.tokens.indices.contains(answer) else { return (true, nil) }
            guard state.tokens[answer] + tokens.count <= limit else { return (false, nil) }
            state.tokens[answer] += tokens.count
            return (true, state.put(.event(.delta(text: text, tokens: tokens), answer: answer)))
        }
        reader?()
        return isWithin
    }
}
