package import Tokenizer

/// One accepted request: tokens in, text and exactly one end out. It knows nothing of lanes and readers.
package struct RequestMachine: Sendable {
    package struct Output: Sendable, Equatable {
        package var text: String
        package var finish: FinishReason?

        package init(text: String, finish: FinishReason?) {
            self.text = text
            self.finish = finish
        }
    }

    package let promptTokens: Int
    /// Of them, those that were found in the cache.
    package var cachedTokens = 0
    /// Tokens that may be generated, at least 1.
    package let maximumTokens: Int
    package private(set) var completionTokens = 0
    package private(set) var hasFinished = false
    private let endToken: Int32
    private var detokenizer: Detokenizer
    private var stops: StopMatcher

    /// - Parameter textContext: tokens whose text comes before the answer's and is not given: the prompt of a
    ///   completion, nothing for a chat.
    package init(
        tokenizer: Tokenizer, textContext: [Int32], promptTokens: Int, maximumTokens: Int, stop: [String]
    ) {
        self.promptTokens = promptTokens
        self.maximumTokens = maximumTokens
        endToken = tokenizer.endToken
        detokenizer = Detokenizer(tokenizer, prompt: textContext)
        stops = StopMatcher(stop)
    }

    package var usage: Usage {
        Usage(promptTokens: promptTokens, completionTokens: completionTokens, cachedTokens: cachedTokens)
    }

    /// The next token. After the end every token is ignored.
    package mutating func append(_ token: Int32) -> Output {
        guard !hasFinished else { return Output(text: "", finish: nil) }
        completionTokens += 1
        if token == endToken { return end(.stop, after: "") }
        let text = stops.append(detokenizer.append(token))
        if stops.hasStopped {
            hasFinished = true
            return Output(text: text, finish: .stop)
        }
        if completionTokens >= maximumTokens { return end(.length, after: text) }
        return Output(text: text, finish: nil)
    }

    /// No more tokens will come: gives out what was kept back, which may still complete a stop string.
    private mutating func end(_ reason: FinishReason, after text: String) -> Output {
        hasFinished = true
        var rest = stops.append(detokenizer.finish())
        let stopped = stops.hasStopped
        rest += stops.finish()
        return Output(text: text + rest, finish: stopped ? .stop : reason)
    }
}
