import JSONText

extension Tokenizer {
    /// The prompt that asks for the next message of a chat, `<s>` included.
    ///
    /// - Parameter format: the model's own by default.
    /// - Throws: ``TokenizerError`` for a chat that the format has no place for.
    package func encodeChat(
        _ messages: [ChatMessage], tools: [Tool] = [], format: ChatFormat? = nil
    ) throws(TokenizerError) -> [Int32] {
        let systemPrompt = messages.filter { $0.role == .system && !$0.content.isEmpty }.map(\.content)
            .joined(separator: "\n\n")
        let turns = try Self.turns(of: messages)
        switch format ?? chatFormat {
        case .v1:
            guard tools.isEmpty else { throw Self.toolsUnsupported }
            return try encodeV1(turns, systemPrompt: systemPrompt)
        case .v3:
            guard let pieces = ChatPieces(vocabulary) else {
                throw TokenizerError("chat_format", "the model has no [INST] piece, so it cannot use format v3")
            }
            return try encodeV3(turns, systemPrompt: systemPrompt, tools: tools, pieces: pieces)
        }
    }

    private func encodeV1(_ turns: [ChatMessage], systemPrompt: String) throws(TokenizerError) -> [Int32] {
        var ids = [beginToken]
        var prefix = systemPrompt.isEmpty ? "" : systemPrompt + "\n\n"
        for turn in turns {
            switch turn.role {
            case .user:
                ids += encode("[INST] \(prefix)\(turn.content) [/INST]")
                prefix = ""
            case .assistant where turn.toolCalls.isEmpty:
                ids += encode(turn.content)
                ids.append(endToken)
            case .assistant, .tool: throw Self.toolsUnsupported
            case .system: break
            }
        }
        return ids
    }

    private func encodeV3(
        _ turns: [ChatMessage], systemPrompt: String, tools: [Tool], pieces: ChatPieces
    ) throws(TokenizerError) -> [Int32] {
        var ids = [beginToken]
        let lastUser = turns.lastIndex { $0.role == .user }
        for (index, turn) in turns.enumerated() {
            switch turn.role {
            case .user:
                var content = turn.content
                if index == lastUser {
                    if !tools.isEmpty {
                        guard let toolPieces = pieces.tools else { throw Self.toolsUnsupported }
                        ids.append(toolPieces.beginAvailable)
                        ids += encode(JSONValue.array(tools.map(\.json)).text)
                        ids.append(toolPieces.endAvailable)
                    }
                    if !systemPrompt.isEmpty { content = systemPrompt + "\n\n" + content }
                }
                ids.append(pieces.beginInstruction)
                ids += encode(content)
                ids.append(pieces.endInstruction)
            case .assistant:
                if turn.toolCalls.isEmpty {
                    var content = turn.content[...]
                    while content.unicodeScalars.last == " " { content.unicodeScalars.removeLast() }
                    ids += encode(String(content))
                } else {
                    guard let toolPieces = pieces.tools else { throw Self.toolsUnsupported }
                    ids.append(toolPieces.calls)
                    ids += encode(JSONValue.array(turn.toolCalls.map(Self.json)).text)
                }
                ids.append(endToken)
            case .tool:
                guard let toolPieces = pieces.tools else { throw Self.toolsUnsupported }
                ids.append(toolPieces.beginResults)
                ids += encode(Self.result(turn).text)
                ids.append(toolPieces.endResults)
            case .system: break
            }
        }
        return ids
    }

    /// The messages that are laid out one after the other: system messages apart, neighbours of the same role joined, and an
    /// empty question first where the chat does not begin with one.
    private static func turns(of messages: [ChatMessage]) throws(TokenizerError) -> [ChatMessage] {
        guard !messages.isEmpty else { throw TokenizerError("chat_messages", "there are no messages") }
        var turns: [ChatMessage] = []
        var previousRole: ChatMessage.Role?
        for message in messages {
            guard message.role == .assistant || message.toolCalls.isEmpty else {
                throw TokenizerError("chat_tool_calls", "only an assistant's message has tool calls")
            }
            guard message.toolCalls.isEmpty || message.content.isEmpty else {
                throw TokenizerError("chat_tool_calls", "an assistant's message has both a content and tool calls")
            }
            defer { previousRole = message.role }
            if message.role == .system { continue }
            guard message.role == previousRole, message.role != .tool, var turn = turns.popLast() else {
                turns.append(message)
                continue
            }
            let contents = [turn.content, message.content].filter { !$0.isEmpty }
            turn.content = contents.joined(separator: "\n\n")
            turn.toolCalls += message.toolCalls
            guard turn.toolCalls.isEmpty || turn.content.isEmpty else {
                throw TokenizerError("chat_tool_calls", "an assistant's turn has both a content and tool calls")
            }
            turns.append(turn)
        }
        if turns.first?.role != .user { turns.insert(ChatMessage(role: .user, content: ""), at: 0) }
        guard turns.last?.role != .assistant else {
            throw TokenizerError("chat_last_role", "the last message is the assistant's, allowed are user and tool")
        }
        return turns
    }

    private static let toolsUnsupported = TokenizerError("chat_tools", "the model's chat format has no tools")

    private static func json(_ call: ToolCall) -> JSONValue {
        var members = [
            JSONValue.Member("name", .string(call.name)), JSONValue.Member("arguments", parsed(call.arguments)),
        ]
        if let id = call.id, !id.isEmpty, id != "null" { members.append(.init("id", .string(id))) }
        return .object(members)
    }

    private static func result(_ message: ChatMessage) -> JSONValue {
        .object([
            .init("content", parsed(message.content)),
            .init("call_id", message.toolCallID.map(JSONValue.string) ?? .null),
        ])
    }

    /// What is JSON stands in the prompt as JSON, anything else as a string.
    private static func parsed(_ text: String) -> JSONValue {
        if text.isEmpty { return .object([]) }
        return (try? JSONValue(parsing: text)) ?? .string(text)
    }
}
