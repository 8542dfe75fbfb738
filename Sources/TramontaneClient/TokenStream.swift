import Synchronization
import Wire

/// An answer while it is generated.
///
/// The request is sent when iteration begins. It can be iterated once. Leaving the loop early, or cancelling the task,
/// cancels the work in the cluster. A slow reader holds up nobody else; one that falls more than about a thousand tokens
/// behind loses its stream with `slow_reader`.
///
/// ```swift
/// for try await token in client.chat([.user("Who is there?")]) {
///     print(token.text, terminator: "")
/// }
/// ```
public struct TokenStream: AsyncSequence, Sendable {
    public typealias Element = Token

    private let state: StreamState

    init(client: TramontaneClient, request: ProtoGenerateRequest) {
        state = StreamState(client: client, request: request)
    }

    /// What the cluster said when it took the request; nil before the first token.
    public var acceptance: Acceptance? { state.acceptance }

    /// How the answer ended; nil before the loop has ended by itself.
    public var outcome: Outcome? { state.outcome }

    public func makeAsyncIterator() -> Iterator {
        Iterator(state: state)
    }

    /// Reads the whole answer.
    ///
    /// - Throws: ``TramontaneError``, or `CancellationError` if the task is cancelled.
    public func collect() async throws -> Completion {
        var text = ""
        var ids: [Int32] = []
        for try await token in self {
            text += token.text
            ids += token.ids
        }
        guard let acceptance, let outcome else {
            throw TramontaneError(code: "stream_consumed", message: "a token stream can be iterated once")
        }
        return Completion(text: text, ids: ids, acceptance: acceptance, outcome: outcome)
    }

    public struct Iterator: AsyncIteratorProtocol {
        private let reading: Reading

        fileprivate init(state: StreamState) {
            reading = Reading(state: state)
        }

        /// - Throws: ``TramontaneError``, or `CancellationError` if the task is cancelled.
        public mutating func next() async throws -> Token? {
            try await reading.state.next(reading)
        }
    }
}

/// Lives as long as an iterator does: its end is the reader's leaving.
private final class Reading: Sendable {
    let state: StreamState
    let number: Int

    init(state: StreamState) {
        self.state = state
        number = state.newReader()
    }

    deinit {
        state.left(number)
    }
}

private final class StreamState: Sendable {
    private enum Phase {
        case fresh(ProtoGenerateRequest)
        case reading(id: UInt64, reader: Int)
        case ended(reader: Int)
    }

    private struct State {
        var phase: Phase
        var readers = 0
        var acceptance: Acceptance?
        var outcome: Outcome?
    }

    /// Keeps the connection open while a stream is read.
    private let client: TramontaneClient
    private let state: Mutex<State>

    init(client: TramontaneClient, request: ProtoGenerateRequest) {
        self.client = client
        state = Mutex(State(phase: .fresh(request)))
    }

    var acceptance: Acceptance? { state.withLock { $0.acceptance } }
    var outcome: Outcome? { state.withLock { $0.outcome } }

    func newReader() -> Int {
        state.withLock { state in
            state.readers += 1
            return state.readers
        }
    }

    func next(_ reading: Reading) async throws -> Token? {
        guard let id = try begin(reading) else { return nil }
        do {
            while true {
                switch try await client.core.next(id) {
                case .accepted(let acceptance):
                    state.withLock { $0.acceptance = acceptance }
                case .token(let token):
                    return token
                case .finished(let outcome):
                    state.withLock { state in
                        state.outcome = outcome
                        state.phase = .ended(reader: reading.number)
                    }
                    return nil
                }
            }
        } catch {
            state.withLock { $0.phase = .ended(reader: reading.number) }
            throw error
        }
    }

    /// The stream's id, after opening it at the first call; nil when this reader has read it to its end.
    private func begin(_ reading: Reading) throws(TramontaneError) -> UInt64? {
        try state.withLock { state throws(TramontaneError) in
            switch state.phase {
            case .fresh(let request):
                state.phase = .ended(reader: reading.number)
                let id = try client.core.open(request)
                state.phase = .reading(id: id, reader: reading.number)
                return id
            case .reading(let id, reading.number):
                return id
            case .ended(reading.number):
                return nil
            case .reading, .ended:
                throw TramontaneError(code: "stream_consumed", message: "a token stream can be iterated once")
            }
        }
    }

    func left(_ reader: Int) {
        let id: UInt64? = state.withLock { state in
            guard case .reading(let id, reader) = state.phase else { return nil }
            state.phase = .ended(reader: reader)
            return id
        }
        if let id { client.core.cancel(id) }
    }
}
