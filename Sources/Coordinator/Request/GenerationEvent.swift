/// What an answer's reader is told, in this order: `accepted` once, any number of `delta`, `finished` once. Where the
/// answer fails, that comes in place of `finished`.
package enum GenerationEvent: Sendable, Equatable {
    case accepted(Acceptance)
    /// Some more of the answer. The text is whole characters; it may be empty while a character or a stop string is
    /// incomplete. The tokens are all that were generated, `</s>` included.
    case delta(text: String, tokens: [Int32])
    case finished(FinishReason, Usage)
}

package struct Acceptance: Sendable, Equatable {
    /// Unique within the coordinator's life.
    package let requestID: String
    package let model: String
    package let seed: UInt64
    package let promptTokens: Int

    package init(requestID: String, model: String, seed: UInt64, promptTokens: Int) {
        self.requestID = requestID
        self.model = model
        self.seed = seed
        self.promptTokens = promptTokens
    }
}

package enum FinishReason: String, Sendable, Equatable {
    /// The model ended its answer, or a stop string appeared.
    case stop
    /// `maxTokens` or the end of the context was reached.
    case length
    /// The client cancelled.
    case cancelled
}

package struct Usage: Sendable, Equatable {
    package let promptTokens: Int
    /// Generated tokens, `</s>` included.
    package let completionTokens: Int
    /// Of the prompt's tokens, those whose keys and values were in the cache already.
    package let cachedTokens: Int

    package init(promptTokens: Int, completionTokens: Int, cachedTokens: Int = 0) {
        self.promptTokens = promptTokens
        self.completionTokens = completionTokens
        self.cachedTokens = cachedTokens
    }
}
