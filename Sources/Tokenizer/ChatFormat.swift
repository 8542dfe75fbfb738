/// How a chat becomes tokens: the instruct formats of Mistral's models, as mistral-common lays them out.
package enum ChatFormat: String, Sendable, CaseIterable {
    /// `<s> [INST] system\n\nuser [/INST] answer</s>`, in text (Mixtral-8x7B). No tools.
    case v1
    /// `[INST]` and the rest are control pieces (Mixtral-8x22B). The system prompt and the tools go with the last user message.
    case v3
}

/// The control pieces of the v3 format.
struct ChatPieces {
    /// The pieces of a model that knows tools.
    struct Tools {
        let calls: Int32
        let beginAvailable: Int32
        let endAvailable: Int32
        let beginResults: Int32
        let endResults: Int32
    }

    let beginInstruction: Int32
    let endInstruction: Int32
    let tools: Tools?

    /// Nil for a model without these pieces.
    init?(_ vocabulary: Vocabulary) {
        func piece(_ name: String) -> Int32? { vocabulary.controlTokens[Array(name.utf8)] }
        guard let begin = piece("[INST]"), let end = piece("[/INST]") else { return nil }
        beginInstruction = begin
        endInstruction = end
        if let calls = piece("[TOOL_CALLS]"), let beginAvailable = piece("[AVAILABLE_TOOLS]"),
            let endAvailable = piece("[/AVAILABLE_TOOLS]"), let beginResults = piece("[TOOL_RESULTS]"),
            let endResults = piece("[/TOOL_RESULTS]")
        {
            tools = Tools(
                calls: calls, beginAvailable: beginAvailable, endAvailable: endAvailable, beginResults: beginResults,
                endResults: endResults)
        } else {
            tools = nil
        }
    }
}
