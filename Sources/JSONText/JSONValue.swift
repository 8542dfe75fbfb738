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
    package var text: String { String(decoding: bytes, as: UTF8.self) }

    /// The text's bytes.
    package var bytes: [UInt8] {
        var bytes: [UInt8] = []
        write(to: &bytes)
        return bytes
    }

    private func write(to bytes: inout [UInt8]) {
        switch self {
        case .null: bytes += "null".utf8
        case .bool(let value): bytes += (value ? "true" : "false").utf8
        case .integer(let digits): bytes += digits.utf8
        case .double(let value): bytes += Self.pythonRepresentation(of: value).utf8
        case .string(let value): Self.write(value, to: &bytes)
        case .array(let elements):
            bytes.append(UInt8(ascii: "["))
            for (index, element) in elements.enumerated() {
                if index > 0 { bytes += ", ".utf8 }
                element.write(to: &bytes)
            }
            bytes.append(UInt8(ascii: "]"))
        case .object(let members):
            bytes.append(UInt8(ascii: "{"))
            for (index, member) in members.enumerated() {
                if index > 0 { bytes += ", ".utf8 }
                Self.write(member.name, to: &bytes)
                bytes += ": ".utf8
                member.value.write(to: &bytes)
            }
            bytes.append(UInt8(ascii: "}"))
        }
    }

    private static func write(_ string: String, to bytes: inout [UInt8]) {
        bytes.append(UInt8(ascii: "\""))
        append(string, to: &bytes)
        bytes.append(UInt8(ascii: "\""))
    }

    /// Appends a string as it stands between the quotes of JSON text.
    package static func append(_ string: String, to bytes: inout [UInt8]) {
        for byte in string.utf8 {
            switch byte {
            case UInt8(ascii: "\""): bytes += "\\\"".utf8
            case UInt8(ascii: "\\"): bytes += "\\\\".utf8
            case UInt8(ascii: "\n"): bytes += "\\n".utf8
            case UInt8(ascii: "\r"): bytes += "\\r".utf8
            case UInt8(ascii: "\t"): bytes += "\\t".utf8
            case 0x08: bytes += "\\b".utf8
            case 0x0C: bytes += "\\f".utf8
            case ..<0x20:
                bytes += (byte < 0x10 ? "\\u000" : "\\u00").utf8
                bytes += String(byte, radix: 16).utf8
            default: bytes.append(byte)
            }
        }
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
