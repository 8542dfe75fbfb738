import JSONText
import Tokenizer

/// Calls of tools as Mistral's models write them: after the control piece `[TOOL_CALLS]`, which is no text, a JSON array
/// `[{"name": …, "arguments": {…}}, …]` is the whole answer.
enum ToolCallText {
    /// Whether the beginning of an answer can still become calls.
    static func mayBegin(_ text: String) -> Bool {
        let beginning = text.drop { $0.isWhitespace }
        guard beginning.first == "[" else { return beginning.isEmpty }
        let second = beginning.dropFirst().drop { $0.isWhitespace }
        return second.isEmpty || second.first == "{"
    }

    /// The calls, or nil when the answer is something else.
    /// - Parameter identifiers: What the calls' ids are derived from.
    static func calls(in text: String, identifiers: String) -> [ToolCall]? {
        guard mayBegin(text), let elements = (try? JSONValue(parsing: text))?.array, !elements.isEmpty else {
            return nil
        }
        var calls: [ToolCall] = []
        for element in elements {
            guard let name = element["name"]?.string, let arguments = element["arguments"],
                case .object = arguments
            else { return nil }
            calls.append(
                ToolCall(id: identifier("\(identifiers)/\(calls.count)"), name: name, arguments: arguments.text))
        }
        return calls
    }

    /// Nine letters and digits, as Mistral's chat format wants ids to be (FNV-1a, so that the same answer has the same).
    private static func identifier(_ text: String) -> String {
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        for byte in text.utf8 { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01B3 }
        let digits = String(hash, radix: 36)
        return String(repeating: "0", count: max(0, 9 - digits.count)) + digits.suffix(9)
    }
}
