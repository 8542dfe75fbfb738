import Testing

@testable import tramontane

struct ExchangeTests {
    private static let millisecond: UInt64 = 1_000_000

    private func chunk(_ text: String, finish: String = "null") -> String {
        #"data: {"choices": [{"index": 0, "text": "\#(text)", "finish_reason": \#(finish)}], "usage": null}"# + "\n\n"
    }

    private static let usage =
        #"data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "#
        + #""prompt_tokens_details": {"cached_tokens": 8}}}"# + "\n\n"
    private static let done = "data: [DONE]\n\n"

    /// An exchange that was due at 10 ms.
    private func exchange(status: Int = 200, isStream: Bool = true) -> Exchange {
        var exchange = Exchange(index: 0, due: 10 * Self.millisecond, promptTokens: 9)
        exchange.head(status: status, isStream: isStream)
        return exchange
    }

    private func take(_ text: String, _ milliseconds: UInt64, _ exchange: inout Exchange) {
        Array(text.utf8).withUnsafeBytes { exchange.received($0, at: milliseconds * Self.millisecond) }
    }

    @Test func aStream() {
        var exchange = exchange()
        take(chunk("a"), 20, &exchange)
        // A token without text of its own, such as half a character.
        take(chunk(""), 22, &exchange)
        take(chunk("b") + chunk("c"), 26, &exchange)
        take(chunk("", finish: #""length""#) + Self.usage + Self.done, 30, &exchange)
        exchange.end(at: 32 * Self.millisecond)
        #expect(exchange.outcome == .finished)
        #expect(exchange.outputTokens == 4)
        #expect(exchange.cachedTokens == 8)
        #expect(exchange.timeToFirstToken == 10)
        #expect(exchange.endToEnd == 22)
        #expect(exchange.timePerOutputToken == 4)
        #expect(exchange.interTokenLatencies == [6, 0])
        #expect(!exchange.endedEarly)
        #expect(exchange.error == nil)
    }

    @Test func anAnswerThatEndsEarly() {
        var exchange = exchange()
        take(chunk("a") + chunk("", finish: #""stop""#) + Self.usage + Self.done, 20, &exchange)
        exchange.end(at: 20 * Self.millisecond)
        #expect(exchange.outcome == .finished)
        #expect(exchange.endedEarly)
    }

    @Test func streamsThatBreak() {
        var cut = exchange()
        take(chunk("a"), 20, &cut)
        cut.cut("connection closed", at: 30 * Self.millisecond)
        #expect(cut.outcome == .cut("connection closed"))
        #expect(cut.outputTokens == 1)

        var short = exchange()
        take(chunk("a"), 20, &short)
        short.end(at: 30 * Self.millisecond)
        #expect(short.error == "the stream ended without its last event")

        var failed = exchange()
        take(chunk("a") + #"data: {"error": {"message": "", "code": "worker_lost"}}"# + "\n\n", 20, &failed)
        failed.end(at: 30 * Self.millisecond)
        #expect(failed.error == "worker_lost")

        var senseless = exchange()
        take("data: {\"usage\": {\n\n" + Self.done, 20, &senseless)
        senseless.end(at: 30 * Self.millisecond)
        #expect(senseless.error == "event_malformed")

        var endless = exchange()
        take(String(repeating: "x", count: 2 << 20), 20, &endless)
        endless.end(at: 30 * Self.millisecond)
        #expect(endless.error == "event_too_long")
    }

    @Test func refusals() {
        var refused = exchange(status: 429)
        take(#"{"error": {"code": "queue_full"}}"#, 12, &refused)
        refused.end(at: 13 * Self.millisecond)
        #expect(refused.outcome == .refused(status: 429, code: "queue_full"))
        #expect(refused.error == "429 queue_full")
        #expect(refused.endToEnd == 3)

        var broken = exchange(status: 502)
        take("<html>", 12, &broken)
        broken.end(at: 13 * Self.millisecond)
        #expect(broken.error == "502")
    }

    @Test func anAnswerThatIsNotStreamed() {
        var exchange = exchange(isStream: false)
        let body = #"{"choices": [{"text": "abcd", "finish_reason": "length"}], "usage": {"completion_tokens": 4}}"#
        take(String(body.prefix(30)), 20, &exchange)
        take(String(body.dropFirst(30)), 21, &exchange)
        exchange.end(at: 22 * Self.millisecond)
        #expect(exchange.outcome == .finished)
        #expect(exchange.outputTokens == 4)
        #expect(exchange.timeToFirstToken == nil)
        #expect(exchange.timePerOutputToken == nil)
        #expect(!exchange.endedEarly)
    }
}
