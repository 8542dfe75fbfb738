import JSONText
package import NIOCore
import SwiftProtobuf
package import Tokenizer
package import Wire

/// Turns requests from outside into work: checks every field, tokenises the prompt, fills in defaults.
package struct RequestCheck: Sendable {
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

    package struct PreparedScore: Sendable {
        package var ids: [Int32]
        /// Pairs wanted at every position, at most the vocabulary.
        package var top: UInt32
    }

    /// Why an encoded `GenerateRequest` is not even decoded: what is short on the wire may be large in memory.
    /// - Returns: nil when it may be decoded, or when it is not such a message, which decoding finds out.
    package func refusal(ofGenerate payload: ByteBuffer) -> RequestError? {
        let counts = EncodedRequest(generate: payload)
        do throws(RequestError) {
            try RequestLimits.check(stops: counts.stops)
            try RequestLimits.check(logitBiases: counts.logitBiases)
            if counts.messages > 0 { try RequestLimits.check(messages: counts.messages) }
            try RequestLimits.check(promptBytes: counts.promptBytes, contextLength: contextLength)
            return nil
        } catch {
            return error
        }
    }

    /// The same of an encoded `ScoreRequest`.
    package func refusal(ofScore payload: ByteBuffer) -> RequestError? {
        let counts = EncodedRequest(score: payload)
        do throws(RequestError) {
            try RequestLimits.check(promptBytes: counts.promptBytes, contextLength: contextLength)
            return nil
        } catch {
            return error
        }
    }

    /// - Parameter drawSeed: gives a seed where the request has none.
    package func prepare(
        _ request: GenerationRequest, drawSeed: () -> UInt64
    ) throws(RequestError) -> Prepared {
        try checkModel(request.model)
        try request.check(vocabulary: vocabulary)
        let prompt: [Int32]
        let isChat: Bool
        switch request.prompt {
        case .text(let text):
            isChat = false
            prompt = try tokens(of: text)
        case .tokens(let tokens):
            isChat = false
            prompt = tokens
        case .chat(let messages, let tools):
            isChat = true
            prompt = try chat(messages, tools: tools)
        }
        // One position at least is the answer's.
        guard prompt.count < contextLength else {
            throw .promptTooLong(tokens: prompt.count, limit: contextLength - 1)
        }
        let room = contextLength - prompt.count
        let maximum = min(room, request.maxTokens ?? (isChat ? room : RequestLimits.defaultCompletionTokens))
        let machine = RequestMachine(
            tokenizer: tokenizer, textContext: isChat ? [] : prompt, promptTokens: prompt.count,
            maximumTokens: maximum, stop: request.stop)
        return Prepared(prompt: prompt, sampling: sampling(request.sampling, drawSeed: drawSeed), machine: machine)
    }

    package func prepare(_ request: ScoringRequest) throws(RequestError) -> PreparedScore {
        try checkModel(request.model)
        try RequestLimits.check(priority: request.priority, deadlineMilliseconds: request.deadlineMilliseconds)
        let ids: [Int32]
        switch request.input {
        case .text(let text): ids = try tokens(of: text)
        case .tokens(let tokens):
            try RequestLimits.check(tokens: tokens, vocabulary: vocabulary)
            ids = tokens
        }
        guard ids.count <= contextLength else {
            throw .promptTooLong(tokens: ids.count, limit: contextLength)
        }
        guard request.top >= 0 else { throw .invalid("top", "\(request.top), at least 0 is allowed") }
        // There are no more than all, and a scorer without a cluster gives all too.
        let top = min(request.top, vocabulary)
        guard top * ids.count <= RequestLimits.scorePairs else {
            throw .invalid(
                "top", "\(top) at \(ids.count) positions, at most \(RequestLimits.scorePairs) pairs are allowed")
        }
        return PreparedScore(ids: ids, top: UInt32(clamping: top))
    }

    // MARK: Parts

    private func checkModel(_ name: String) throws(RequestError) {
        guard name.isEmpty || name == modelName else { throw .modelNotFound(name, serving: modelName) }
    }

    private func tokens(of text: String) throws(RequestError) -> [Int32] {
        try RequestLimits.check(promptBytes: text.utf8.count, contextLength: contextLength)
        return [tokenizer.beginToken] + tokenizer.encode(text)
    }

    private func chat(_ messages: [ChatMessage], tools: [Tool]) throws(RequestError) -> [Int32] {
        let bytes = messages.reduce(0) { $0 + $1.promptBytes } + tools.reduce(0) { $0 + $1.promptBytes }
        try RequestLimits.check(promptBytes: bytes, contextLength: contextLength)
        let ids: [Int32]
        do throws(TokenizerError) {
            ids = try tokenizer.encodeChat(messages, tools: tools)
        } catch {
            let parameter = error.code == "chat_tools" && !tools.isEmpty ? "tools" : "messages"
            throw .invalid(parameter, error.message)
        }
        try RequestLimits.check(tokens: ids, vocabulary: vocabulary)
        return ids
    }

    private func sampling(_ options: SamplingOptions, drawSeed: () -> UInt64) -> ProtoSamplingParameters {
        .with {
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

extension ChatMessage {
    /// Bytes that the chat's layout may have to tokenise.
    fileprivate var promptBytes: Int {
        toolCalls.reduce(content.utf8.count + (toolCallID?.utf8.count ?? 0)) { bytes, call in
            bytes + call.name.utf8.count + call.arguments.utf8.count + (call.id?.utf8.count ?? 0)
        }
    }
}

extension Tool {
    fileprivate var promptBytes: Int { name.utf8.count + description.utf8.count + parameters.text.utf8.count }
}
