import Coordinator
import Gateway
import JSONText
import Testing

@Suite struct EndpointTests {
    @Test func healthAndReadiness() async throws {
        try await withGateway(ScriptedService()) { client in
            for path in ["/health", "/ready"] {
                let answer = try await client.get(path)
                #expect(answer.status == 200)
            }
        }
        try await withGateway(ScriptedService(ready: false) { _ in ScriptedService.events([]) }) { client in
            let health = try await client.get("/health")
            #expect(health.status == 200)
            let answer = try await client.get("/ready")
            #expect(answer.status == 503)
            #expect(answer.error?["code"]?.string == "not_ready")
        }
    }

    @Test func models() async throws {
        try await withGateway(ScriptedService()) { client in
            let list = try await client.get("/v1/models").json
            #expect(list?["object"]?.string == "list")
            #expect(list?["data"]?.array?.first?["id"]?.string == "org/demo")
            for name in ["org/demo", "org%2Fdemo"] {
                let model = try await client.get("/v1/models/\(name)").json
                #expect(model?["id"]?.string == "org/demo")
            }
            let missing = try await client.get("/v1/models/other")
            #expect(missing.status == 404)
            #expect(missing.error?["code"]?.string == "model_not_found")
        }
    }

    @Test func unknownPathsAndMethods() async throws {
        try await withGateway(ScriptedService()) { client in
            let unknown = try await client.get("/v2/nothing")
            #expect(unknown.status == 404)
            #expect(unknown.error?["type"]?.string == "invalid_request_error")
            let method = try await client.get("/v1/chat/completions")
            #expect(method.status == 405)
            #expect(method.headers["allow"] == "POST")
            #expect(method.error?["code"]?.string == "method_not_allowed")
            let delete = try await client.get("/health", method: "DELETE")
            #expect(delete.status == 405)
        }
    }

    @Test func wholeChat() async throws {
        let service = ScriptedService("To be", ", or not")
        try await withGateway(service) { client in
            let answer = try await client.post(
                "/v1/chat/completions",
                #"{"model":"org/demo","messages":[{"role":"user","content":[{"type":"text","text":"Go"}]}],"seed":42}"#)
            #expect(answer.status == 200)
            #expect(answer.headers["content-type"] == "application/json")
            let json = try #require(answer.json)
            #expect(json["object"]?.string == "chat.completion")
            #expect(json["id"]?.string?.hasPrefix("chatcmpl-") == true)
            #expect(json["system_fingerprint"]?.string == "fp")
            #expect(json["seed"]?.integer == 42)
            let choice = try #require(json["choices"]?.array?.first)
            #expect(choice["message"]?["role"]?.string == "assistant")
            #expect(choice["message"]?["content"]?.string == "To be, or not")
            #expect(choice["finish_reason"]?.string == "stop")
            #expect(
                json["usage"]?.text
                    == #"{"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "#
                    + #""prompt_tokens_details": {"cached_tokens": 2}}"#)
        }
        #expect(service.requests.map(\.sampling.seed) == [42])
    }

    @Test func streamedChat() async throws {
        try await withGateway(ScriptedService("To", " be\n\n")) { client in
            let answer = try await client.post(
                "/v1/chat/completions",
                """
                {"messages": [{"role": "user", "content": "Go"}], "stream": true,
                 "stream_options": {"include_usage": true}}
                """)
            #expect(answer.status == 200)
            #expect(answer.headers["content-type"]?.hasPrefix("text/event-stream") == true)
            #expect(answer.events.last == "[DONE]")
            let chunks = try answer.events.dropLast().map { try JSONValue(parsing: $0) }
            #expect(Set(chunks.map { $0["id"]?.string }).count == 1)
            #expect(chunks.allSatisfy { $0["object"]?.string == "chat.completion.chunk" })
            let deltas = chunks.map { $0["choices"]?.array?.first?["delta"]?.text }
            #expect(
                deltas == [
                    #"{"role": "assistant", "content": ""}"#, #"{"content": "To"}"#, #"{"content": " be\n\n"}"#, "{}",
                    nil,
                ])
            #expect(chunks[3]["choices"]?.array?.first?["finish_reason"]?.string == "stop")
            #expect(chunks[3]["usage"] == .null)
            #expect(chunks[4]["usage"]?["total_tokens"]?.integer == 8)
            #expect(chunks[4]["usage"]?["prompt_tokens_details"]?["cached_tokens"]?.integer == 2)
        }
    }

    @Test func completionsOfSeveralPromptsAndChoices() async throws {
        let service = ScriptedService("a", "b")
        try await withGateway(service) { client in
            let json = try await client.post(
                "/v1/completions", #"{"prompt": ["x", "y"], "n": 2, "max_tokens": 3, "temperature": 0}"#
            ).json
            let choices = try #require(json?["choices"]?.array)
            #expect(choices.map { $0["index"]?.integer } == [0, 1, 2, 3])
            #expect(choices.map { $0["text"]?.string } == ["ab", "a#1b#1", "ab", "a#1b#1"])
            // A prompt counts once, whatever the number of its answers.
            #expect(json?["usage"]?["prompt_tokens"]?.integer == 10)
            #expect(json?["usage"]?["prompt_tokens_details"]?["cached_tokens"]?.integer == 4)
            #expect(json?["usage"]?["completion_tokens"]?.integer == 12)
        }
        // A prompt is asked for once, and so tokenised once, however many answers it gets.
        #expect(service.requests.count == 2)
        #expect(Set(service.requests.map(\.sampling.seed)).count == 1)
        #expect(service.requests.allSatisfy { $0.maxTokens == 3 && $0.sampling.temperature == 0 })
    }

    @Test func streamedCompletion() async throws {
        try await withGateway(ScriptedService("a", "b")) { client in
            let answer = try await client.post("/v1/completions", #"{"prompt": [1, 5, 9], "stream": true}"#)
            let chunks = try answer.events.dropLast().map { try JSONValue(parsing: $0) }
            #expect(chunks.map { $0["choices"]?.array?.first?["text"]?.string } == ["a", "b", ""])
            #expect(chunks.allSatisfy { $0["object"]?.string == "text_completion" })
        }
    }

    @Test func connectionsAreKept() async throws {
        try await withGateway(ScriptedService("a")) { client in
            let body = #"{"prompt": "x"}"#
            let one = HTTPClient.request("/v1/completions", body)
            let kept = one.replacing("Connection: close\r\n", with: "")
            let answers = try await client.exchange(kept + kept + one)
            #expect(answers.ranges(of: "HTTP/1.1 200").count == 3)
        }
    }
}
