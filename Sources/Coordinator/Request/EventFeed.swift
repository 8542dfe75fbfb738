import Synchronization

/// The events of one or several answers on their way from the coordinator to one reader.
///
/// The coordinator's loop puts them in and calls the reader once; the reader then takes together whatever has come until
/// it looks. With a step's tokens, readers are called after all of them, and woken after all were called: a thread that
/// wakes often gets the processor of the one that woke it, and would take it from the tokens that are yet to come. No task
/// waits for the next token, and a reader that is slow has fewer and larger pieces to take. What waits is bounded by
/// `CoordinatorConfiguration.readerTokenLimit` for each answer: beyond it the answer fails with `slow_reader`, after what
/// waits.
package final class EventFeed: Sendable {
    package enum Item: Sendable, Equatable {
        /// Of the answer with this index.
        case event(GenerationEvent, answer: Int)
        /// An answer failed, and nothing comes any more.
        case failed(RequestError)
    }

    private struct Reader: Sendable {
        let call: @Sendable () -> Void
        let wake: @Sendable () -> Void
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
        var reader: Reader?
        /// The reader was called and has not looked yet.
        var isCalled = false

        mutating func put(_ item: Item) {
            guard case .open = phase, !hasFailed else { return }
            if case .failed = item { hasFailed = true }
            items.append(item)
        }

        /// - Returns: the reader, where it is to be called.
        mutating func call() -> Reader? {
            guard let reader, !isCalled, !items.isEmpty else { return nil }
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
    ///
    /// - Parameter wake: called afterwards, once or more often; it may be the same for many feeds, of which some are called
    ///   before.
    package func whenFilled(
        _ reader: @escaping @Sendable () -> Void, thenWake wake: @escaping @Sendable () -> Void = {}
    ) {
        let isFilled = state.withLock { state in
            guard case .open = state.phase else { return false }
            state.reader = Reader(call: reader, wake: wake)
            state.isCalled = !state.items.isEmpty
            return state.isCalled
        }
        guard isFilled else { return }
        reader()
        wake()
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
        let reader = state.withLock { state in
            state.put(item)
            return state.call()
        }
        reader?.call()
        reader?.wake()
    }

    /// Calls the reader if something waits that it was not called for. ``wakeReader()`` has to follow.
    package func callReader() {
        state.withLock { $0.call() }?.call()
    }

    /// Wakes a reader that was called.
    package func wakeReader() {
        state.withLock { $0.reader }?.wake()
    }

    /// Puts a token in; does not call the reader.
    ///
    /// - Returns: false where more than `limit` tokens of the answer would wait: it is to be failed.
    package func put(text: String, tokens: [Int32], answer: Int, limit: Int) -> Bool {
        state.withLock { state in
            guard state.tokens.indices.contains(answer) else { return true }
            guard state.tokens[answer] + tokens.count <= limit else { return false }
            state.tokens[answer] += tokens.count
            state.put(.event(.delta(text: text, tokens: tokens), answer: answer))
            return true
        }
    }
}
