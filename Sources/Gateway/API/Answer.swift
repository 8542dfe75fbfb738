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
        /// All of it, where that is needed in the end.
        var text = ""
        /// Text of a stream that may turn out to be a call of tools and is held back.
        var heldBack = ""
        var mayBeToolCalls: Bool
        var toolCalls: [ToolCall] = []
        var finishReason: String?
        var usage: Usage?
        var textEvent: TextEvent?
    }

    private let heading: Heading
    private let choicesPerPrompt: Int
    private let isStreamed: Bool
    private let includeUsage: Bool
    private let offersTools: Bool
    private var choices: [Choice]
    private var unfinished: Int

    package init(_ request: AnswerRequest, heading: Heading) {
        self.heading = heading
        choicesPerPrompt = request.choices
        isStreamed = request.stream
        includeUsage = request.includeUsage
        offersTools = request.offersTools
        choices = Array(repeating: Choice(mayBeToolCalls: request.offersTools), count: request.answers)
        unfinished = choices.count
    }

    package var isFinished: Bool { unfinished == 0 }

    /// Takes an event of a choice.
    /// - Parameter stream: what a stream sends for it is appended, as server-sent events; nothing for a whole answer.
    package mutating func take(_ event: GenerationEvent, choice index: Int, into stream: inout [UInt8]) {
        guard choices.indices.contains(index) else { return }
        switch event {
        case .accepted:
            guard isStreamed, heading.endpoint == .chatCompletions else { return }
            Self.append(chunk(index, delta: ["role": "assistant", "content": ""]), to: &stream)
        case .delta(let text, _):
            guard !text.isEmpty else { return }
            if !isStreamed || offersTools { choices[index].text += text }
            guard isStreamed else { return }
            guard choices[index].mayBeToolCalls else { return append(text, of: index, to: &stream) }
            choices[index].heldBack += text
            if ToolCallText.mayBegin(choices[index].heldBack) { return }
            choices[index].mayBeToolCalls = false
            append(choices[index].heldBack, of: index, to: &stream)
        case .finished(let reason, let usage):
            finish(index, reason, usage, into: &stream)
        }
    }

    private mutating func finish(
        _ index: Int, _ reason: FinishReason, _ usage: Usage, into stream: inout [UInt8]
    ) {
        if choices[index].finishReason == nil { unfinished -= 1 }
        choices[index].usage = usage
        choices[index].finishReason = reason.rawValue
        if offersTools, reason == .stop,
            let calls = ToolCallText.calls(in: choices[index].text, identifiers: "\(heading.id)/\(index)")
        {
            choices[index].toolCalls = calls
            choices[index].finishReason = "tool_calls"
        }
        guard isStreamed else { return }
        if !choices[index].toolCalls.isEmpty {
            let calls = Self.json(choices[index].toolCalls, numbered: true)
            Self.append(chunk(index, delta: ["tool_calls": calls]), to: &stream)
        } else if choices[index].mayBeToolCalls, !choices[index].heldBack.isEmpty {
            append(choices[index].heldBack, of: index, to: &stream)
        }
        Self.append(
            heading.endpoint == .chatCompletions
                ? chunk(index, delta: [:], finishReason: choices[index].finishReason)
                : chunk(index, text: "", finishReason: choices[index].finishReason), to: &stream)
        if isFinished, includeUsage {
            var chunk = object(streamed: true)
            chunk.append("choices", [])
            chunk.append("usage", usageJSON)
            Self.append(chunk, to: &stream)
        }
    }

    private mutating func append(_ text: String, of index: Int, to stream: inout [UInt8]) {
        if choices[index].textEvent == nil { choices[index].textEvent = TextEvent { textChunk(index, $0) } }
        choices[index].textEvent?.append(text, to: &stream)
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
    /// The event that says a choice's next text: all but the text is the same each time and laid out once.
    private struct TextEvent {
        private let head: [UInt8]
        private let tail: [UInt8]

        /// - Parameter chunk: the chunk of a text
        init(_ chunk: (String) -> JSONValue) {
            var event: [UInt8] = []
            Answer.append(chunk(""), to: &event)
            var other: [UInt8] = []
            Answer.append(chunk("."), to: &other)
            // The texts are the one difference: what follows them is the same in both.
            let tail = zip(event.reversed(), other.reversed()).prefix { $0 == $1 }.count
            head = Array(event.dropLast(tail))
            self.tail = Array(event.suffix(tail))
        }

        func append(_ text: String, to stream: inout [UInt8]) {
            stream += head
            JSONValue.append(text, to: &stream)
            stream += tail
        }
    }

    /// JSON text has no line breaks, so one `data` line holds it.
    static func append(_ json: JSONValue, to stream: inout [UInt8]) {
        stream += "data: ".utf8
        stream += json.bytes
        stream += "\n\n".utf8
    }

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
