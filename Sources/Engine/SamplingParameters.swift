/// How the next token is chosen from the logits.
package struct SamplingParameters: Sendable {
    /// 0 takes the best token; anything above divides the logits.
    package var temperature: Float
    /// The best tokens that stay in the draw; 0 keeps all.
    package var topK: Int
    /// The smallest set of best tokens whose probabilities reach this stays in the draw; 1 keeps all.
    package var topP: Float
    /// Tokens less probable than this share of the best one's probability leave the draw; 0 keeps all.
    package var minP: Float
    package var seed: UInt64
    /// The number of the answer where a request wants several.
    package var choice: UInt32
    /// Added to the logits of these tokens before anything else.
    package var logitBias: [(Int32, Float)]

    package init(
        temperature: Float = 1, topK: Int = 0, topP: Float = 1, minP: Float = 0, seed: UInt64 = 0, choice: UInt32 = 0,
        logitBias: [(Int32, Float)] = []
    ) {
        self.temperature = temperature
        self.topK = topK
        self.topP = topP
        self.minP = minP
        self.seed = seed
        self.choice = choice
        self.logitBias = logitBias
    }

    /// The best token, always.
    package static let greedy = SamplingParameters(temperature: 0)
}
