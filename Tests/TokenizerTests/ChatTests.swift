import JSONText
import Testing

@testable import Tokenizer

/// What the goldens do not show. Expectations follow mistral-common's normaliser and its v1 and v3 tokenizers.
struct ChatTests {
    private func chat(_ json: String) throws -> [ChatMessage] {
        try ChatMessage.list(JSONValue(parsing: json))
    }

    private func expectSame(_ one: String, _ other: String, _ format: ChatFormat = .v3) throws {
        let tokenizer = try Models.tokenizer(format)
        #expect(try tokenizer.encodeChat(chat(one)) == tokenizer.encodeChat(chat(other)))
    }

    @Test(arguments: ChatFormat.allCases)
    func neighboursOfTheSameRoleAreJoined(format: ChatFormat) throws {
        try expectSame(
            #"[{"role":"user","content":"a"},{"role":"user","content":""},{"role":"user","content":"b"}]"#,
            #"[{"role":"user","content":"a\n\nb"}]"#, format)
        try expectSame(
            #"[{"role":"system","content":"s"},{"role":"developer","content":"t"},{"role":"user","content":"a"}]"#,
            #"[{"role":"system","content":"s\n\nt"},{"role":"user","content":"a"}]"#, format)
        try expectSame(
            #"[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]"#,
            #"[{"role":"user","content":"a\n\nb"}]"#, format)
    }

    @Test func aChatThatDoesNotBeginWithAQuestion() throws {
        try expectSame(
            #"[{"role":"assistant","content":"a"},{"role":"user","content":"b"}]"#,
            #"[{"role":"user","content":""},{"role":"assistant","content":"a"},{"role":"user","content":"b"}]"#
        )
        try expectSame(
            #"[{"role":"system","content":"s"}]"#, #"[{"role":"system","content":"s"},{"role":"user"}]"#)
    }

    @Test func v3AnswersLoseTheirTrailingSpaces() throws {
        try expectSame(
            #"[{"role":"user","content":"a"},{"role":"assistant","content":"b  "},{"role":"user","content":"c"}]"#,
            #"[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}]"#
        )
    }

    @Test func callsAndResultsAreJSONWhereTheyCanBe() throws {
        let tokenizer = try Models.tokenizer(.v3)
        let messages = try chat(
            #"""
            [{"role":"user","content":"q"},
             {"role":"assistant","content":null,"tool_calls":[{"id":"null","type":"function","function":
               {"name":"f","arguments":"{\"b\":1.50,\"a\":[]}"}}]},
             {"role":"tool","content":"not json","tool_call_id":"x"},
             {"role":"tool","content":"","tool_call_id":"y"}]
            """#)
        func text(_ pieces: ArraySlice<Int32>) -> String { tokenizer.decode(pieces) }
        let ids = try tokenizer.encodeChat(messages)
        let parts = ids.split { tokenizer.isControl($0) }.map(text)
        #expect(
            parts == [
                "q", #"[{"name": "f", "arguments": {"b": 1.5, "a": []}}]"#,
                #"{"content": "not json", "call_id": "x"}"#,
                #"{"content": {}, "call_id": "y"}"#,
            ])
    }

    @Test(arguments: [
        (#"[]"#, "chat_messages"),
        (#"{}"#, "chat_messages"),
        (#"[1]"#, "chat_message"),
        (#"[{"content":"a"}]"#, "chat_role"),
        (#"[{"role":"robot","content":"a"}]"#, "chat_role"),
        (#"[{"role":"user","content":5}]"#, "chat_content"),
        (#"[{"role":"user","content":[{"type":"image_url"}]}]"#, "chat_content"),
        (#"[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]"#, "chat_last_role"),
        (#"[{"role":"user","tool_calls":5}]"#, "chat_tool_calls"),
        (#"[{"role":"user","tool_calls":[{}]}]"#, "chat_tool_calls"),
        (#"[{"role":"user","tool_calls":[{"function":{"name":"f"}}]}]"#, "chat_tool_calls"),
        (
            #"[{"role":"assistant","content":"a","tool_calls":[{"function":{"name":"f"}}]}]"#,
            "chat_tool_calls"
        ),
    ])
    func refusedChats(json: String, code: String) throws {
        let tokenizer = try Models.tokenizer(.v3)
        let error = #expect(throws: TokenizerError.self) { try tokenizer.encodeChat(chat(json)) }
        #expect(error?.code == code)
    }

    @Test func whatTheModelHasNoPlaceFor() throws {
        let v1 = try Models.tokenizer(.v1)
        let tools = [Tool(name: "f", description: "", parameters: .object([]))]
        let question = [ChatMessage(role: .user, content: "a")]
        #expect(throws: TokenizerError.self) { try v1.encodeChat(question, tools: tools) }
        #expect(throws: TokenizerError.self) {
            try v1.encodeChat(question + [ChatMessage(role: .tool, content: "a")])
        }
        let error = #expect(throws: TokenizerError.self) { try v1.encodeChat(question, format: .v3) }
        #expect(error?.code == "chat_format")
        // The older format is text, which any model can read.
        let v3 = try Models.tokenizer(.v3)
        #expect(try v3.encodeChat(question, format: .v1) == [1] + v3.encode("[INST] a [/INST]"))
    }

    @Test(arguments: [
        #"[{"type":"web_search"}]"#, #"[{"type":"function"}]"#,
        #"[{"function":{"name":"f","parameters":[]}}]"#, "5",
    ])
    func refusedTools(json: String) throws {
        let error = #expect(throws: TokenizerError.self) { try Tool.list(JSONValue(parsing: json)) }
        #expect(error?.code == "chat_tools")
    }
}
