import ModelStore
import SwiftProtobuf
package import Tokenizer
package import Wire

/// Turns requests from outside into work: checks every field, tokenises the prompt, fills in defaults.
package struct RequestCheck: Sendable {
    package static let stopLimit = 16
    package static let stopBytesLimit = 1024
    package static let logitBiasLimit = 1024
    /// Keeps one request's tokenising bounded: more bytes cannot fit into any context that is served.
    package static let promptBytesPerToken = 64
    /// Keeps a score's answer within a client's frame.
    package static let scorePairsLimit = 400_000
    package static let defaultCompletionTokens = 16
    /// A score samples nothing; workers check the parameters all the same.
    static let scoring = ProtoSamplingParameters.with { $0.topP = 1 }

    package let modelName: String
    package let tokenizer: Tokenizer
    package let vocabulary: Int
    package let contextLength: Int

    package init(modelName: String, tokenizer: Tokenizer, vocabulary: Int, contextLength: Int) {
        self.modelName = modelName
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.contextLength = contextLength
    }

    package struct Prepared: Sendable {
        package var prompt: [Int32]
        package var sampling: ProtoSamplingParameters
        package var machine: RequestMachine
    }

    /// - Parameter drawSeed: gives a seed where the request has none.
    package func prepare(
        _ request: GenerationRequest, drawSeed: () -> UInt64
    ) throws(RequestError) -> Prepared {
        try checkModel(request.model)
        let sampling = try sampling(request.sampling, drawSeed: drawSeed)
        try checkStops(request.stop)
        if let maximum = request.maxTokens, maximum < 1 {
            throw .invalid("max_tokens", "\(maximum), at least 1 is allowed")
        }
        let prompt: [Int32]
        let isChat: Bool
        switch request.prompt {
        case .text(let text):
            isChat = false
            prompt = try tokens(of: text)
        case .tokens(let tokens):
            isChat = false
            prompt = try checked(tokens)
        case .chat(let messages, let tools):
            isChat = true
            prompt = try chat(messages, tools: tools)
        }
        // One position at least is the answer's.
        guard prompt.count < contextLength else {
            throw .promptTooLong(tokens: prompt.count, limit: contextLength - 1)
        }
        let room = contextLength - prompt.count
        let maximum = min(room, request.maxTokens ?? (isChat ? room : Self.defaultCompletionTokens))
        let machine = RequestMachine(
            tokenizer: tokenizer, textContext: isChat ? [] : prompt, promptTokens: prompt.count,
            maximumTokens: maximum, stop: request.stop)
        return Prepared(prompt: prompt, sampling: sampling, machine: machine)
    }

    /// - Returns: the ids to be scored.
    package func prepare(_ request: ScoringRequest) throws(RequestError) -> [Int32] {
        try checkModel(request.model)
        let ids: [Int32]
        switch request.input {
        case .text(let text): ids = try tokens(of: text)
        case .tokens(let tokens): ids = try checked(tokens)
        }
        guard ids.count <= contextLength else {
            throw .promptTooLong(tokens: ids.count, limit: contextLength)
        }
        guard request.top >= 0, request.top <= vocabulary else {
            throw .invalid("top", "\(request.top), 0 to \(vocabulary) are allowed")
        }
        guard request.top * ids.count <= Self.scorePairsLimit else {
            throw .invalid(
                "top", "\(request.top) at \(ids.count) positions, at most \(Self.scorePairsLimit) pairs are allowed")
        }
        return ids
    }

    // MARK: Parts

    private func checkModel(_ name: String) throws(RequestError) {
        guard name.isEmpty || name == modelName else { throw .modelNotFound(name, serving: modelName) }
    }

    private func checkLength(bytes: Int) throws(RequestError) {
        let (limit, overflow) = contextLength.multipliedReportingOverflow(by: Self.promptBytesPerToken)
        guard overflow || bytes <= limit else {
            throw RequestError(
                .invalid, code: "prompt_too_long", message: "prompt: \(bytes) bytes, at most \(limit) are read",
                parameter: "prompt")
        }
    }

    private func tokens(of text: String) throws(RequestError) -> [Int32] {
        try checkLength(bytes: text.utf8.count)
        return [tokenizer.beginToken] + tokenizer.encode(text)
    }

    private func checked(_ tokens: [Int32]) throws(RequestError) -> [Int32] {
        guard !tokens.isEmpty else {
            throw .invalid("prompt", "no tokens, at least 1 is needed")
        }
        for (index, token) in tokens.enumerated() where token < 0 || Int(token) >= vocabulary {
            throw .invalid("prompt", "token \(token) at \(index), 0 to \(vocabulary - 1) are allowed")
        }
        return tokens
    }

    private func chat(_ messages: [ChatMessage], tools: [Tool]) throws(RequestError) -> [Int32] {
        guard !messages.isEmpty else { throw .invalid("messages", "none, at least 1 is needed") }
        try checkLength(bytes: messages.reduce(0) { $0 + $1.content.utf8.count })
        do {
            return try checked(tokenizer.encodeChat(messages, tools: tools))
        } catch let error as TokenizerError {
            throw RequestError(.invalid, code: "invalid_messages", message: error.message, parameter: "messages")
        } catch let error as RequestError {
            throw error
        } catch {
            throw .invalid("messages", "cannot be laid out as a chat")
        }
    }

    private func checkStops(_ stops: [String]) throws(RequestError) {
        guard stops.count <= Self.stopLimit else {
            throw .invalid("stop", "\(stops.count) strings, at most \(Self.stopLimit) are allowed")
        }
        for stop in stops where stop.isEmpty || stop.utf8.count > Self.stopBytesLimit {
            throw .invalid("stop", "a string of \(stop.utf8.count) bytes, 1 to \(Self.stopBytesLimit) are allowed")
        }
    }

    private func sampling(
        _ options: SamplingOptions, drawSeed: () -> UInt64
    ) throws(RequestError) -> ProtoSamplingParameters {
        func check(
            _ name: String, _ value: Double?, _ allowed: String, _ isAllowed: (Double) -> Bool
        ) throws(RequestError) {
            guard let value, !isAllowed(value) else { return }
            throw .invalid(name, "\(value), \(allowed) is allowed")
        }
        try check("temperature", options.temperature, "0 to 100") { $0 >= 0 && $0 <= 100 }
        try check("top_p", options.topP, "above 0, at most 1,") { $0 > 0 && $0 <= 1 }
        try check("min_p", options.minP, "0 to 1") { $0 >= 0 && $0 <= 1 }
        if let topK = options.topK, topK < 0 || topK > Int(Int32.max) {
            throw .invalid("top_k", "\(topK), 0 to \(Int32.max) are allowed")
        }
        guard options.choice >= 0, options.choice <= Int(Int32.max) else {
            throw .invalid("choice", "\(options.choice), 0 to \(Int32.max) are allowed")
        }
        guard options.logitBias.count <= Self.logitBiasLimit else {
            throw .invalid(
                "logit_bias", "\(options.logitBias.count) tokens, at most \(Self.logitBiasLimit) are allowed")
        }
        var biased = Set<Int32>()
        for (token, bias) in options.logitBias {
            guard token >= 0, Int(token) < vocabulary else {
                throw .invalid("logit_bias", "token \(token), 0 to \(vocabulary - 1) are allowed")
            }
            guard bias >= -100, bias <= 100 else {
                throw .invalid("logit_bias", "\(bias) for token \(token), -100 to 100 are allowed")
            }
            guard biased.insert(token).inserted else {
                throw .invalid("logit_bias", "token \(token) appears twice")
            }
        }
        return .with {
            $0.temperature = Float(options.temperature ?? 1)
            $0.topK = UInt32(clamping: options.topK ?? 0)
            // The smallest Double above 0 is 0 as Float, which would mean something else.
            $0.topP = max(Float(options.topP ?? 1), .leastNonzeroMagnitude)
            $0.minP = Float(options.minP ?? 0)
            $0.seed = options.seed ?? drawSeed()
            $0.choice = UInt32(clamping: options.choice)
            $0.logitBias = options.logitBias.map { entry in
                .with {
                    $0.token = entry.token
                    $0.bias = entry.bias
                }
            }
        }
    }
}
