import JSONText

/// JSON as the formats of model files use it.
extension JSONValue {
    /// Foundation's decoder keeps the last of two equal keys, and a safetensors header with a tensor twice must be
    /// refused.
    ///
    /// - Throws: ``ModelError`` `header_invalid` or `duplicate`; offsets count from the first of `bytes`, plus `offset`.
    static func parse(_ bytes: [UInt8], file: String, offset: UInt64 = 0) throws(ModelError) -> JSONValue {
        do {
            return try JSONValue(parsing: bytes, repeats: .refused)
        } catch {
            throw ModelError(
                error.duplicate == nil ? .headerInvalid : .duplicate, "JSON: \(error.problem)",
                file: file, field: error.duplicate, offset: offset &+ UInt64(error.offset))
        }
    }

    /// The members of an object whose repeated names were refused.
    var object: [String: JSONValue]? {
        guard case .object(let members) = self else { return nil }
        return Dictionary(members.map { ($0.name, $0.value) }) { first, _ in first }
    }

    /// Digits alone, as an offset is written.
    var uint64: UInt64? {
        if case .integer(let digits) = self { UInt64(digits) } else { nil }
    }

    var double: Double? {
        switch self {
        case .integer(let digits): Double(digits)
        case .double(let value): value
        default: nil
        }
    }

    /// For a message.
    var summary: String {
        switch self {
        case .null: "null"
        case .bool(let value): "\(value)"
        case .integer(let digits): digits
        case .double(let value): "\(value)"
        case .string(let text): "\"\(text)\""
        case .array(let values): "an array of \(values.count)"
        case .object(let members): "an object of \(members.count)"
        }
    }
}
