/// What one HTTP request may ask for. They bound the work and the memory behind a single call; the coordinator's queue
/// bounds how many calls there are.
enum RequestLimits {
    /// Answers for one prompt.
    static let choices = 1...16
    /// Answers of one call, over all its prompts.
    static let answers = 64
    static let maxTokens = 1...Int(Int32.max)
    /// Above 2 the choice is as good as uniform; OpenAI has the same limit.
    static let temperature = 0.0...2.0
    static let topK = 0...Int(Int32.max)
    static let logitBias = -100.0...100.0
    static let logitBiases = 1024
    static let stops = 16
    static let stopBytes = 1024
    static let messages = 4096
    static let tools = 128
    static let nameBytes = 512
}
