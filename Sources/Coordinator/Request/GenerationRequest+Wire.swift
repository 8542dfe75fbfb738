import JSONText
import Tokenizer
import Wire

extension GenerationRequest {
    /// A request of the client plane.
    /// - Throws: `RequestError` where a field cannot be read, or the key names no tenant.
    init(_ message: ProtoGenerateRequest, tenants: Tenants = Tenants()) throws(RequestError) {
        let tenant = try tenants.tenant(ofKey: message.apiKey)
        let prompt: Prompt
        switch message.prompt {
        case .text(let text): prompt = .text(text)
        case .tokens(let sequence): prompt = .tokens(sequence.ids)
        case .chat(let chat): prompt = try Self.chat(chat)
        case nil: throw .invalid("prompt", "missing; give text, tokens or chat")
        }
        var sampling = SamplingOptions()
        if message.hasTemperature { sampling.temperature = Double(message.temperature) }
        if message.hasTopK { sampling.topK = Int(message.topK) }
        if message.hasTopP { sampling.topP = Double(message.topP) }
        if message.hasMinP { sampling.minP = Double(message.minP) }
        if message.hasSeed { sampling.seed = message.seed }
        sampling.choice = Int(message.choice)
        sampling.logitBias = message.logitBias.map { ($0.token, $0.bias) }
        self.init(
            model: message.model, prompt: prompt, sampling: sampling,
            maxTokens: message.hasMaxTokens ? Int(message.maxTokens) : nil, stop: message.stop, tenant: tenant,
            priority: Int(message.priority),
            deadlineMilliseconds: message.hasDeadlineMs ? Int(message.deadlineMs) : nil)
    }

    private static func chat(_ chat: ProtoChat) throws(RequestError) -> Prompt {
        var messages: [ChatMessage] = []
        for (index, message) in chat.messages.enumerated() {
            guard let role = ChatMessage.Role(rawValue: message.role) else {
                throw .invalid(
                    "messages[\(index)].role", "unknown role, allowed are system, user, assistant and tool")
            }
            messages.append(
                ChatMessage(
                    role: role, content: message.content,
                    toolCalls: try parsed(
                        message.toolCallsJson, as: "messages[\(index)].tool_calls_json", ToolCall.list),
                    toolCallID: message.toolCallID.isEmpty ? nil : message.toolCallID,
                    name: message.name.isEmpty ? nil : message.name))
        }
        return .chat(messages, tools: try parsed(chat.toolsJson, as: "tools", Tool.list))
    }

    /// What a field of JSON text says; nothing where it is empty.
    private static func parsed<Element>(
        _ text: String, as field: String, _ list: (JSONValue?) throws(TokenizerError) -> [Element]
    ) throws(RequestError) -> [Element] {
        do throws(TokenizerError) {
            return try list(json(text))
        } catch {
            throw .invalid(field, error.message)
        }
    }

    private static func json(_ text: String) throws(TokenizerError) -> JSONValue? {
        guard !text.isEmpty else { return nil }
        do {
            return try JSONValue(parsing: text)
        } catch {
            throw TokenizerError(error.code, error.message)
        }
    }
}

extension ScoringRequest {
    /// - Throws: `RequestError` where a field is missing, or the key names no tenant.
    init(_ message: ProtoScoreRequest, tenants: Tenants = Tenants()) throws(RequestError) {
        let tenant = try tenants.tenant(ofKey: message.apiKey)
        let input: Input
        switch message.input {
        case .text(let text): input = .text(text)
        case .tokens(let sequence): input = .tokens(sequence.ids)
        case nil: throw .invalid("input", "missing; give text or tokens")
        }
        self.init(
            model: message.model, input: input, top: Int(message.top), tenant: tenant,
            priority: Int(message.priority),
            deadlineMilliseconds: message.hasDeadlineMs ? Int(message.deadlineMs) : nil)
    }
}
