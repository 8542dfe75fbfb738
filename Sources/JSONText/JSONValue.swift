/// A JSON value that keeps the order of its members and the digits of its integers, read strictly.
///
/// It came from outside, over HTTP or in a model's files. Chat formats put tools into the prompt as text, so what a client wrote has to come out in the client's order, written as
/// Python's `json.dumps(…, ensure_ascii=False)` writes it: that is what the models were trained on.
package indirect enum JSONValue: Sendable, Equatable {
    case null
    case bool(Bool)
    /// Canonical digits, of any length.
    case integer(String)
    case double(Double)
    case string(String)
    case array([JSONValue])
    /// Names are unique.
    case object([Member])

    package struct Member: Sendable, Equatable {
        package var name: String
        package var value: JSONValue

        package init(_ name: String, _ value: JSONValue) {
            self.name = name
            self.value = value
        }
    }

    /// The member of an object with this name, byte for byte.
    package subscript(name: String) -> JSONValue? {
        guard case .object(let members) = self else { return nil }
        return members.first { $0.name.utf8.elementsEqual(name.utf8) }?.value
    }

    package var string: String? {
        if case .string(let value) = self { value } else { nil }
    }

    package var array: [JSONValue]? {
        if case .array(let value) = self { value } else { nil }
    }

    /// An integer that fits, or a double without a fraction.
    package var integer: Int? {
        switch self {
        case .integer(let digits): Int(digits)
        case .double(let value): Int(exactly: value)
        default: nil
        }
    }

    /// What the value is, for messages.
    package var kind: String {
        switch self {
        case .null: "null"
        case .bool: "a boolean"
        case .integer, .double: "a number"
        case .string: "a string"
        case .array: "an array"
        case .object: "an object"
        }
    }

    /// As Python's `json.dumps(value, ensure_ascii=False)` writes it: `", "` and `": "` between the parts.
    package var text: String {
        var text = ""
        write(to: &text)
        return text
    }

    private func write(to text: inout String) {
        switch self {
        case .null: text += "null"
        case .bool(let value): text += value ? "true" : "false"
        case .integer(let digits): text += digits
        case .double(let value): text += Self.pythonRepresentation(of: value)
        case .string(let value): Self.write(value, to: &text)
        case .array(let elements):
            text += "["
            for (index, element) in elements.enumerated() {
                if index > 0 { text += ", " }
                element.write(to: &text)
            }
            text += "]"
        case .object(let members):
            text += "{"
            for (index, member) in members.enumerated() {
                if index > 0 { text += ", " }
                Self.write(member.name, to: &text)
                text += ": "
                member.value.write(to: &text)
            }
            text += "}"
        }
    }

    private static func write(_ string: String, to text: inout String) {
        text += "\""
        for scalar in string.unicodeScalars {
            switch scalar {
            case "\"": text += "\\\""
            case "\\": text += "\\\\"
            case "\n": text += "\\n"
            case "\r": text += "\\r"
            case "\t": text += "\\t"
            case "\u{8}": text += "\\b"
            case "\u{C}": text += "\\f"
            case "\0"..<" ":
                let digits = String(scalar.value, radix: 16)
                text += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: text.unicodeScalars.append(scalar)
            }
        }
        text += "\""
    }

    /// Python's `repr(float)`: the shortest digits that read back, with an exponent below 1e−4 and from 1e16 on.
    static func pythonRepresentation(of value: Double) -> String {
        // Swift gives the same digits, and an exponent at other limits.
        let description = value.magnitude.description
        let parts = description.split(separator: "e", maxSplits: 1)
        let exponent = parts.count > 1 ? Int(parts[1]) ?? 0 : 0
        let mantissa = parts.first?.split(separator: ".", maxSplits: 1) ?? []
        let whole = mantissa.first.map(String.init) ?? "0"
        let fraction = mantissa.count > 1 ? String(mantissa[1]) : ""
        let all = whole + fraction
        let leadingZeros = all.prefix { $0 == "0" }.count
        var digits = String(all.dropFirst(leadingZeros))
        while digits.last == "0" { digits.removeLast() }
        let sign = value.sign == .minus ? "-" : ""
        guard !digits.isEmpty else { return sign + "0.0" }
        // The value is 0.DIGITS × 10^point.
        let point = whole.count - leadingZeros + exponent
        switch point {
        case -3...0:
            return sign + "0." + String(repeating: "0", count: -point) + digits
        case 1...16:
            let padded = digits + String(repeating: "0", count: max(0, point - digits.count))
            let rest = padded.dropFirst(point)
            return sign + padded.prefix(point) + "." + (rest.isEmpty ? "0" : rest)
        default:
            let power = (point - 1).magnitude.description
            let rest = digits.dropFirst()
            return sign + digits.prefix(1) + (rest.isEmpty ? "" : "." + rest) + "e" + (point > 0 ? "+" : "-")
                + (power.count < 2 ? "0" : "") + power
        }
    }
}
