import Wire

/// Where one request's answer goes. Called on the coordinator's loop; after `finished`, `failed` or `scored` nothing
/// more.
protocol RequestSink {
    func accepted(_ acceptance: Acceptance)
    /// - Returns: false when the reader is too far behind and is to be cut off.
    func delta(text: String, tokens: [Int32]) -> Bool
    /// All answers have got their tokens of a step: now their readers are called.
    func callReader()
    /// All readers were called.
    func wakeReader()
    func finished(_ reason: FinishReason, _ usage: Usage)
    func scored(_ response: ProtoScoreResponse)
    func failed(_ error: RequestError)
}

extension RequestSink {
    func callReader() {}
    func wakeReader() {}
}

/// One answer of a feed.
struct FeedSink: RequestSink {
    let feed: EventFeed
    let answer: Int
    /// Tokens that the reader may be behind.
    let limit: Int

    func accepted(_ acceptance: Acceptance) {
        feed.put(.event(.accepted(acceptance), answer: answer))
    }

    func delta(text: String, tokens: [Int32]) -> Bool {
        feed.put(text: text, tokens: tokens, answer: answer, limit: limit)
    }

    func callReader() { feed.callReader() }
    func wakeReader() { feed.wakeReader() }

    func finished(_ reason: FinishReason, _ usage: Usage) {
        feed.put(.event(.finished(reason, usage), answer: answer))
    }

    func failed(_ error: RequestError) {
        feed.put(.failed(error))
    }

    func scored(_ response: ProtoScoreResponse) {}
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
