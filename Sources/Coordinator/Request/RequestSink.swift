import Wire

/// Where one request's answer goes. Called on the coordinator's loop; after `finished`, `failed` or `scored` nothing
/// more.
protocol RequestSink {
    func accepted(_ acceptance: Acceptance)
    /// - Returns: false when the reader is too far behind and is to be cut off.
    func delta(text: String, tokens: [Int32]) -> Bool
    func finished(_ reason: FinishReason, _ usage: Usage)
    func scored(_ response: ProtoScoreResponse)
    func failed(_ error: RequestError)
}

/// The events of a `GenerationStream`.
struct StreamSink: RequestSink {
    /// Events that always fit beside the deltas: `accepted` and `finished`.
    private static let reserve = 2

    private let continuation: AsyncThrowingStream<GenerationEvent, any Error>.Continuation

    /// - Parameters:
    ///   - limit: tokens that the reader may be behind; every delta here is one token
    ///   - cancel: called, from any thread, when the stream is over or nobody reads it any more
    static func make(
        limit: Int, cancel: @escaping @Sendable () -> Void
    ) -> (stream: GenerationStream, sink: StreamSink) {
        let (events, continuation) = AsyncThrowingStream.makeStream(
            of: GenerationEvent.self, throwing: (any Error).self, bufferingPolicy: .bufferingOldest(limit + reserve))
        continuation.onTermination = { termination in
            if case .cancelled = termination { cancel() }
        }
        return (GenerationStream(events: events), StreamSink(continuation: continuation))
    }

    func accepted(_ acceptance: Acceptance) {
        continuation.yield(.accepted(acceptance))
    }

    func delta(text: String, tokens: [Int32]) -> Bool {
        switch continuation.yield(.delta(text: text, tokens: tokens)) {
        case .enqueued(let remaining): remaining >= Self.reserve - 1
        case .dropped: false
        case .terminated: true
        @unknown default: true
        }
    }

    func finished(_ reason: FinishReason, _ usage: Usage) {
        continuation.yield(.finished(reason, usage))
        continuation.finish()
    }

    func failed(_ error: RequestError) {
        continuation.finish(throwing: error)
    }

    func scored(_ response: ProtoScoreResponse) {
        continuation.finish()
    }
}

/// The answer of `Coordinator.score`.
struct ScoreSink: RequestSink {
    let continuation: CheckedContinuation<ProtoScoreResponse, any Error>

    func accepted(_ acceptance: Acceptance) {}
    func delta(text: String, tokens: [Int32]) -> Bool { true }

    func finished(_ reason: FinishReason, _ usage: Usage) {
        continuation.resume(throwing: CancellationError())
    }

    func scored(_ response: ProtoScoreResponse) {
        continuation.resume(returning: response)
    }

    func failed(_ error: RequestError) {
        continuation.resume(throwing: error)
    }
}
