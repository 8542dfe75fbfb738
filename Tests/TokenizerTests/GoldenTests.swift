import Foundation
import JSONText
import TestSupport
import Testing

@testable import Tokenizer

/// Against what sentencepiece and mistral-common computed.
struct GoldenTests {
    private static let goldens = Result {
        try JSONValue(parsing: Data(contentsOf: Fixtures.url("tokenizer/goldens.json")))
    }

    @Test(arguments: ChatFormat.allCases)
    func texts(format: ChatFormat) throws {
        let tokenizer = try Models.tokenizer(format)
        let golden = try #require(try Self.goldens.get()["models"]?["mistral-\(format.rawValue)"])
        #expect(tokenizer.vocabularySize == golden["vocabulary"]?.integer)
        let cases = try #require(golden["cases"]?.array)
        #expect(cases.count == 150)
        for example in cases {
            let text = try #require(example["text"]?.string)
            let ids = try Self.ids(example)
            #expect(tokenizer.encode(text) == ids, "\(text.debugDescription)")
            let decoded = try #require(example["decoded"]?.string)
            #expect(Array(tokenizer.decode(ids).utf8) == Array(decoded.utf8), "\(text.debugDescription)")
        }
    }

    @Test func chats() throws {
        let cases = try #require(try Self.goldens.get()["chat"]?.array)
        #expect(cases.count == 29)
        for (index, example) in cases.enumerated() {
            let format = try #require(example["version"]?.string.flatMap(ChatFormat.init))
            let tokenizer = try Models.tokenizer(format)
            #expect(tokenizer.chatFormat == format)
            let ids = try tokenizer.encodeChat(
                ChatMessage.list(example["messages"]), tools: Tool.list(example["tools"]))
            #expect(ids == (try Self.ids(example)), "chat \(index)")
        }
    }

    /// The demo model's tokenizer agrees with the text and ids of its own goldens.
    @Test func demo() throws {
        let tokenizer = try Models.demo()
        let goldens = try JSONValue(parsing: Data(contentsOf: Fixtures.url("demo/goldens.json")))
        var checked = 0
        for example in try #require(goldens["cases"]?.array) {
            guard let text = example["text"]?.string else { continue }
            #expect([tokenizer.beginToken] + tokenizer.encode(text) == (try Self.ids(example)), "\(text)")
            checked += 1
        }
        #expect(checked > 0)
        #expect(tokenizer.chatFormat == .v3)
    }

    private static func ids(_ json: JSONValue) throws -> [Int32] {
        try #require(json["ids"]?.array).map { try Int32(#require($0.integer)) }
    }
}
