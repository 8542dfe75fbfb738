import Coordinator
import Gateway
import JSONText
import Testing

/// What the coordinator refuses or fails, as HTTP tells it.
@Suite struct RefusalTests {
    static let refusals: [(RequestError, Int, String)] = [
        (RequestError(.overloaded, code: "queue_full", message: "full", retryAfterSeconds: 1), 429, "queue_full"),
        (RequestError(.unavailable, code: "not_ready", message: "none"), 503, "not_ready"),
        (RequestError(.notFound, code: "model_not_found", message: "no", parameter: "model"), 404, "model_not_found"),
        (
            RequestError(.invalid, code: "prompt_too_long", message: "long", parameter: "prompt"), 400,
            "context_length_exceeded"
        ),
    ]

    @Test(arguments: refusals)
    func atSubmission(_ error: RequestError, status: Int, code: String) async throws {
        try await withGateway(ScriptedService { _ in throw error }) { client in
            for stream in [true, false] {
                let answer = try await client.post(
                    "/v1/chat/completions", #"{"messages":[{"role":"user","content":"x"}],"stream":\#(stream)}"#)
                #expect(answer.status == status)
                #expect(answer.error?["code"]?.string == code)
                #expect(answer.headers["retry-after"] == (status == 429 || status == 503 ? "1" : nil))
                if code == "context_length_exceeded" { #expect(answer.error?["param"]?.string == "messages") }
            }
        }
    }

    @Test func theTimeToRetryIsTheCoordinators() async throws {
        let error = RequestError(.overloaded, code: "queue_full", message: "full", retryAfterSeconds: 17)
        try await withGateway(ScriptedService { _ in throw error }) { client in
            let answer = try await client.post("/v1/completions", #"{"prompt": "x"}"#)
            #expect(answer.headers["retry-after"] == "17")
        }
    }

    @Test func aDeadlineThatPasses() async throws {
        let late = RequestError(.late, code: "deadline_exceeded", message: "late")
        let events = Array(ScriptedService.answer(["half"]).dropLast())
        try await withGateway(ScriptedService { _ in ScriptedService.events(events, failing: late) }) { client in
            let whole = try await client.post("/v1/completions", #"{"prompt": "x", "deadline_ms": 9}"#)
            #expect(whole.status == 504)
            #expect(whole.error?["code"]?.string == "deadline_exceeded")
            let streamed = try await client.post("/v1/completions", #"{"prompt": "x", "stream": true}"#)
            #expect(streamed.status == 200)
            let last = try JSONValue(parsing: streamed.events.last ?? "")
            #expect(last["error"]?["code"]?.string == "deadline_exceeded")
        }
    }

    @Test func lostWorker() async throws {
        let lost = RequestError(.failed, code: "worker_lost", message: "w1 is gone")
        let events = Array(ScriptedService.answer(["half"]).dropLast())
        try await withGateway(ScriptedService { _ in ScriptedService.events(events, failing: lost) }) { client in
            let whole = try await client.post("/v1/completions", #"{"prompt": "x"}"#)
            #expect(whole.status == 500)
            #expect(whole.error?["type"]?.string == "server_error")
            let streamed = try await client.post("/v1/completions", #"{"prompt": "x", "stream": true}"#)
            #expect(streamed.status == 200)
            #expect(streamed.events.count == 2)
            let last = try JSONValue(parsing: streamed.events.last ?? "")
            #expect(last["error"]?["code"]?.string == "worker_lost")
        }
    }

    /// Until there is something to say, a stream's failure has a status, which clients and proxies understand.
    @Test func streamsThatFailBeforeTheyBegin() async throws {
        let errors: [(RequestError, Int)] = [
            (RequestError(.late, code: "deadline_exceeded", message: "late"), 504),
            (RequestError(.unavailable, code: "queue_timeout", message: "long"), 503),
            (RequestError(.failed, code: "worker_lost", message: "gone"), 500),
        ]
        for (error, status) in errors {
            let accepted = Array(ScriptedService.answer([]).prefix(1))
            let service = ScriptedService { _ in ScriptedService.events(accepted, failing: error) }
            try await withGateway(service) { client in
                let answer = try await client.post(
                    "/v1/chat/completions", #"{"messages": [{"role": "user", "content": "x"}], "stream": true}"#)
                #expect(answer.status == status)
                #expect(answer.error?["code"]?.string == error.code)
            }
        }
    }

    @Test(arguments: [true, false])
    func aClientThatLeavesEndsTheWork(streamed: Bool) async throws {
        let (ended, end) = AsyncStream<Void>.makeStream()
        let service = ScriptedService(done: { end.finish() }) { _ in ScriptedService.unfinished() }
        try await withGateway(service) { client in
            let request = HTTPClient.request("/v1/completions", #"{"prompt": "x", "stream": \#(streamed)}"#)
            if streamed {
                try await client.exchangeBeginning(request)
            } else {
                try await client.exchangeWithoutReading(request) {}
            }
            for await _ in ended {}
        }
    }

    @Test func aClientThatDoesNotReadIsCutOff() async throws {
        let (ended, end) = AsyncStream<Void>.makeStream()
        let service = ScriptedService(done: { end.finish() }) { _ in ScriptedService.endless() }
        var configuration = Gateway.Configuration(port: 0)
        configuration.stallTimeoutSeconds = 0
        try await withGateway(service, configuration: configuration) { client in
            // The answer has no end: that it ends at all shows that nobody buffers it.
            try await client.exchangeWithoutReading(
                HTTPClient.request("/v1/completions", #"{"prompt": "x", "stream": true}"#)
            ) { for await _ in ended {} }
            let health = try await client.get("/health")
            #expect(health.status == 200)
        }
    }
}
