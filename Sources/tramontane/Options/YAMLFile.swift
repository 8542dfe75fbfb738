import Yams

/// Reads files that people write, with errors that name the file, the place and what is expected there.
enum YAMLFile {
    /// - Parameters:
    ///   - what: what the file is called in messages
    ///   - begins: its first key
    static func decode<Value: Decodable>(
        _ type: Value.Type, _ text: String, file: String, what: String, begins: String
    ) throws -> Value {
        do {
            guard try Yams.compose(yaml: text) != nil else {
                throw CommandError.usage("\(file): the file is empty; a \(what) begins with \"\(begins)\"")
            }
            return try YAMLDecoder().decode(type, from: text)
        } catch let error as DecodingError {
            throw CommandError.usage("\(file): \(describe(error, what: what))")
        } catch let error as YamlError {
            throw CommandError.usage("\(file): \(describe(error))")
        }
    }

    private static func describe(_ error: DecodingError, what: String) -> String {
        switch error {
        case .keyNotFound(let key, let context): "\(place(context))\(key.stringValue) is missing"
        case .typeMismatch(let type, let context), .valueNotFound(let type, let context):
            "\(place(context))\(name(of: type)) is expected"
        case .dataCorrupted(let context):
            (context.underlyingError as? YamlError).map(describe) ?? "\(place(context))\(context.debugDescription)"
        @unknown default: "it is no \(what)"
        }
    }

    /// Without the line at fault, which may hold a key.
    private static func describe(_ error: YamlError) -> String {
        switch error {
        case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
            .composer(_, let problem, let mark, _):
            "line \(mark.line), column \(mark.column): \(problem)"
        case .duplicatedKeysInMapping(let duplicates, let context):
            "line \(context.mark.line): \(duplicates.joined(separator: ", ")) twice"
        default: "it is no YAML"
        }
    }

    /// What the reader looked for, as a writer of YAML calls it.
    private static func name(of type: Any.Type) -> String {
        if type is Node.Mapping.Type { return "a list of `key: value`" }
        if type is Node.Sequence.Type { return "a list" }
        return type is Int.Type || type is Double.Type ? "a number" : "a single value"
    }

    /// `stages[0].layers: `
    private static func place(_ context: DecodingError.Context) -> String {
        var text = ""
        for key in context.codingPath {
            text += key.intValue.map { "[\($0)]" } ?? (text.isEmpty ? "" : ".") + key.stringValue
        }
        return text.isEmpty ? "" : text + ": "
    }
}
