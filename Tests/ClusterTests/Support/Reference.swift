import Foundation
import JSONText
import Testing
import TestSupport

/// What one process computes without sockets, the oracle of everything here.
enum Reference {
    struct Generation: Sendable {
        var prompt: String
        var temperature: Double
        var seed: Int
        var maxTokens: Int
    }

    static let generations = [
        Generation(prompt: "ROMEO:", temperature: 0, seed: 1, maxTokens: 48),
        Generation(prompt: "What say you, my lord?\n", temperature: 0.9, seed: 7, maxTokens: 48),
        Generation(prompt: "The king", temperature: 1.3, seed: 18, maxTokens: 24),
    ]

    /// Lines for `score`: texts longer than a KV page, longer than a prefill chunk, and a short one.
    static func scoreInput() throws -> String {
        let text = try String(contentsOf: Fixtures.url("demo/validation.txt"), encoding: .utf8)
        return [text.prefix(500), text.dropFirst(2000).prefix(120), "To be"].map {
            "{\"text\": \(JSONValue.string(String($0)).text)}\n"
        }.joined()
    }

    static func score(_ arguments: [String]) async throws -> String {
        try await Program.run(["score", "--top", "4"] + arguments, input: try scoreInput())
    }

    static func score(threads: Int, prefillChunk: Int) async throws -> String {
        try await score([
            "--model", try DemoStore.required().model, "--threads", String(threads), "--prefill-chunk",
            String(prefillChunk),
        ])
    }

    /// The text and the ids of `tramontane generate`.
    static func generate(
        _ generation: Generation, threads: Int = 2, prefillChunk: Int = 256
    ) async throws -> (text: String, ids: [Int]) {
        let output = try await Program.run([
            "generate", "--model", try DemoStore.required().model, "--prompt", generation.prompt, "--max-tokens",
            String(generation.maxTokens), "--temperature", String(generation.temperature), "--seed",
            String(generation.seed), "--threads", String(threads), "--prefill-chunk", String(prefillChunk), "--json",
        ])
        let json = try JSONValue(parsing: String(output.split(separator: "\n").last ?? ""))
        return (
            text: try #require(json["text"]?.string), ids: try #require(json["ids"]?.array).compactMap(\.integer)
        )
    }
}
