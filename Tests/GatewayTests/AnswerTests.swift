import Coordinator
import Gateway
import JSONText
import Testing
import Tokenizer

/// Decoding and layout alone.
@Suite struct AnswerTests {
    private func request(_ body: String) throws -> AnswerRequest {
        try AnswerRequest(.chatCompletions, body: body.utf8, vocabularySize: 512)
    }

    private func answer(_ request: AnswerRequest) -> Answer {
        Answer(
            request,
            heading: .init(
                endpoint: request.endpoint, id: "id", created: 1, model: "m", fingerprint: "fp", seed: 1))
    }

    private static let tools = """
        {"messages": [{"role": "user", "content": "x"}], "stream": true, "tools": [{"type": "function", "function": {"name": "clock"}}]}
        """

    @Test func parameters() throws {
        let decoded = try request(
            """
            {"messages": [{"role": "developer", "content": "s"}, {"role": "user", "content": "x"}], "n": 3,
             "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": 18446744073709551615,
             "stop": ["a", "b"], "logit_bias": {"9": 1.5, "3": -2}, "max_completion_tokens": 9.0, "model": "m",
             "priority": -7, "deadline_ms": 2500}
            """)
        #expect(decoded.model == "m")
        #expect(decoded.maxTokens == 9)
        #expect(decoded.stop == ["a", "b"])
        #expect(decoded.choices == 3)
        let requests = decoded.generationRequests(seed: 5)
        #expect(requests.count == 1)
        #expect(requests.first?.priority == -7 && requests.first?.deadlineMilliseconds == 2500)
        let sampling = try #require(requests.first?.sampling)
        #expect(
            sampling
                == SamplingOptions(
                    temperature: 0.5, topK: 40, topP: 0.9, minP: 0.1, seed: 5,
                    logitBias: [(token: 3, bias: -2), (token: 9, bias: 1.5)]))
        #expect(decoded.sampling.seed == .max)
    }

    /// A field out of range is refused as the binary port refuses it, word for word.
    @Test func rangesAreThoseOfTheBinaryPort() throws {
        let cases: [(String, (inout GenerationRequest) -> Void)] = [
            (#""temperature": 100.5"#, { $0.sampling.temperature = 100.5 }),
            (#""top_p": 0"#, { $0.sampling.topP = 0 }),
            (#""min_p": 1.5"#, { $0.sampling.minP = 1.5 }),
            (#""top_k": -1"#, { $0.sampling.topK = -1 }),
            (#""max_tokens": 0"#, { $0.maxTokens = 0 }),
            (#""logit_bias": {"600": 1}"#, { $0.sampling.logitBias = [(600, 1)] }),
            (#""stop": [""]"#, { $0.stop = [""] }),
            (#""priority": 1001"#, { $0.priority = 1001 }),
            (#""priority": -1001"#, { $0.priority = -1001 }),
            (#""deadline_ms": 0"#, { $0.deadlineMilliseconds = 0 }),
            (#""deadline_ms": 86400001"#, { $0.deadlineMilliseconds = 86_400_001 }),
            (#""prompt": [""]"#, { $0.prompt = .text("") }),
            (#""prompt": []"#, { $0.prompt = .tokens([]) }),
            (#""prompt": [600]"#, { $0.prompt = .tokens([600]) }),
        ]
        for (field, change) in cases {
            let body = field.contains("prompt") ? "{\(field)}" : #"{"prompt": "x", \#(field)}"#
            let http = #expect(throws: APIError.self) {
                try AnswerRequest(.completions, body: body.utf8, vocabularySize: 512)
            }
            var request = GenerationRequest(prompt: .text("x"))
            change(&request)
            let wire = #expect(throws: RequestError.self) { try request.check(vocabulary: 512) }
            #expect(http?.message == wire?.message, "\(field)")
            #expect(http?.code == wire?.code, "\(field)")
        }
        let warm = try AnswerRequest(
            .completions, body: #"{"prompt": "x", "temperature": 100}"#.utf8, vocabularySize: 512)
        #expect(warm.sampling.temperature == 100)
    }

    @Test func theFieldOfMaxTokensIsTheClients() {
        let error = #expect(throws: APIError.self) {
            try request(#"{"messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 0}"#)
        }
        #expect(error?.parameter == "max_completion_tokens")
    }

    @Test func onlyCallsOfToolsStandWithoutContent() throws {
        let call = #""tool_calls": [{"function": {"name": "f"}}]"#
        for message in [#"{"role": "user"}"#, #"{"role": "assistant", "content": null}"#, #"{"role": "tool"}"#] {
            let error = #expect(throws: APIError.self, "\(message)") {
                try request(#"{"messages": [{"role": "user", "content": "x"}, \#(message)]}"#)
            }
            #expect(error?.parameter == "messages[1].content")
            #expect(error?.code == "invalid_messages")
        }
        for content in ["", #""content": null, "#, #""content": "", "#] {
            _ = try request(
                #"{"messages": [{"role": "user", "content": ""}, {"role": "assistant", \#(content)\#(call)}]}"#)
        }
    }

    /// The chunks that a stream sends for events, as their text.
    private func chunks(_ answer: inout Answer, _ events: [GenerationEvent]) throws -> [String] {
        var stream: [UInt8] = []
        for event in events { answer.take(event, choice: 0, into: &stream) }
        return String(decoding: stream, as: UTF8.self).split(separator: "\n\n").map { String($0.dropFirst(6)) }
    }

    @Test func callsOfTools() throws {
        var answer = answer(try request(Self.tools))
        let pieces = [" [{\"name\"", ": \"clock\", \"arguments\": {\"zone\": \"UTC\"}}]"]
        let chunks = try chunks(&answer, ScriptedService.answer(pieces)).map { try JSONValue(parsing: $0) }
        // The role, the calls, the end: nothing of the calls' text.
        #expect(chunks.count == 3)
        let call = chunks[1]["choices"]?.array?.first?["delta"]?["tool_calls"]?.array?.first
        #expect(call?["function"]?["name"]?.string == "clock")
        #expect(call?["function"]?["arguments"]?.string == #"{"zone": "UTC"}"#)
        #expect(call?["id"]?.string?.count == 9)
        let choice = answer.whole["choices"]?.array?.first
        #expect(choice?["finish_reason"]?.string == "tool_calls")
        #expect(choice?["message"]?["content"] == .null)
    }

    @Test(arguments: [["Hello", " you"], ["[", "1] a note"], ["[{\"name\": 1}]"], [" ", ""]])
    func answersThatAreNoCalls(_ pieces: [String]) throws {
        var answer = answer(try request(Self.tools))
        var text = ""
        for chunk in try chunks(&answer, ScriptedService.answer(pieces)) {
            let choice = try JSONValue(parsing: chunk)["choices"]?.array?.first
            text += choice?["delta"]?["content"]?.string ?? ""
        }
        #expect(text == pieces.joined())
        #expect(answer.whole["choices"]?.array?.first?["message"]?["content"]?.string == text)
        #expect(answer.isFinished)
    }

    /// A text's chunk is put together from parts that were laid out before; nobody can tell.
    @Test(arguments: [
        "To be", " ", "\"}, \"", "a\\b\n\r\t\u{8}\u{C}\0\u{1F}\u{7F}", "Übermut ½ 漢字 🎭 e\u{301}", ".", "\u{2028}",
    ])
    func chunksToTheByte(_ text: String) throws {
        for usage in [false, true] {
            let options = #""stream": true, "stream_options": {"include_usage": \#(usage)}"#
            let rest = usage ? #", "usage": null}"# : "}"
            var completion = answer(
                try AnswerRequest(.completions, body: #"{"prompt": "x", \#(options)}"#.utf8, vocabularySize: 512))
            var chat = answer(try request(#"{"messages": [{"role": "user", "content": "x"}], \#(options)}"#))
            // The second is the one whose parts are used again.
            let events = [GenerationEvent.delta(text: "first", tokens: [1]), .delta(text: text, tokens: [2])]
            let completionChunk = try chunks(&completion, events).last
            let chatChunk = try chunks(&chat, events).last
            let quoted = JSONValue.string(text).text
            let heading = #""created": 1, "model": "m", "system_fingerprint": "fp", "seed": 1"#
            let end = #""logprobs": null, "finish_reason": null}]\#(rest)"#
            let completionText = #""choices": [{"index": 0, "text": \#(quoted), \#(end)"#
            let chatText = #""choices": [{"index": 0, "delta": {"content": \#(quoted)}, \#(end)"#
            #expect(completionChunk == #"{"id": "id", "object": "text_completion", \#(heading), \#(completionText)"#)
            #expect(chatChunk == #"{"id": "id", "object": "chat.completion.chunk", \#(heading), \#(chatText)"#)
        }
    }

    @Test func damagedBodiesNeverTrap() {
        let whole = Array(
            """
            {"messages":[{"role":"user","content":[{"type":"text","text":"\\u00e9"}],"tool_calls":[]}],"n":2,
            "temperature":1e-3,"logit_bias":{"3":-2},"stop":["a"],"max_tokens":12,"tools":[{"type":"function",
            "function":{"name":"f","parameters":{}}}],"seed":-5,"stream":true,"stream_options":{"include_usage":true},"prompt":[1,2]}
            """.utf8)
        let seed: UInt64 = 20_26
        var generator = SplitMix(state: seed)
        var refused = 0
        for _ in 0..<3000 {
            var bytes = whole
            for _ in 0..<Int.random(in: 1...4, using: &generator) {
                let position = Int.random(in: 0..<bytes.count, using: &generator)
                switch Int.random(in: 0..<4, using: &generator) {
                case 0: bytes[position] = UInt8.random(in: 0...255, using: &generator)
                case 1: bytes.remove(at: position)
                case 2: bytes[position] = UInt8.random(in: 0x30...0x39, using: &generator)
                default: bytes.insert(contentsOf: bytes[..<position].suffix(20), at: position)
                }
            }
            for endpoint in [AnswerRequest.Endpoint.chatCompletions, .completions] {
                do {
                    let decoded = try AnswerRequest(endpoint, body: bytes, vocabularySize: 512)
                    #expect(decoded.generationRequests(seed: 1).count <= 64)
                } catch {
                    refused += 1
                    #expect(error.statusCode == 400)
                }
            }
        }
        #expect(refused > 0, "seed \(seed)")
    }
}

/// Vigna's generator: the same cases in every run.
private struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}
