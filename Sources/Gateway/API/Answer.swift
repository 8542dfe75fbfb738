package import Coordinator
package import JSONText
import Tokenizer

/// An answer in the making, in OpenAI's layout: takes the events of its choices and gives the chunks of a stream, or in
/// the end the whole. A value without I/O.
package struct Answer: Sendable {
    /// What stands in every chunk and in the whole.
    package struct Heading: Sendable {
        package var endpoint: AnswerRequest.Endpoint
        package var id: String
        /// Seconds since 1970.
        package var created: Int
        package var model: String
        package var fingerprint: String
        package var seed: UInt64

        package init(
            endpoint: AnswerRequest.Endpoint, id: String, created: Int, model: String, fingerprint: String, seed: UInt64
        ) {
            self.endpoint = endpoint
            self.id = id
            self.created = created
            self.model = model
            self.fingerprint = fingerprint
            self.seed = seed
        }
    }

    private struct Choice {
        var text = ""
        /// Text of a stream that may turn out to be a call of tools and is held back.
        var heldBack = ""
        var mayBeToolCalls: Bool
        var toolCalls: [ToolCall] = []
        var finishReason: String?
        var usage: Usage?
    }

    private let heading: Heading
    private let choicesPerPrompt: Int
    private let includeUsage: Bool
    private let offersTools: Bool
    private var choices: [Choice]

    package init(_ request: AnswerRequest, heading: Heading) {
        self.heading = heading
        choicesPerPrompt = request.choices
        includeUsage = request.includeUsage
        offersTools = request.offersTools
        choices = Array(
            repeating: Choice(mayBeToolCalls: request.offersTools), count: request.prompts.count * request.choices)
    }

    package var isFinished: Bool { choices.allSatisfy { $0.finishReason != nil } }

    /// Takes an event of a choice.
    /// - Returns: The chunks that a stream sends for it.
    package mutating func take(_ event: GenerationEvent, choice index: Int) -> [JSONValue] {
        guard choices.indices.contains(index) else { return [] }
        switch event {
        case .accepted:
            guard heading.endpoint == .chatCompletions else { return [] }
            return [chunk(index, delta: ["role": "assistant", "content": ""])]
        case .delta(let text, _):
            guard !text.isEmpty else { return [] }
            choices[index].text += text
            if choices[index].mayBeToolCalls {
                choices[index].heldBack += text
                if ToolCallText.mayBegin(choices[index].heldBack) { return [] }
                choices[index].mayBeToolCalls = false
                return [textChunk(index, choices[index].heldBack)]
            }
            return [textChunk(index, text)]
        case .finished(let reason, let usage):
            return finish(index, reason, usage)
        }
    }

    private mutating func finish(_ index: Int, _ reason: FinishReason, _ usage: Usage) -> [JSONValue] {
        var chunks: [JSONValue] = []
        choices[index].usage = usage
        choices[index].finishReason = reason.rawValue
        if offersTools, reason == .stop,
            let calls = ToolCallText.calls(in: choices[index].text, identifiers: "\(heading.id)/\(index)")
        {
            choices[index].toolCalls = calls
            choices[index].finishReason = "tool_calls"
            chunks.append(chunk(index, delta: ["tool_calls": Self.json(calls, numbered: true)]))
        } else if choices[index].mayBeToolCalls, !choices[index].heldBack.isEmpty {
            chunks.append(textChunk(index, choices[index].heldBack))
        }
        chunks.append(
            heading.endpoint == .chatCompletions
                ? chunk(index, delta: [:], finishReason: choices[index].finishReason)
                : chunk(index, text: "", finishReason: choices[index].finishReason))
        if isFinished, includeUsage {
            var chunk = object(streamed: true)
            chunk.append("choices", [])
            chunk.append("usage", usageJSON)
            chunks.append(chunk)
        }
        return chunks
    }

    /// The whole answer, once it is finished.
    package var whole: JSONValue {
        var json = object(streamed: false)
        json.append(
            "choices",
            .array(
                choices.enumerated().map { index, choice in
                    var json: JSONValue = ["index": JSONValue(index)]
                    switch heading.endpoint {
                    case .chatCompletions:
                        var message: JSONValue = ["role": "assistant"]
                        message.append("content", choice.toolCalls.isEmpty ? .string(choice.text) : .null)
                        message.append("refusal", .null)
                        if !choice.toolCalls.isEmpty {
                            message.append("tool_calls", Self.json(choice.toolCalls, numbered: false))
                        }
                        json.append("message", message)
                    case .completions:
                        json.append("text", .string(choice.text))
                    }
                    json.append("logprobs", .null)
                    json.append("finish_reason", choice.finishReason.map(JSONValue.string) ?? .null)
                    return json
                }))
        json.append("usage", usageJSON)
        return json
    }
}

extension Answer {
    private func object(streamed: Bool) -> JSONValue {
        let kind: JSONValue
        switch heading.endpoint {
        case .chatCompletions: kind = streamed ? "chat.completion.chunk" : "chat.completion"
        case .completions: kind = "text_completion"
        }
        return [
            "id": .string(heading.id), "object": kind, "created": JSONValue(heading.created),
            "model": .string(heading.model), "system_fingerprint": .string(heading.fingerprint),
            "seed": JSONValue(heading.seed),
        ]
    }

    private func textChunk(_ index: Int, _ text: String) -> JSONValue {
        switch heading.endpoint {
        case .chatCompletions: chunk(index, delta: ["content": .string(text)])
        case .completions: chunk(index, text: text)
        }
    }

    private func chunk(_ index: Int, delta: JSONValue, finishReason: String? = nil) -> JSONValue {
        chunk(choice: ["index": JSONValue(index), "delta": delta], finishReason: finishReason)
    }

    private func chunk(_ index: Int, text: String, finishReason: String? = nil) -> JSONValue {
        chunk(choice: ["index": JSONValue(index), "text": .string(text)], finishReason: finishReason)
    }

    private func chunk(choice: JSONValue, finishReason: String?) -> JSONValue {
        var choice = choice
        choice.append("logprobs", .null)
        choice.append("finish_reason", finishReason.map(JSONValue.string) ?? .null)
        var chunk = object(streamed: true)
        chunk.append("choices", [choice])
        if includeUsage { chunk.append("usage", .null) }
        return chunk
    }

    /// A prompt counts once, however many answers it gets.
    private var usageJSON: JSONValue {
        var promptTokens = 0
        var cachedTokens = 0
        var completionTokens = 0
        for (index, choice) in choices.enumerated() {
            if index % choicesPerPrompt == 0 {
                promptTokens += choice.usage?.promptTokens ?? 0
                cachedTokens += choice.usage?.cachedTokens ?? 0
            }
            completionTokens += choice.usage?.completionTokens ?? 0
        }
        return [
            "prompt_tokens": JSONValue(promptTokens), "completion_tokens": JSONValue(completionTokens),
            "total_tokens": JSONValue(promptTokens + completionTokens),
            "prompt_tokens_details": ["cached_tokens": JSONValue(cachedTokens)],
        ]
    }

    private static func json(_ calls: [ToolCall], numbered: Bool) -> JSONValue {
        .array(
            calls.enumerated().map { index, call in
                var json: JSONValue = numbered ? ["index": JSONValue(index)] : [:]
                json.append("id", call.id.map(JSONValue.string) ?? .null)
                json.append("type", "function")
                json.append("function", ["name": .string(call.name), "arguments": .string(call.arguments)])
                return json
            })
    }
}
