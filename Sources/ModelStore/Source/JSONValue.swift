/// JSON as the formats of model files use it, read strictly.
///
/// Foundation's decoder keeps the last of two equal keys, and a safetensors header with a tensor twice must be refused;
/// so this reader refuses duplicate keys, broken UTF-8 and deep nesting. Numbers stay text until somebody asks for
/// them.
enum JSONValue: Equatable {
    case null
    case bool(Bool)
    case number(String)
    case string(String)
    case array([JSONValue])
    case object([String: JSONValue])

    /// Deeper than any model file nests, and shallow enough for the stack of any thread.
    static let maximumDepth = 64

    /// - Throws: ``ModelError`` `header_invalid` or `duplicate`; offsets count from the first of `bytes`, plus
    ///   `offset`.
    static func parse(_ bytes: [UInt8], file: String, offset: UInt64 = 0) throws -> JSONValue {
        try bytes.withUnsafeBufferPointer { buffer in
            var parser = JSONParser(bytes: buffer, file: file, origin: offset)
            return try parser.document()
        }
    }

    var object: [String: JSONValue]? {
        if case .object(let members) = self { members } else { nil }
    }

    var array: [JSONValue]? {
        if case .array(let values) = self { values } else { nil }
    }

    var string: String? {
        if case .string(let text) = self { text } else { nil }
    }

    var bool: Bool? {
        if case .bool(let value) = self { value } else { nil }
    }

    /// A whole number; also where it is written as 1e6 or 4096.0.
    var int: Int? {
        guard case .number(let text) = self else { return nil }
        return Int(text) ?? Double(text).flatMap { Int(exactly: $0) }
    }

    var uint64: UInt64? {
        if case .number(let text) = self { UInt64(text) } else { nil }
    }

    var double: Double? {
        if case .number(let text) = self { Double(text) } else { nil }
    }

    /// For a message.
    var summary: String {
        switch self {
        case .null: "null"
        case .bool(let value): "\(value)"
        case .number(let text): text
        case .string(let text): "\"\(text)\""
        case .array(let values): "an array of \(values.count)"
        case .object(let members): "an object of \(members.count)"
        }
    }
}

/// RFC 8259, by recursive descent of bounded depth.
private struct JSONParser {
    let bytes: UnsafeBufferPointer<UInt8>
    let file: String
    let origin: UInt64
    var position = 0

    init(bytes: UnsafeBufferPointer<UInt8>, file: String, origin: UInt64) {
        self.bytes = bytes
        self.file = file
        self.origin = origin
    }

    mutating func document() throws -> JSONValue {
        let value = try value(depth: 0)
        skipSpace()
        guard position == bytes.count else { throw failure("something follows the JSON value") }
        return value
    }

    private func failure(_ problem: String, at place: Int? = nil) -> ModelError {
        ModelError(.headerInvalid, problem, file: file, offset: origin &+ UInt64(place ?? position))
    }

    private mutating func skipSpace() {
        while position < bytes.count {
            switch bytes[position] {
            case 0x20, 0x09, 0x0A, 0x0D: position += 1
            default: return
            }
        }
    }

    private var current: UInt8? { position < bytes.count ? bytes[position] : nil }

    private mutating func take(_ byte: UInt8) -> Bool {
        guard current == byte else { return false }
        position += 1
        return true
    }

    private mutating func value(depth: Int) throws -> JSONValue {
        skipSpace()
        guard depth <= JSONValue.maximumDepth else {
            throw ModelError(
                .headerInvalid, "JSON is nested too deep", file: file, offset: origin &+ UInt64(position),
                limit: "\(JSONValue.maximumDepth) levels")
        }
        switch current {
        case UInt8(ascii: "{"): return try object(depth: depth)
        case UInt8(ascii: "["): return try array(depth: depth)
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "t"): return try word("true", .bool(true))
        case UInt8(ascii: "f"): return try word("false", .bool(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        case nil: throw failure("JSON ends too early")
        case .some(UInt8(ascii: "-")), .some(UInt8(ascii: "0")...UInt8(ascii: "9")): return try number()
        default: throw failure("not JSON")
        }
    }

    private mutating func word(_ text: StaticString, _ value: JSONValue) throws -> JSONValue {
        let begin = position
        for byte in text.description.utf8 where !take(byte) { throw failure("not JSON", at: begin) }
        return value
    }

    private mutating func object(depth: Int) throws -> JSONValue {
        position += 1
        var members: [String: JSONValue] = [:]
        skipSpace()
        if take(UInt8(ascii: "}")) { return .object(members) }
        while true {
            skipSpace()
            let begin = position
            guard current == UInt8(ascii: "\"") else { throw failure("a key is missing") }
            let key = try string()
            skipSpace()
            guard take(UInt8(ascii: ":")) else { throw failure("a colon is missing") }
            let value = try value(depth: depth + 1)
            guard members.updateValue(value, forKey: key) == nil else {
                throw ModelError(
                    .duplicate, "duplicate key", file: file, field: key, offset: origin &+ UInt64(begin))
            }
            skipSpace()
            if take(UInt8(ascii: "}")) { return .object(members) }
            guard take(UInt8(ascii: ",")) else { throw failure("a comma or a closing brace is missing") }
        }
    }

    private mutating func array(depth: Int) throws -> JSONValue {
        position += 1
        var values: [JSONValue] = []
        skipSpace()
        if take(UInt8(ascii: "]")) { return .array(values) }
        while true {
            values.append(try value(depth: depth + 1))
            skipSpace()
            if take(UInt8(ascii: "]")) { return .array(values) }
            guard take(UInt8(ascii: ",")) else { throw failure("a comma or a closing bracket is missing") }
        }
    }

    private mutating func number() throws -> JSONValue {
        let begin = position
        func digits(_ parser: inout JSONParser) throws {
            let first = parser.position
            while let byte = parser.current, (0x30...0x39).contains(byte) { parser.position += 1 }
            guard parser.position > first else { throw parser.failure("a digit is missing") }
        }
        _ = take(UInt8(ascii: "-"))
        if !take(UInt8(ascii: "0")) { try digits(&self) }
        if take(UInt8(ascii: ".")) { try digits(&self) }
        if take(UInt8(ascii: "e")) || take(UInt8(ascii: "E")) {
            if !take(UInt8(ascii: "+")) { _ = take(UInt8(ascii: "-")) }
            try digits(&self)
        }
        return .number(String(decoding: bytes[begin..<position], as: UTF8.self))
    }

    private mutating func string() throws -> String {
        let begin = position
        position += 1
        var text: [UInt8] = []
        while let byte = current {
            switch byte {
            case UInt8(ascii: "\""):
                position += 1
                guard let result = String(validating: text, as: UTF8.self) else {
                    throw failure("a string is not UTF-8", at: begin)
                }
                return result
            case UInt8(ascii: "\\"):
                position += 1
                try escape(into: &text)
            case 0..<0x20:
                throw failure("a control character in a string")
            default:
                text.append(byte)
                position += 1
            }
        }
        throw failure("a string does not end", at: begin)
    }

    private mutating func escape(into text: inout [UInt8]) throws {
        guard let byte = current else { throw failure("JSON ends too early") }
        position += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): text.append(byte)
        case UInt8(ascii: "b"): text.append(0x08)
        case UInt8(ascii: "f"): text.append(0x0C)
        case UInt8(ascii: "n"): text.append(0x0A)
        case UInt8(ascii: "r"): text.append(0x0D)
        case UInt8(ascii: "t"): text.append(0x09)
        case UInt8(ascii: "u"):
            var code = UInt32(try codeUnit())
            if (0xD800..<0xDC00).contains(code), take(UInt8(ascii: "\\")), take(UInt8(ascii: "u")) {
                let low = UInt32(try codeUnit())
                guard (0xDC00..<0xE000).contains(low) else { throw failure("a lone surrogate") }
                code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
            }
            guard let scalar = Unicode.Scalar(code) else { throw failure("a lone surrogate") }
            text.append(contentsOf: UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter)
        default: throw failure("an unknown escape", at: position - 1)
        }
    }

    private mutating func codeUnit() throws -> UInt16 {
        guard bytes.count - position >= 4,
            bytes[position..<position + 4].allSatisfy({ Character(Unicode.Scalar($0)).isHexDigit }),
            let unit = UInt16(String(decoding: bytes[position..<position + 4], as: UTF8.self), radix: 16)
        else { throw failure("four hexadecimal digits are missing") }
        position += 4
        return unit
    }
}
