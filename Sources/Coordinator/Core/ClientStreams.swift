/// The streams of one client connection: their ids, and what each may send. A value without I/O.
///
/// Delta frames cost credit. Without credit, or while the socket is full, text is gathered into the next delta, up to a
/// bound; a client that stays behind further is cut off from that stream, and nobody else notices.
package struct ClientStreams: Sendable {
    package struct Limits: Sendable {
        /// Streams under way on the connection.
        package var streams = 256
        /// Tokens gathered for a stream that may not send.
        package var gatheredTokens = 1024
        /// Ids of ended streams that are remembered, because cancellations and credits may cross the end.
        package var remembered = 4096

        package init() {}
    }

    package struct Delta: Sendable, Equatable {
        package var text: String
        package var tokens: [Int32]

        package init(text: String = "", tokens: [Int32] = []) {
            self.text = text
            self.tokens = tokens
        }
    }

    package enum Action: Sendable, Equatable {
        case delta(stream: UInt64, Delta)
        case finished(stream: UInt64, FinishReason, Usage)
    }

    private struct Stream: Sendable {
        var request: UInt64
        var credit: Int
        var gathered = Delta()
        var ending: (reason: FinishReason, usage: Usage)?
    }

    /// More credit than any answer needs; keeps the sum from growing without end.
    private static let creditLimit = 1 << 30

    private let limits: Limits
    private var streams: [UInt64: Stream] = [:]
    private var ended: Set<UInt64> = []
    /// The same in order of their end, from `oldest` on, round.
    private var endedOrder: [UInt64] = []
    private var oldest = 0
    package var isWritable = true

    package init(limits: Limits) {
        self.limits = limits
    }

    package var requests: [UInt64] { streams.values.map(\.request) }
    package var count: Int { streams.count }

    package enum Opening: Sendable, Equatable {
        case opened
        /// This one is refused, the connection is fine.
        case tooMany
        /// The peer's fault: the id is or was in use.
        case duplicate
    }

    package mutating func open(_ stream: UInt64, request: UInt64, credit: UInt32) -> Opening {
        guard streams[stream] == nil, !ended.contains(stream) else { return .duplicate }
        guard streams.count < limits.streams else {
            remember(stream)
            return .tooMany
        }
        streams[stream] = Stream(request: request, credit: Int(clamping: credit))
        return .opened
    }

    package enum Lookup: Sendable, Equatable {
        case request(UInt64)
        /// It has ended; what crosses its end is ignored.
        case ended
        /// The peer's fault: there never was such a stream.
        case unknown
    }

    package func find(_ stream: UInt64) -> Lookup {
        if let found = streams[stream] { return .request(found.request) }
        return ended.contains(stream) ? .ended : .unknown
    }

    package mutating func grant(_ credit: UInt32, to stream: UInt64) -> [Action] {
        guard let found = streams[stream] else { return [] }
        streams[stream]?.credit = min(Self.creditLimit, found.credit + Int(clamping: credit))
        return flush(stream)
    }

    /// - Returns: nil when more is gathered than is allowed.
    package mutating func append(_ delta: Delta, to stream: UInt64) -> [Action]? {
        guard let gathered = streams[stream]?.gathered.tokens.count else { return [] }
        streams[stream]?.gathered.text += delta.text
        streams[stream]?.gathered.tokens += delta.tokens
        let actions = flush(stream)
        return actions.isEmpty && gathered + delta.tokens.count > limits.gatheredTokens ? nil : actions
    }

    /// The answer is complete: the stream ends as soon as all of it could be sent.
    package mutating func finish(_ stream: UInt64, _ reason: FinishReason, _ usage: Usage) -> [Action] {
        // Nobody waits for the rest of what was cancelled.
        if reason == .cancelled { streams[stream]?.gathered = Delta() }
        streams[stream]?.ending = (reason, usage)
        return flush(stream)
    }

    /// The client wants no more text; if the answer is complete already, its end can be sent.
    package mutating func discard(_ stream: UInt64) -> [Action] {
        streams[stream]?.gathered = Delta()
        return flush(stream)
    }

    /// The stream ends now, whatever was gathered.
    package mutating func close(_ stream: UInt64) {
        guard streams.removeValue(forKey: stream) != nil else { return }
        remember(stream)
    }

    package mutating func writable(_ writable: Bool) -> [Action] {
        isWritable = writable
        guard writable else { return [] }
        return streams.keys.sorted().flatMap { flush($0) }
    }

    private mutating func flush(_ stream: UInt64) -> [Action] {
        guard let found = streams[stream] else { return [] }
        var actions: [Action] = []
        if !found.gathered.tokens.isEmpty || !found.gathered.text.isEmpty {
            guard isWritable, found.credit > 0 else { return [] }
            streams[stream]?.credit -= 1
            streams[stream]?.gathered = Delta()
            actions.append(.delta(stream: stream, found.gathered))
        }
        if let ending = found.ending {
            close(stream)
            actions.append(.finished(stream: stream, ending.reason, ending.usage))
        }
        return actions
    }

    private mutating func remember(_ stream: UInt64) {
        ended.insert(stream)
        if endedOrder.count < limits.remembered {
            endedOrder.append(stream)
        } else if !endedOrder.isEmpty {
            ended.remove(endedOrder[oldest])
            endedOrder[oldest] = stream
            oldest = (oldest + 1) % endedOrder.count
        }
    }
}
