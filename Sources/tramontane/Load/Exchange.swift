import JSONText

/// One request of a load and what came of it: events and the time in, nothing else. Times are nanoseconds of one clock that only goes
/// forward.
struct Exchange {
    enum Outcome: Equatable {
        case underWay
        case finished
        /// An HTTP status other than 200, and the error's code where the body names one.
        case refused(status: Int, code: String)
        /// The stream ended with an error.
        case failed(code: String)
        /// There was no connection, or it ended before the answer did.
        case cut(String)
    }

    /// Longest body that is kept to be read: an error, or an answer that is not streamed.
    static let maximumBodyBytes = 4 << 20

    let index: Int
    /// When it was to be sent: what a client that lags behind its schedule adds is part of the latency.
    let due: UInt64
    let promptTokens: Int
    private(set) var outcome = Outcome.underWay
    /// When each event with text arrived.
    private(set) var arrivals: [UInt64] = []
    private(set) var ended: UInt64 = 0
    /// Tokens that the server counted; the events with text where it counted none.
    private(set) var outputTokens = 0
    private(set) var cachedTokens = 0
    /// The answer ended by itself before it had all the tokens that it might have.
    private(set) var endedEarly = false

    /// Of HTTP; 0 before the answer's head.
    private(set) var status = 0
    private var isStream = false
    private var parser = EventStreamParser()
    private var body: [UInt8] = []
    private var streamError: String?
    private var isDone = false
    private var finishReason = ""

    init(index: Int, due: UInt64, promptTokens: Int) {
        self.index = index
        self.due = due
        self.promptTokens = promptTokens
    }

    /// The head of the answer.
    mutating func head(status: Int, isStream: Bool) {
        self.status = status
        self.isStream = isStream && status == 200
    }

    /// Some of its body.
    /// - Parameter text: called with each piece of text, as it is escaped in JSON.
    mutating func received(
        _ bytes: UnsafeRawBufferPointer, at now: UInt64, text: (UnsafeRawBufferPointer) -> Void = { _ in }
    ) {
        guard outcome == .underWay else { return }
        guard isStream else {
            if body.count + bytes.count <= Self.maximumBodyBytes { body += bytes }
            return
        }
        // Taken out, so that the closure below may change the rest.
        var parser = parser
        self.parser = EventStreamParser()
        defer { self.parser = parser }
        do throws(EventStreamParser.Fault) {
            try parser.take(bytes) { event($0, at: now, text: text) }
        } catch {
            streamError = "event_too_long"
        }
    }

    private mutating func event(
        _ data: UnsafeRawBufferPointer, at now: UInt64, text: (UnsafeRawBufferPointer) -> Void
    ) {
        if data.elementsEqual("[DONE]".utf8) {
            isDone = true
            return
        }
        let chunk = StreamChunk(scanning: data)
        if let range = chunk.text {
            arrivals.append(now)
            text(UnsafeRawBufferPointer(rebasing: data[range]))
        }
        if let range = chunk.finishReason { finishReason = String(decoding: data[range], as: UTF8.self) }
        guard chunk.hasUsage || chunk.hasError else { return }
        guard let json = try? JSONValue(parsing: data) else {
            streamError = "event_malformed"
            return
        }
        if let error = json["error"] {
            streamError = error["code"]?.string ?? "error"
        } else {
            take(usage: json["usage"])
        }
    }

    private mutating func take(usage: JSONValue?) {
        outputTokens = usage?["completion_tokens"]?.integer ?? outputTokens
        cachedTokens = usage?["prompt_tokens_details"]?["cached_tokens"]?.integer ?? cachedTokens
    }

    /// The whole answer is there.
    mutating func end(at now: UInt64) {
        guard outcome == .underWay else { return }
        ended = now
        if status != 200 {
            let code = (try? JSONValue(parsing: body))?["error"]?["code"]?.string ?? ""
            outcome = .refused(status: status, code: code)
        } else if isStream {
            if let streamError {
                outcome = .failed(code: streamError)
            } else {
                outcome = isDone ? .finished : .cut("the stream ended without its last event")
            }
        } else if let json = try? JSONValue(parsing: body) {
            take(usage: json["usage"])
            finishReason = json["choices"]?.array?.first?["finish_reason"]?.string ?? ""
            outcome = .finished
        } else {
            outcome = .cut("the answer is no JSON")
        }
        body = []
        if outputTokens == 0 { outputTokens = arrivals.count }
        endedEarly = outcome == .finished && finishReason != "length"
    }

    /// There is no connection, or it has closed.
    mutating func cut(_ reason: String, at now: UInt64) {
        guard outcome == .underWay else { return }
        ended = now
        if outputTokens == 0 { outputTokens = arrivals.count }
        outcome = .cut(reason)
    }

    /// What went wrong, for counting; nil where nothing did.
    var error: String? {
        switch outcome {
        case .underWay, .finished: nil
        case .refused(let status, let code): code.isEmpty ? "\(status)" : "\(status) \(code)"
        case .failed(let code): code
        case .cut(let reason): reason
        }
    }

    // MARK: What was measured, in milliseconds

    var timeToFirstToken: Double? { arrivals.first.map { Self.milliseconds(from: due, to: $0) } }

    var endToEnd: Double { Self.milliseconds(from: due, to: ended) }

    /// Of the tokens after the first.
    var timePerOutputToken: Double? {
        guard let first = arrivals.first, outputTokens > 1 else { return nil }
        return Self.milliseconds(from: first, to: ended) / Double(outputTokens - 1)
    }

    /// Between one event with text and the next.
    var interTokenLatencies: [Double] { zip(arrivals, arrivals.dropFirst()).map(Self.milliseconds) }

    static func milliseconds(from begin: UInt64, to end: UInt64) -> Double {
        (Double(end) - Double(begin)) / 1e6
    }
}
