package import JSONText

/// One message of a chat, in the API's terms.
package struct ChatMessage: Sendable, Equatable {
    package enum Role: String, Sendable, CaseIterable {
        case system
        case user
        case assistant
        case tool
    }

    package var role: Role
    package var content: String
    /// Of an assistant: the calls it made.
    package var toolCalls: [ToolCall]
    /// Of a tool: the call it answers.
    package var toolCallID: String?
    package var name: String?

    package init(
        role: Role, content: String, toolCalls: [ToolCall] = [], toolCallID: String? = nil, name: String? = nil
    ) {
        self.role = role
        self.content = content
        self.toolCalls = toolCalls
        self.toolCallID = toolCallID
        self.name = name
    }

    /// A message in OpenAI's form. Text parts of a content are joined by an empty line, as mistral-common joins them.
    package init(json: JSONValue) throws(TokenizerError) {
        guard case .object = json else {
            throw TokenizerError("chat_message", "a message is \(json.kind), not an object")
        }
        guard let roleName = json["role"]?.string else { throw TokenizerError("chat_role", "a message has no role") }
        guard let role = Role(rawValue: roleName == "developer" ? "system" : roleName) else {
            throw TokenizerError("chat_role", "unknown role, allowed are system, user, assistant and tool")
        }
        self.init(
            role: role, content: try Self.text(of: json["content"]),
            toolCalls: try ToolCall.list(json["tool_calls"]),
            toolCallID: json["tool_call_id"]?.string, name: json["name"]?.string)
    }

    /// `messages` in OpenAI's form.
    package static func list(_ json: JSONValue?) throws(TokenizerError) -> [ChatMessage] {
        guard let elements = json?.array else {
            throw TokenizerError("chat_messages", "messages is \(json?.kind ?? "missing"), not an array")
        }
        var messages: [ChatMessage] = []
        for element in elements { messages.append(try ChatMessage(json: element)) }
        return messages
    }

    private static func text(of content: JSONValue?) throws(TokenizerError) -> String {
        switch content {
        case nil, .null: return ""
        case .string(let text): return text
        case .array(let parts):
            var texts: [String] = []
            for part in parts {
                guard let text = part["text"]?.string else {
                    throw TokenizerError("chat_content", "a part of a content has no text; only text is supported")
                }
                if !text.isEmpty { texts.append(text) }
            }
            return texts.joined(separator: "\n\n")
        case .some(let other):
            throw TokenizerError("chat_content", "a content is \(other.kind), not a string or an array of text parts")
        }
    }
}

/// A call of a function that the model made.
package struct ToolCall: Sendable, Equatable {
    package var id: String?
    package var name: String
    /// JSON text, as the API carries it.
    package var arguments: String

    package init(id: String?, name: String, arguments: String) {
        self.id = id
        self.name = name
        self.arguments = arguments
    }

    /// `tool_calls` in OpenAI's form; nil and null are none.
    package static func list(_ json: JSONValue?) throws(TokenizerError) -> [ToolCall] {
        guard let json, json != .null else { return [] }
        guard let elements = json.array else {
            throw TokenizerError("chat_tool_calls", "tool_calls is \(json.kind), not an array")
        }
        var calls: [ToolCall] = []
        for element in elements {
            guard let function = element["function"], let name = function["name"]?.string else {
                throw TokenizerError("chat_tool_calls", "a tool call has no function.name")
            }
            let arguments: String
            switch function["arguments"] {
            case nil, .null: arguments = ""
            case .string(let text): arguments = text
            case .some(let value): arguments = value.text
            }
            calls.append(ToolCall(id: element["id"]?.string, name: name, arguments: arguments))
        }
        return calls
    }
}

/// A function that the model may call.
package struct Tool: Sendable, Equatable {
    package var name: String
    package var description: String
    /// A JSON schema, an object.
    package var parameters: JSONValue

    package init(name: String, description: String, parameters: JSONValue) {
        self.name = name
        self.description = description
        self.parameters = parameters
    }

    /// `tools` in OpenAI's form; nil and null are none.
    package static func list(_ json: JSONValue?) throws(TokenizerError) -> [Tool] {
        guard let json, json != .null else { return [] }
        guard let elements = json.array else {
            throw TokenizerError("chat_tools", "tools is \(json.kind), not an array")
        }
        var tools: [Tool] = []
        for element in elements {
            guard element["type"]?.string ?? "function" == "function", let function = element["function"],
                let name = function["name"]?.string
            else {
                throw TokenizerError("chat_tools", "a tool has no function.name; only functions are supported")
            }
            let parameters = function["parameters"] ?? .object([])
            guard case .object = parameters else {
                throw TokenizerError("chat_tools", "a tool's parameters are \(parameters.kind), not an object")
            }
            tools.append(
                Tool(name: name, description: function["description"]?.string ?? "", parameters: parameters))
        }
        return tools
    }

    /// In the order in which mistral-common writes it.
    var json: JSONValue {
        .object([
            .init("type", .string("function")),
            .init(
                "function",
                .object([
                    .init("name", .string(name)), .init("description", .string(description)),
                    .init("parameters", parameters),
                ])),
        ])
    }
}
