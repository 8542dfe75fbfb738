import Testing

@testable import tramontane

struct EventStreamTests {
    /// The events of a text that arrives in pieces of so many bytes.
    private func events(_ text: String, pieces: Int) throws -> [String] {
        var parser = EventStreamParser()
        var events: [String] = []
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let piece = Array(rest.prefix(pieces))
            rest = rest.dropFirst(pieces)
            try piece.withUnsafeBytes { bytes in
                try parser.take(bytes) { events.append(String(decoding: $0, as: UTF8.self)) }
            }
        }
        return events
    }

    @Test(arguments: [1, 2, 3, 7, 1000]) func howeverItArrives(pieces: Int) throws {
        let text = "data: one\n\n: a comment\nevent: x\ndata:two\r\n\r\ndata: a\ndata: b\n\n\ndata\n\ndata: not yet\n"
        #expect(try events(text, pieces: pieces) == ["one", "two", "a\nb"])
    }

    @Test func anEventHasABound() {
        let long = "data: " + String(repeating: "x", count: EventStreamParser.maximumEventBytes)
        #expect(throws: EventStreamParser.Fault.eventTooLong) { try events(long, pieces: 100_000) }
        let lines = String(repeating: "data: \(String(repeating: "x", count: 1000))\n", count: 1100)
        #expect(throws: EventStreamParser.Fault.eventTooLong) { try events(lines, pieces: 100_000) }
    }

    private func scan(_ text: String) -> (text: String?, finish: String?, usage: Bool, error: Bool) {
        Array(text.utf8).withUnsafeBytes { bytes in
            let chunk = StreamChunk(scanning: bytes)
            func part(_ range: Range<Int>?) -> String? { range.map { String(decoding: bytes[$0], as: UTF8.self) } }
            return (part(chunk.text), part(chunk.finishReason), chunk.hasUsage, chunk.hasError)
        }
    }

    @Test func whatAChunkSays() {
        let chunk = #"{"choices": [{"index": 0, "text": "a \"b\"", "finish_reason": null}], "usage": null}"#
        #expect(scan(chunk) == (#"a \"b\""#, nil, false, false))
        #expect(
            scan(#"{"choices":[{"delta":{"content":"x"},"finish_reason":"length"}]}"#) == ("x", "length", false, false))
        #expect(scan(#"{"choices": [{"text": "", "finish_reason": "stop"}]}"#) == (nil, "stop", false, false))
        #expect(scan(#"{"choices": [], "usage" : {"completion_tokens": 4}}"#) == (nil, nil, true, false))
        #expect(scan(#"{"error": {"code": "worker_lost"}}"#) == (nil, nil, false, true))
    }

    /// Text is the model's, and may look like anything.
    @Test func whatATextSaysIsNoMember() {
        #expect(scan(#"{"text": "\"error\": {", "usage": null}"#) == (#"\"error\": {"#, nil, false, false))
        #expect(scan(#"{"text": "error", "x": {"y": "usage"}}"#) == ("error", nil, false, false))
    }

    /// Cut or senseless JSON ends somewhere, and nowhere else.
    @Test func anyBytesAreScanned() {
        let chunk = Array(#"{"choices": [{"text": "a\\", "finish_reason": "le\u0041"}], "usage": {"a": 1}}"#.utf8)
        for length in chunk.indices {
            chunk[..<length].withUnsafeBytes { _ = StreamChunk(scanning: $0) }
        }
        var random = SeededRandom(seed: 7)
        for _ in 0..<2000 {
            let bytes = (0..<Int.random(in: 0...20, using: &random)).map { _ in
                Array(#"{}":\ ,a"#.utf8).randomElement(using: &random) ?? 0
            }
            bytes.withUnsafeBytes { _ = StreamChunk(scanning: $0) }
        }
    }
}
