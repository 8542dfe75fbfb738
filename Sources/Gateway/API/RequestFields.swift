import JSONText

/// The members of a request's JSON object, read one by one with errors that name the field, what was found and what is
/// wanted. A null counts as absent, as it does at OpenAI. Ranges are checked later, by what checks those of the binary
/// port too.
struct RequestFields {
    private let members: [String: JSONValue]
    private let order: [String]

    init(_ json: JSONValue) throws(APIError) {
        guard case .object(let members) = json else {
            throw APIError.malformedJSON("it is \(json.kind), not an object")
        }
        self.members = Dictionary(members.map { ($0.name, $0.value) }, uniquingKeysWith: { $1 })
        order = members.map(\.name)
    }

    subscript(name: String) -> JSONValue? {
        guard let value = members[name], value != .null else { return nil }
        return value
    }

    func string(_ name: String, longest: Int) throws(APIError) -> String? {
        guard let value = self[name] else { return nil }
        guard let string = value.string else { throw .invalid(name, "found \(value.kind), a string is wanted") }
        guard string.utf8.count <= longest else {
            throw .invalid(name, "\(string.utf8.count) bytes long, the limit is \(longest)")
        }
        return string
    }

    func boolean(_ name: String) throws(APIError) -> Bool? {
        guard let value = self[name] else { return nil }
        guard case .bool(let boolean) = value else { throw .invalid(name, "found \(value.kind), a boolean is wanted") }
        return boolean
    }

    func integer(_ name: String) throws(APIError) -> Int? {
        guard let value = self[name] else { return nil }
        guard let integer = value.integer else {
            throw .invalid(name, "found \(Self.shortened(value)), an integer is wanted")
        }
        return integer
    }

    func number(_ name: String) throws(APIError) -> Double? {
        guard let value = self[name] else { return nil }
        guard let number = value.number else { throw .invalid(name, "found \(value.kind), a number is wanted") }
        return number
    }

    /// OpenAI's seeds are signed, ours are not; the same bits are the same seed.
    func seed(_ name: String) throws(APIError) -> UInt64? {
        guard let value = self[name] else { return nil }
        if case .integer(let digits) = value {
            if let seed = UInt64(digits) { return seed }
            if let seed = Int64(digits) { return UInt64(bitPattern: seed) }
        }
        throw .invalid(
            name, "found \(Self.shortened(value)), an integer from \(Int64.min) to \(UInt64.max) is wanted")
    }

    /// Refuses members that nothing here reads: ignoring one would give another answer than was asked for.
    func refuseUnknown(_ known: Set<String>) throws(APIError) {
        for name in order where self[name] != nil && !known.contains(name) {
            throw .unsupported(name.count > 64 ? "\(name.prefix(64))…" : name, "this parameter is not known here")
        }
    }

    /// Refuses a parameter that has another value than those that change nothing.
    func refuse(_ name: String, unless neutral: [JSONValue]) throws(APIError) {
        guard let value = self[name] else { return }
        let isNeutral = neutral.contains { $0 == value || ($0.number != nil && $0.number == value.number) }
        guard isNeutral else {
            let allowed = neutral.map(\.text).joined(separator: " or ")
            throw .unsupported(
                name, "not supported\(allowed.isEmpty ? "" : "; the only value that can be served is \(allowed)")")
        }
    }

    /// A number as it came, for a message; digits can go on for megabytes.
    private static func shortened(_ value: JSONValue) -> String {
        let text = value.number == nil ? value.kind : value.text
        return text.count > 32 ? "\(text.prefix(32))…" : text
    }
}

extension JSONValue {
    var number: Double? {
        switch self {
        case .integer(let digits): Double(digits)
        case .double(let value): value
        default: nil
        }
    }
}
