import Gateway
import JSONText
import Testing

/// The HTTP cases of bad input, over a socket: an error that names the field, and a gateway that goes on.
@Suite struct BadInputTests {
    private static let message = #"[{"role":"user","content":"secret"}]"#
    private static let deep = String(repeating: "[", count: 100_000)
    private static let stops = "[" + Array(repeating: "\"a\"", count: 10_000).joined(separator: ",") + "]"

    /// The path's end, the body, and the code and the parameter of the error.
    static let bodies: [(String, String, String, String?)] = [
        ("chat/completions", #"{"messages":\#(message),"max_tokens":-1}"#, "invalid_max_tokens", "max_tokens"),
        ("chat/completions", #"{"messages":\#(message),"max_tokens":1e18}"#, "invalid_max_tokens", "max_tokens"),
        ("chat/completions", #"{"messages":\#(message),"max_tokens":"5"}"#, "invalid_max_tokens", "max_tokens"),
        ("chat/completions", #"{"messages":\#(message),"max_tokens":1.5}"#, "invalid_max_tokens", "max_tokens"),
        (
            "chat/completions", #"{"messages":\#(message),"max_tokens":1,"max_completion_tokens":2}"#,
            "invalid_max_tokens", "max_tokens"
        ),
        ("chat/completions", #"{"messages":\#(message),"n":1000000}"#, "invalid_n", "n"),
        ("chat/completions", #"{"messages":\#(message),"temperature":NaN}"#, "invalid_json", nil),
        ("chat/completions", #"{"messages":\#(message),"temperature":1e999}"#, "invalid_json", nil),
        ("chat/completions", #"{"messages":\#(message),"temperature":-0.1}"#, "invalid_temperature", "temperature"),
        ("chat/completions", #"{"messages":\#(message),"top_p":0}"#, "invalid_top_p", "top_p"),
        ("chat/completions", #"{"messages":\#(message),"min_p":2}"#, "invalid_min_p", "min_p"),
        ("chat/completions", #"{"messages":\#(message),"top_k":-1}"#, "invalid_top_k", "top_k"),
        ("chat/completions", #"{"messages":\#(message),"seed":1.5}"#, "invalid_seed", "seed"),
        ("chat/completions", #"{"messages":\#(message),"logit_bias":{"512":1}}"#, "invalid_logit_bias", "logit_bias"),
        ("chat/completions", #"{"messages":\#(message),"logit_bias":{"-1":1}}"#, "invalid_logit_bias", "logit_bias"),
        ("chat/completions", #"{"messages":\#(message),"logit_bias":{"1":101}}"#, "invalid_logit_bias", "logit_bias"),
        ("chat/completions", #"{"messages":\#(message),"stop":\#(stops)}"#, "invalid_stop", "stop"),
        ("chat/completions", #"{"messages":\#(message),"stop":""}"#, "invalid_stop", "stop"),
        ("chat/completions", #"{"messages":\#(message),"stop":[1]}"#, "invalid_stop", "stop"),
        ("chat/completions", #"{"messages":\#(message),"stream":"yes"}"#, "invalid_stream", "stream"),
        (
            "chat/completions", #"{"messages":\#(message),"stream_options":{"include_usage":true}}"#,
            "invalid_stream_options", "stream_options"
        ),
        ("chat/completions", #"{"messages":\#(message),"model":1}"#, "invalid_model", "model"),
        ("chat/completions", #"{"messages":\#(message),"tools":{}}"#, "invalid_tools", "tools"),
        (
            "chat/completions", #"{"messages":\#(message),"tool_choice":"required"}"#, "unsupported_parameter",
            "tool_choice"
        ),
        ("chat/completions", #"{"messages":\#(message),"logprobs":true}"#, "unsupported_parameter", "logprobs"),
        (
            "chat/completions", #"{"messages":\#(message),"presence_penalty":0.5}"#, "unsupported_parameter",
            "presence_penalty"
        ),
        (
            "chat/completions", #"{"messages":\#(message),"response_format":{"type":"json_object"}}"#,
            "unsupported_parameter", "response_format"
        ),
        ("chat/completions", #"{"messages":\#(message),"colour":"red"}"#, "unsupported_parameter", "colour"),
        ("chat/completions", #"{"messages":[]}"#, "invalid_messages", "messages"),
        ("chat/completions", #"{}"#, "invalid_messages", "messages"),
        ("chat/completions", #"{"messages":"hello"}"#, "invalid_messages", "messages"),
        ("chat/completions", #"{"messages":[{"role":"emperor","content":"x"}]}"#, "invalid_messages", "messages[0]"),
        (
            "chat/completions", #"{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#, "invalid_messages",
            "messages[0]"
        ),
        ("chat/completions", #"{"messages":[{"role":"user","content":"\ud800"}]}"#, "invalid_json", nil),
        ("chat/completions", #"{"messages":\#(deep)"#, "invalid_json", nil),
        ("chat/completions", "", "invalid_json", nil),
        ("chat/completions", "[]", "invalid_json", nil),
        ("completions", "{}", "invalid_prompt", "prompt"),
        ("completions", #"{"prompt":""}"#, "invalid_prompt", "prompt"),
        ("completions", #"{"prompt":[]}"#, "invalid_prompt", "prompt"),
        ("completions", #"{"prompt":["a",""]}"#, "invalid_prompt", "prompt"),
        ("completions", #"{"prompt":[1,512]}"#, "invalid_prompt", "prompt"),
        ("completions", #"{"prompt":[1,-1]}"#, "invalid_prompt", "prompt"),
        ("completions", #"{"prompt":[1,99999999999999999999]}"#, "invalid_prompt", "prompt"),
        ("completions", #"{"prompt":7}"#, "invalid_prompt", "prompt"),
        ("completions", #"{"prompt":"x","echo":true}"#, "unsupported_parameter", "echo"),
        ("completions", #"{"prompt":"x","best_of":2}"#, "unsupported_parameter", "best_of"),
        ("completions", #"{"prompt":"x","logprobs":0}"#, "unsupported_parameter", "logprobs"),
    ]

    @Test func bodies() async throws {
        let service = ScriptedService("x")
        try await withGateway(service) { client in
            for (path, body, code, parameter) in Self.bodies {
                let answer = try await client.post("/v1/\(path)", body)
                let comment = Comment(rawValue: "\(body.prefix(120)): \(answer.body.prefix(300))")
                #expect(answer.status == 400, comment)
                #expect(answer.error?["code"]?.string == code, comment)
                #expect(answer.error?["param"]?.string == parameter, comment)
                #expect(!answer.body.contains("secret"), "an error holds prompt text")
            }
            let health = try await client.get("/health")
            #expect(health.status == 200)
        }
        #expect(service.requests.isEmpty)
    }

    @Test func neutralValuesOfWhatIsNotSupported() async throws {
        try await withGateway(ScriptedService("x")) { client in
            let answer = try await client.post(
                "/v1/chat/completions",
                """
                {"messages": \(Self.message), "logprobs": false, "presence_penalty": 0, "frequency_penalty": 0.0,
                 "response_format": {"type": "text"}, "user": "u", "n": null, "stop": null, "tools": [],
                 "tool_choice": "auto", "logit_bias": {"5": -100}, "seed": -1, "metadata": {}, "store": false}
                """)
            #expect(answer.status == 200, "\(answer.body)")
        }
    }

    @Test func bodyOverTheLimit() async throws {
        var configuration = Gateway.Configuration(port: 0)
        configuration.bodyLimitBytes = 1000
        try await withGateway(ScriptedService("x"), configuration: configuration) { client in
            let long = #"{"prompt":"\#(String(repeating: "x", count: 1000))"}"#
            let answer = try await client.post("/v1/completions", long)
            #expect(answer.status == 413)
            #expect(answer.error?["code"]?.string == "body_too_large")
            let chunked = try await client.exchange(
                "POST /v1/completions HTTP/1.1\r\nHost: t\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
                    + "\(String(long.utf8.count, radix: 16))\r\n\(long)\r\n0\r\n\r\n")
            #expect(HTTPAnswer(chunked)?.status == 413)
            // Far more than the limit is not even read.
            let endless = String(repeating: "x", count: 100_000)
            let cut = try await client.exchange(HTTPClient.request("/v1/completions", endless))
            #expect(cut.isEmpty || cut.hasPrefix("HTTP/1.1 413"))
            let health = try await client.get("/health")
            #expect(health.status == 200)
        }
    }

    /// The client gets to read why, although it goes on sending meanwhile.
    @Test func headsOverTheLimits() async throws {
        let long = String(repeating: "x", count: 200_000)
        let many = (0..<100_000).map { "h\($0): x\r\n" }.joined()
        let heads = [
            ("GET /health HTTP/1.1\r\nHost: t\r\n\(many)\r\n", 431, "headers_too_large"),
            ("GET /health HTTP/1.1\r\nHost: t\r\nx: \(long)\r\n\r\n", 431, "headers_too_large"),
            ("GET /\(long) HTTP/1.1\r\nHost: t\r\n\r\n", 414, "uri_too_long"),
            ("GET /\(long.prefix(8192)) HTTP/1.1\r\nHost: t\r\n\r\n", 414, "uri_too_long"),
        ]
        try await withGateway(ScriptedService("x")) { client in
            for (head, status, code) in heads {
                let answer = try #require(HTTPAnswer(try await client.exchange(head)))
                #expect(answer.status == status)
                #expect(answer.error?["code"]?.string == code)
                #expect(answer.error?["type"]?.string == "invalid_request_error")
                #expect(answer.headers["connection"] == "close")
                let health = try await client.get("/health")
                #expect(health.status == 200)
            }
            let longest = try await client.get("/\(long.prefix(8191))")
            #expect(longest.status == 404)
        }
    }

    @Test func whatIsNotHTTP() async throws {
        let requests = [
            "POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
                + "2\r\n{}\r\n0\r\n\r\n",
            "POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: -5\r\n\r\n{}",
            "POST /v1/completions HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            // A frame of the binary protocol.
            "TRMN\u{1}\u{0}\u{1}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}",
            "\u{16}\u{3}\u{1}\u{2}\u{0}",
        ]
        try await withGateway(ScriptedService("x")) { client in
            for request in requests {
                let answer = try await client.exchange(request)
                // A refusal, or a connection that closes while the rest is still being sent.
                #expect(
                    answer.isEmpty || answer.hasPrefix("HTTP/1.1 4"), "\(request.prefix(80)): \(answer.prefix(200))")
                if let parsed = HTTPAnswer(answer) { #expect(parsed.error?["code"]?.string == "invalid_http") }
                let health = try await client.get("/health")
                #expect(health.status == 200)
            }
        }
    }

    @Test func addressesOfOtherMachinesNeedAFlag() async throws {
        for host in ["0.0.0.0", "::", "example.org", "10.0.0.1"] {
            await #expect(throws: Gateway.AddressError.self) {
                try await withGateway(ScriptedService(), configuration: .init(host: host, port: 0)) { _ in }
            }
        }
    }
}
