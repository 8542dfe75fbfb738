package import Coordinator
import JSONText
import Tokenizer

/// One call of a completions endpoint, decoded and checked: what the coordinator is asked for, and how the answer is
/// laid out. Decoding does no I/O and keeps nothing.
package struct AnswerRequest: Sendable {
    package enum Endpoint: Sendable {
        case chatCompletions
        case completions

        /// What the endpoint calls the field that holds the prompt.
        var promptParameter: String {
            switch self {
            case .chatCompletions: "messages"
            case .completions: "prompt"
            }
        }
    }

    package var endpoint: Endpoint
    package var model: String
    /// One for a chat, one or more for completions. Answers are numbered prompt by prompt, `choices` for each.
    package var prompts: [GenerationRequest.Prompt]
    package var choices: Int
    package var sampling: SamplingOptions
    package var maxTokens: Int?
    package var stop: [String]
    package var priority: Int
    package var deadlineMilliseconds: Int?
    package var stream: Bool
    package var includeUsage: Bool
    /// Tools were offered, so an answer may be calls of them.
    package var offersTools: Bool

    /// - Parameters:
    ///   - body: The JSON text.
    ///   - vocabularySize: Tokens in a prompt and in `logit_bias` are below it.
    package init(
        _ endpoint: Endpoint, body: some Sequence<UInt8>, vocabularySize: Int
    ) throws(APIError) {
        let json: JSONValue
        do {
            json = try JSONValue(parsing: body)
        } catch {
            throw APIError.malformedJSON(error.message)
        }
        let fields = try RequestFields(json)

        self.endpoint = endpoint
        model = try fields.string("model", longest: RequestLimits.nameBytes) ?? ""
        choices = try fields.integer("n") ?? 1
        guard RequestLimits.choices.contains(choices) else {
            let (least, most) = (RequestLimits.choices.lowerBound, RequestLimits.choices.upperBound)
            throw APIError.invalid("n", "\(choices), \(least) to \(most) are allowed")
        }
        sampling = SamplingOptions(
            temperature: try fields.number("temperature"),
            topK: try fields.integer("top_k"),
            topP: try fields.number("top_p"),
            minP: try fields.number("min_p"),
            seed: try fields.seed("seed"),
            logitBias: try Self.logitBias(fields, vocabularySize: vocabularySize))
        stop = try Self.stops(fields)
        priority = try fields.integer("priority") ?? 0
        deadlineMilliseconds = try fields.integer("deadline_ms")
        stream = try fields.boolean("stream") ?? false
        includeUsage = try Self.includeUsage(fields, isStreamed: stream)
        // Only looked at: an answer does not depend on who asks.
        _ = try fields.string("user", longest: RequestLimits.nameBytes)

        var known = Self.commonParameters
        let neutral: [String: [JSONValue]]
        switch endpoint {
        case .chatCompletions:
            known.formUnion(["messages", "tools", "tool_choice", "parallel_tool_calls", "max_completion_tokens"])
            neutral = Self.neutralInChat
            let tools = try Self.tools(fields)
            prompts = [.chat(try Self.messages(fields), tools: tools)]
            offersTools = !tools.isEmpty
            maxTokens = try fields.integer("max_completion_tokens")
            do {
                try RequestLimits.check(maxTokens: maxTokens, named: "max_completion_tokens")
            } catch {
                throw APIError(error, promptParameter: endpoint.promptParameter)
            }
            let older = try fields.integer("max_tokens")
            if let newer = maxTokens, let older, newer != older {
                throw APIError.invalid("max_tokens", "found \(older), while max_completion_tokens says \(newer)")
            }
            maxTokens = maxTokens ?? older
        case .completions:
            known.insert("prompt")
            neutral = Self.neutralInCompletions.merging(["best_of": [JSONValue(choices)]]) { $1 }
            prompts = try Self.prompts(fields, vocabularySize: vocabularySize)
            offersTools = false
            maxTokens = try fields.integer("max_tokens")
        }
        for (name, values) in neutral.sorted(by: { $0.key < $1.key }) { try fields.refuse(name, unless: values) }
        try fields.refuseUnknown(known.union(neutral.keys))
        guard prompts.count * choices <= RequestLimits.answers else {
            throw APIError.invalid(
                "n",
                "\(prompts.count) prompts with \(choices) answers each, the limit is \(RequestLimits.answers) answers")
        }
        do {
            for request in generationRequests(seed: 0) { try request.check(vocabulary: vocabularySize) }
        } catch {
            throw APIError(error, promptParameter: endpoint.promptParameter)
        }
    }

    /// Over all prompts.
    package var answers: Int { prompts.count * choices }

    /// What the coordinator is asked for, prompt by prompt: `choices` answers to each. All of them share one seed.
    package func generationRequests(seed: UInt64, tenant: String = Tenants.anonymous) -> [GenerationRequest] {
        var sampling = sampling
        sampling.seed = seed
        return prompts.map { prompt in
            GenerationRequest(
                model: model, prompt: prompt, sampling: sampling, maxTokens: maxTokens, stop: stop, tenant: tenant,
                priority: priority, deadlineMilliseconds: deadlineMilliseconds)
        }
    }
}

extension AnswerRequest {
    private static let commonParameters: Set = [
        "model", "n", "temperature", "top_k", "top_p", "min_p", "seed", "logit_bias", "stop", "stream",
        "stream_options", "user", "max_tokens", "priority", "deadline_ms",
    ]

    /// Parameters of OpenAI's that are not served, with the values that ask for nothing.
    private static let neutralInBoth: [String: [JSONValue]] = [
        "frequency_penalty": [JSONValue(0)],
        "presence_penalty": [JSONValue(0)],
        "repetition_penalty": [JSONValue(1)],
    ]

    private static let neutralInChat: [String: [JSONValue]] = neutralInBoth.merging([
        "logprobs": [false],
        "top_logprobs": [JSONValue(0)],
        "response_format": [["type": "text"]],
        "modalities": [["text"]],
        "audio": [],
        "prediction": [],
        "reasoning_effort": [],
        "web_search_options": [],
        "functions": [[]],
        "function_call": ["none"],
        "service_tier": ["auto", "default"],
        "store": [false],
        "metadata": [[:]],
    ]) { $1 }

    private static let neutralInCompletions: [String: [JSONValue]] = neutralInBoth.merging([
        "echo": [false],
        "logprobs": [],
        "suffix": [""],
    ]) { $1 }

    private static func includeUsage(_ fields: RequestFields, isStreamed: Bool) throws(APIError) -> Bool {
        guard let options = fields["stream_options"] else { return false }
        guard isStreamed else { throw .invalid("stream_options", "they are for a request with \"stream\": true") }
        guard case .object(let members) = options else {
            throw .invalid("stream_options", "found \(options.kind), an object is wanted")
        }
        var includeUsage = false
        for member in members where member.value != .null {
            guard case .bool(let value) = member.value else {
                throw .invalid("stream_options", "its members are booleans, found \(member.value.kind)")
            }
            switch member.name {
            case "include_usage": includeUsage = value
            // Padding against traffic analysis: there is none to switch off.
            case "include_obfuscation": break
            default: throw .unsupported("stream_options", "\(RequestError.quoted(member.name)) is not known here")
            }
        }
        return includeUsage
    }

    private static func stops(_ fields: RequestFields) throws(APIError) -> [String] {
        guard let value = fields["stop"] else { return [] }
        var stops: [String] = []
        for element in value.array ?? [value] {
            guard let stop = element.string else {
                throw .invalid("stop", "found \(element.kind), a string or an array of strings is wanted")
            }
            stops.append(stop)
        }
        return stops
    }

    private static func logitBias(
        _ fields: RequestFields, vocabularySize: Int
    ) throws(APIError) -> [(token: Int32, bias: Float)] {
        guard let value = fields["logit_bias"] else { return [] }
        guard case .object(let members) = value else {
            throw .invalid("logit_bias", "found \(value.kind), an object from token ids to numbers is wanted")
        }
        var biases: [(token: Int32, bias: Float)] = []
        for member in members {
            guard let token = Int32(member.name) else {
                let name = RequestError.quoted(member.name)
                throw .invalid("logit_bias", "\(name) is not a token id, which are 0 to \(vocabularySize - 1)")
            }
            guard let bias = member.value.number else {
                throw .invalid("logit_bias", "found \(member.value.kind) for token \(token), a number is wanted")
            }
            biases.append((token, Float(bias)))
        }
        return biases.sorted { $0.token < $1.token }
    }
}

extension AnswerRequest {
    private static func tools(_ fields: RequestFields) throws(APIError) -> [Tool] {
        let tools: [Tool]
        do {
            tools = try Tool.list(fields["tools"])
        } catch {
            throw .invalid("tools", error.message)
        }
        // Calls come as the model writes them, one or several.
        _ = try fields.boolean("parallel_tool_calls")
        switch fields["tool_choice"] {
        case nil, .string("auto"): return tools
        case .string("none"): return []
        default:
            throw .unsupported("tool_choice", "a call cannot be forced; \"auto\" and \"none\" can be served")
        }
    }

    private static func messages(_ fields: RequestFields) throws(APIError) -> [ChatMessage] {
        guard let value = fields["messages"] else { throw .invalid("messages", "missing") }
        guard let elements = value.array else { throw .invalid("messages", "found \(value.kind), an array is wanted") }
        var messages: [ChatMessage] = []
        for (index, element) in elements.enumerated() {
            let message: ChatMessage
            do {
                message = try ChatMessage(json: element)
            } catch {
                throw .invalid("messages[\(index)]", error.message)
            }
            // An assistant that called tools said nothing besides.
            guard element["content"] ?? .null != .null || !message.toolCalls.isEmpty else {
                throw .invalid("messages[\(index)].content", "missing; a string or an array of text parts is wanted")
            }
            messages.append(message)
        }
        return messages
    }

    private static func prompts(
        _ fields: RequestFields, vocabularySize: Int
    ) throws(APIError) -> [GenerationRequest.Prompt] {
        guard let value = fields["prompt"] else { throw .invalid("prompt", "missing") }
        switch value {
        case .string: return [try prompt(value, vocabularySize: vocabularySize)]
        case .array(let elements):
            // An array of numbers is one prompt of tokens; anything else is several prompts.
            guard let first = elements.first, first.number == nil else {
                return [try prompt(value, vocabularySize: vocabularySize)]
            }
            guard elements.count <= RequestLimits.answers else {
                throw .invalid("prompt", "\(elements.count) prompts, the limit is \(RequestLimits.answers)")
            }
            var prompts: [GenerationRequest.Prompt] = []
            for element in elements { prompts.append(try prompt(element, vocabularySize: vocabularySize)) }
            return prompts
        default:
            throw .invalid("prompt", "found \(value.kind), a string or an array is wanted")
        }
    }

    /// One prompt: text, or token ids.
    private static func prompt(
        _ value: JSONValue, vocabularySize: Int
    ) throws(APIError) -> GenerationRequest.Prompt {
        switch value {
        case .string(let text): return .text(text)
        case .array(let elements):
            var tokens: [Int32] = []
            tokens.reserveCapacity(elements.count)
            for (index, element) in elements.enumerated() {
                guard let token = element.integer.flatMap(Int32.init(exactly:)) else {
                    throw .invalid(
                        "prompt", "element \(index) is not a token id, which are 0 to \(vocabularySize - 1)")
                }
                tokens.append(token)
            }
            return .tokens(tokens)
        default:
            throw .invalid("prompt", "found \(value.kind), a string or an array of token ids is wanted")
        }
    }
}
